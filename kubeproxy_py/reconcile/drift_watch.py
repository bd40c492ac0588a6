"""DriftWatch: read the marks of the kernel once in MARKS_PERIOD_S, and compare the scopes that are suspect at once.

Invariants:
- Reading the marks of one reader takes at most MARKS_SHARE of a core: one that takes long is read less often.
- Partial compares take at most COMPARE_SHARE of a core, however often another program writes, and COMPARE_BURST_S
  after a time without any: what is found rarely is compared at once.  What is found later is found by the next one.
- Shares are of CPU time, so a machine that is busy with other programs delays nothing further.
- With the marks a round of checks of the real servers begins (real_server_checks.py).  Where a mark shows each change
  of them, only those whose fingerprint is not known are checked, after the marks were read: the agent has changed
  them since, and if another program undid that at once, the mark is the one before.
- It runs in slices, like the full compare.  Events go first: marks and checks that are due wait for them, but not for
  ever.  A partial compare does not wait, because drift is likely.
"""

import logging
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

from kubeproxy_py.kernel import REAL_SERVERS, Kernel, Mark, MarkReader, Scope
from kubeproxy_py.kernel.errors import KernelError
from kubeproxy_py.logging_setup import level, values
from kubeproxy_py.model.rows import VirtualServer, completed
from kubeproxy_py.model.time import NEVER
from kubeproxy_py.reconcile.actual_state import ActualState
from kubeproxy_py.reconcile.containment import contained
from kubeproxy_py.reconcile.cpu_budget import CpuBudget
from kubeproxy_py.reconcile.drift import ScopeDiff
from kubeproxy_py.reconcile.full_compare import YIELD_FACTOR, SlicedScan
from kubeproxy_py.reconcile.real_server_checks import RealServerChecks

MARKS_PERIOD_S = 1.5
MARKS_SHARE = 0.02
MARKS_BURST_S = 0.05
EVENTS_FIRST_S = 0.4
"""How long the reading of marks waits for events: at 1,000 Services it takes 5 to 14 ms on a busy machine."""
CHECKS_EVENTS_FIRST_S = 0.1
"""How long a slice of checks of real servers waits for events: it is short, but due several times a second."""
COMPARE_SHARE = 0.05
COMPARE_BURST_S = 0.5
_ERROR_PAUSE_S = 30.0  # a reader that fails is read again after this time

log = logging.getLogger(__name__)


class DriftWatch:
    """Looks for drift in *kernel* by its marks, and records what partial compares find in *state*.

    All times are seconds of *clock*, which is read only to end a slice; *cpu_clock* returns the CPU time of this work,
    in seconds.  *on_marks* is called whenever marks are read, with the scopes that are suspect, for what else is to be
    looked at as often.  *limited* yields the virtual servers whose real servers are to have thresholds.
    """

    def __init__(  # noqa: PLR0913 - the composition root of the search for drift
        self,
        kernel: Kernel,
        state: ActualState,
        clock: Callable[[], float],
        cpu_clock: Callable[[], float],
        *,
        on_marks: Callable[[Collection[Scope]], None],
        limited: Callable[[], Iterable[VirtualServer]],
    ) -> None:
        self.count = 0  # completed partial compares
        self._kernel = kernel
        self._state = state
        self._clock = clock
        self._cpu_clock = cpu_clock
        self._on_marks = on_marks
        self._checks = RealServerChecks(kernel, state, clock, cpu_clock, limited=limited)
        self._period_s = self._marks_due_s = self._scan_due_s = NEVER
        self._readers: Sequence[MarkReader] = ()
        self._given: dict[str, Collection[str]] = {}  # names of the marks that each reader gave last
        self._budgets: dict[str, CpuBudget] = {}  # by the name of the reader
        self._times_each = False  # whether the readers are timed one by one
        self._retry_due_s: dict[str, float] = {}  # of the readers that failed
        self._compares = CpuBudget(COMPARE_SHARE, COMPARE_BURST_S)
        self._scan: SlicedScan | None = None
        self._scopes: Sequence[Scope] = ()  # of the scan

    @property
    def due_s(self) -> float:
        """When `run_slice` has something to do."""
        return min(self._scan_due_s if self._scan else self._marks_due_s, self._checks.due_s)

    @property
    def overdue_s(self) -> float:
        """When `run_slice` has something to do that waits no longer for events."""
        due_s = self._scan_due_s if self._scan else self._marks_due_s + EVENTS_FIRST_S
        return min(due_s, self._checks.due_s + CHECKS_EVENTS_FIRST_S)

    def start(self, period_s: float, now_s: float) -> None:
        """Read marks each *period_s* from now on (NEVER: not at all); abandon a partial compare that runs."""
        self._period_s = period_s
        self._readers = self._kernel.mark_readers() if period_s < NEVER else ()
        self._marks_due_s = now_s + period_s
        self._scan = None
        self._checks.stop()

    def run_slice(self, now_s: float, *, events_wait: bool = False) -> int:
        """Read the marks, check real servers, or compare for a slice; return the number of rows that differ.

        Where *events_wait*, marks are read only if they are overdue.
        """
        reads = self._scan is None and now_s >= self._marks_due_s + (EVENTS_FIRST_S if events_wait else 0.0)
        marks: Mapping[str, Mark] = {}
        if reads:
            self._marks_due_s = now_s + self._period_s
            marks = self._read_marks(now_s)
            are_marked = any(REAL_SERVERS in names for names in self._given.values())
            self._checks.begin(now_s, only_unknown=are_marked)
        drift_rows = self._checks.run_slice(now_s) if now_s >= self._checks.due_s else 0
        if reads:
            drift_rows += self._record_changed(marks, now_s)
            suspects = self._state.marks.observe(marks, self._state.counts, self._state.rows)
            contained("what is looked at with the marks", self._on_marks, suspects)
            self._begin_scan(suspects, now_s)
        if self._scan and now_s >= self._scan_due_s:
            drift_rows += self._run_scan(self._scan, self._clock())
        return drift_rows

    def yield_to_sync(self, now_s: float) -> None:
        """Pause a running partial compare, because a sync was due as well."""
        if self._scan:
            self._scan_due_s = now_s + YIELD_FACTOR * self._scan.slice_s

    def _read_marks(self, now_s: float) -> Mapping[str, Mark]:
        """Read the marks that are due."""
        marks: dict[str, Mark] = {}
        readers = [reader for reader in self._readers if self._is_due(reader, now_s)]
        began_cpu_s = reader_began_cpu_s = self._cpu_clock()
        for reader in readers:
            found: Mapping[str, Mark] = {}
            try:
                found = reader.read()
            except KernelError as error:
                log.debug("Marks cannot be read", extra=values(marks=reader.name, err=error))
                self._retry_due_s[reader.name] = now_s + _ERROR_PAUSE_S
            marks |= found
            self._given[reader.name] = found.keys()
            if self._times_each:
                ended_cpu_s = self._cpu_clock()
                self._budget(reader).spend(ended_cpu_s - reader_began_cpu_s, now_s)
                reader_began_cpu_s = ended_cpu_s
        # Where all together take less than the share of one they are not timed one by one: each time is a system call.
        if not self._times_each and (took_cpu_s := self._cpu_clock() - began_cpu_s) > MARKS_SHARE * self._period_s:
            self._times_each = True
            for reader in readers:
                self._budget(reader).spend(took_cpu_s, now_s)
        return marks

    def _is_due(self, reader: MarkReader, now_s: float) -> bool:
        """Return whether *reader* has something to read, and may."""
        due_s = max(self._budget(reader).due_s, self._retry_due_s.get(reader.name, -NEVER))
        return now_s >= due_s and (not reader.group or bool(self._state.counts.get(reader.group)))

    def _budget(self, reader: MarkReader) -> CpuBudget:
        return self._budgets.setdefault(reader.name, CpuBudget(MARKS_SHARE, MARKS_BURST_S))

    def _record_changed(self, marks: Mapping[str, Mark], now_s: float) -> int:
        """Record the actual rows that *marks* have otherwise as drift; return their number."""
        rows, confirmed = self._state.rows, self._state.marks
        unknown = (mark for name, mark in marks.items() if not confirmed.is_confirmed(name, mark))
        changed = (item for mark in unknown for item in mark.changed)
        seen = {key: completed(spec, rows[key]) for key, spec in changed if key in rows}
        found = {key: spec for key, spec in seen.items() if rows[key] != spec}
        return self._state.record_diff(ScopeDiff(found, ()), now_s) if found else 0

    def _run_scan(self, scan: SlicedScan, now_s: float) -> int:
        """Compare for a slice from *now_s* on; return the number of rows that differ."""
        drift_rows = scan.run_slice(now_s)
        if scan.is_done:
            self._end_scan(scan, now_s)
        else:
            self._scan_due_s = now_s
        return drift_rows

    def _begin_scan(self, suspects: Sequence[Scope], now_s: float) -> None:
        if not suspects or now_s < self._compares.due_s:
            return
        log.log(level(4), "Comparing parts of kernel state that have changed", extra=values(scopes=suspects))
        self._scopes = suspects
        self._scan = SlicedScan(self._kernel, self._state, self._clock, self._cpu_clock, suspects)
        self._scan_due_s = now_s

    def _end_scan(self, scan: SlicedScan, now_s: float) -> None:
        compared = [scope for scope in self._scopes if scope not in scan.failed]
        self._state.marks.record_compared(compared, has_drift=bool(scan.drift_rows))
        self.count += 1
        self._compares.spend(scan.took_cpu_s, now_s)
        self._scan = None
