"""Fingerprints of snapshots that were compared: what has an unchanged fingerprint need not be decoded and compared.

A fingerprint is recorded when a snapshot agrees with the known rows, and invalidated when what is known of its rows
changes.
"""

from collections.abc import Collection

from kubeproxy_py.kernel import Readable, scope_of
from kubeproxy_py.model.rows import Key, RealServer, VirtualServer


def readable_of(key: Key) -> Readable:
    """Return the part of kernel state whose snapshot contains *key*."""
    return key.virtual_server if isinstance(key, RealServer) else scope_of(key)


class Fingerprints:
    """The fingerprints of the parts of kernel state that agree with the known rows."""

    def __init__(self) -> None:
        self.servers_version = 0  # incremented when what is known of any virtual server changes
        self._fingerprints: dict[Readable, int] = {}
        self._invalidated: set[VirtualServer] | None = None  # None: nobody asks
        self._all_invalidated = True

    def __contains__(self, readable: object) -> bool:
        return readable in self._fingerprints

    def matches(self, readable: Readable, fingerprint: int) -> bool:
        """Return whether *readable*, whose snapshot now has *fingerprint*, agrees with the known rows."""
        return self._fingerprints.get(readable) == fingerprint

    def record(self, readable: Readable, fingerprint: int) -> None:
        """Record that the known rows of *readable* are those of the snapshot with *fingerprint*."""
        self._fingerprints[readable] = fingerprint

    def invalidate(self, keys: Collection[Key]) -> None:
        """Discard the fingerprints of everything that contains *keys*."""
        servers: set[VirtualServer] = set()
        readables: set[Readable] = set()
        last: VirtualServer | None = None  # real servers of one virtual server follow each other; hashing it takes long
        for key in keys:
            if isinstance(key, RealServer):
                if key.virtual_server is not last:
                    last = key.virtual_server
                    servers.add(last)
                continue
            readables.add(scope_of(key))
            if isinstance(key, VirtualServer):
                self.servers_version += 1
                servers.add(key)
        readables |= servers
        for readable in readables:
            self._fingerprints.pop(readable, None)
        if self._invalidated is not None:
            self._invalidated |= servers

    def invalidate_all(self) -> None:
        """Discard every fingerprint; the next full compare decodes all rows."""
        self.servers_version += 1
        self._fingerprints.clear()
        self._all_invalidated = True

    def pop_invalidated(self) -> Collection[VirtualServer] | None:
        """Return the virtual servers of which rows were invalidated since the last call; None: of all."""
        invalidated, self._invalidated = self._invalidated or (), set()
        is_of_all, self._all_invalidated = self._all_invalidated, False
        return None if is_of_all else invalidated
