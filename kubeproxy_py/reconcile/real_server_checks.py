"""RealServerChecks: check the real servers of each virtual server, one after the other and again and again.

With many virtual servers (kernel/ipvs/listing.py) no mark shows a weight, one real server in place of another, or the
real servers of IPv6 virtual servers.

Invariants:
- A *round* checks each virtual server once.  It begins when the marks are read, and takes at most SERVER_SHARE of a
  core for each virtual server, and CHECKS_SHARE for all, in CPU time: with many of them, and where system calls are
  slow, it lasts longer than the period of the marks.
- It runs in slices of about SLICE_S, so that events are never delayed for long.
- A virtual server whose fingerprint is known is not decoded; that of any other one is decoded, compared, and its
  fingerprint recorded, so that what the agent itself changed is checked again within a round, too.
- What differs is recorded as drift at once.  Where all real servers are gone, the virtual server may be, too, so all
  of them are suspect.
"""

from collections.abc import Callable, Iterator

from kubeproxy_py.kernel import VIRTUAL_SERVERS, Kernel
from kubeproxy_py.kernel.errors import KernelError
from kubeproxy_py.model.rows import RealServer, Rows, VirtualServer
from kubeproxy_py.model.time import NEVER
from kubeproxy_py.reconcile.actual_state import ActualState
from kubeproxy_py.reconcile.cpu_budget import CpuBudget
from kubeproxy_py.reconcile.drift import ScopeDiff

CHECKS_SHARE = 0.04
SERVER_SHARE = 0.00002
_LEAST_SHARE = 0.0005
BURST_S = 0.03
SLICE_S = 0.005
_BATCH = 16  # virtual servers between two readings of the clock, which is a system call on some kernels


class RealServerChecks:
    """Checks the real servers of *kernel*, and records in *state* what differs.

    *clock* is read to end a slice, and *cpu_clock* for the CPU time that it took; both return seconds.
    """

    def __init__(
        self, kernel: Kernel, state: ActualState, clock: Callable[[], float], cpu_clock: Callable[[], float]
    ) -> None:
        self.due_s = NEVER
        self._budget = CpuBudget(_LEAST_SHARE, BURST_S)
        self._kernel = kernel
        self._state = state
        self._clock = clock
        self._cpu_clock = cpu_clock
        self._unchecked: Iterator[VirtualServer] = iter(())
        self._changed: dict[VirtualServer, Rows] = {}  # in this slice, as they were found

    def begin(self, now_s: float, *, only_unknown: bool = False) -> None:
        """Begin a round at *now_s*, unless one is running; *only_unknown*: of the servers without a fingerprint."""
        if self.due_s == NEVER and now_s >= self._budget.due_s:
            known = self._state.fingerprints if only_unknown else ()
            self._unchecked = iter([server for server in self._state.virtual_servers() if server not in known])
            self.due_s = now_s

    def stop(self) -> None:
        """Abandon the round that is running."""
        self.due_s = NEVER

    def run_slice(self, now_s: float) -> int:
        """Check for about SLICE_S from *now_s* on; return the number of rows that differ."""
        began_s, began_cpu_s, is_done = now_s, self._cpu_clock(), False
        while not is_done and now_s < began_s + SLICE_S:
            is_done = self._check_batch()
            now_s = self._clock()
        drift_rows = self._record_changed(now_s)
        self._budget.share = self._share()
        self._budget.spend(self._cpu_clock() - began_cpu_s, now_s)
        self.due_s = NEVER if is_done else max(now_s, self._budget.due_s)
        return drift_rows

    def _share(self) -> float:
        """Return the largest share of a core that checks may use."""
        return min(CHECKS_SHARE, max(_LEAST_SHARE, SERVER_SHARE * len(self._state.real_server_counts)))

    def _check_batch(self) -> bool:
        """Check some virtual servers; return whether the round is over."""
        counts = self._state.real_server_counts
        try:
            for _ in range(_BATCH):
                server = next(self._unchecked, None)
                if server is None:
                    return True
                if server in self._state.rows:  # otherwise a sync deleted it meanwhile
                    self._check(server, counts.get(server, 0))
        except KernelError:  # the full compare reports it
            return True
        return False

    def _check(self, server: VirtualServer, count: int) -> None:
        """Compare the real servers of *server*, of which *count* are actual rows.  Raises KernelError."""
        fingerprints = self._state.fingerprints
        if server in fingerprints and fingerprints.matches(server, self._kernel.fingerprint(server)):
            return
        snapshot = self._kernel.snapshot(server)
        rows = snapshot.rows()
        if len(rows) == count and rows.items() <= self._state.rows.items():
            fingerprints.record(server, snapshot.fingerprint())
        elif rows:
            self._changed[server] = rows
        else:
            self._state.marks.suspect(VIRTUAL_SERVERS)

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
