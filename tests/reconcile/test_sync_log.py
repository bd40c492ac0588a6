"""SyncLog: every sync is logged, close ones in one line, failures at once."""

import logging

import pytest

from kubeproxy_py.model.rows import SERVING, RealServer, VirtualServer
from kubeproxy_py.model.steps import Step, StepFailure
from kubeproxy_py.reconcile.report import Report, SyncReport, Trigger
from kubeproxy_py.reconcile.report_text import report_text
from kubeproxy_py.reconcile.sync_log import INTERVAL_S, SyncLog

SERVER = VirtualServer("10.96.0.10", 80, "TCP")
STEP = Step("add", RealServer(SERVER, "10.244.1.5", 8080), SERVING)


def report(
    number: int = 1, *, trigger: Trigger = Trigger.EVENT, failures: tuple[StepFailure, ...] = (), drift_rows: int = 0
) -> SyncReport:
    """Return the report of a sync of one Service with *number* steps, *number* milliseconds after its event."""
    return SyncReport(
        trigger=trigger,
        services=1,
        steps=(STEP,) * number,
        failures=failures,
        rows=100 + number,
        pending=0,
        compile_s=0.001,
        plan_s=0.001,
        apply_s=0.002,
        since_event_s=number / 1000,
        drift_rows=drift_rows,
    )


class SyncLogHarness:
    """A SyncLog at a time that the test sets, and its messages."""

    def __init__(self, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(logging.INFO)
        self._caplog = caplog
        self.now_s = 50.0
        self.log = SyncLog(lambda: self.now_s)

    def record(self, report: Report) -> None:
        """Record *report*, as a cycle of the loop does."""
        self.log.record(report)
        self.log.flush_due()

    def pop_messages(self) -> list[str]:
        """Return the messages since the last call."""
        messages = [record.getMessage() for record in self._caplog.records]
        self._caplog.clear()
        return messages


@pytest.fixture
def harness(caplog: pytest.LogCaptureFixture) -> SyncLogHarness:
    return SyncLogHarness(caplog)


def test_a_single_sync_is_logged_at_once(harness: SyncLogHarness) -> None:
    for _ in range(2):
        harness.record(report())
        assert harness.pop_messages() == ["Synced 1 Service: 1 added; 101 rows, 0 pending, 1.0 ms since the event"]
        harness.now_s += INTERVAL_S


def test_syncs_that_follow_closely_are_logged_as_one_line(harness: SyncLogHarness) -> None:
    for number in (1, 2, 3):
        harness.record(report(number))
    assert len(harness.pop_messages()) == 1
    assert harness.log.due_s == harness.now_s + INTERVAL_S
    harness.log.flush_due()
    assert harness.pop_messages() == []
    harness.now_s = harness.log.due_s
    harness.log.flush_due()
    assert harness.pop_messages() == [
        "Synced 2 Services: 5 added; 103 rows, 0 pending, 3.0 ms since the event (2 syncs)"
    ]
    harness.log.flush_due()
    assert harness.pop_messages() == []


@pytest.mark.parametrize(
    "urgent", [report(trigger=Trigger.DRIFT, drift_rows=1), report(failures=(StepFailure(STEP, 1, "not permitted"),))]
)
def test_drift_and_failures_flush_waiting_reports_and_are_logged_at_once(
    harness: SyncLogHarness, urgent: SyncReport
) -> None:
    harness.record(report())
    harness.record(report(2))
    harness.record(urgent)
    messages = harness.pop_messages()
    assert messages[1:3] == [report_text(report(2)), report_text(urgent)]


def test_flush_logs_waiting_reports(harness: SyncLogHarness) -> None:
    harness.record(report())
    harness.record(report(2))
    harness.pop_messages()
    harness.log.flush()
    assert harness.pop_messages() == [report_text(report(2))]
