"""Reconciler: the first sync, what a change costs, failed rows, and the report."""

from errno import EBUSY

from kubeproxy_py.model.events import (
    ServiceUpserted,
    SliceUpserted,
)
from kubeproxy_py.model.rows import (
    DRAINING,
    SERVING,
    Address,
    Chain,
    IpsetEntry,
    Jump,
    RealServer,
    VirtualServer,
    VirtualServerSpec,
)
from kubeproxy_py.model.steps import Step
from kubeproxy_py.reconcile.report import Trigger
from kubeproxy_py.reconcile.report_text import report_text
from tests.builders import endpoint_slice, service
from tests.reconcile.harness import POD, SERVER, AgentHarness, serving


def test_the_first_sync_adopts_correct_rows_and_deletes_stale_ones() -> None:
    stale = VirtualServer("10.96.0.99", 80, "TCP")
    harness = AgentHarness({SERVER: VirtualServerSpec(), POD: SERVING, stale: VirtualServerSpec()})
    harness.handle(ServiceUpserted(service()), SliceUpserted(endpoint_slice()))
    applied = harness.applied_steps()
    assert ("delete", stale) in applied
    assert not [key for _, key in applied if key in (SERVER, POD)]


def test_a_restart_has_nothing_to_do_with_a_service_in_an_excluded_network() -> None:
    before = serving(exclude=("10.96.0.0/16",))
    foreign = VirtualServer("10.96.0.99", 80, "TCP")
    before.kernel.rows[foreign] = VirtualServerSpec()
    restarted = AgentHarness(before.kernel.rows, exclude=("10.96.0.0/16",))
    (report,) = restarted.handle(ServiceUpserted(service()), SliceUpserted(endpoint_slice()))
    assert report.trigger is Trigger.FIRST_SYNC
    assert restarted.applied_steps() == []
    assert foreign not in restarted.agent.state.rows


def test_a_changed_endpoint_costs_one_add_and_one_weight_and_no_read() -> None:
    harness = serving()
    harness.kernel.read = harness.kernel.host_addresses = None  # type: ignore[assignment,method-assign]
    harness.handle(SliceUpserted(endpoint_slice(endpoints=["10.244.1.6"])))
    assert harness.applied_steps() == [
        ("add", IpsetEntry("KUBE-LOOP-BACK", "10.244.1.6,tcp:8080,10.244.1.6")),
        ("add", RealServer(SERVER, "10.244.1.6", 8080)),
        ("update", POD),
        ("delete", IpsetEntry("KUBE-LOOP-BACK", "10.244.1.5,tcp:8080,10.244.1.5")),
    ]


def test_an_event_that_changes_nothing_causes_no_sync() -> None:
    harness = serving()
    assert harness.handle(ServiceUpserted(service()), SliceUpserted(endpoint_slice())) == []


def test_an_error_affects_only_its_row_which_is_retried_with_backoff() -> None:
    harness = AgentHarness()
    harness.kernel.fault = lambda step: EBUSY if step.key == POD else 0
    (report,) = harness.handle(ServiceUpserted(service()), SliceUpserted(endpoint_slice()))
    assert [failure.step.key for failure in report.failures] == [POD]
    assert Address("10.96.0.10") in harness.kernel.rows
    harness.applied_steps()
    assert harness.advance(0.4) == []
    assert [report.pending for report in harness.advance(0.2)] == [1]
    assert harness.advance(0.6) == []
    harness.kernel.fault = lambda _step: 0
    assert [report.pending for report in harness.advance(0.5)] == [0]
    assert harness.applied_steps() == [("add", POD)]


def test_an_address_waits_for_its_protection_and_is_bound_as_soon_as_that_is_in_place() -> None:
    harness = AgentHarness()
    chain = Chain("IPv4", "nat", "KUBE-POSTROUTING")
    harness.kernel.fault = lambda step: EBUSY if step.key == chain else 0
    harness.handle(ServiceUpserted(service()), SliceUpserted(endpoint_slice()))
    assert Address("10.96.0.10") not in harness.kernel.rows
    assert "IPv4" in harness.agent.status().unprotected
    harness.kernel.fault = lambda _step: 0
    harness.now_s += 0.6
    harness.run_all_due()
    assert Address("10.96.0.10") in harness.kernel.rows
    assert harness.agent.status().unprotected == frozenset()
    assert not harness.agent.state.pending.keys


def test_a_new_service_waits_for_a_chain_that_failed_in_an_earlier_sync() -> None:
    harness = serving()
    jump = Jump("IPv4", "filter", "INPUT", "KUBE-IPVS-FILTER")
    del harness.kernel.rows[jump]
    harness.kernel.fault = lambda step: EBUSY if step.key == jump else 0
    harness.advance(31)
    (report,) = harness.handle(ServiceUpserted(service("late", ["10.96.0.11"])))
    assert [(failure.step.key, failure.blocker) for failure in report.failures] == [(Address("10.96.0.11"), jump)]
    assert Address("10.96.0.10") in harness.kernel.rows


def test_a_chain_whose_first_step_succeeds_and_second_waits_is_accepted_as_it_is() -> None:
    harness = AgentHarness()
    external, balanced = ("203.0.113.7",), ("203.0.113.9",)
    harness.handle(ServiceUpserted(service(type="LoadBalancer", external_ips=external)))
    entry = IpsetEntry("KUBE-EXTERNAL-IP", "203.0.113.7,tcp:80")
    harness.kernel.fault = lambda step: EBUSY if step.key == entry else 0
    harness.handle(ServiceUpserted(service(type="LoadBalancer", load_balancer_ips=balanced)))
    assert entry in harness.kernel.rows
    assert harness.agent.state.rows == harness.kernel.rows


def test_a_failed_row_that_an_event_changes_is_tried_at_once() -> None:
    harness = AgentHarness()
    harness.kernel.fault = lambda step: EBUSY if step.key == POD else 0
    harness.handle(ServiceUpserted(service()), SliceUpserted(endpoint_slice()))
    harness.kernel.fault = lambda _step: 0
    harness.handle(SliceUpserted(endpoint_slice(endpoints=[])))
    harness.applied_steps()
    harness.handle(SliceUpserted(endpoint_slice()))
    assert ("add", POD) in harness.applied_steps()


def test_the_report_is_logged_as_one_sentence() -> None:
    harness = serving()
    harness.now_s += 1
    (report,) = harness.handle(SliceUpserted(endpoint_slice(endpoints=["10.244.2.9"])))
    rows = len(harness.kernel.rows)
    assert report_text(report) == (
        f"Synced 1 Service: 2 added, 1 deleted, 1 draining; {rows} rows, 0 pending, 0.0 ms since the event"
    )
    assert Step("update", POD, DRAINING, SERVING) in report.steps
