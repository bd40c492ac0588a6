"""The full compare: the whole of the kernel's state against what is believed of it, piece by piece, once a period.

Law: no piece takes long, so that whoever compares may do other work between two of them.  A piece names the rows that
it would have told if they were there, so what is missing is known with it; and it is to be held against what is
believed when it comes, not when the walk began.

All is listed each time, but rows are made only of what is not proven (proofs.py), so that the compare of a kernel that
is right costs little more than having the kernel speak.
"""

from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import TypeVar

from msgspec import Struct

from kubeproxy_py.kernel import VIRTUAL_SERVERS, Kernel, Readable, Scope, snapshot_of
from kubeproxy_py.kernel.errors import KernelError
from kubeproxy_py.model.rows import Key, Rows, VirtualServer
from kubeproxy_py.model.time import NEVER
from kubeproxy_py.reconcile.fingerprints import Fingerprints, part_of

_KEYS_AT_ONCE = 5_000  # some 2 ms
_SERVERS_AT_ONCE = 50  # virtual servers; with 10 real servers each some 5 ms

SLICE_S = 0.01
"""How long an event waits for the full compare, besides the piece that is being read: at most one set or one table."""

YIELD_FACTOR = 3
"""Where there was other work in the turn, the compare rests so many times as long as it took: events come first."""

MAX_CPU_SHARE = 0.05
"""Of the time, that full compares may take of one core."""

_Item = TypeVar("_Item")


class ScopeDiff(Struct, frozen=True, gc=False):
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


class FullCompare:
    """When the next full compare is due by *clock*, and how far the one under way is."""

    def __init__(self, kernel: Kernel, clock: Callable[[], float], period_s: float) -> None:
        self.due_s = NEVER
        self.count = 0  # that came to their end
        self.proofs = Fingerprints()
        self._kernel = kernel
        self._clock = clock
        self._period_s = period_s
        self._walk: Iterator[ScopeDiff] | None = None
        self._took_s = 0.0
        self._turn_s = 0.0  # what the last turn took

    def set_period(self, period_s: float) -> None:
        """One each *period_s* from now on."""
        self._period_s = period_s
        self.due_s = min(self.due_s, self._clock() + period_s)

    def reschedule(self) -> None:
        """Begin the next a period from now; later if this took so long that they would take too much of the time."""
        self.due_s = self._clock() + max(self._period_s, self._took_s / MAX_CPU_SHARE)
        self._walk, self._took_s = None, 0.0

    def yield_to_sync(self) -> None:
        """Others have work: go on with the compare that is under way, if any, when they had time for it."""
        if self._walk:
            self.due_s = self._clock() + YIELD_FACTOR * self._turn_s

    def run_slice(self, actual: Rows, ours: Callable[[Rows], Rows]) -> Iterator[ScopeDiff]:
        """The pieces of about TURN_S.  Raises KernelError, after which the compare is over."""
        began_s = self._clock()
        self._walk = self._walk or _Scanner(self._kernel, actual, ours, self.proofs).pieces()
        try:
            for piece in self._walk:
                yield piece
                self._turn_s = self._clock() - began_s
                if self._turn_s >= SLICE_S:
                    self._took_s += self._turn_s
                    return
        except KernelError:
            self.reschedule()
            raise
        self._took_s += self._clock() - began_s
        self.count += 1
        self.reschedule()


_NOTHING = ScopeDiff({}, ())


class _Scanner:
    """Once through all rows of *kernel* that are *ours*."""

    def __init__(self, kernel: Kernel, actual: Rows, ours: Callable[[Rows], Rows], proofs: Fingerprints) -> None:
        self._kernel = kernel
        self._actual = actual
        self._ours = ours
        self._proofs = proofs

    def pieces(self) -> Iterator[ScopeDiff]:
        """What is not proven.  Raises KernelError; then the walk is over."""
        scopes: list[Scope] = []
        for scope in self._kernel.scopes():
            if scope != VIRTUAL_SERVERS and not self._is_proven(scope):
                scopes.append(scope)
            yield _NOTHING
        listed: Rows = {}
        servers: list[VirtualServer] = []
        if VIRTUAL_SERVERS in self._proofs:
            yield from self._list(listed)
            yield from self._doubt(listed, servers)
        if not self._proofs.matches(VIRTUAL_SERVERS, snapshot_of(listed).fingerprint()):
            scopes.append(VIRTUAL_SERVERS)
        if scopes or servers:
            yield from self._look_into(scopes, servers, listed)

    def _is_proven(self, part: Readable) -> bool:
        return part in self._proofs and self._proofs.matches(part, self._kernel.fingerprint(part))

    def _list(self, listed: Rows) -> Iterator[ScopeDiff]:
        """Have the virtual servers in *listed*."""
        for part in self._kernel.virtual_servers():
            listed.update(self._ours(part))
            yield _NOTHING

    def _doubt(self, listed: Iterable[Key], servers: list[VirtualServer]) -> Iterator[ScopeDiff]:
        """Have those of *listed* in *servers* whose real servers are not proven."""
        for some in _batched(listed, _SERVERS_AT_ONCE):
            servers += [key for key in some if isinstance(key, VirtualServer) and not self._is_proven(key)]
            yield _NOTHING

    def _look_into(self, scopes: Sequence[Scope], servers: list[VirtualServer], known: Rows) -> Iterator[ScopeDiff]:
        """The rows of *scopes*, and the real servers of *servers* and of those that were not *known* yet."""
        believed: dict[Readable, list[Key]] = defaultdict(list)
        for keys in _batched(list(self._actual), _KEYS_AT_ONCE):
            for key in keys:
                believed[part_of(key)].append(key)
            yield _NOTHING
        for scope in scopes:
            if scope != VIRTUAL_SERVERS:
                listing = self._kernel.snapshot(scope)
                self._proofs.record(scope, listing.fingerprint())
                yield ScopeDiff(listing.rows(), believed.get(scope, ()))
        held = {key: key for key in believed.get(VIRTUAL_SERVERS, ()) if isinstance(key, VirtualServer)}
        if VIRTUAL_SERVERS in scopes:
            listed: Rows = {}
            changed = self._proofs.servers_changed
            yield from self._list(listed)
            if self._proofs.servers_changed != changed:  # it was listed before we believed what we do now
                listed.clear()
                deque(self._list(listed), maxlen=0)  # at once, then
            self._proofs.record(VIRTUAL_SERVERS, snapshot_of(listed).fingerprint())
            gone = [key for key in held if key not in listed]
            yield ScopeDiff(listed, [*gone, *(key for server in gone for key in believed.get(server, ()))])
            yield from self._doubt((key for key in listed if key not in known), servers)
        # Of equal keys the one that we have already: real servers that hold it are compared without looking into it.
        for some in _batched((held.get(key, key) for key in servers), _SERVERS_AT_ONCE):
            found: Rows = {}
            for server in some:
                if server in self._actual:  # else it went meanwhile, and its real servers with it
                    listing = self._kernel.snapshot(server)
                    self._proofs.record(server, listing.fingerprint())
                    found.update(listing.rows())
            yield ScopeDiff(found, [key for server in some for key in believed.get(server, ())])


def _batched(items: Iterable[_Item], size: int) -> Iterator[list[_Item]]:
    iterator = iter(items)
    while batch := list(islice(iterator, size)):
        yield batch
