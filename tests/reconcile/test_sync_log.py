"""SyncLog: every sync is logged, close ones in one line, failures at once."""

import logging

import pytest
from msgspec.structs import replace

from kubeproxy_py.model.rows import SERVING, Chain, Key, RealServer, VirtualServer
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


CHAINS = [Chain("IPv4", "nat", name) for name in ("KUBE-MARK-MASQ", "KUBE-SERVICES")]
LOCKED = tuple(StepFailure(Step("add", key), 11, "the lock is held") for key in CHAINS)


def waiting_for(blocker: Key, *keys: Key) -> tuple[StepFailure, ...]:
    return tuple(StepFailure(Step("add", key), 0, f"waits for {blocker}", blocker) for key in keys)


def test_failures_of_one_cause_and_all_that_wait_for_them_are_one_line(harness: SyncLogHarness) -> None:
    waiting = (*waiting_for(CHAINS[0], SERVER), *waiting_for(SERVER, STEP.key))
    harness.record(report(failures=(*LOCKED, *waiting, StepFailure(STEP, 1, "not permitted"))))
    assert harness.pop_messages()[1:] == [
        "Failed to apply a row, it will be retried: add Chain IPv4 nat KUBE-MARK-MASQ: the lock is held "
        "(1 more with this error, 2 waiting for them)",
        f"Failed to apply a row, it will be retried: add RealServer {STEP.key}: not permitted",
    ]


def test_rows_that_wait_for_an_earlier_failure_are_logged_once_for_it(harness: SyncLogHarness) -> None:
    for _ in range(3):
        harness.record(report(failures=waiting_for(CHAINS[0], SERVER, STEP.key)))
    lines = [message for message in harness.pop_messages() if "waits" in message]
    assert lines == [
        f"A row waits for one that failed before: add VirtualServer {SERVER}: waits for {CHAINS[0]} "
        "(1 more waiting for it)"
    ]


def test_a_failure_is_not_repeated_as_what_rows_wait_for(harness: SyncLogHarness) -> None:
    harness.record(report(failures=LOCKED))
    harness.pop_messages()
    harness.record(report(failures=waiting_for(CHAINS[1], SERVER)))
    assert not [message for message in harness.pop_messages() if "waits" in message]


def test_rows_that_fail_again_for_the_same_cause_are_logged_once_a_minute(harness: SyncLogHarness) -> None:
    failures: list[str] = []
    steps = tuple(failure.step for failure in LOCKED)
    for _ in range(7):
        harness.record(replace(report(failures=LOCKED), steps=steps))
        failures += [message for message in harness.pop_messages() if "Failed" in message]
        harness.now_s += 20
    assert len(failures) == 3
    harness.record(report(failures=(*LOCKED, StepFailure(STEP, 11, "the lock is held"))))
    assert "2 more with this error" in harness.pop_messages()[-1], "another row fails"
