"""Reports in words, for the log and for systemd's status line."""

from collections import Counter
from collections.abc import Iterable, Sequence

from kubeproxy_py.model.rows import RealServer, is_draining_spec
from kubeproxy_py.model.steps import Step, StepFailure
from kubeproxy_py.reconcile.report import DrainReport, Report, StaleFlowReport, SyncReport, Trigger

_WORDS = ("added", "changed", "deleted", "draining", "failed", "waiting")
_VERB_WORDS = {"add": "added", "update": "changed", "delete": "deleted"}


def report_text(report: Report) -> str:
    """Return one sentence about *report*."""
    if isinstance(report, StaleFlowReport):
        result = str(report.result)
        after = (
            "; they led to no endpoint, and the next datagram of each client begins a new flow"
            if report.result.deleted
            else ""
        )
        return result[0].upper() + result[1:] + after
    return merged_text([report])


def merged_text(reports: Sequence[SyncReport | DrainReport]) -> str:
    """Return one sentence about *reports*, at least one: sums, and the longest time since an event."""
    syncs = [report for report in reports if isinstance(report, SyncReport)]
    services = sum(report.services for report in syncs)
    changes = changes_text(
        (step for report in reports for step in report.steps),
        (failure for report in reports for failure in report.failures),
    )
    ages_s = [report.since_event_s for report in syncs if report.since_event_s is not None]
    since = f", {max(ages_s) * 1000:.1f} ms since the event" if ages_s else ""
    reason = _reason(reports[0]) if len(reports) == 1 else f"{len(reports)} syncs"
    return (
        f"Synced {services:,} Service{'' if services == 1 else 's'}: {changes}; {reports[-1].rows:,} rows, "
        f"{reports[-1].pending} pending{since}{f' ({reason})' if reason else ''}"
    )


def _reason(report: SyncReport | DrainReport) -> str:
    """Return why *report* was caused; nothing for an event, which is the usual case."""
    if isinstance(report, DrainReport):
        return "drained"
    match report.trigger:
        case Trigger.FIRST_SYNC:
            return "first sync"
        case Trigger.DRIFT:
            return f"drift in {report.drift_rows} rows"
        case Trigger.EVENT:
            return ""


def changes_text(steps: Iterable[Step], failures: Iterable[StepFailure] = ()) -> str:
    """Return the steps in words: ``3 added, 1 draining``; ``nothing to do`` if there are none.

    Args:
        steps: All steps that were tried.
        failures: Those of them that failed, wait for one that failed, or are under way.
    """
    counts = Counter(_word(step) for step in steps)
    for failure in failures:
        counts[_word(failure.step)] -= 1
        counts["waiting" if failure.blocker or failure.is_under_way else "failed"] += 1
    return ", ".join(f"{counts[word]:,} {word}" for word in _WORDS if counts[word]) or "nothing to do"


def _word(step: Step) -> str:
    if step.verb == "update" and isinstance(step.key, RealServer) and is_draining_spec(step.spec):
        return "draining"
    return _VERB_WORDS[step.verb]
