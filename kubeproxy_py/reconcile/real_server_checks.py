"""RealServerChecks: check the real servers of each virtual server again and again.

With many virtual servers (kernel/ipvs/listing.py) no mark shows a weight, one real server in place of another, or the
real servers of IPv6 virtual servers.

Invariants:
- A *round* checks each virtual server once: by one listing in pieces, where the kernel has it, else one after the
  other.  It begins when the marks are read, or at once if the last one took longer than their period, and takes at most
  SERVER_SHARE of a core for each virtual server, and CHECKS_SHARE for all, in CPU time.  The first round, which decodes
  all of them, takes at most FIRST_SHARE: otherwise drift in the first seconds would be found late.
- It runs in slices of about SLICE_S, so that events are never delayed for long.
- A virtual server that is known to agree (by its fingerprint, or that of its record) is not decoded; any other one is
  decoded and compared, so that what the agent itself changed is checked again within a round, too.
- No listing and no mark shows thresholds, so virtual servers that are to have some are checked one after the other in
  each round, too.
- What differs is recorded as drift at once.  Where all real servers are gone, the virtual server may be, too, so all
  of them are suspect.
"""

from collections.abc import Callable, Container, Iterable, Iterator

from kubeproxy_py.kernel import VIRTUAL_SERVERS, Kernel, RealServerListing
from kubeproxy_py.kernel.errors import KernelError
from kubeproxy_py.model.rows import RealServer, Rows, VirtualServer, completed
from kubeproxy_py.model.time import NEVER
from kubeproxy_py.reconcile.actual_state import ActualState
from kubeproxy_py.reconcile.cpu_budget import CpuBudget, EvenCpuTime
from kubeproxy_py.reconcile.drift import ScopeDiff

CHECKS_SHARE = 0.064
FIRST_SHARE = 0.5
SERVER_SHARE = 0.00002
_LEAST_SHARE = 0.0005
BURST_S = 0.03
SLICE_S = 0.005
_BATCH = 16  # virtual servers between two readings of the clock, which is a system call on some kernels
_END = object()


class RealServerChecks:
    """Checks the real servers of *kernel*, and records in *state* what differs.

    *clock* is read to end a slice, and *cpu_clock* for the CPU time that it took; both return seconds.  *limited*
    yields the virtual servers whose real servers are to have thresholds.
    """

    def __init__(
        self,
        kernel: Kernel,
        state: ActualState,
        clock: Callable[[], float],
        cpu_clock: Callable[[], float],
        *,
        limited: Callable[[], Iterable[VirtualServer]],
    ) -> None:
        self.due_s = NEVER
        self._budget = CpuBudget(_LEAST_SHARE, BURST_S)
        self._cpu_time = EvenCpuTime()  # otherwise rounds on the lab kernel last some 20 % longer or shorter
        self._kernel = kernel
        self._state = state
        self._clock = clock
        self._cpu_clock = cpu_clock
        self._limited = limited
        self._round: Iterator[None] = iter(())
        self._only_unknown = False
        self._is_first = True  # no round has ended
        self._is_due_again = False  # a round was to begin while one was running
        self._changed: dict[VirtualServer, Rows] = {}  # in this slice, as they were found

    def begin(self, now_s: float, *, only_unknown: bool = False) -> None:
        """Begin a round at *now_s*, or when the running one ends; *only_unknown*: of servers without a fingerprint."""
        self._only_unknown = only_unknown
        if self.due_s != NEVER:
            self._is_due_again = True
            return
        listing = None if only_unknown else self._kernel.real_server_listing()
        known = self._state.fingerprints if only_unknown else ()
        self._round = self._list(listing) if listing else self._check_all(known)
        self.due_s = max(now_s, self._budget.due_s)

    def stop(self) -> None:
        """Abandon the round that is running."""
        self.due_s = NEVER
        self._is_due_again = False

    def run_slice(self, now_s: float) -> int:
        """Check for about SLICE_S from *now_s* on; return the number of rows that differ."""
        began_s, began_cpu_s, is_done = now_s, self._cpu_clock(), False
        while not is_done and now_s < began_s + SLICE_S:
            is_done = next(self._round, _END) is _END
            now_s = self._clock()
        drift_rows = self._record_changed(now_s)
        self._budget.share = self._share()
        self._budget.spend(self._cpu_time.of(self._cpu_clock() - began_cpu_s, now_s - began_s), now_s)
        self._is_first = self._is_first and not is_done
        self.due_s = NEVER if is_done else max(now_s, self._budget.due_s)
        if is_done and self._is_due_again:
            self._is_due_again = False
            self.begin(now_s, only_unknown=self._only_unknown)
        return drift_rows

    def _share(self) -> float:
        """Return the largest share of a core that checks may use."""
        if self._is_first:
            return FIRST_SHARE
        return min(CHECKS_SHARE, max(_LEAST_SHARE, SERVER_SHARE * len(self._state.real_server_counts)))

    def _list(self, listing: RealServerListing) -> Iterator[None]:
        """List all real servers, and yield after each piece; if that fails, check each virtual server."""
        try:
            self._forget_invalidated(listing)
            for _ in listing.pieces(self._agrees_as_listed):
                yield
                self._forget_invalidated(listing)
        except KernelError:  # also where /proc is another namespace's
            yield from self._check_all(())
            return
        yield from self._check_each(self._limited())

    def _forget_invalidated(self, listing: RealServerListing) -> None:
        servers = self._state.fingerprints.pop_invalidated()
        if servers is None:
            listing.forget_all()
        elif servers:
            listing.forget(servers)

    def _check_all(self, known: Container[VirtualServer]) -> Iterator[None]:
        """Check the virtual servers that are not *known*, and those with thresholds; yield after each few."""
        yield from self._check_each([server for server in self._state.virtual_servers() if server not in known])
        if known:  # else they were checked just now
            yield from self._check_each(self._limited())

    def _check_each(self, servers: Iterable[VirtualServer]) -> Iterator[None]:
        """Check *servers*, and yield after each few."""
        try:
            for number, server in enumerate(servers, start=1):
                if server in self._state.rows:  # otherwise a sync deleted it meanwhile
                    self._check(server)
                if number % _BATCH == 0:
                    yield
        except KernelError:  # the full compare reports it
            return

    def _check(self, server: VirtualServer) -> None:
        """Compare the real servers of *server*.  Raises KernelError."""
        fingerprints = self._state.fingerprints
        if server in fingerprints and fingerprints.matches(server, self._kernel.fingerprint(server)):
            return
        snapshot = self._kernel.snapshot(server)
        if self._agrees(server, snapshot.rows()):
            fingerprints.record(server, snapshot.fingerprint())

    def _agrees_as_listed(self, server: VirtualServer, rows: Rows) -> bool:
        """Return the same as `_agrees`; a listing shows no thresholds, so these count as what they are known to be."""
        actual = self._state.rows
        return self._agrees(server, {key: completed(spec, actual.get(key)) for key, spec in rows.items()})

    def _agrees(self, server: VirtualServer, rows: Rows) -> bool:
        """Return whether the real servers of *server* are *rows*; record how they differ."""
        actual = self._state.rows
        if server not in actual:  # it is not ours, or is gone
            return True
        if len(rows) == self._state.real_server_counts.get(server, 0) and rows.items() <= actual.items():
            return True
        if rows:
            self._changed[server] = rows
        else:
            self._state.marks.suspect(VIRTUAL_SERVERS)
        return False

    def _record_changed(self, now_s: float) -> int:
        """Record the changed real servers as drift; return the number of rows that differ.

        Those that are missing are found by looking at all rows, once for all that have changed.
        """
        if not self._changed:
            return 0
        changed, self._changed = self._changed, {}
        known = [key for key in self._state.rows if isinstance(key, RealServer) and key.virtual_server in changed]
        found = {key: spec for rows in changed.values() for key, spec in rows.items()}
        return self._state.record_diff(ScopeDiff(found, known), now_s)
