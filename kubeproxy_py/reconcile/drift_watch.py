"""DriftWatch: read the marks of the kernel once in MARKS_PERIOD_S, and compare the scopes that are suspect at once.

Invariants:
- Reading the marks of one reader takes at most MARKS_SHARE of a core: one that takes long is read less often.
- Partial compares take at most COMPARE_SHARE of a core: after one that took 10 ms there is none for 200 ms, however
  often another program writes.  What is found later for that reason is found by the next one.
- Real servers have no mark that shows their weight, so in each turn the fingerprints of some virtual servers are
  checked, for ROTATION_S, one after the other: all of them in time, and a full compare finds what is left.
- It runs in slices, like the full compare.
"""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence

from kubeproxy_py.kernel import VIRTUAL_SERVERS, Kernel, Mark, MarkReader, Scope
from kubeproxy_py.kernel.errors import KernelError
from kubeproxy_py.logging_setup import level, values
from kubeproxy_py.model.rows import VirtualServer
from kubeproxy_py.model.time import NEVER
from kubeproxy_py.reconcile.actual_state import ActualState
from kubeproxy_py.reconcile.containment import contained
from kubeproxy_py.reconcile.full_compare import YIELD_FACTOR, SlicedScan

MARKS_PERIOD_S = 1.5
MARKS_SHARE = 0.005
COMPARE_SHARE = 0.05
ROTATION_S = 0.00025
_ERROR_PAUSE_S = 30.0  # a reader that fails is read again after this time

log = logging.getLogger(__name__)


class DriftWatch:
    """Looks for drift in *kernel* by its marks, and records what partial compares find in *state*.

    All times are seconds of *clock*, which is read only to learn how long something took.  *on_marks* is called
    whenever marks are read, for what else is to be looked at as often.
    """

    def __init__(
        self, kernel: Kernel, state: ActualState, clock: Callable[[], float], on_marks: Callable[[], None]
    ) -> None:
        self.due_s = NEVER
        self.count = 0  # completed partial compares
        self._kernel = kernel
        self._state = state
        self._clock = clock
        self._on_marks = on_marks
        self._period_s = NEVER
        self._readers: Sequence[MarkReader] = ()
        self._reader_due_s: dict[str, float] = {}
        self._compare_due_s = -NEVER  # when the next partial compare may begin
        self._scan: SlicedScan | None = None
        self._scopes: Sequence[Scope] = ()  # of the scan
        self._rotation: Iterator[VirtualServer] = iter(())

    def start(self, period_s: float, now_s: float) -> None:
        """Read marks each *period_s* from now on (NEVER: not at all); abandon a partial compare that runs."""
        self._period_s = period_s
        self._readers = self._kernel.mark_readers() if period_s < NEVER else ()
        self.due_s = now_s + period_s
        self._scan = None

    def run_slice(self, now_s: float) -> int:
        """Read the marks, or compare for a slice; return the number of rows that differ."""
        if self._scan is None:
            self._begin_scan(self._look(now_s), now_s)
        if self._scan is None:
            return 0
        drift_rows = self._scan.run_slice(now_s)
        if self._scan.is_done:
            self._end_scan(self._scan, now_s)
        else:
            self.due_s = now_s
        return drift_rows

    def yield_to_sync(self, now_s: float) -> None:
        """Pause a running partial compare, because a sync was due as well."""
        if self._scan:
            self.due_s = now_s + YIELD_FACTOR * self._scan.slice_s

    def _look(self, now_s: float) -> list[Scope]:
        """Read the marks that are due, check some virtual servers, and return the scopes that are suspect."""
        self.due_s = now_s + self._period_s
        marks: dict[str, Mark] = {}
        counts = self._state.counts
        for reader in self._readers:
            if now_s >= self._reader_due_s.get(reader.name, now_s) and (not reader.group or counts.get(reader.group)):
                marks |= self._read(reader, now_s)
        contained("what is looked at with the marks", self._on_marks)
        if self._has_changed_server():
            self._state.marks.suspect(VIRTUAL_SERVERS)
        return self._state.marks.observe(marks, counts)

    def _read(self, reader: MarkReader, now_s: float) -> Mapping[str, Mark]:
        began_s = self._clock()
        try:
            marks = reader.read()
        except KernelError as error:
            log.debug("Marks cannot be read", extra=values(marks=reader.name, err=error))
            self._reader_due_s[reader.name] = now_s + _ERROR_PAUSE_S
            return {}
        self._reader_due_s[reader.name] = now_s + (self._clock() - began_s) / MARKS_SHARE
        return marks

    def _has_changed_server(self) -> bool:
        """Return whether one of the virtual servers that are checked in this turn has other real servers."""
        fingerprints = self._state.fingerprints
        began_s, is_restarted = self._clock(), False
        while self._clock() - began_s < ROTATION_S:
            server = next(self._rotation, None)
            if server is None:
                if is_restarted:
                    return False
                self._rotation, is_restarted = iter(fingerprints.virtual_servers()), True
                continue
            try:
                if server in fingerprints and not fingerprints.matches(server, self._kernel.fingerprint(server)):
                    return True
            except KernelError:  # the full compare reports it
                return False
        return False

    def _begin_scan(self, suspects: Sequence[Scope], now_s: float) -> None:
        if not suspects or now_s < self._compare_due_s:
            return
        log.log(level(4), "Comparing parts of kernel state that have changed", extra=values(scopes=suspects))
        self._scopes = suspects
        self._scan = SlicedScan(self._kernel, self._state, self._clock, suspects)

    def _end_scan(self, scan: SlicedScan, now_s: float) -> None:
        compared = [scope for scope in self._scopes if scope not in scan.failed]
        self._state.marks.record_compared(compared, has_drift=bool(scan.drift_rows))
        self.count += 1
        self._compare_due_s = now_s + scan.slice_s + scan.took_s / COMPARE_SHARE
        self._scan = None
