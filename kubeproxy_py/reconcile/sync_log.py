"""The log of syncs: a sentence for each, and where they follow each other closely, one for several.

Law: nothing goes untold.  What comes within INTERVAL_S of the last sentence waits for the next one, and is summed up
in it; what failed, drifted, or is not of the usual sort is told at once.  So a cluster in which a thousand endpoints
change each second writes ten lines a second, not a hundred.
"""

import logging
from collections.abc import Callable

from kubeproxy_py.logging_setup import level, values
from kubeproxy_py.model.time import NEVER
from kubeproxy_py.reconcile.report import SyncReport, merge

log = logging.getLogger(__name__)

INTERVAL_S = 0.1


class SyncLog:
    """Tells reports by *clock*, seconds that only grow."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.due_s = NEVER  # when what waits is to be told
        self._clock = clock
        self._next_s = -NEVER  # before that, sentences wait
        self._waiting: list[SyncReport] = []

    def record(self, report: SyncReport) -> None:
        """Tell *report*, at once or when it is due."""
        if report.steps and not report.failed and report.why in ("", "drained"):
            self._waiting.append(report)
            self.due_s = self._next_s
            return
        self.flush()
        _tell(report)

    def flush_due(self) -> None:
        """Tell what waits if it is time."""
        if self._waiting and (now_s := self._clock()) >= self.due_s:
            self.flush()
            self._next_s = now_s + INTERVAL_S

    def flush(self) -> None:
        """Tell what waits."""
        if self._waiting:
            _tell(merge(self._waiting))
            self._waiting.clear()
            self.due_s = NEVER


def _tell(report: SyncReport) -> None:
    """One sentence, and one for each row that failed; drift is told at least as loud as it is rare."""
    named = values(
        compile_ms=round(report.compile_s * 1000, 1),
        plan_ms=round(report.plan_s * 1000, 1),
        apply_ms=round(report.apply_s * 1000, 1),
    )
    quiet = not report.steps and not report.failed and not report.why
    log.log(
        level(2) if quiet else logging.WARNING if report.why.startswith("drift") else logging.INFO,
        str(report),
        extra=named,
    )
    for failure in report.failed:
        log.error(f"failed: {failure}", extra=values(errno=failure.errno))
