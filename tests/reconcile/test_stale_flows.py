"""Agent: stale flows are deleted after the syncs that make them stale, never before traffic is served."""

import logging
from collections.abc import Collection, Iterator

import pytest

from kubeproxy_py.kernel.errors import KernelError
from kubeproxy_py.kernel.memory import MemoryKernel
from kubeproxy_py.model.events import ServiceDeleted, ServiceUpserted, SliceUpserted
from kubeproxy_py.model.flows import Flow, StaleFlowResult
from kubeproxy_py.model.rows import RealServer, VirtualServer
from kubeproxy_py.model.time import NEVER
from kubeproxy_py.reconcile.agent import Timing
from kubeproxy_py.reconcile.report import StaleFlowReport, SyncReport
from kubeproxy_py.reconcile.report_text import report_text
from tests.builders import endpoint, endpoint_slice, name, port, service
from tests.reconcile.harness import AgentHarness

DNS = VirtualServer("10.96.0.10", 53, "UDP")
POD, OTHER = ("10.244.1.5", 8080), ("10.244.1.6", 8080)
UDP = service(ports=(port(53, "UDP"),))
BOTH = endpoint_slice("web", ["10.244.1.5", "10.244.1.6"], protocol="UDP")
ONE = endpoint_slice("web", ["10.244.1.5"], protocol="UDP")


def serving(**options: object) -> AgentHarness:
    """Return a harness that serves shop/web at UDP port 53 with two pods, each with one flow."""
    harness = AgentHarness(**options)  # type: ignore[arg-type]
    harness.handle(ServiceUpserted(UDP), SliceUpserted(BOTH))
    harness.run_all_due()
    harness.kernel.flows = [Flow(DNS, POD), Flow(DNS, OTHER)]
    return harness


def test_a_sync_is_reported_before_flows_are_scanned() -> None:
    harness = serving()
    (report,) = harness.handle(SliceUpserted(ONE))
    assert (type(report), len(harness.kernel.flows)) == (SyncReport, 2)


def test_flows_of_a_removed_endpoint_are_deleted_after_the_sync() -> None:
    harness = serving()
    harness.handle(SliceUpserted(ONE))
    (report,) = harness.run_all_due()
    assert isinstance(report, StaleFlowReport)
    assert report.result == StaleFlowResult(servers=1, seen=2, deleted=1, errors=())
    assert harness.kernel.flows == [Flow(DNS, POD)]


def test_deleted_flows_are_reported_in_one_sentence() -> None:
    harness = serving()
    harness.handle(SliceUpserted(ONE))
    assert [report_text(report) for report in harness.run_all_due()] == [
        "Deleted 1 of 2 UDP flows to 1 virtual server; they led to no endpoint, and the next datagram of each "
        "client begins a new flow"
    ]


def test_a_scan_that_deleted_nothing_is_logged_at_verbosity_2() -> None:
    harness = serving()
    harness.handle(SliceUpserted(endpoint_slice("web", ["10.244.1.5", "10.244.1.6", "10.244.1.7"], protocol="UDP")))
    (report,) = harness.run_all_due()
    assert isinstance(report, StaleFlowReport)
    assert (report.result.deleted, report.result.errors) == (0, ())


def test_flows_of_a_deleted_service_are_deleted() -> None:
    harness = serving()
    harness.handle(ServiceDeleted(name("web")))
    harness.run_all_due()
    assert harness.kernel.flows == []


def test_flows_of_a_service_without_endpoints_are_deleted() -> None:
    harness = serving()
    harness.handle(SliceUpserted(endpoint_slice("web", [], protocol="UDP")))
    harness.run_all_due()
    assert harness.kernel.flows == []


def test_flows_of_a_serving_endpoint_that_is_not_ready_are_kept() -> None:
    harness = serving()
    unready = endpoint("10.244.1.6", ready=False)
    harness.handle(SliceUpserted(endpoint_slice("web", [endpoint(), unready], protocol="UDP")))
    harness.run_all_due()
    assert harness.kernel.flows == [Flow(DNS, POD), Flow(DNS, OTHER)]


def test_flows_of_a_terminating_endpoint_are_deleted_when_it_is_removed() -> None:
    harness = serving()
    leaving = endpoint("10.244.1.6", ready=False, terminating=True)
    harness.handle(SliceUpserted(endpoint_slice("web", [endpoint(), leaving], protocol="UDP")))
    harness.run_all_due()
    (report,) = harness.handle(SliceUpserted(ONE))
    real_servers = [step for step in report.steps if isinstance(step.key, RealServer)]
    harness.run_all_due()
    assert (real_servers, harness.kernel.flows) == ([], [Flow(DNS, POD)])


def test_flows_of_all_udp_virtual_servers_are_scanned_after_the_first_sync() -> None:
    before = serving()
    before.handle(SliceUpserted(ONE))  # stopped before its scan of the flows
    restarted = AgentHarness(kernel=before.kernel)
    restarted.handle(ServiceUpserted(UDP), SliceUpserted(ONE))
    restarted.run_all_due()
    assert restarted.kernel.flows == [Flow(DNS, POD)]


def test_a_change_of_a_tcp_service_scans_no_flows() -> None:
    harness = AgentHarness()
    harness.handle(ServiceUpserted(service()), SliceUpserted(endpoint_slice()))
    harness.run_all_due()
    harness.handle(SliceUpserted(endpoint_slice(endpoints=["10.244.1.7"])))
    assert [report for report in harness.run_all_due() if isinstance(report, StaleFlowReport)] == []


def test_scanning_flows_does_not_shorten_the_time_between_syncs() -> None:
    harness = serving(timing=Timing(min_sync_period_s=10.0))
    harness.now_s += 10.0
    harness.handle(SliceUpserted(ONE))
    (report,) = harness.handle(SliceUpserted(BOTH))
    assert isinstance(report, StaleFlowReport)
    assert harness.agent.due_s() == harness.now_s + 10.0


class WithoutConntrack(MemoryKernel):
    """A kernel that cannot list flows."""

    def udp_flows(self, servers: Collection[VirtualServer]) -> Iterator[list[Flow]]:
        raise KernelError("this kernel can't list UDP flows", hint="modprobe nf_conntrack_netlink")


def test_a_kernel_without_conntrack_causes_one_warning_and_syncs_continue(caplog: pytest.LogCaptureFixture) -> None:
    harness = serving(kernel=WithoutConntrack())
    for part in (ONE, BOTH, ONE):
        harness.now_s += 31.0
        harness.handle(SliceUpserted(part))
        harness.run_all_due()
    warnings = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert [
        (record.getMessage(), record.__dict__["values"]) for record in warnings if "flows" in record.getMessage()
    ] == [
        (
            "Failed to list UDP flows; flows to removed endpoints remain until they time out",
            {"err": "this kernel can't list UDP flows (modprobe nf_conntrack_netlink)"},
        )
    ]


def test_a_kernel_that_cannot_list_flows_causes_no_report() -> None:
    harness = AgentHarness(kernel=WithoutConntrack())
    harness.handle(ServiceUpserted(UDP), SliceUpserted(BOTH))
    assert harness.run_all_due() == []
    assert harness.agent.due_s() < NEVER
