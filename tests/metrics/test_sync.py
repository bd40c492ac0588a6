"""SyncNumbers: what the loop says becomes kube-proxy's numbers, and ours."""

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
from kubeproxy_py.reconcile.report import SyncReport
from kubeproxy_py.reconcile.sync_status import SyncStatus
from tests.builders import endpoint_slice, name, service

SYNC = "kubeproxy_sync_proxy_rules_"
PROGRAMMING = "kubeproxy_network_programming_duration_seconds"


class Bench:
    """SyncNumbers that began at 1000 s since 1970, at a time that the test sets."""

    def __init__(self) -> None:
        self.now_s = 1000.0
        self.numbers = MetricsRegistry()
        self.sync = SyncMetrics(self.numbers, ("IPv4", "IPv6"), lambda: self.now_s)

    def value(self, metric: str, *labels: str) -> Value:
        families = (*self.numbers.families(), *self.sync.families())
        return next(dict(family.samples)[labels] for family in families if family.metric.name == metric)

    def count(self, metric: str, *labels: str) -> int:
        """How often a histogram was told a value."""
        value = self.value(metric, *labels)
        assert isinstance(value, Histogram)
        return sum(value.counts)

    def total(self, metric: str, *labels: str) -> float:
        """The sum of what a histogram was told."""
        value = self.value(metric, *labels)
        assert isinstance(value, Histogram)
        return value.sum


def report(*states: ServiceState, failed: tuple[StepFailure, ...] = (), why: str = "", **fields: object) -> SyncReport:
    times = {"compile_s": 0.1, "plan_s": 0.2, "apply_s": 0.3, "since_event_s": 0.7, **fields}
    return SyncReport(len(states), (), failed, 0, 0, why=why, states=states, **times)  # type: ignore[arg-type]


WEB = ServiceState(name("web"), service())


def test_a_sync_takes_as_long_as_its_phases_in_each_family() -> None:
    bench = Bench()
    bench.sync.did(report(WEB))
    for family in ("IPv4", "IPv6"):
        assert bench.total(f"{SYNC}duration_seconds", family) == pytest.approx(0.6)
    for phase, took_s in (("compile", 0.1), ("plan", 0.2), ("apply", 0.3)):
        assert bench.total("kubeproxy_ipvs_sync_phase_duration_seconds", phase) == took_s
    assert bench.total("kubeproxy_ipvs_event_to_kernel_duration_seconds") == 0.7


def test_letting_drained_real_servers_go_is_no_sync() -> None:
    bench = Bench()
    bench.sync.did(report(why="drained"))
    assert bench.count(f"{SYNC}duration_seconds", "IPv4") == 0


def test_changes_are_counted_and_pend_until_a_sync() -> None:
    bench = Bench()
    for event in (
        ServiceUpserted(service()),
        ServiceDeleted(name("web")),
        SliceUpserted(endpoint_slice()),
        NodeUpserted(Node("node-a")),
    ):
        bench.sync.took(event)
    bench.sync.stands(SyncStatus(has_work=True))
    assert (bench.value(f"{SYNC}service_changes_pending"), bench.value(f"{SYNC}endpoint_changes_pending")) == (2, 1)
    bench.sync.did(report(WEB))
    assert (bench.value(f"{SYNC}service_changes_pending"), bench.value(f"{SYNC}endpoint_changes_pending")) == (0, 0)
    assert (bench.value(f"{SYNC}service_changes_total"), bench.value(f"{SYNC}endpoint_changes_total")) == (2, 1)


def test_programming_is_timed_from_each_trigger_to_the_sync_of_its_service() -> None:
    bench = Bench()
    bench.sync.took(SliceUpserted(endpoint_slice(), 1001.0))
    bench.sync.took(SliceUpserted(endpoint_slice(), 1003.0))
    bench.now_s = 1010.0
    bench.sync.did(report(ServiceState(name("other"))))
    assert bench.count(PROGRAMMING, "IPv4") == 0
    bench.sync.did(report(WEB))
    assert (bench.count(PROGRAMMING, "IPv4"), bench.total(PROGRAMMING, "IPv4")) == (2, 16.0)
    bench.sync.did(report(WEB))
    assert bench.count(PROGRAMMING, "IPv4") == 2
    assert bench.count(PROGRAMMING, "IPv6") == 0


@pytest.mark.parametrize("triggered_s", [0.0, 999.0])
def test_a_trigger_that_is_missing_or_from_before_the_start_is_not_timed(triggered_s: float) -> None:
    bench = Bench()
    bench.sync.took(SliceUpserted(endpoint_slice(), triggered_s))
    bench.sync.did(report(WEB))
    assert bench.count(PROGRAMMING, "IPv4") == 0


def test_a_slice_that_goes_takes_its_triggers_along() -> None:
    bench = Bench()
    bench.sync.took(SliceUpserted(endpoint_slice(), 1001.0))
    bench.sync.took(SliceDeleted(endpoint_slice().name))
    bench.sync.did(report(WEB))
    assert bench.count(PROGRAMMING, "IPv4") == 0


def test_services_without_local_endpoints_are_counted_while_they_are_so() -> None:
    bench = Bench()
    lonely = ServiceState(name("web"), service(), (), (("external", "IPv4"), ("internal", "IPv4")))
    other = ServiceState(name("other"), service("other"), (), (("external", "IPv4"),))
    gauge = f"{SYNC}no_local_endpoints_total"
    bench.sync.did(report(lonely, other))
    assert (bench.value(gauge, "external", "IPv4"), bench.value(gauge, "internal", "IPv4")) == (2, 1)
    bench.sync.did(report(WEB))
    assert (bench.value(gauge, "external", "IPv4"), bench.value(gauge, "internal", "IPv4")) == (1, 0)
    assert bench.value(gauge, "external", "IPv6") == 0


def test_a_sync_whose_chains_fail_counts_once_in_their_family_and_rows_that_waited_do_not() -> None:
    bench = Bench()
    failed = [
        StepFailure(Step("add", key, ChainSpec(())), errno, "")
        for key, errno in (
            (Chain("IPv6", "nat", "KUBE-SERVICES"), 22),
            (Chain("IPv6", "nat", "KUBE-NODE-PORT"), 22),
            (Chain("IPv4", "nat", "KUBE-SERVICES"), 0),
            (Address("10.96.0.10"), 22),
        )
    ]
    bench.sync.did(report(failed=tuple(failed)))
    metric = f"{SYNC}iptables_restore_failures_total"
    assert (bench.value(metric, "IPv4"), bench.value(metric, "IPv6")) == (0, 1)
    assert bench.value("kubeproxy_ipvs_failed_steps_total", "Chain") == 3


def test_forgotten_flows_are_counted_by_family() -> None:
    bench = Bench()
    bench.sync.did(report(flows=StaleFlowResult(1, 9, 5, (), 2)))
    metric = "kubeproxy_conntrack_reconciler_deleted_entries_total"
    assert (bench.value(metric, "IPv4"), bench.value(metric, "IPv6")) == (3, 2)
    assert bench.total("kubeproxy_conntrack_reconciler_sync_duration_seconds", "IPv6") == 0.3
    assert bench.count(f"{SYNC}duration_seconds", "IPv4") == 0


def test_timestamps_say_when_a_sync_was_asked_for_and_when_it_was_done() -> None:
    bench = Bench()
    assert bench.value(f"{SYNC}last_queued_timestamp_seconds", "IPv4") == 1000.0, "as at the start of kube-proxy's loop"
    bench.now_s = 1001.0
    bench.sync.asked()
    bench.now_s = 1002.0
    bench.sync.synced(("IPv4",))
    assert bench.value(f"{SYNC}last_queued_timestamp_seconds", "IPv6") == 1001.0
    assert bench.value(f"{SYNC}last_timestamp_seconds", "IPv4") == 1002.0
    assert bench.value(f"{SYNC}last_timestamp_seconds", "IPv6") == 0


def test_rows_are_told_by_kind_and_state_be_they_none() -> None:
    bench = Bench()
    bench.sync.stands(SyncStatus({"RealServer": 7}, {"RealServer": 2}, {"RealServer": 1}, draining=3, compares=4))
    rows = [bench.value("kubeproxy_ipvs_rows", "RealServer", state) for state in ("desired", "pending", "failed")]
    assert rows == [7, 2, 1]
    assert bench.value("kubeproxy_ipvs_rows", "Chain", "failed") == 0
    assert bench.value("kubeproxy_ipvs_draining_real_servers") == 3
    assert bench.value("kubeproxy_ipvs_full_compares_total") == 4
