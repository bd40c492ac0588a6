"""SyncMetrics: what the loop reports becomes kube-proxy's metrics and our own."""

from __future__ import annotations

import pytest

from kubeproxy_py.metrics.registry import Histogram, MetricsRegistry, Value
from kubeproxy_py.metrics.sync import SyncMetrics
from kubeproxy_py.model.events import NodeUpserted, ServiceDeleted, ServiceUpserted, SliceDeleted, SliceUpserted
from kubeproxy_py.model.flows import StaleFlowResult
from kubeproxy_py.model.health import ServiceState
from kubeproxy_py.model.node import Node
from kubeproxy_py.model.rows import Address, Chain, ChainSpec
from kubeproxy_py.model.steps import Step, StepFailure
from kubeproxy_py.reconcile.report import DrainReport, StaleFlowReport, SyncReport, Trigger
from kubeproxy_py.reconcile.sync_status import SyncStatus
from tests.builders import endpoint_slice, name, service

SYNC = "kubeproxy_sync_proxy_rules_"
PROGRAMMING = "kubeproxy_network_programming_duration_seconds"


class Harness:
    """SyncMetrics that started at 1000 s since 1970, at a time that the test sets."""

    def __init__(self) -> None:
        self.now_s = 1000.0
        self.registry = MetricsRegistry()
        self.sync = SyncMetrics(self.registry, ("IPv4", "IPv6"), lambda: self.now_s)

    def value(self, metric: str, *labels: str) -> Value:
        families = (*self.registry.collect(), *self.sync.collect())
        return next(dict(family.samples)[labels] for family in families if family.metric.name == metric)

    def count(self, metric: str, *labels: str) -> int:
        """Return the number of observations of a histogram."""
        value = self.value(metric, *labels)
        assert isinstance(value, Histogram)
        return sum(value.counts)

    def total(self, metric: str, *labels: str) -> float:
        """Return the sum of the observations of a histogram."""
        value = self.value(metric, *labels)
        assert isinstance(value, Histogram)
        return value.sum


def report(*states: ServiceState, failures: tuple[StepFailure, ...] = (), **fields: object) -> SyncReport:
    times = {"compile_s": 0.1, "plan_s": 0.2, "apply_s": 0.3, "since_event_s": 0.7, **fields}
    return SyncReport(
        trigger=Trigger.EVENT,
        services=len(states),
        steps=(),
        failures=failures,
        rows=0,
        pending=0,
        states=states,
        **times,  # type: ignore[arg-type]
    )


WEB = ServiceState(name("web"), service())


def test_sync_duration_of_each_family_is_the_sum_of_the_phases() -> None:
    harness = Harness()
    harness.sync.on_report(report(WEB))
    for family in ("IPv4", "IPv6"):
        assert harness.total(f"{SYNC}duration_seconds", family) == pytest.approx(0.6)
    for phase, took_s in (("compile", 0.1), ("plan", 0.2), ("apply", 0.3)):
        assert harness.total("kubeproxy_ipvs_sync_phase_duration_seconds", phase) == took_s
    assert harness.total("kubeproxy_ipvs_event_to_kernel_duration_seconds") == 0.7


def test_deleting_drained_real_servers_is_not_a_sync() -> None:
    harness = Harness()
    harness.sync.on_report(DrainReport(steps=(), failures=(), rows=0, pending=0, apply_s=0.3))
    assert harness.count(f"{SYNC}duration_seconds", "IPv4") == 0


def test_changes_are_pending_until_the_next_sync() -> None:
    harness = Harness()
    for event in (
        ServiceUpserted(service()),
        ServiceDeleted(name("web")),
        SliceUpserted(endpoint_slice()),
        NodeUpserted(Node("node-a")),
    ):
        harness.sync.on_event(event)
    harness.sync.on_cycle_end(SyncStatus(has_work=True))
    assert (harness.value(f"{SYNC}service_changes_pending"), harness.value(f"{SYNC}endpoint_changes_pending")) == (2, 1)
    harness.sync.on_report(report(WEB))
    assert (harness.value(f"{SYNC}service_changes_pending"), harness.value(f"{SYNC}endpoint_changes_pending")) == (0, 0)
    assert (harness.value(f"{SYNC}service_changes_total"), harness.value(f"{SYNC}endpoint_changes_total")) == (2, 1)


def test_programming_time_is_observed_for_each_trigger_when_its_service_is_synced() -> None:
    harness = Harness()
    harness.sync.on_event(SliceUpserted(endpoint_slice(), 1001.0))
    harness.sync.on_event(SliceUpserted(endpoint_slice(), 1003.0))
    harness.now_s = 1010.0
    harness.sync.on_report(report(ServiceState(name("other"))))
    assert harness.count(PROGRAMMING, "IPv4") == 0
    harness.sync.on_report(report(WEB))
    assert (harness.count(PROGRAMMING, "IPv4"), harness.total(PROGRAMMING, "IPv4")) == (2, 16.0)
    harness.sync.on_report(report(WEB))
    assert harness.count(PROGRAMMING, "IPv4") == 2
    assert harness.count(PROGRAMMING, "IPv6") == 0


@pytest.mark.parametrize("triggered_s", [0.0, 999.0])
def test_missing_trigger_or_one_before_the_start_is_not_observed(triggered_s: float) -> None:
    harness = Harness()
    harness.sync.on_event(SliceUpserted(endpoint_slice(), triggered_s))
    harness.sync.on_report(report(WEB))
    assert harness.count(PROGRAMMING, "IPv4") == 0


def test_triggers_of_a_deleted_slice_are_not_observed() -> None:
    harness = Harness()
    harness.sync.on_event(SliceUpserted(endpoint_slice(), 1001.0))
    harness.sync.on_event(SliceDeleted(endpoint_slice().name))
    harness.sync.on_report(report(WEB))
    assert harness.count(PROGRAMMING, "IPv4") == 0


def test_services_without_local_endpoints_are_counted_by_policy_and_family() -> None:
    harness = Harness()
    web = ServiceState(name("web"), service(), (), (("external", "IPv4"), ("internal", "IPv4")))
    other = ServiceState(name("other"), service("other"), (), (("external", "IPv4"),))
    gauge = f"{SYNC}no_local_endpoints_total"
    harness.sync.on_report(report(web, other))
    assert (harness.value(gauge, "external", "IPv4"), harness.value(gauge, "internal", "IPv4")) == (2, 1)
    harness.sync.on_report(report(WEB))
    assert (harness.value(gauge, "external", "IPv4"), harness.value(gauge, "internal", "IPv4")) == (1, 0)
    assert harness.value(gauge, "external", "IPv6") == 0


def test_sync_with_failed_chains_counts_one_restore_failure_in_their_family() -> None:
    harness = Harness()
    failed = [
        StepFailure(Step("add", key, ChainSpec(())), errno, "")
        for key, errno in (
            (Chain("IPv6", "nat", "KUBE-SERVICES"), 22),
            (Chain("IPv6", "nat", "KUBE-NODE-PORT"), 22),
            (Chain("IPv4", "nat", "KUBE-SERVICES"), 0),
            (Address("10.96.0.10"), 22),
        )
    ]
    harness.sync.on_report(report(failures=tuple(failed)))
    metric = f"{SYNC}iptables_restore_failures_total"
    assert (harness.value(metric, "IPv4"), harness.value(metric, "IPv6")) == (0, 1)
    assert harness.value("kubeproxy_ipvs_failed_steps_total", "Chain") == 2, "the other one waits"


def test_deleted_stale_flows_are_counted_by_family() -> None:
    harness = Harness()
    harness.sync.on_report(StaleFlowReport(result=StaleFlowResult(1, 9, 5, (), 2), duration_s=0.3))
    metric = "kubeproxy_conntrack_reconciler_deleted_entries_total"
    assert (harness.value(metric, "IPv4"), harness.value(metric, "IPv6")) == (3, 2)
    assert harness.total("kubeproxy_conntrack_reconciler_sync_duration_seconds", "IPv6") == 0.3
    assert harness.count(f"{SYNC}duration_seconds", "IPv4") == 0


def test_timestamps_of_the_last_requested_and_the_last_completed_sync() -> None:
    harness = Harness()
    assert harness.value(f"{SYNC}last_queued_timestamp_seconds", "IPv4") == 1000.0, (
        "as at the start of kube-proxy's loop"
    )
    harness.now_s = 1001.0
    harness.sync.on_sync_requested()
    harness.now_s = 1002.0
    harness.sync.record_up_to_date(("IPv4",))
    assert harness.value(f"{SYNC}last_queued_timestamp_seconds", "IPv6") == 1001.0
    assert harness.value(f"{SYNC}last_timestamp_seconds", "IPv4") == 1002.0
    assert harness.value(f"{SYNC}last_timestamp_seconds", "IPv6") == 0


def test_rows_are_reported_by_kind_and_state_including_zero() -> None:
    harness = Harness()
    harness.sync.on_cycle_end(
        SyncStatus({"RealServer": 7}, {"RealServer": 2}, {"RealServer": 1}, draining=3, compares=4, unread=2)
    )
    rows = [harness.value("kubeproxy_ipvs_rows", "RealServer", state) for state in ("desired", "pending", "failed")]
    assert rows == [7, 2, 1]
    assert harness.value("kubeproxy_ipvs_rows", "Chain", "failed") == 0
    assert harness.value("kubeproxy_ipvs_draining_real_servers") == 3
    assert harness.value("kubeproxy_ipvs_full_compares_total") == 4
    assert harness.value("kubeproxy_ipvs_unread_scopes") == 2
