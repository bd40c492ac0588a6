"""The full compare: the whole of the kernel's state against what is believed of it, piece by piece, once a period.

Law: no piece takes long, so that whoever compares may do other work between two of them.  A piece names the rows that
it would have told if they were there, so what is missing is known with it; and it is to be held against what is
believed when it comes, not when the walk began.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import TypeVar

from msgspec import Struct

from kubeproxy_py.kernel import VIRTUAL_SERVERS, Kernel, KernelError, Scope, scope_of
from kubeproxy_py.model.rows import Key, RealServer, Rows, VirtualServer
from kubeproxy_py.plan.pending import NEVER

_KEYS_AT_ONCE = 5_000  # some 2 ms
_SERVERS_AT_ONCE = 50  # virtual servers; with 10 real servers each some 5 ms

TURN_S = 0.01
"""How long an event waits for the full compare, besides the piece that is being read: at most one set or one table."""

SHARE_MAX = 0.05
"""Of the time, that full compares may take of one core."""

_Item = TypeVar("_Item")
_Groups = dict[Scope | VirtualServer, list[Key]]  # what was believed, by the piece that tells it


class Piece(Struct, frozen=True, gc=False):
    """What the kernel has, and which rows are missing if they are neither there nor gone meanwhile."""

    found: Rows
    believed: Sequence[Key]

    def differing(self, actual: Rows) -> list[Key]:
        """The keys whose rows are not as *actual* says."""
        found, missing = self.found, object()
        # Nearly always; and in a third of the time, since no step of it is Python's.
        if found.items() <= actual.items() and all(map(found.__contains__, self.believed)):
            return []
        changed = [key for key, spec in found.items() if actual.get(key, missing) != spec]
        return changed + [key for key in self.believed if key not in found and key in actual]


class Compare:
    """When the next full compare is due by *clock*, and how far the one under way is."""

    def __init__(self, kernel: Kernel, clock: Callable[[], float], period_s: float) -> None:
        self.due_s = NEVER
        self.count = 0  # that came to their end
        self._kernel = kernel
        self._clock = clock
        self._period_s = period_s
        self._walk: Iterator[Piece] | None = None
        self._took_s = 0.0

    def keep(self, period_s: float) -> None:
        """One each *period_s* from now on."""
        self._period_s = period_s
        self.due_s = min(self.due_s, self._clock() + period_s)

    def put_off(self) -> None:
        """Begin the next a period from now; later if this took so long that they would take too much of the time."""
        self.due_s = self._clock() + max(self._period_s, self._took_s / SHARE_MAX)
        self._walk, self._took_s = None, 0.0

    def turn(self, actual: Rows, ours: Callable[[Rows], Rows]) -> Iterator[Piece]:
        """The pieces of about TURN_S.  Raises KernelError, after which the compare is over."""
        began_s = self._clock()
        self._walk = self._walk or walk(self._kernel, actual, ours)
        try:
            for piece in self._walk:
                yield piece
                if self._clock() - began_s >= TURN_S:
                    self._took_s += self._clock() - began_s
                    return
        except KernelError:
            self.put_off()
            raise
        self._took_s += self._clock() - began_s
        self.count += 1
        self.put_off()


_NOTHING = Piece({}, ())


def walk(kernel: Kernel, actual: Rows, ours: Callable[[Rows], Rows]) -> Iterator[Piece]:
    """Every row of *kernel* that is *ours*, once.  Raises KernelError; then the walk is over."""
    groups: _Groups = defaultdict(list)
    for keys in _batched(list(actual), _KEYS_AT_ONCE):
        for key in keys:
            groups[key.virtual_server if isinstance(key, RealServer) else scope_of(key)].append(key)
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
    # Of equal keys the one that we have already: real servers that hold it are compared without looking into it.
    ours_already = {key: key for key in groups if isinstance(key, VirtualServer)}
    listed = [ours_already.get(key, key) for key in servers if isinstance(key, VirtualServer)]
    for some in _batched(listed, _SERVERS_AT_ONCE):
        yield Piece(kernel.real_servers(some), [key for server in some for key in groups.get(server, ())])


def _batched(items: Iterable[_Item], size: int) -> Iterator[list[_Item]]:
    iterator = iter(items)
    while batch := list(islice(iterator, size)):
        yield batch
