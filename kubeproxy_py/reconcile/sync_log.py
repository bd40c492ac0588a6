"""The log of syncs: one line for each, or one for several that follow closely.

A cluster in which a thousand endpoints change per second writes ten lines a second instead of a hundred.

Invariants:
- Every report is logged, by itself or as part of a sum.
- Failures, drift, the first sync and stale flows are logged at once, after what was waiting.
- One cause is one line, however many rows fail or wait for it, and while the same rows fail for it, one line a minute;
  rows that wait for one that failed in an earlier sync are logged once for that row.
- Rows that another program changed are named: the first ten of each kind of change, then their number.
- At -v2 the steps of a sync follow it, as `plan` prints them: some STEP_LINES_MAX lines, then how many more steps.
"""

import logging
from collections.abc import Callable, Iterable
from itertools import islice

from kubeproxy_py.logging_setup import level, values
from kubeproxy_py.model.rows import Key
from kubeproxy_py.model.steps import Verb
from kubeproxy_py.model.time import NEVER
from kubeproxy_py.plan.render import step_lines
from kubeproxy_py.reconcile.failure_causes import Cause, find_causes
from kubeproxy_py.reconcile.report import DrainReport, Report, StaleFlowReport, SyncReport, Trigger
from kubeproxy_py.reconcile.report_text import merged_text, report_text

log = logging.getLogger(__name__)

NAMED_MAX = 10  # rows in a line
STEP_LINES_MAX = 200  # of one sync

INTERVAL_S = 0.1  # the shortest time between two lines about syncs of the usual kind
REPEAT_S = 60.0  # the shortest time between two lines about the same rows that fail for the same cause


_DRIFT_MESSAGES: dict[Verb, str] = {  # by the step that repairs it
    "add": "Another program deleted rows; restoring them",
    "update": "Another program changed rows; changing them back",
    "delete": "Another program added rows; deleting them",
}

_FAILED = logging.ERROR, "Failed to apply a row, it will be retried: %s"
_UNDER_WAY = logging.WARNING, "iptables is slow; changes that need these rules are delayed, all others proceed: %s"


class SyncLog:
    """Logs reports; *clock* returns seconds that only increase."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.due_s = NEVER  # when the waiting reports are to be logged
        self._clock = clock
        self._next_line_s = -NEVER  # reports wait until then
        self._waiting: list[SyncReport | DrainReport] = []
        self._failed: set[Key] = set()  # rows whose failure was logged and that did not succeed since
        self._logged_s: dict[str, float] = {}  # by error: when it was last logged

    def record(self, report: Report) -> None:
        """Log *report*, at once or when `flush_due` finds it due."""
        if not isinstance(report, StaleFlowReport) and _may_wait(report):
            self._waiting.append(report)
            self.due_s = self._next_line_s
            return
        self.flush()
        if isinstance(report, StaleFlowReport):
            _log_flows(report)
        else:
            _log_changes(_level(report), [report])
            if isinstance(report, SyncReport):
                _log_others(report)
            self._log_failures(report)

    def _log_failures(self, report: SyncReport | DrainReport) -> None:
        if self._failed:
            failed = {failure.step.key for failure in report.failures}
            self._failed.difference_update(step.key for step in report.steps if step.key not in failed)
        for cause in find_causes(report.failures):
            is_known = cause.keys <= self._failed
            if cause.is_earlier:
                severity = level(2) if is_known else logging.ERROR
                _log_cause(severity, "A row waits for one that failed before: %s", cause)
            else:
                is_repeated = is_known and self._clock() < self._logged_s.get(cause.error, -NEVER) + REPEAT_S
                severity, message = _UNDER_WAY if cause.first.is_under_way else _FAILED
                _log_cause(level(2) if is_repeated else severity, message, cause)
                self._logged_s[cause.error] = self._logged_s[cause.error] if is_repeated else self._clock()
            self._failed |= cause.keys
        if not self._failed:
            self._logged_s.clear()

    def flush_due(self) -> None:
        """Log the waiting reports if they are due."""
        if self._waiting and (now_s := self._clock()) >= self.due_s:
            self.flush()
            self._next_line_s = now_s + INTERVAL_S

    def flush(self) -> None:
        """Log the waiting reports."""
        if self._waiting:
            _log_changes(logging.INFO, self._waiting)
            self._waiting.clear()
            self.due_s = NEVER


def _may_wait(report: SyncReport | DrainReport) -> bool:
    is_usual = isinstance(report, DrainReport) or report.trigger is Trigger.EVENT
    is_news = bool(report.failures) or (isinstance(report, SyncReport) and bool(report.foreign))
    return is_usual and bool(report.steps) and not is_news


def _log_flows(report: StaleFlowReport) -> None:
    is_news = report.result.deleted or report.result.errors
    duration = values(duration_ms=_ms(report.duration_s))
    log.log(logging.INFO if is_news else level(2), "%s", report_text(report), extra=duration)


def _level(report: SyncReport | DrainReport) -> int:
    """Return WARNING for drift, and -v2 for a sync that had nothing to do."""
    if isinstance(report, DrainReport):
        return logging.INFO
    if report.trigger is Trigger.DRIFT:
        return logging.WARNING
    is_idle = report.trigger is Trigger.EVENT and not report.steps and not report.failures
    return level(2) if is_idle else logging.INFO


def _log_changes(severity: int, reports: list[SyncReport | DrainReport]) -> None:
    syncs = [report for report in reports if isinstance(report, SyncReport)]
    phases = values(
        compile_ms=_ms(sum(report.compile_s for report in syncs)),
        plan_ms=_ms(sum(report.plan_s for report in syncs)),
        apply_ms=_ms(sum(report.apply_s for report in reports)),
    )
    log.log(severity, "%s", merged_text(reports), extra=phases)

    if log.isEnabledFor(level(2)):
        for report in reports:
            _log_steps(report)


def _log_steps(report: SyncReport | DrainReport) -> None:
    failed = {failure.step for failure in report.failures}
    lines = 0
    for number, step in enumerate(report.steps):
        if lines >= STEP_LINES_MAX:
            log.log(level(2), "More steps of this sync are not logged", extra=values(steps=len(report.steps) - number))
            return
        first, *others = step_lines(step)
        for line in (f"{first}  (not applied)" if step in failed else first, *others):
            log.log(level(2), "%s", line)
        lines += 1 + len(others)


def _log_others(report: SyncReport) -> None:
    """Name what other programs made or changed, whose users must learn why it is gone."""
    if report.foreign:
        log.warning(
            "Deleted virtual servers that this agent did not create; if another program needs them, add their networks "
            "to ipvs.excludeCIDRs or set --keep-foreign-virtual-servers",
            extra=values(servers=_named(map(str, sorted(report.foreign))), total=len(report.foreign)),
        )
    named = set(report.drift).difference(report.foreign)
    for verb, message in _DRIFT_MESSAGES.items() if named else ():
        steps = {step.key: step for step in report.steps if step.key in named and step.verb == verb}
        if steps:
            named.difference_update(steps)  # a chain that loses rules has two steps
            rows = _named(f"{type(key).__name__} {key}" for key in steps)
            log.warning(message, extra=values(rows=rows, total=len(steps)))


def _named(texts: Iterable[str]) -> str:
    return ", ".join(islice(texts, NAMED_MAX))


def _log_cause(severity: int, message: str, cause: Cause) -> None:
    key = cause.first.step.key
    rows = 0 if cause.is_earlier else len(cause.keys)
    details = values(kind=type(key).__name__, row=str(key), errno=cause.first.errno, failed=rows, waiting=cause.waiting)
    if cause.remedy:
        details["values"]["remedy"] = cause.remedy
    log.log(severity, message, cause, extra=details)


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 1)
