"""loop.Observer: what the loop reports to it: pending work, events, reports and the status after each cycle."""

from __future__ import annotations

from errno import EBUSY
from unittest import mock

import pytest

from kubeproxy_py.model.events import Event, Feed, ServiceUpserted, Synced
from kubeproxy_py.model.rows import Link
from kubeproxy_py.reconcile.agent import Timing
from kubeproxy_py.reconcile.loop import Loop
from kubeproxy_py.reconcile.report import Report, Trigger
from kubeproxy_py.reconcile.sync_status import SyncStatus
from kubeproxy_py.server.observer import ServerObserver
from tests.builders import service
from tests.reconcile.harness import FEEDS, AgentHarness


class RecordingObserver:
    """Stores the last pending time and status, and every event and report."""

    def __init__(self) -> None:
        self.pending_since_s: float | None = None
        self.events: list[Event] = []
        self.reports: list[Report] = []
        self.status = SyncStatus()

    def on_pending_since(self, since_s: float | None) -> None:
        self.pending_since_s = since_s

    def on_event(self, event: Event) -> None:
        self.events.append(event)

    def on_report(self, report: Report) -> None:
        self.reports.append(report)

    def on_cycle_end(self, status: SyncStatus) -> None:
        self.status = status


def observed(harness: AgentHarness) -> tuple[Loop, RecordingObserver]:
    observer = RecordingObserver()
    return Loop(harness.agent, observer=observer), observer


def test_pending_since_is_cleared_after_the_sync() -> None:
    loop, observer = observed(AgentHarness())
    loop.enqueue(ServiceUpserted(service()))
    assert observer.pending_since_s is not None
    loop.run_cycle()
    assert observer.pending_since_s is None
    assert [report.trigger for report in observer.reports] == [Trigger.FIRST_SYNC]
    assert observer.events == [ServiceUpserted(service())]
    assert observer.status.desired["VirtualServer"] == 1


def test_pending_since_is_kept_while_the_sync_is_delayed() -> None:
    harness = AgentHarness(timing=Timing(min_sync_period_s=60.0))
    loop, observer = observed(harness)
    loop.enqueue(ServiceUpserted(service()))
    loop.run_cycle()
    loop.enqueue(ServiceUpserted(service(cluster_ips=("10.96.0.11",))))
    since_s = observer.pending_since_s
    loop._handle_messages(0)
    loop._end_cycle(observer)
    assert observer.pending_since_s == since_s
    assert observer.status.has_work


def test_nothing_is_pending_before_the_initial_lists_are_received() -> None:
    harness = AgentHarness(synced=False)
    loop, observer = observed(harness)
    first: Feed = FEEDS[0]
    for event in (ServiceUpserted(service()), Synced(first)):
        loop.enqueue(event)
    loop._handle_messages(0)
    loop._end_cycle(observer)
    assert observer.status.is_waiting
    assert observer.pending_since_s is None


def test_failed_rows_are_reported_but_not_pending_work() -> None:
    harness = AgentHarness()
    harness.kernel.fault = lambda step: EBUSY if isinstance(step.key, Link) else 0
    loop, observer = observed(harness)
    loop.enqueue(ServiceUpserted(service()))
    loop.run_cycle()
    assert observer.status.failed["Link"] == 1
    assert observer.status.stuck == {"IPv4", "IPv6"}
    assert observer.pending_since_s is None


def test_full_compare_and_its_drift_are_counted() -> None:
    harness = AgentHarness()
    loop, observer = observed(harness)
    loop.enqueue(ServiceUpserted(service()))
    loop.run_cycle()
    harness.kernel.rows.pop(Link("kube-ipvs0"))
    harness.now_s += 31
    harness.agent.run_due(harness.now_s)
    loop._end_cycle(observer)
    assert observer.status.compares == 1
    assert observer.status.drift_found == observer.status.drift_repaired == {"Link": 1}


def test_health_is_updated_although_metrics_and_node_ports_fail(caplog: pytest.LogCaptureFixture) -> None:
    health, metrics, traffic, ports = (mock.Mock() for _ in range(4))
    for failing in (metrics.on_report, metrics.on_cycle_end, traffic.update_services, ports.update):
        failing.side_effect = RuntimeError("a bug")
    loop = Loop(AgentHarness().agent, observer=ServerObserver(health, metrics, traffic, ports))
    loop.enqueue(ServiceUpserted(service()))
    loop.run_cycle()
    health.on_report.assert_called_once()
    health.on_cycle_end.assert_called_once()
    assert len([record for record in caplog.records if record.levelname == "ERROR"]) == 4
