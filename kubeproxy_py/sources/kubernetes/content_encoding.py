"""Decompress the body of a response as it arrives, in parts of a bounded size.

kube-apiserver compresses lists of more than 128 KiB if the request accepts gzip (20 MB become 1.3 MB), and never a
watch.

Invariants:
- However much a few bytes expand to, no more than PART_MAX_BYTES of it exist at once here; who reads the parts counts
  them and stops.
- A body that is cut off, damaged, or followed by something else is an error.

Source: RFC 9110, 8.4; RFC 1952; k8s.io/apiserver, pkg/endpoints/handlers/responsewriters/writers.go.
"""

import zlib
from collections.abc import Iterable, Iterator

ACCEPTED = "gzip"
"""The value of Accept-Encoding."""

PART_MAX_BYTES = 1 << 18
_GZIP_NAMES = ("gzip", "x-gzip")
_GZIP = 16 + zlib.MAX_WBITS  # zlib's number for gzip's header and checksum


class EncodingError(Exception):
    """The body is not in the encoding that the response names, or in one that was not asked for."""


def decode_content(encoding: str, chunks: Iterable[bytes]) -> Iterator[bytes]:
    """Yield the body that *chunks* are, without its *encoding* (the value of Content-Encoding; "": none).

    Raises:
        EncodingError: That is not possible.
    """
    name = encoding.strip().lower()
    if name in ("", "identity"):
        return iter(chunks)
    if name in _GZIP_NAMES:
        return _gunzip(chunks)
    raise EncodingError(f"has the encoding {name!r:.32}, which was not asked for")


def _gunzip(chunks: Iterable[bytes]) -> Iterator[bytes]:
    decompressor = zlib.decompressobj(_GZIP)
    began = False
    try:
        for chunk in chunks:
            began = began or bool(chunk)
            yield from _decompress(decompressor, chunk)
    except zlib.error:
        raise EncodingError("is not valid gzip") from None
    if began and not decompressor.eof:
        raise EncodingError("is cut off: its gzip does not end")


def _decompress(decompressor: "zlib._Decompress", chunk: bytes) -> Iterator[bytes]:
    while True:
        part = decompressor.decompress(chunk, PART_MAX_BYTES)
        if part:
            yield part
        chunk = decompressor.unconsumed_tail
        if decompressor.unused_data:
            raise EncodingError("goes on after the end of its gzip")
        if not chunk and len(part) < PART_MAX_BYTES:  # else there may be more of what was consumed already
            return
