"""The log of syncs: all of them told, close ones in one sentence, and what went wrong at once."""

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


class Told:
    """A SyncLog with a clock that the test turns, and what it told."""

    def __init__(self, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(logging.INFO)
        self._caplog = caplog
        self.now_s = 50.0
        self.log = SyncLog(lambda: self.now_s)

    def note(self, report: Report) -> None:
        """As a turn of the loop does."""
        self.log.record(report)
        self.log.flush_due()

    def words(self) -> list[str]:
        """What was told since the last look."""
        found = [record.getMessage() for record in self._caplog.records]
        self._caplog.clear()
        return found


@pytest.fixture
def told(caplog: pytest.LogCaptureFixture) -> Told:
    return Told(caplog)


def test_a_sync_by_itself_is_told_at_once(told: Told) -> None:
    for _ in range(2):
        told.note(report())
        assert told.words() == ["Synced 1 Service: 1 added; 101 rows, 0 pending, 1.0 ms since the event"]
        told.now_s += INTERVAL_S


def test_those_that_follow_closely_are_summed_up_when_it_is_time(told: Told) -> None:
    for number in (1, 2, 3):
        told.note(report(number))
    assert len(told.words()) == 1
    assert told.log.due_s == told.now_s + INTERVAL_S
    told.log.flush_due()
    assert told.words() == []
    told.now_s = told.log.due_s
    told.log.flush_due()
    assert told.words() == ["Synced 2 Services: 5 added; 103 rows, 0 pending, 3.0 ms since the event (2 syncs)"]
    told.log.flush_due()
    assert told.words() == []


@pytest.mark.parametrize(
    "loud", [report(trigger=Trigger.DRIFT, drift_rows=1), report(failures=(StepFailure(STEP, 1, "not permitted"),))]
)
def test_what_is_wrong_is_told_at_once_and_behind_what_came_before(told: Told, loud: SyncReport) -> None:
    told.note(report())
    told.note(report(2))
    told.note(loud)
    words = told.words()
    assert words[1:3] == [report_text(report(2)), report_text(loud)]


def test_what_waits_at_the_end_is_told(told: Told) -> None:
    told.note(report())
    told.note(report(2))
    told.words()
    told.log.flush()
    assert told.words() == [report_text(report(2))]
