"""Netlink frames: messages in one send, messages in one read, and what an answer says.

Law: pure.  A frame is a header in host order (length with the header, type, flags, sequence number, port) and a body;
frames follow each other at multiples of four bytes.

Source: include/uapi/linux/netlink.h, struct nlmsghdr, struct nlmsgerr.
"""

import os
from collections.abc import Iterable, Iterator, Sequence
from struct import Struct

import msgspec

from kubeproxy_py.kernel.attributes import attributes, read_text

REQUEST = 0x1
ACK = 0x4
DUMP = 0x300  # NLM_F_ROOT | NLM_F_MATCH
EXCLUSIVE = 0x200
CREATE = 0x400
INTERRUPTED = 0x10  # NLM_F_DUMP_INTR: what is being listed changed meanwhile

NLMSG_ERROR = 2  # also the acknowledgement, then with errno 0
NLMSG_DONE = 3

Message = tuple[int, int, bytes]
"""(type, flags besides REQUEST, body with a length that is a multiple of four)."""

_CAPPED = 0x100  # in an error: the request isn't repeated
_TLVS = 0x200  # in an error: attributes follow
_HEADER = Struct("=IHHII")
_HEADER_SIZE = 16
_ERRNO = Struct("=i")
_WORDS = 1  # NLMSGERR_ATTR_MSG


class Refusal(msgspec.Struct, frozen=True, gc=False):
    """The kernel's no to one message: a positive errno, words for people, and the request where it was repeated."""

    errno: int
    text: str
    request: bytes = b""


def batches(messages: Iterable[Message], most: int, most_bytes: int) -> Iterator[list[Message]]:
    """Cut *messages* into lists of at most *most* messages and *most_bytes* each."""
    batch: list[Message] = []
    size = 0
    for message in messages:
        length = _HEADER_SIZE + len(message[2])
        if len(batch) == most or (batch and size + length > most_bytes):
            yield batch
            batch, size = [], 0
        batch.append(message)
        size += length
    if batch:
        yield batch


def join(batch: Sequence[Message], first: int) -> bytes:
    """One send: each message behind its header."""
    header = _HEADER.pack
    parts = []
    for sequence, (kind, flags, body) in enumerate(batch, first):
        parts.append(header(_HEADER_SIZE + len(body), kind, flags | REQUEST, sequence, 0))
        parts.append(body)
    return b"".join(parts)


def split(data: bytes) -> Iterator[tuple[int, int, int, bytes]]:
    """(type, sequence number, flags, body) of each message in one read."""
    offset, end = 0, len(data)
    while offset + _HEADER_SIZE <= end:
        length, kind, flags, sequence, _ = _HEADER.unpack_from(data, offset)
        if length < _HEADER_SIZE:
            return
        yield kind, sequence, flags, data[offset + _HEADER_SIZE : offset + length]
        offset += (length + 3) & ~3


def refusal(flags: int, body: bytes) -> Refusal:
    """What an NLMSG_ERROR or NLMSG_DONE says: errno 0 is yes.

    Layout: the negative errno, then (errors only) the header of the request, the rest of it unless CAPPED, then
    attributes, of which the first may be words.
    """
    errno = -_ERRNO.unpack_from(body)[0] if len(body) >= _ERRNO.size else 0
    if errno <= 0:
        return _DONE
    request = body[_ERRNO.size :]
    words = ""
    if flags & _TLVS and len(request) >= _HEADER_SIZE:
        length = _HEADER_SIZE if flags & _CAPPED else (_HEADER.unpack_from(request)[0] + 3) & ~3
        words = read_text(attributes(request, length).get(_WORDS, b""))
    return Refusal(errno, words or os.strerror(errno), request)


_DONE = Refusal(0, "done")
