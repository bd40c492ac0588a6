"""walk: the whole of the kernel's state against what is believed of it, piece by piece.

Law: no piece takes long, so that whoever walks may do other work between two of them.  A piece names the rows that it
would have told if they were there, so what is missing is known with it; and it is to be held against what is believed
when it comes, not when the walk began.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import TypeVar

from msgspec import Struct

from kubeproxy_py.kernel import VIRTUAL_SERVERS, Kernel, Scope, scope_of
from kubeproxy_py.model.rows import Key, RealServer, Rows, VirtualServer

_KEYS_AT_ONCE = 5_000  # some 2 ms
_SERVERS_AT_ONCE = 50  # virtual servers; with 10 real servers each some 5 ms

_Item = TypeVar("_Item")
_Groups = dict[Scope | VirtualServer, list[Key]]  # what was believed, by the piece that tells it


class Piece(Struct, frozen=True, gc=False):
    """What the kernel has, and which rows are missing if they are neither there nor gone meanwhile."""

    found: Rows
    believed: Sequence[Key]

    def differing(self, actual: Rows) -> list[Key]:
        """The keys whose rows are not as *actual* says."""
        found, missing = self.found, object()
        changed = [key for key, spec in found.items() if actual.get(key, missing) != spec]
        return changed + [key for key in self.believed if key not in found and key in actual]


_NOTHING = Piece({}, ())


def walk(kernel: Kernel, actual: Rows, ours: Callable[[Rows], Rows]) -> Iterator[Piece]:
    """Every row of *kernel* that is *ours*, once.  Raises KernelError; then the walk is over."""
    groups: _Groups = {}
    for keys in _batched(list(actual), _KEYS_AT_ONCE):
        for key in keys:
            piece = key.virtual_server if isinstance(key, RealServer) else scope_of(key)
            groups.setdefault(piece, []).append(key)
        yield _NOTHING
    for scope in kernel.scopes():
        if scope != VIRTUAL_SERVERS:
            yield Piece(kernel.read(scope), groups.get(scope, ()))
    yield from _servers(kernel, groups, ours)


def _servers(kernel: Kernel, groups: _Groups, ours: Callable[[Rows], Rows]) -> Iterator[Piece]:
    """The virtual servers, and with those that are gone their real servers; then the real servers of the others."""
    servers = ours(kernel.virtual_servers())
    gone = [key for key in groups.get(VIRTUAL_SERVERS, ()) if isinstance(key, VirtualServer) and key not in servers]
    yield Piece(servers, [*gone, *(key for server in gone for key in groups.get(server, ()))])
    for some in _batched([key for key in servers if isinstance(key, VirtualServer)], _SERVERS_AT_ONCE):
        yield Piece(kernel.real_servers(some), [key for server in some for key in groups.get(server, ())])


def _batched(items: Iterable[_Item], size: int) -> Iterator[list[_Item]]:
    iterator = iter(items)
    while batch := list(islice(iterator, size)):
        yield batch
