"""SyncReport: what one sync did, as a value; the log, the metrics and the health server are made from it."""

from collections import Counter
from collections.abc import Sequence

from msgspec import Struct

from kubeproxy_py.model.flows import StaleFlowResult
from kubeproxy_py.model.health import ServiceState
from kubeproxy_py.model.rows import DRAINING, RealServer
from kubeproxy_py.model.steps import Plan, Step, StepFailure


class SyncReport(Struct, frozen=True, gc=False):
    services: int  # that were compiled
    steps: tuple[Step, ...]  # that were tried
    failed: tuple[StepFailure, ...]
    rows: int  # that the kernel is believed to have
    pending: int  # that are not yet as desired
    compile_s: float
    plan_s: float
    apply_s: float
    since_event_s: float | None  # since the oldest event that this sync answers; None: no event did ask for it
    why: str = ""  # "first sync", "drift in ...", "drained", "stale flows"; empty: an event
    states: tuple[ServiceState, ...] = ()  # of the Services that were compiled
    flows: StaleFlowResult | None = None  # set where the UDP flows of earlier syncs were looked at, and no more

    def __str__(self) -> str:
        """One sentence of what was done."""
        if self.flows:
            return str(self.flows)
        done = f"{_services(self.services)}: {changes(Plan(self.steps), self.failed)}"
        since = "" if self.since_event_s is None else f", {self.since_event_s * 1000:.1f} ms since the event"
        why = f" ({self.why})" if self.why else ""
        return f"synced {done}; {self.rows:,} rows, {self.pending} pending{since}{why}"


def merge(reports: Sequence[SyncReport]) -> SyncReport:
    """One report of what several did, to be told: sums, and the longest that an event waited."""
    if len(reports) == 1:
        return reports[0]
    waited = [report.since_event_s for report in reports if report.since_event_s is not None]
    return SyncReport(
        services=sum(report.services for report in reports),
        steps=tuple(step for report in reports for step in report.steps),
        failed=tuple(failure for report in reports for failure in report.failed),
        rows=reports[-1].rows,
        pending=reports[-1].pending,
        compile_s=sum(report.compile_s for report in reports),
        plan_s=sum(report.plan_s for report in reports),
        apply_s=sum(report.apply_s for report in reports),
        since_event_s=max(waited, default=None),
        why=f"{len(reports)} syncs",
    )


def changes(plan: Plan, failed: tuple[StepFailure, ...] = ()) -> str:
    """The steps of *plan* in words: ``3 added, 1 draining``; ``nothing to do`` for none."""
    counts = Counter(_word(step) for step in plan)
    for failure in failed:
        counts[_word(failure.step)] -= 1
        counts["failed"] += 1
    words = ("added", "changed", "removed", "draining", "failed")
    return ", ".join(f"{counts[word]:,} {word}" for word in words if counts[word]) or "nothing to do"


def _word(step: Step) -> str:
    if step.verb == "update" and isinstance(step.key, RealServer) and step.spec == DRAINING:
        return "draining"
    return {"add": "added", "update": "changed", "delete": "removed"}[step.verb]


def _services(count: int) -> str:
    return f"{count:,} Service{'' if count == 1 else 's'}"
