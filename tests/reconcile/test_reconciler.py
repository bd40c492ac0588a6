"""Agent and Reconciler: initial lists, backoff, drift, draining, and what a change costs."""

from errno import EBUSY

import pytest

from kubeproxy_py.model.events import (
    AddressesChanged,
    NodeUpserted,
    ServiceDeleted,
    ServiceUpserted,
    SliceUpserted,
    Synced,
)
from kubeproxy_py.model.node import Node
from kubeproxy_py.model.problem import Problem
from kubeproxy_py.model.rows import (
    DRAINING,
    SERVING,
    Address,
    Connections,
    IpsetEntry,
    Link,
    RealServer,
    VirtualServer,
    VirtualServerSpec,
)
from kubeproxy_py.model.steps import Step
from kubeproxy_py.model.time import NEVER
from kubeproxy_py.reconcile.agent import Timing
from kubeproxy_py.reconcile.report import SyncReport, Trigger
from kubeproxy_py.reconcile.report_text import report_text
from tests.builders import endpoint_slice, name, service
from tests.reconcile.harness import FEEDS, POD, SERVER, Harness, serving


def test_nothing_is_programmed_before_every_feed_delivered_its_initial_list() -> None:
    harness = Harness({SERVER: VirtualServerSpec()}, synced=False)
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
    harness = Harness()
    harness.handle(*events)
    harness.run_after(31)
    records = [record for record in caplog.records if record.msg == "Node not found; assuming these IPs and no zone"]
    assert [record.values["node"] for record in records] == ["node-a"] * count  # type: ignore[attr-defined]


def test_the_first_sync_adopts_correct_rows_and_deletes_stale_ones() -> None:
    stale = VirtualServer("10.96.0.99", 80, "TCP")
    harness = Harness({SERVER: VirtualServerSpec(), POD: SERVING, stale: VirtualServerSpec()})
    harness.handle(ServiceUpserted(service()), SliceUpserted(endpoint_slice()))
    applied = harness.pop_steps()
    assert ("delete", stale) in applied
    assert not [key for _, key in applied if key in (SERVER, POD)]


def test_excluded_virtual_servers_are_left_alone() -> None:
    foreign = VirtualServer("192.0.2.1", 80, "TCP")
    harness = Harness({foreign: VirtualServerSpec()}, exclude=("192.0.2.0/24",))
    harness.handle()
    harness.run_after(31)
    assert foreign in harness.kernel.rows


def test_a_desired_virtual_server_is_ours_even_in_an_excluded_network() -> None:
    harness = serving(exclude=("10.96.0.0/16",))
    foreign = VirtualServer("10.96.0.99", 80, "TCP")
    harness.kernel.rows[foreign] = VirtualServerSpec()
    assert harness.run_after(31) == []
    assert SERVER in harness.agent.state.rows
    del harness.kernel.rows[POD]
    (report,) = harness.run_after(31)
    assert report.drift_rows == 1
    assert foreign in harness.kernel.rows


def test_a_restart_has_nothing_to_do_with_a_service_in_an_excluded_network() -> None:
    before = serving(exclude=("10.96.0.0/16",))
    foreign = VirtualServer("10.96.0.99", 80, "TCP")
    before.kernel.rows[foreign] = VirtualServerSpec()
    restarted = Harness(before.kernel.rows, exclude=("10.96.0.0/16",))
    (report,) = restarted.handle(ServiceUpserted(service()), SliceUpserted(endpoint_slice()))
    assert report.trigger is Trigger.FIRST_SYNC
    assert restarted.pop_steps() == []
    assert foreign not in restarted.agent.state.rows


def test_an_endpoint_removed_while_no_agent_ran_drains_in_an_excluded_network_too() -> None:
    before = serving(exclude=("10.96.0.0/16",))
    restarted = Harness(before.kernel.rows, exclude=("10.96.0.0/16",))
    restarted.handle(ServiceUpserted(service()), SliceUpserted(endpoint_slice(endpoints=["10.244.1.6"])))
    assert ("update", POD) in restarted.pop_steps()


def test_a_changed_endpoint_costs_one_add_and_one_weight_and_no_read() -> None:
    harness = serving()
    harness.kernel.read = harness.kernel.host_addresses = None  # type: ignore[assignment,method-assign]
    harness.handle(SliceUpserted(endpoint_slice(endpoints=["10.244.1.6"])))
    assert harness.pop_steps() == [
        ("add", IpsetEntry("KUBE-LOOP-BACK", "10.244.1.6,tcp:8080,10.244.1.6")),
        ("add", RealServer(SERVER, "10.244.1.6", 8080)),
        ("update", POD),
        ("delete", IpsetEntry("KUBE-LOOP-BACK", "10.244.1.5,tcp:8080,10.244.1.5")),
    ]


def test_an_event_that_changes_nothing_causes_no_sync() -> None:
    harness = serving()
    assert harness.handle(ServiceUpserted(service()), SliceUpserted(endpoint_slice())) == []


def test_an_error_affects_only_its_row_which_is_retried_with_backoff() -> None:
    harness = Harness()
    harness.kernel.fault = lambda step: EBUSY if step.key == POD else 0
    (report,) = harness.handle(ServiceUpserted(service()), SliceUpserted(endpoint_slice()))
    assert [failure.step.key for failure in report.failures] == [POD]
    assert Address("10.96.0.10") in harness.kernel.rows
    harness.pop_steps()
    assert harness.run_after(0.4) == []
    assert [report.pending for report in harness.run_after(0.2)] == [1]
    assert harness.run_after(0.6) == []
    harness.kernel.fault = lambda _step: 0
    assert [report.pending for report in harness.run_after(0.5)] == [0]
    assert harness.pop_steps() == [("add", POD)]


def test_a_failed_row_that_an_event_changes_is_tried_at_once() -> None:
    harness = Harness()
    harness.kernel.fault = lambda step: EBUSY if step.key == POD else 0
    harness.handle(ServiceUpserted(service()), SliceUpserted(endpoint_slice()))
    harness.kernel.fault = lambda _step: 0
    harness.handle(SliceUpserted(endpoint_slice(endpoints=[])))
    harness.pop_steps()
    harness.handle(SliceUpserted(endpoint_slice()))
    assert ("add", POD) in harness.pop_steps()


def test_drift_is_found_and_repaired_within_the_sync_period() -> None:
    harness = serving()
    del harness.kernel.rows[POD]
    harness.kernel.rows[VirtualServer("10.9.9.9", 1, "TCP")] = VirtualServerSpec()
    assert harness.run_after(29) == []
    (report,) = harness.run_after(2)
    assert report.drift_rows == 2
    assert harness.pop_steps() == [("add", POD), ("delete", VirtualServer("10.9.9.9", 1, "TCP"))]


def test_a_lost_address_is_restored_on_its_notification() -> None:
    harness = serving()
    del harness.kernel.rows[Address("10.96.0.10")]
    harness.agent.handle_addresses_changed(AddressesChanged(service_addresses={"10.96.0.10": False}), harness.now_s)
    assert harness.agent.run_due(harness.now_s)
    assert harness.pop_steps() == [("add", Address("10.96.0.10"))]


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
    assert harness.pop_steps() == [("add", Link("kube-ipvs0")), ("add", Address("10.96.0.10"))]


def test_after_invalidate_the_kernel_is_read_and_repaired() -> None:
    harness = serving()
    del harness.kernel.rows[POD]
    harness.agent.invalidate()
    harness.agent.run_due(harness.now_s)
    assert harness.pop_steps() == [("add", POD)]


def test_min_sync_period_separates_syncs() -> None:
    harness = serving(timing=Timing(min_sync_period_s=1.0))
    assert harness.handle(ServiceDeleted(name("web"))) == []
    assert harness.agent.due_s() == 101.0
    assert harness.run_after(1.0)


def draining(connections: int) -> Harness:
    harness = serving()
    harness.kernel.open_connections[POD] = Connections(connections, 0)
    harness.handle(SliceUpserted(endpoint_slice(endpoints=["10.244.1.6"])))
    harness.pop_steps()
    return harness


def test_a_removed_real_server_stays_while_it_has_connections() -> None:
    harness = draining(1)
    for wait_s in (1.1, 2.1, 4.1, 60, 60):
        harness.run_after(wait_s)
    assert harness.kernel.rows[POD] == DRAINING
    harness.kernel.open_connections.clear()
    harness.run_after(61)
    assert POD not in harness.kernel.rows
    assert harness.agent.state.rows == harness.kernel.rows


def test_an_idle_removed_real_server_is_deleted_after_a_second() -> None:
    harness = draining(0)
    harness.run_after(1.1)
    assert harness.pop_steps() == [("delete", POD)]
    assert not harness.agent.state.draining


def test_a_real_server_that_is_desired_again_stops_draining() -> None:
    harness = draining(1)
    harness.handle(SliceUpserted(endpoint_slice()))
    assert harness.kernel.rows[POD] == SERVING
    harness.kernel.open_connections.clear()
    harness.run_after(70)
    assert harness.kernel.rows[POD] == SERVING


def test_a_real_server_that_is_desired_again_at_a_resync_stops_draining() -> None:
    harness = draining(1)
    harness.agent.invalidate()
    harness.handle(SliceUpserted(endpoint_slice()))
    assert harness.kernel.rows[POD] == SERVING
    assert POD not in harness.agent.state.draining.draining_behind([SERVER])
    harness.kernel.open_connections.clear()
    harness.run_after(70)
    assert harness.kernel.rows[POD] == SERVING


def test_draining_real_servers_are_deleted_with_their_service() -> None:
    harness = draining(1)
    harness.handle(ServiceDeleted(name("web")))
    assert not [key for key in harness.kernel.rows if isinstance(key, RealServer | VirtualServer)]
    assert harness.agent.state.rows == harness.kernel.rows


def test_draining_continues_after_a_restart() -> None:
    rows = dict(draining(1).kernel.rows)
    restarted = Harness(rows)
    restarted.kernel.open_connections[POD] = Connections(1, 0)
    restarted.handle(ServiceUpserted(service()), SliceUpserted(endpoint_slice(endpoints=["10.244.1.6"])))
    restarted.run_after(5)
    assert restarted.kernel.rows[POD] == DRAINING
    restarted.kernel.open_connections.clear()
    restarted.run_after(61)
    assert POD not in restarted.kernel.rows


def test_a_deadline_ends_draining_despite_connections() -> None:
    harness = serving(timing=Timing(sync_period_s=1000, drain_deadline_s=20.0))
    harness.kernel.open_connections[POD] = Connections(1, 0)
    harness.handle(SliceUpserted(endpoint_slice(endpoints=["10.244.1.6"])))
    harness.run_after(1.1)
    harness.run_after(18.8)
    assert POD in harness.kernel.rows
    assert harness.agent.due_s() == 120.0
    harness.run_after(0.2)
    assert POD not in harness.kernel.rows
    harness.run_after(60)
    assert harness.agent.due_s() > 1000, "it still looks for what drains"


@pytest.mark.parametrize(("service_s", "deleted"), [(None, True), (0.0, False), (5.0, True), (60.0, False)])
def test_the_deadline_of_a_service_overrides_that_of_the_configuration(service_s: float | None, deleted: bool) -> None:
    harness = serving(timing=Timing(sync_period_s=1000, drain_deadline_s=20.0))
    harness.kernel.open_connections[POD] = Connections(1, 0)
    harness.handle(
        ServiceUpserted(service(drain_deadline_s=service_s)), SliceUpserted(endpoint_slice(endpoints=["10.244.1.6"]))
    )
    harness.run_after(21)
    assert (POD not in harness.kernel.rows) is deleted


def test_drained_real_servers_are_deleted_by_a_sync_that_is_due() -> None:
    harness = draining(0)
    harness.now_s += 1.1
    (report,) = harness.handle(ServiceUpserted(service("api", cluster_ips=("10.96.0.11",))))
    assert [(step.verb, step.key) for step in report.steps][-1] == ("delete", POD)
    assert harness.kernel.rows == harness.agent.state.rows
    assert not harness.agent.state.draining


def test_a_drained_real_server_that_is_desired_again_in_the_same_cycle_stays() -> None:
    harness = draining(0)
    harness.now_s += 1.1
    harness.handle(SliceUpserted(endpoint_slice()))
    assert ("delete", POD) not in harness.pop_steps()
    assert harness.kernel.rows[POD] == SERVING


def test_a_drained_real_server_of_a_deleted_service_is_deleted_once() -> None:
    harness = draining(0)
    harness.now_s += 1.1
    harness.handle(ServiceDeleted(name("web")))
    assert harness.pop_steps().count(("delete", POD)) == 1
    assert harness.agent.state.rows == harness.kernel.rows


def test_a_failed_deletion_of_a_drained_real_server_in_a_sync_is_retried() -> None:
    harness = draining(0)
    harness.kernel.fault = lambda step: EBUSY if step.verb == "delete" else 0
    harness.now_s += 1.1
    (report,) = harness.handle(ServiceUpserted(service("api", cluster_ips=("10.96.0.11",))))
    assert [failure.step.key for failure in report.failures] == [POD]
    harness.kernel.fault = lambda _step: 0
    harness.run_after(61)
    assert POD not in harness.kernel.rows
    assert harness.agent.state.rows == harness.kernel.rows


def test_a_failed_deletion_of_a_drained_real_server_is_retried() -> None:
    harness = draining(0)
    harness.kernel.fault = lambda step: EBUSY if step.verb == "delete" else 0
    harness.run_after(1.1)
    harness.run_after(10)
    assert POD in harness.kernel.rows
    harness.kernel.fault = lambda _step: 0
    harness.run_after(61)
    assert POD not in harness.kernel.rows


def test_problems_are_passed_on_and_affect_no_other_object() -> None:
    harness = Harness()
    problem = Problem("Service shop/bad", "spec.clusterIP", "not an IP address")
    harness.handle(problem, ServiceUpserted(service()))
    assert harness.problems == [problem]
    assert SERVER in harness.kernel.rows


def test_the_report_is_logged_as_one_sentence() -> None:
    harness = serving()
    harness.now_s += 1
    (report,) = harness.handle(SliceUpserted(endpoint_slice(endpoints=["10.244.2.9"])))
    rows = len(harness.kernel.rows)
    assert report_text(report) == (
        f"Synced 1 Service: 2 added, 1 removed, 1 draining; {rows} rows, 0 pending, 0.0 ms since the event"
    )
    assert Step("update", POD, DRAINING, SERVING) in report.steps
