"""All real servers in pieces, from /proc/net/ip_vs, for many virtual servers: only what has changed is decoded.

One read(2) returns whole records, each of a virtual server with its real servers: some 60 lines.  A piece whose hash
is known to agree with what is expected costs no more than reading it.  With 10,000 virtual servers of 10 real servers
that is half of what a request for each of them costs.

Invariants:
- A piece counts as known only while all its virtual servers agree; ``forget`` ends that for those whose rows changed.
- Connections are part of a piece, and of no record: while they change the lines are split, and nothing is decoded.
- Virtual servers that are added or deleted between two pieces may have others listed twice, or not at all this time.
"""

import os
from collections.abc import Callable, Iterable, Iterator

from kubeproxy_py.kernel.errors import KernelError, decoding
from kubeproxy_py.kernel.ipvs.listing import PATH, decode_record, key_of, records_of, server_of
from kubeproxy_py.model.rows import Rows, VirtualServer

_READ_BYTES = 1 << 16  # the kernel returns 4 KiB, or from a virtual server with more real servers on as much as that
_GROWTH = 4
_Keys = tuple[bytes, ...]


class PiecewiseListing:
    """Implements RealServerListing, in the network namespace of the thread that uses it first."""

    def __init__(self, path: str = PATH, *, marks: bool = False) -> None:
        self._path = path
        self._has_marks = marks  # virtual servers by firewall mark count, too
        self._descriptor: int | None = None
        self._read_bytes = _READ_BYTES
        self._known: dict[int, _Keys] = {}  # by hash, the pieces that agreed last time: the keys of their records
        self._listed: dict[int, _Keys] = {}  # the same of this time, until now
        self._records: dict[bytes, tuple[int, int]] = {}  # hashes of each record that agrees, and of its piece

    def pieces(self, agrees: Callable[[VirtualServer, Rows], bool]) -> Iterator[None]:
        """List once; see RealServerListing."""
        self._listed = {}
        for piece in self._read():
            digest = hash(piece)
            keys = self._known.get(digest)
            if keys is None:
                with decoding(self._path):
                    keys = self._examine(piece, digest, agrees)
            if keys is not None:
                self._listed[digest] = keys
            yield
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
        """Yield pieces of whole records.  Raises KernelError, with ENOENT where the kernel has no IPVS."""
        try:
            if self._descriptor is None:
                self._descriptor = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
            offset = 0
            while piece := os.pread(self._descriptor, self._read_bytes, offset):
                part = piece
                offset += len(part)
                while len(part) == self._read_bytes:  # it may end within a record; the next ones shall not
                    self._read_bytes *= _GROWTH
                    part = os.pread(self._descriptor, self._read_bytes, offset)
                    offset += len(part)
                    piece += part
                yield piece
        except OSError as error:
            self.close()
            raise KernelError(f"{self._path}: {error.strerror}", errno=error.errno or 0) from error

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
