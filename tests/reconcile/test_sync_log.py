"""SyncLog: every sync is logged, close ones in one line, failures at once."""

import logging

import pytest
from msgspec.structs import replace

from kubeproxy_py.logging_setup import level
from kubeproxy_py.model.rows import SERVING, Chain, ChainSpec, Key, RealServer, VirtualServer, VirtualServerSpec
from kubeproxy_py.model.steps import Step, StepFailure
from kubeproxy_py.plan.render import plan_text
from kubeproxy_py.reconcile.report import Report, SyncReport, Trigger
from kubeproxy_py.reconcile.report_text import report_text
from kubeproxy_py.reconcile.sync_log import INTERVAL_S, STEP_LINES_MAX, SyncLog

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


# What other programs changed, and steps


def named_rows(caplog: pytest.LogCaptureFixture) -> list[tuple[str, str, int]]:
    """Return message, rows and total of each line that names rows."""
    records = [(record.getMessage(), getattr(record, "values", {})) for record in caplog.records]
    return [(message, values["rows"], values["total"]) for message, values in records if "rows" in values]


def test_rows_that_another_program_changed_are_named_by_kind_of_change(
    harness: SyncLogHarness, caplog: pytest.LogCaptureFixture
) -> None:
    chain, others = CHAINS[1], [RealServer(SERVER, f"10.9.9.{number}", 80) for number in range(12)]
    steps = (
        STEP,
        Step("update", SERVER, VirtualServerSpec("rr"), VirtualServerSpec("wrr")),
        Step("update", chain, ChainSpec(("a", "b")), ChainSpec(("b",))),
        Step("update", chain, ChainSpec(("a",)), ChainSpec(("a", "b"))),
        *(Step("delete", key, before=SERVING) for key in others),
        Step("add", RealServer(SERVER, "10.244.1.6", 8080), SERVING),  # was due besides
    )
    drift = (STEP.key, SERVER, chain, *others)
    harness.record(replace(report(trigger=Trigger.DRIFT, drift_rows=15), steps=steps, drift=drift))
    ten = ", ".join(f"RealServer {key}" for key in others[:10])
    assert named_rows(caplog) == [
        ("Another program deleted rows; restoring them", f"RealServer {STEP.key}", 1),
        ("Another program changed rows; changing them back", f"VirtualServer {SERVER}, Chain {chain}", 2),
        ("Another program added rows; deleting them", ten, 12),
    ]
    assert {record.levelname for record in caplog.records} == {"WARNING"}


def test_foreign_virtual_servers_are_named_once(harness: SyncLogHarness, caplog: pytest.LogCaptureFixture) -> None:
    step = Step("delete", SERVER, before=VirtualServerSpec())
    harness.record(
        replace(report(trigger=Trigger.DRIFT, drift_rows=1), steps=(step,), drift=(SERVER,), foreign=(SERVER,))
    )
    assert named_rows(caplog) == []
    (line,) = [record for record in caplog.records if "did not create" in record.getMessage()]
    assert line.values == {"servers": str(SERVER), "total": 1}  # type: ignore[attr-defined]


def test_steps_are_logged_from_v2_on_as_plan_prints_them_and_not_more_than_some(
    harness: SyncLogHarness, caplog: pytest.LogCaptureFixture
) -> None:
    many = tuple(Step("add", RealServer(SERVER, f"10.1.{n // 250}.{n % 250}", 80), SERVING) for n in range(300))
    harness.record(replace(report(), steps=many))
    assert len(harness.pop_messages()) == 1  # -v0
    caplog.set_level(level(2), "kubeproxy_py")
    harness.now_s += INTERVAL_S
    harness.record(replace(report(), steps=many))
    synced, *lines, rest = harness.pop_messages()
    assert synced.startswith("Synced 1 Service: 300 added")
    assert lines == plan_text(many[:STEP_LINES_MAX]).splitlines()
    assert rest == "More steps of this sync are not logged"
    assert caplog.records == []


def test_a_step_that_failed_is_marked_among_the_steps(
    harness: SyncLogHarness, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(level(2), "kubeproxy_py")
    chain = Step("update", CHAINS[0], ChainSpec(("a", "b")), ChainSpec(("b", "c")))
    harness.record(replace(report(failures=(StepFailure(STEP, 1, "not permitted"),)), steps=(chain, STEP)))
    assert harness.pop_messages()[1:5] == [
        *plan_text([chain]).splitlines(),
        plan_text([STEP]).strip() + "  (not applied)",
    ]


@pytest.mark.parametrize(
    ("errno", "error", "remedy"),
    [
        (1, "Operation not permitted", "NET_ADMIN"),
        (12, "Cannot allocate memory", "memory limit"),
        (2, "no such set", None),
        (1, "Permission denied (this needs the capability NET_ADMIN)", None),  # the text has it
    ],
)
def test_a_failure_has_the_remedy_of_its_cause(
    harness: SyncLogHarness, caplog: pytest.LogCaptureFixture, errno: int, error: str, remedy: str | None
) -> None:
    harness.record(report(failures=(StepFailure(STEP, errno, error),)))
    values = caplog.records[-1].values  # type: ignore[attr-defined]
    assert ("remedy" in values) == bool(remedy)
    assert (remedy or "") in values.get("remedy", "")
