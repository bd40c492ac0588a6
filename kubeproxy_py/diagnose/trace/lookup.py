"""Where a trace looks up rows: by key, never by reading all of them to answer one question.

Invariants:
- A lookup by key costs the same among 100 rows and among 300,000.  Only the real servers of the one virtual server
  that takes the packet, and the source ranges that exclude its client, are searched for.
"""

from collections.abc import Iterator, Mapping
from typing import Protocol

from kubeproxy_py.model.rows import (
    Ipset,
    IpsetEntry,
    IpsetSpec,
    Key,
    RealServer,
    RealServerSpec,
    Rows,
    Spec,
    VirtualServer,
)

Weights = Mapping[RealServer, int]


class Lookup(Protocol):
    """Rows as a trace asks for them."""

    def __contains__(self, key: Key) -> bool:
        """Return whether the row *key* exists."""
        ...

    def get(self, key: Key) -> Spec:
        """Return the spec of *key*; None if there is no such row."""
        ...

    def real_servers(self, server: VirtualServer) -> Weights:
        """Return the real servers of *server* with their weights."""
        ...

    def entries(self, name: str, prefix: str) -> Iterator[str]:
        """Yield the entries of the set *name* that begin with *prefix*."""
        ...


class RowLookup:
    """Looks up in a dict of rows, which may change only between two traces."""

    def __init__(self, rows: Rows) -> None:
        self._rows = rows

    def __contains__(self, key: Key) -> bool:
        """Return whether the row *key* exists."""
        return key in self._rows

    def get(self, key: Key) -> Spec:
        """Return the spec of *key*; None if there is no such row."""
        return self._rows.get(key)

    def real_servers(self, server: VirtualServer) -> Weights:
        """Return the real servers of *server* with their weights."""
        port, address = server.port, server.address
        return {
            key: weight_of(self._rows[key])
            for key in self._rows
            if type(key) is RealServer
            and key.virtual_server.port == port
            and key.virtual_server.address == address
            and key.virtual_server == server
        }

    def entries(self, name: str, prefix: str) -> Iterator[str]:
        """Yield the entries of the set *name* that begin with *prefix*."""
        for key in self._rows:
            if type(key) is IpsetEntry and key.set == name and key.entry.startswith(prefix):
                yield key.entry


def weight_of(spec: Spec) -> int:
    """Return the weight of a real server with *spec*."""
    return spec.weight if isinstance(spec, RealServerSpec) else 1


def header_of(lookup: Lookup, name: str) -> IpsetSpec | None:
    """Return the header of the set *name*; None if it is not among the rows."""
    spec = lookup.get(Ipset(name))
    return spec if isinstance(spec, IpsetSpec) else None
