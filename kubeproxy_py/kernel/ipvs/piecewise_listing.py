"""All real servers in pieces, from /proc/net/ip_vs, for many virtual servers: only what has changed is decoded.

One system call fills many parts of a buffer, which is a *stretch* of whole records, each of a virtual server with its
real servers.  A stretch whose hash is known to agree with what is expected costs no more than reading it.  Any other
one is cut into pieces of some 60 lines, of which those are split into lines whose hash is not known.

Invariants:
- A piece counts as known only while all its virtual servers agree; ``forget`` ends that for those whose rows changed.
- Connections are part of a piece, and of no record: while they change the lines are split, and nothing is decoded.
- Virtual servers that are added or deleted between two system calls may have others listed twice, or not at all this
  time.

The kernel lists as much as fits in its own buffer, which is a page unless one virtual server needed a larger one.
To go on, it counts all virtual servers before that: with 10,000 of them two fifths of the whole cost.

Source: fs/read_write.c, do_loop_readv_writev; fs/seq_file.c, seq_read_iter; net/netfilter/ipvs/ip_vs_ctl.c,
ip_vs_info_array.
"""

import os
import re
from collections.abc import Callable, Iterable, Iterator

from kubeproxy_py.kernel.errors import KernelError, decoding
from kubeproxy_py.kernel.ipvs.listing import PATH, decode_record, key_of, records_of, server_of
from kubeproxy_py.model.rows import Rows, VirtualServer

_READ_BYTES = 1 << 16  # of one system call
_PIECE_BYTES = 4096  # and what its last record has beyond it
_RECORD_BEGINS = re.compile(rb"\n(?=[^ ])")
_SPACE = ord(" ")
_Keys = tuple[bytes, ...]


class PiecewiseListing:
    """Implements RealServerListing, in the network namespace of the thread that uses it first."""

    def __init__(self, path: str = PATH, *, marks: bool = False) -> None:
        self._path = path
        self._has_marks = marks  # virtual servers by firewall mark count, too
        self._descriptor: int | None = None
        self._buffer = memoryview(bytearray(_READ_BYTES))
        self._stretches: dict[int, tuple[int, ...]] = {}  # by hash, those of last time: the hashes of their pieces
        self._known: dict[int, _Keys] = {}  # by hash, the pieces that agreed last time: the keys of their records
        self._listed: dict[int, _Keys] = {}  # the same of this time, until now
        self._records: dict[bytes, tuple[int, int]] = {}  # hashes of each record that agrees, and of its piece

    def pieces(self, agrees: Callable[[VirtualServer, Rows], bool]) -> Iterator[None]:
        """List once; see RealServerListing.  Stretches that are known count as one piece."""
        self._listed = {}
        stretches: dict[int, tuple[int, ...]] = {}
        for stretch in self._read():
            whole = hash(stretch)
            digests = self._stretches.get(whole, ())
            if digests and all(digest in self._known for digest in digests):
                self._listed.update((digest, self._known[digest]) for digest in digests)
                yield
            else:
                digests = ()
                for piece in _cut(stretch):
                    digests += (self._check(piece, agrees),)
                    yield
            stretches[whole] = digests
        self._stretches = stretches
        self._known, self._listed = self._listed, {}
        self._drop_gone()

    def forget(self, servers: Iterable[VirtualServer]) -> None:
        """Have *servers* decoded again."""
        for server in servers:
            _, digest = self._records.pop(key_of(server), (0, 0))
            self._known.pop(digest, None)
            self._listed.pop(digest, None)

    def forget_all(self) -> None:
        """Have all decoded again."""
        self._records.clear()
        self._known.clear()
        self._listed.clear()

    def close(self) -> None:
        """Close the file; a later use opens it again."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def _read(self) -> Iterator[bytes]:
        """Yield stretches of whole records.  Raises KernelError, with ENOENT where the kernel has no IPVS."""
        rest = b""  # without the beginning of another record
        for part in self._read_parts():
            text = rest + part
            if end := _last_record(text, len(rest)):
                yield text[:end]
            rest = text[end:]
        if rest:
            yield rest

    def _read_parts(self) -> Iterator[memoryview]:
        """Yield what each system call returns, until the next one.  Raises KernelError, as ``_read``."""
        try:
            if self._descriptor is None:
                self._descriptor = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
            offset, parts = 0, [self._buffer]
            while size := os.preadv(self._descriptor, parts, offset):
                yield self._buffer[:size]
                if offset == 0:
                    parts = self._parts(size)
                offset += size
        except OSError as error:
            self.close()
            raise KernelError(f"{self._path}: {error.strerror}", errno=error.errno or 0) from error

    def _parts(self, at_once: int) -> list[memoryview]:
        """Return the buffer in parts that the kernel fills one after the other.

        A system call ends with the first part that is not filled, so each is smaller than what was read *at_once*.
        """
        size = max(1, at_once * 7 // 8)
        return [self._buffer[begin : begin + size] for begin in range(0, len(self._buffer), size)]

    def _check(self, piece: bytes, agrees: Callable[[VirtualServer, Rows], bool]) -> int:
        """Examine *piece* unless it is known to agree, and record whether it does; return its hash."""
        digest = hash(piece)
        keys = self._known.get(digest)
        if keys is None:
            with decoding(self._path):
                keys = self._examine(piece, digest, agrees)
        if keys is not None:
            self._listed[digest] = keys
        return digest

    def _examine(self, piece: bytes, digest: int, agrees: Callable[[VirtualServer, Rows], bool]) -> _Keys | None:
        """Return the keys of the records of *piece*; None if one does not agree.  Raises ValueError or IndexError."""
        records = records_of(piece.split(b"\n"), marks=self._has_marks)
        all_agree = True
        for key, real_servers in records.items():
            if not key:
                continue
            record = hash(real_servers)
            known, _ = self._records.get(key, (None, 0))
            if known == record or agrees(server_of(key), dict(decode_record(key, real_servers))):
                self._records[key] = record, digest
            else:
                self._records.pop(key, None)
                all_agree = False
        return tuple(records) if all_agree else None

    def _drop_gone(self) -> None:
        """Drop the records of virtual servers that are gone, once they are many."""
        if len(self._records) > 2 * sum(map(len, self._known.values())):
            listed = {key for keys in self._known.values() for key in keys}
            self._records = {key: record for key, record in self._records.items() if key in listed}


def _last_record(text: bytes, begin: int) -> int:
    """Return where the last record of *text* begins; 0 if no other one than the first begins at *begin* or later."""
    end = len(text) - 1
    while (end := text.rfind(b"\n", max(0, begin - 1), end)) >= 0:
        if text[end + 1] != _SPACE:
            return end + 1
    return 0


def _cut(stretch: bytes) -> Iterator[bytes]:
    """Yield the pieces of *stretch*, of whole records."""
    begin = 0
    while found := _RECORD_BEGINS.search(stretch, begin + _PIECE_BYTES - 1):
        yield stretch[begin : found.end()]
        begin = found.end()
    yield stretch[begin:]
