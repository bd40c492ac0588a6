"""FullCompare: periodic comparison of all kernel state with the known rows.

It runs in slices of about SLICE_S, so that events are never delayed for long; syncs may run between two slices.

Invariants:
- A ScopeDiff is compared with the known rows as they are when it is yielded, not as they were when the scan began.
- All state is listed each time, but a snapshot whose fingerprint is unchanged since the last comparison is not decoded
  (fingerprints.py), so comparing a kernel that is right costs little more than the kernel's answers.
"""

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from itertools import islice
from typing import TypeVar

from kubeproxy_py.kernel import VIRTUAL_SERVERS, Kernel, LateRows, Readable, Scope, scope_of, snapshot_of
from kubeproxy_py.kernel.errors import KernelError
from kubeproxy_py.model.rows import Key, Rows, VirtualServer
from kubeproxy_py.model.time import NEVER
from kubeproxy_py.reconcile.actual_state import ActualState
from kubeproxy_py.reconcile.drift import ScopeDiff
from kubeproxy_py.reconcile.fingerprints import readable_of

_KEY_BATCH = 5_000  # some 2 ms
_SERVER_BATCH = 50  # virtual servers; with 10 real servers each some 5 ms

SLICE_S = 0.01
"""How long the full compare delays an event, besides the part that is being read: at most one set or one table."""

YIELD_FACTOR = 3
"""After a slice in which there was other work the compare pauses this many times as long: events come first."""

MAX_CPU_SHARE = 0.05
"""The largest share of one core, in CPU time, that full compares may use."""

_Item = TypeVar("_Item")


class FullCompare:
    """Schedules full compares, and records what they find in *state*.

    All times are seconds of *clock*, which is read only to learn how long a slice has run, and when it ended;
    *cpu_clock* returns the CPU time of this work, in seconds.
    """

    def __init__(
        self, kernel: Kernel, state: ActualState, clock: Callable[[], float], cpu_clock: Callable[[], float]
    ) -> None:
        self.due_s = NEVER
        self.count = 0  # completed compares
        self.last_s = -NEVER  # when the last one ended
        self._kernel = kernel
        self._state = state
        self._clock = clock
        self._cpu_clock = cpu_clock
        self._scan: SlicedScan | None = None

    def set_period(self, period_s: float, now_s: float) -> None:
        """Run the next compare within *period_s*."""
        self.due_s = min(self.due_s, now_s + period_s)

    def reschedule(self, period_s: float, now_s: float) -> None:
        """Abandon the running compare; begin the next after *period_s*, or later if this one took too much CPU."""
        took_cpu_s = self._scan.took_cpu_s if self._scan else 0.0
        self.due_s = now_s + max(period_s, took_cpu_s / MAX_CPU_SHARE)
        self._scan = None

    def yield_to_sync(self, now_s: float) -> None:
        """Pause a running compare, because a sync was due as well."""
        if self._scan:
            self.due_s = now_s + YIELD_FACTOR * self._scan.slice_s

    def compare_scope(self, scope: Scope, now_s: float) -> int:
        """Compare *scope* now; return the number of rows that differ, 0 if it cannot be read."""
        try:
            rows = self._kernel.read(scope)
        except KernelError as error:
            self._state.unread.record_error(scope, error)
            return 0
        self._state.unread.record_read(scope)
        return self._record_diff(scope, self._state.filter_owned(rows) if scope == VIRTUAL_SERVERS else rows, now_s)

    def compare_late(self, late: LateRows, now_s: float) -> int:
        """Compare the rows of a scope whose reading was under way; return the number of rows that differ."""
        scope, fingerprints = late.scope, self._state.fingerprints
        if late.error:
            self._state.unread.record_error(scope, late.error)
            return 0
        self._state.unread.record_read(scope)
        fingerprint = snapshot_of(late.rows).fingerprint()
        if fingerprints.matches(scope, fingerprint):
            return 0
        fingerprints.record(scope, fingerprint)
        return self._record_diff(scope, late.rows, now_s)

    def _record_diff(self, scope: Scope, rows: Rows, now_s: float) -> int:
        """Record how *rows* differ from the actual ones of *scope*; return the number of rows that do.

        A row with a step under way is left out: it is as before or after that step.
        """
        under_way = self._state.pending.under_way
        found = {key: spec for key, spec in rows.items() if key not in under_way}
        actual = [key for key in self._state.rows if scope_of(key) == scope and key not in under_way]
        return self._state.record_diff(ScopeDiff(found, actual), now_s)

    def run_slice(self, period_s: float, now_s: float) -> int:
        """Compare for about SLICE_S from *now_s* on; return the number of rows that differ.

        A scope that cannot be read is left out (unread_scopes.py).
        """
        self._scan = self._scan or SlicedScan(self._kernel, self._state, self._clock, self._cpu_clock)
        drift_rows = self._scan.run_slice(now_s)
        if self._scan.is_done:
            self.count += 1
            self.last_s = now_s + self._scan.slice_s
            self.reschedule(period_s, now_s + self._scan.slice_s)
        return drift_rows


class SlicedScan:
    """A comparison of *scopes* (None: of all) with the actual rows, which runs in slices of about SLICE_S."""

    def __init__(
        self,
        kernel: Kernel,
        state: ActualState,
        clock: Callable[[], float],
        cpu_clock: Callable[[], float],
        scopes: Collection[Scope] | None = None,
    ) -> None:
        self.is_done = False
        self.drift_rows = 0
        self.took_cpu_s = 0.0  # all slices until now
        self.slice_s = 0.0  # the last slice, by the clock
        self._state = state
        self._clock = clock
        self._cpu_clock = cpu_clock
        self._scanner = _Scanner(kernel, state, scopes)
        self._diffs = self._scanner.diffs()

    @property
    def failed(self) -> Collection[Scope]:
        """The scopes that could not be read until now."""
        return self._scanner.failed

    def run_slice(self, now_s: float) -> int:
        """Compare for about SLICE_S from *now_s* on, record the rows that differ, and return their number."""
        drift_rows, began_cpu_s = 0, self._cpu_clock()
        for diff in self._diffs:
            drift_rows += self._state.record_diff(diff, now_s)
            if self._clock() - now_s >= SLICE_S:
                break
        else:
            self.is_done = True
        self.slice_s = self._clock() - now_s
        self.took_cpu_s += self._cpu_clock() - began_cpu_s
        self.drift_rows += drift_rows
        return drift_rows


_NO_DIFF = ScopeDiff({}, ())  # a point at which a slice may end


class _Scanner:
    """One scan of the rows of *scopes* (None: of all rows) of *kernel* that are ours."""

    def __init__(self, kernel: Kernel, state: ActualState, scopes: Collection[Scope] | None) -> None:
        self.failed: set[Scope] = set()
        self._unread = state.unread
        self._kernel = kernel
        self._state = state
        self._fingerprints = state.fingerprints
        self._scopes = (*kernel.scopes(), VIRTUAL_SERVERS) if scopes is None else scopes

    def diffs(self) -> Iterator[ScopeDiff]:
        """Yield the parts whose fingerprint changed, without those that cannot be read."""
        scopes: list[Scope] = []
        for scope in self._scopes:
            if scope != VIRTUAL_SERVERS and self._must_compare(scope):
                scopes.append(scope)
            yield _NO_DIFF
        listed: Rows = {}
        changed: list[VirtualServer] = []
        has_servers = VIRTUAL_SERVERS in self._scopes
        try:
            if has_servers and VIRTUAL_SERVERS in self._fingerprints:
                for rows in self._list_virtual_servers():
                    listed.update(rows)
                    yield _NO_DIFF
                for servers in self._changed_servers(listed):
                    changed += servers
                    yield _NO_DIFF
                self._unread.record_read(VIRTUAL_SERVERS)
        except KernelError as error:
            self._record_error(VIRTUAL_SERVERS, error)
            changed.clear()
        else:
            if has_servers and not self._fingerprints.matches(VIRTUAL_SERVERS, snapshot_of(listed).fingerprint()):
                scopes.append(VIRTUAL_SERVERS)
        if scopes or changed:
            yield from self._compare(scopes, changed, listed)

    def _must_compare(self, scope: Scope) -> bool:
        """Return whether *scope* may have changed; False if it cannot be read."""
        try:
            unchanged = self._is_unchanged(scope)
        except KernelError as error:
            self._record_error(scope, error)
            return False
        if unchanged:
            self._unread.record_read(scope)
        return not unchanged

    def _is_unchanged(self, readable: Readable) -> bool:
        fingerprints = self._fingerprints
        return readable in fingerprints and fingerprints.matches(readable, self._kernel.fingerprint(readable))

    def _list_virtual_servers(self) -> Iterator[Rows]:
        return map(self._state.filter_owned, self._kernel.virtual_servers())

    def _changed_servers(self, keys: Iterable[Key]) -> Iterator[list[VirtualServer]]:
        """Yield, in batches, the virtual servers of *keys* whose real servers have another fingerprint."""
        for batch in _batched(keys, _SERVER_BATCH):
            yield [key for key in batch if isinstance(key, VirtualServer) and not self._is_unchanged(key)]

    def _compare(
        self, scopes: Sequence[Scope], servers: list[VirtualServer], listed_before: Rows
    ) -> Iterator[ScopeDiff]:
        """Yield the differences of *scopes*, and of *servers* and those that are not *listed_before*."""
        known: dict[Readable, list[Key]] = defaultdict(list)
        for keys in _batched(list(self._state.rows), _KEY_BATCH):
            for key in keys:
                known[readable_of(key)].append(key)
            yield _NO_DIFF
        for scope in scopes:
            if scope != VIRTUAL_SERVERS:
                yield self._read_scope(scope, known.get(scope, ()))
        try:
            yield from self._compare_servers(scopes, servers, listed_before, known)
        except KernelError as error:
            self._record_error(VIRTUAL_SERVERS, error)

    def _compare_servers(
        self,
        scopes: Sequence[Scope],
        servers: list[VirtualServer],
        listed_before: Rows,
        known: dict[Readable, list[Key]],
    ) -> Iterator[ScopeDiff]:
        """Yield the differences of the virtual servers, if *scopes* has them, and of the real servers.

        Raises KernelError.
        """
        known_servers = {key: key for key in known.get(VIRTUAL_SERVERS, ()) if isinstance(key, VirtualServer)}
        if VIRTUAL_SERVERS in scopes:
            listed: Rows = {}
            version = self._fingerprints.servers_version
            for rows in self._list_virtual_servers():
                listed.update(rows)
                yield _NO_DIFF
            if self._fingerprints.servers_version != version:
                # Syncs changed virtual servers while they were listed: list again, without a pause.
                listed = {key: spec for rows in self._list_virtual_servers() for key, spec in rows.items()}
            self._unread.record_read(VIRTUAL_SERVERS)
            self._fingerprints.record(VIRTUAL_SERVERS, snapshot_of(listed).fingerprint())
            deleted = [key for key in known_servers if key not in listed]
            behind_deleted = [key for server in deleted for key in known.get(server, ())]
            yield ScopeDiff(listed, [*deleted, *behind_deleted])
            for batch in self._changed_servers(key for key in listed if key not in listed_before):
                servers += batch
                yield _NO_DIFF
        # Use the equal key that is known already: keys of real servers that share it compare by identity.
        for batch in _batched((known_servers.get(key, key) for key in servers), _SERVER_BATCH):
            yield self._read_real_servers(batch, known)

    def _read_scope(self, scope: Scope, known: Sequence[Key]) -> ScopeDiff:
        try:
            snapshot = self._kernel.snapshot(scope)
            rows = snapshot.rows()
        except KernelError as error:
            self._record_error(scope, error)
            return _NO_DIFF
        self._unread.record_read(scope)
        self._fingerprints.record(scope, snapshot.fingerprint())
        return ScopeDiff(rows, known)

    def _read_real_servers(self, servers: Sequence[VirtualServer], known: dict[Readable, list[Key]]) -> ScopeDiff:
        found: Rows = {}
        for server in servers:
            if server in self._state.rows:  # otherwise a sync deleted it meanwhile, with its real servers
                snapshot = self._kernel.snapshot(server)
                found.update(snapshot.rows())
                self._fingerprints.record(server, snapshot.fingerprint())
        return ScopeDiff(found, [key for server in servers for key in known.get(server, ())])

    def _record_error(self, scope: Scope, error: KernelError) -> None:
        self.failed.add(scope)
        self._unread.record_error(scope, error)


def _batched(items: Iterable[_Item], size: int) -> Iterator[list[_Item]]:
    iterator = iter(items)
    while batch := list(islice(iterator, size)):
        yield batch
