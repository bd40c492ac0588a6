"""Agent: initial lists, excluded networks, drift, notifications and the time between syncs."""

import pytest

from kubeproxy_py.model.events import (
    AddressesChanged,
    NodeUpserted,
    ServiceDeleted,
    ServiceUpserted,
    Synced,
)
from kubeproxy_py.model.node import Node
from kubeproxy_py.model.problem import Problem
from kubeproxy_py.model.rows import (
    Address,
    Link,
    VirtualServer,
    VirtualServerSpec,
)
from kubeproxy_py.model.time import NEVER
from kubeproxy_py.reconcile.agent import Timing
from kubeproxy_py.reconcile.report import SyncReport, Trigger
from tests.builders import name, service
from tests.reconcile.harness import FEEDS, POD, SERVER, AgentHarness, serving


def test_nothing_is_programmed_before_every_feed_delivered_its_initial_list() -> None:
    harness = AgentHarness({SERVER: VirtualServerSpec()}, synced=False)
    for feed in FEEDS:
        assert harness.handle(ServiceUpserted(service())) == []
        assert harness.agent.due_s() == NEVER
        assert harness.kernel.rows == {SERVER: VirtualServerSpec()}
        harness.agent.handle_event(Synced(feed), harness.now_s)
    (report,) = harness.agent.run_due(harness.now_s)
    assert isinstance(report, SyncReport)
    assert report.trigger is Trigger.FIRST_SYNC


@pytest.mark.parametrize(
    ("events", "count"), [((), 1), ((NodeUpserted(Node("node-a", addresses=("192.168.3.10",))),), 0)]
)
def test_a_missing_node_is_logged_at_the_first_sync(
    events: tuple[object, ...], count: int, caplog: pytest.LogCaptureFixture
) -> None:
    harness = AgentHarness()
    harness.handle(*events)
    harness.advance(31)
    records = [record for record in caplog.records if record.msg == "Node not found; assuming these IPs and no zone"]
    assert [record.values["node"] for record in records] == ["node-a"] * count  # type: ignore[attr-defined]


def test_excluded_virtual_servers_are_not_deleted() -> None:
    foreign = VirtualServer("192.0.2.1", 80, "TCP")
    harness = AgentHarness({foreign: VirtualServerSpec()}, exclude=("192.0.2.0/24",))
    harness.handle()
    harness.advance(31)
    assert foreign in harness.kernel.rows


def test_a_desired_virtual_server_is_ours_even_in_an_excluded_network() -> None:
    harness = serving(exclude=("10.96.0.0/16",))
    foreign = VirtualServer("10.96.0.99", 80, "TCP")
    harness.kernel.rows[foreign] = VirtualServerSpec()
    assert harness.advance(31) == []
    assert SERVER in harness.agent.state.rows
    del harness.kernel.rows[POD]
    (report,) = harness.advance(31)
    assert report.drift_rows == 1
    assert foreign in harness.kernel.rows


def test_drift_is_found_and_repaired_within_the_sync_period() -> None:
    harness = serving()
    del harness.kernel.rows[POD]
    harness.kernel.rows[VirtualServer("10.9.9.9", 1, "TCP")] = VirtualServerSpec()
    assert harness.advance(29) == []
    (report,) = harness.advance(2)
    assert report.drift_rows == 2
    assert harness.applied_steps() == [("add", POD), ("delete", VirtualServer("10.9.9.9", 1, "TCP"))]


def test_a_lost_address_is_restored_on_its_notification() -> None:
    harness = serving()
    del harness.kernel.rows[Address("10.96.0.10")]
    harness.agent.handle_addresses_changed(AddressesChanged(service_addresses={"10.96.0.10": False}), harness.now_s)
    assert harness.agent.run_due(harness.now_s)
    assert harness.applied_steps() == [("add", Address("10.96.0.10"))]


def test_notifications_of_own_changes_read_nothing() -> None:
    harness = serving()
    harness.kernel.read = harness.kernel.host_addresses = None  # type: ignore[assignment,method-assign]
    harness.agent.handle_addresses_changed(
        AddressesChanged(service_addresses={"10.96.0.10": True, "10.96.0.99": False}), harness.now_s
    )
    assert harness.agent.run_due(harness.now_s) == []


def test_a_lost_device_is_restored_with_its_addresses() -> None:
    harness = serving()
    for key in (Link("kube-ipvs0"), Address("10.96.0.10")):
        del harness.kernel.rows[key]
    harness.agent.handle_addresses_changed(AddressesChanged(device=True), harness.now_s)
    harness.agent.run_due(harness.now_s)
    assert harness.applied_steps() == [("add", Link("kube-ipvs0")), ("add", Address("10.96.0.10"))]


def test_invalidate_causes_the_kernel_to_be_read_and_repaired() -> None:
    harness = serving()
    del harness.kernel.rows[POD]
    harness.agent.invalidate()
    harness.agent.run_due(harness.now_s)
    assert harness.applied_steps() == [("add", POD)]


def test_a_sync_waits_until_min_sync_period_has_passed() -> None:
    harness = serving(timing=Timing(min_sync_period_s=1.0))
    assert harness.handle(ServiceDeleted(name("web"))) == []
    assert harness.agent.due_s() == 101.0
    assert harness.advance(1.0)


def test_a_rejected_object_is_reported_and_affects_no_other_object() -> None:
    harness = AgentHarness()
    problem = Problem("Service shop/bad", "spec.clusterIP", "not an IP address")
    harness.handle(problem, ServiceUpserted(service()))
    assert harness.problems == [problem]
    assert SERVER in harness.kernel.rows
