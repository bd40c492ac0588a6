"""The agent's laws: gating, backoff, drift, draining, and what it costs."""

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
from tests.reconcile.harness import FEEDS, POD, SERVER, Bench, serving


def test_nothing_is_touched_before_every_feed_is_whole() -> None:
    bench = Bench({SERVER: VirtualServerSpec()}, synced=False)
    for feed in FEEDS:
        assert bench.tell(ServiceUpserted(service())) == []
        assert bench.agent.due_s() == NEVER
        assert bench.kernel.rows == {SERVER: VirtualServerSpec()}
        bench.agent.handle_event(Synced(feed), bench.now_s)
    (report,) = bench.agent.step()
    assert isinstance(report, SyncReport)
    assert report.trigger is Trigger.FIRST_SYNC


@pytest.mark.parametrize(
    ("events", "said"), [((), 1), ((NodeUpserted(Node("node-a", addresses=("192.168.3.10",))),), 0)]
)
def test_that_there_is_no_node_is_said_at_the_first_sync(
    events: tuple[object, ...], said: int, caplog: pytest.LogCaptureFixture
) -> None:
    bench = Bench()
    bench.tell(*events)
    bench.after(31)
    records = [record for record in caplog.records if record.msg == "Node not found; assuming these IPs and no zone"]
    assert [record.values["node"] for record in records] == ["node-a"] * said  # type: ignore[attr-defined]


def test_the_first_sync_adopts_what_is_right_and_removes_what_is_nobodys() -> None:
    stale = VirtualServer("10.96.0.99", 80, "TCP")
    bench = Bench({SERVER: VirtualServerSpec(), POD: SERVING, stale: VirtualServerSpec()})
    bench.tell(ServiceUpserted(service()), SliceUpserted(endpoint_slice()))
    done = bench.steps()
    assert ("delete", stale) in done
    assert not [key for _, key in done if key in (SERVER, POD)]


def test_excluded_virtual_servers_stay() -> None:
    theirs = VirtualServer("192.0.2.1", 80, "TCP")
    bench = Bench({theirs: VirtualServerSpec()}, exclude=("192.0.2.0/24",))
    bench.tell()
    bench.after(31)
    assert theirs in bench.kernel.rows


def test_a_virtual_server_that_is_asked_for_is_ours_even_where_others_are_excluded() -> None:
    bench = serving(exclude=("10.96.0.0/16",))
    theirs = VirtualServer("10.96.0.99", 80, "TCP")
    bench.kernel.rows[theirs] = VirtualServerSpec()
    assert bench.after(31) == []
    assert SERVER in bench.agent.state.rows
    del bench.kernel.rows[POD]
    (report,) = bench.after(31)
    assert report.drift_rows == 1
    assert theirs in bench.kernel.rows


def test_a_restart_has_nothing_to_do_where_a_service_wants_what_is_excluded() -> None:
    before = serving(exclude=("10.96.0.0/16",))
    theirs = VirtualServer("10.96.0.99", 80, "TCP")
    before.kernel.rows[theirs] = VirtualServerSpec()
    reborn = Bench(before.kernel.rows, exclude=("10.96.0.0/16",))
    (report,) = reborn.tell(ServiceUpserted(service()), SliceUpserted(endpoint_slice()))
    assert report.trigger is Trigger.FIRST_SYNC
    assert reborn.steps() == []
    assert theirs not in reborn.agent.state.rows


def test_a_real_server_that_left_while_nobody_ran_goes_from_an_excluded_virtual_server_too() -> None:
    before = serving(exclude=("10.96.0.0/16",))
    reborn = Bench(before.kernel.rows, exclude=("10.96.0.0/16",))
    reborn.tell(ServiceUpserted(service()), SliceUpserted(endpoint_slice(endpoints=["10.244.1.6"])))
    assert ("update", POD) in reborn.steps()


def test_a_changed_endpoint_costs_one_add_and_one_weight_and_no_read() -> None:
    bench = serving()
    bench.kernel.read = bench.kernel.host_addresses = None  # type: ignore[assignment,method-assign]
    bench.tell(SliceUpserted(endpoint_slice(endpoints=["10.244.1.6"])))
    assert bench.steps() == [
        ("add", IpsetEntry("KUBE-LOOP-BACK", "10.244.1.6,tcp:8080,10.244.1.6")),
        ("add", RealServer(SERVER, "10.244.1.6", 8080)),
        ("update", POD),
        ("delete", IpsetEntry("KUBE-LOOP-BACK", "10.244.1.5,tcp:8080,10.244.1.5")),
    ]


def test_an_event_that_changes_nothing_does_nothing() -> None:
    bench = serving()
    assert bench.tell(ServiceUpserted(service()), SliceUpserted(endpoint_slice())) == []


def test_an_error_stays_at_its_row_and_is_tried_again_later_and_later() -> None:
    bench = Bench()
    bench.kernel.fault = lambda step: EBUSY if step.key == POD else 0
    (report,) = bench.tell(ServiceUpserted(service()), SliceUpserted(endpoint_slice()))
    assert [failure.step.key for failure in report.failures] == [POD]
    assert Address("10.96.0.10") in bench.kernel.rows
    bench.steps()
    assert bench.after(0.4) == []
    assert [report.pending for report in bench.after(0.2)] == [1]
    assert bench.after(0.6) == []
    bench.kernel.fault = lambda _step: 0
    assert [report.pending for report in bench.after(0.5)] == [0]
    assert bench.steps() == [("add", POD)]


def test_a_failed_row_that_is_asked_for_anew_is_tried_at_once() -> None:
    bench = Bench()
    bench.kernel.fault = lambda step: EBUSY if step.key == POD else 0
    bench.tell(ServiceUpserted(service()), SliceUpserted(endpoint_slice()))
    bench.kernel.fault = lambda _step: 0
    bench.tell(SliceUpserted(endpoint_slice(endpoints=[])))
    bench.steps()
    bench.tell(SliceUpserted(endpoint_slice()))
    assert ("add", POD) in bench.steps()


def test_drift_is_found_within_the_sync_period_and_planned_away() -> None:
    bench = serving()
    del bench.kernel.rows[POD]
    bench.kernel.rows[VirtualServer("10.9.9.9", 1, "TCP")] = VirtualServerSpec()
    assert bench.after(29) == []
    (report,) = bench.after(2)
    assert report.drift_rows == 2
    assert bench.steps() == [("add", POD), ("delete", VirtualServer("10.9.9.9", 1, "TCP"))]


def test_a_lost_address_is_put_back_as_soon_as_addresses_are_said_to_change() -> None:
    bench = serving()
    del bench.kernel.rows[Address("10.96.0.10")]
    bench.agent.handle_addresses_changed(AddressesChanged(service_addresses={"10.96.0.10": False}))
    assert bench.agent.step()
    assert bench.steps() == [("add", Address("10.96.0.10"))]


def test_an_echo_of_our_own_work_reads_nothing() -> None:
    bench = serving()
    bench.kernel.read = bench.kernel.host_addresses = None  # type: ignore[assignment,method-assign]
    bench.agent.handle_addresses_changed(AddressesChanged(service_addresses={"10.96.0.10": True, "10.96.0.99": False}))
    assert bench.agent.step() == []


def test_a_lost_device_is_made_again_with_all_that_was_on_it() -> None:
    bench = serving()
    for key in (Link("kube-ipvs0"), Address("10.96.0.10")):
        del bench.kernel.rows[key]
    bench.agent.handle_addresses_changed(AddressesChanged(device=True))
    bench.agent.step()
    assert bench.steps() == [("add", Link("kube-ipvs0")), ("add", Address("10.96.0.10"))]


def test_what_is_forgotten_is_read_and_compared_anew() -> None:
    bench = serving()
    del bench.kernel.rows[POD]
    bench.agent.invalidate()
    bench.agent.step()
    assert bench.steps() == [("add", POD)]


def test_syncs_keep_their_distance() -> None:
    bench = serving(timing=Timing(min_sync_period_s=1.0))
    assert bench.tell(ServiceDeleted(name("web"))) == []
    assert bench.agent.due_s() == 101.0
    assert bench.after(1.0)


def draining(connections: int) -> Bench:
    bench = serving()
    bench.kernel.open_connections[POD] = Connections(connections, 0)
    bench.tell(SliceUpserted(endpoint_slice(endpoints=["10.244.1.6"])))
    bench.steps()
    return bench


def test_a_real_server_that_left_stays_while_it_has_connections() -> None:
    bench = draining(1)
    for wait_s in (1.1, 2.1, 4.1, 60, 60):
        bench.after(wait_s)
    assert bench.kernel.rows[POD] == DRAINING
    bench.kernel.open_connections.clear()
    bench.after(61)
    assert POD not in bench.kernel.rows
    assert bench.agent.state.rows == bench.kernel.rows


def test_an_idle_real_server_that_left_goes_after_a_second() -> None:
    bench = draining(0)
    bench.after(1.1)
    assert bench.steps() == [("delete", POD)]
    assert not bench.agent.state.draining


def test_a_real_server_that_came_back_drains_no_more() -> None:
    bench = draining(1)
    bench.tell(SliceUpserted(endpoint_slice()))
    assert bench.kernel.rows[POD] == SERVING
    bench.kernel.open_connections.clear()
    bench.after(70)
    assert bench.kernel.rows[POD] == SERVING


def test_what_drains_goes_at_once_with_its_service() -> None:
    bench = draining(1)
    bench.tell(ServiceDeleted(name("web")))
    assert not [key for key in bench.kernel.rows if isinstance(key, RealServer | VirtualServer)]
    assert bench.agent.state.rows == bench.kernel.rows


def test_draining_goes_on_after_a_restart() -> None:
    rows = dict(draining(1).kernel.rows)
    reborn = Bench(rows)
    reborn.kernel.open_connections[POD] = Connections(1, 0)
    reborn.tell(ServiceUpserted(service()), SliceUpserted(endpoint_slice(endpoints=["10.244.1.6"])))
    reborn.after(5)
    assert reborn.kernel.rows[POD] == DRAINING
    reborn.kernel.open_connections.clear()
    reborn.after(61)
    assert POD not in reborn.kernel.rows


def test_a_deadline_ends_draining_whatever_is_connected() -> None:
    bench = serving(timing=Timing(sync_period_s=1000, drain_deadline_s=20.0))
    bench.kernel.open_connections[POD] = Connections(1, 0)
    bench.tell(SliceUpserted(endpoint_slice(endpoints=["10.244.1.6"])))
    bench.after(1.1)
    bench.after(18.8)
    assert POD in bench.kernel.rows
    assert bench.agent.due_s() == 120.0
    bench.after(0.2)
    assert POD not in bench.kernel.rows
    bench.after(60)
    assert bench.agent.due_s() > 1000, "it still looks for what drains"


@pytest.mark.parametrize(("own_s", "gone"), [(None, True), (0.0, False), (5.0, True), (60.0, False)])
def test_a_services_own_deadline_goes_before_the_agents(own_s: float | None, gone: bool) -> None:
    bench = serving(timing=Timing(sync_period_s=1000, drain_deadline_s=20.0))
    bench.kernel.open_connections[POD] = Connections(1, 0)
    bench.tell(
        ServiceUpserted(service(drain_deadline_s=own_s)), SliceUpserted(endpoint_slice(endpoints=["10.244.1.6"]))
    )
    bench.after(21)
    assert (POD not in bench.kernel.rows) is gone


def test_what_has_drained_goes_with_a_sync_that_is_due() -> None:
    bench = draining(0)
    bench.now_s += 1.1
    (report,) = bench.tell(ServiceUpserted(service("api", cluster_ips=("10.96.0.11",))))
    assert [(step.verb, step.key) for step in report.steps][-1] == ("delete", POD)
    assert bench.kernel.rows == bench.agent.state.rows
    assert not bench.agent.state.draining


def test_what_has_drained_and_is_wanted_again_in_the_same_turn_stays() -> None:
    bench = draining(0)
    bench.now_s += 1.1
    bench.tell(SliceUpserted(endpoint_slice()))
    assert ("delete", POD) not in bench.steps()
    assert bench.kernel.rows[POD] == SERVING


def test_what_has_drained_when_its_service_goes_is_deleted_once() -> None:
    bench = draining(0)
    bench.now_s += 1.1
    bench.tell(ServiceDeleted(name("web")))
    assert bench.steps().count(("delete", POD)) == 1
    assert bench.agent.state.rows == bench.kernel.rows


def test_what_the_kernel_does_not_let_go_in_a_sync_is_tried_again() -> None:
    bench = draining(0)
    bench.kernel.fault = lambda step: EBUSY if step.verb == "delete" else 0
    bench.now_s += 1.1
    (report,) = bench.tell(ServiceUpserted(service("api", cluster_ips=("10.96.0.11",))))
    assert [failure.step.key for failure in report.failures] == [POD]
    bench.kernel.fault = lambda _step: 0
    bench.after(61)
    assert POD not in bench.kernel.rows
    assert bench.agent.state.rows == bench.kernel.rows


def test_what_the_kernel_does_not_let_go_is_tried_again() -> None:
    bench = draining(0)
    bench.kernel.fault = lambda step: EBUSY if step.verb == "delete" else 0
    bench.after(1.1)
    bench.after(10)
    assert POD in bench.kernel.rows
    bench.kernel.fault = lambda _step: 0
    bench.after(61)
    assert POD not in bench.kernel.rows


def test_problems_are_passed_on_and_stop_nothing() -> None:
    bench = Bench()
    problem = Problem("Service shop/bad", "spec.clusterIP", "not an IP address")
    bench.tell(problem, ServiceUpserted(service()))
    assert bench.problems == [problem]
    assert SERVER in bench.kernel.rows


def test_the_report_is_one_sentence() -> None:
    bench = serving()
    bench.now_s += 1
    (report,) = bench.tell(SliceUpserted(endpoint_slice(endpoints=["10.244.2.9"])))
    rows = len(bench.kernel.rows)
    assert report_text(report) == (
        f"Synced 1 Service: 2 added, 1 removed, 1 draining; {rows} rows, 0 pending, 0.0 ms since the event"
    )
    assert Step("update", POD, DRAINING, SERVING) in report.steps
