"""The agent has flows forgotten after the syncs that ask for it, and never before traffic."""

import logging
from collections.abc import Collection, Iterator
from typing import Any

import pytest

from kubeproxy_py.compile.compiler import Compiler
from kubeproxy_py.kernel.errors import KernelError
from kubeproxy_py.kernel.memory import MemoryKernel
from kubeproxy_py.model.events import Event, ServiceDeleted, ServiceUpserted, SliceUpserted, Synced
from kubeproxy_py.model.flows import Flow, StaleFlowResult
from kubeproxy_py.model.rows import RealServer, VirtualServer
from kubeproxy_py.model.time import NEVER
from kubeproxy_py.reconcile.agent import Agent, Timing
from kubeproxy_py.reconcile.report import Report, StaleFlowReport, SyncReport
from kubeproxy_py.reconcile.report_text import report_text
from tests.builders import endpoint, endpoint_slice, name, node_context, port, service

DNS = VirtualServer("10.96.0.10", 53, "UDP")
POD, OTHER = ("10.244.1.5", 8080), ("10.244.1.6", 8080)
UDP = service(ports=(port(53, "UDP"),))
BOTH = endpoint_slice("web", ["10.244.1.5", "10.244.1.6"], protocol="UDP")
ONE = endpoint_slice("web", ["10.244.1.5"], protocol="UDP")


class Bench:
    def __init__(self, kernel: MemoryKernel | None = None, *, min_sync_period_s: float = 0.0) -> None:
        self.now_s = 100.0
        self.kernel = kernel or MemoryKernel()
        compiler = Compiler(lambda _node, _addresses: node_context(families=("IPv4",)))
        timing = Timing(min_sync_period_s=min_sync_period_s)
        self.agent = Agent(self.kernel, compiler, lambda: self.now_s, timing=timing)
        for feed in ("services", "slices", "node"):
            self.agent.handle_event(Synced(feed), self.now_s)

    def tell(self, *events: Event) -> list[Any]:
        for event in events:
            self.agent.handle_event(event, self.now_s)
        return self.agent.step()

    def settle(self) -> list[Report]:
        """All that is due now."""
        reports: list[Report] = []
        while self.agent.due_s() <= self.now_s:
            reports += self.agent.step()
        return reports


def serving(**options: object) -> Bench:
    bench = Bench(**options)  # type: ignore[arg-type]
    bench.tell(ServiceUpserted(UDP), SliceUpserted(BOTH))
    bench.settle()
    bench.kernel.flows = [Flow(DNS, POD), Flow(DNS, OTHER)]
    return bench


def test_a_sync_is_reported_before_flows_are_looked_at() -> None:
    bench = serving()
    (report,) = bench.tell(SliceUpserted(ONE))
    assert (type(report), len(bench.kernel.flows)) == (SyncReport, 2)


def test_then_the_flows_of_the_endpoint_that_went_are_forgotten() -> None:
    bench = serving()
    bench.tell(SliceUpserted(ONE))
    (report,) = bench.settle()
    assert isinstance(report, StaleFlowReport)
    assert report.result == StaleFlowResult(servers=1, seen=2, deleted=1, errors=())
    assert bench.kernel.flows == [Flow(DNS, POD)]


def test_what_was_forgotten_is_the_sentence_of_the_report() -> None:
    bench = serving()
    bench.tell(SliceUpserted(ONE))
    assert [report_text(report) for report in bench.settle()] == ["Deleted 1 of 2 UDP flows to 1 virtual server"]


def test_a_sweep_that_forgot_nothing_is_no_news() -> None:
    bench = serving()
    bench.tell(SliceUpserted(endpoint_slice("web", ["10.244.1.5", "10.244.1.6", "10.244.1.7"], protocol="UDP")))
    (report,) = bench.settle()
    assert isinstance(report, StaleFlowReport)
    assert (report.result.deleted, report.result.errors) == (0, ())


def test_the_flows_of_a_deleted_service_are_forgotten() -> None:
    bench = serving()
    bench.tell(ServiceDeleted(name("web")))
    bench.settle()
    assert bench.kernel.flows == []


def test_the_flows_of_a_service_left_without_endpoints_are_forgotten() -> None:
    bench = serving()
    bench.tell(SliceUpserted(endpoint_slice("web", [], protocol="UDP")))
    bench.settle()
    assert bench.kernel.flows == []


def test_an_endpoint_that_is_not_ready_but_serves_keeps_its_flows() -> None:
    bench = serving()
    unready = endpoint("10.244.1.6", ready=False)
    bench.tell(SliceUpserted(endpoint_slice("web", [endpoint(), unready], protocol="UDP")))
    bench.settle()
    assert bench.kernel.flows == [Flow(DNS, POD), Flow(DNS, OTHER)]


def test_an_endpoint_that_ipvs_had_left_already_loses_its_flows_when_it_goes() -> None:
    bench = serving()
    leaving = endpoint("10.244.1.6", ready=False, terminating=True)
    bench.tell(SliceUpserted(endpoint_slice("web", [endpoint(), leaving], protocol="UDP")))
    bench.settle()
    (report,) = bench.tell(SliceUpserted(ONE))
    real_servers = [step for step in report.steps if isinstance(step.key, RealServer)]
    bench.settle()
    assert (real_servers, bench.kernel.flows) == ([], [Flow(DNS, POD)])


def test_the_first_sync_has_the_flows_of_all_udp_virtual_servers_looked_at() -> None:
    before = serving()
    before.tell(SliceUpserted(ONE))  # and died before it looked at flows
    again = Bench(before.kernel)
    again.tell(ServiceUpserted(UDP), SliceUpserted(ONE))
    again.settle()
    assert again.kernel.flows == [Flow(DNS, POD)]


def test_a_change_of_tcp_looks_at_no_flows() -> None:
    bench = Bench()
    bench.tell(ServiceUpserted(service()), SliceUpserted(endpoint_slice()))
    bench.settle()
    bench.tell(SliceUpserted(endpoint_slice(endpoints=["10.244.1.7"])))
    assert [report for report in bench.settle() if isinstance(report, StaleFlowReport)] == []


def test_looking_at_flows_does_not_shorten_the_least_time_between_syncs() -> None:
    bench = serving(min_sync_period_s=10.0)
    bench.now_s += 10.0
    bench.tell(SliceUpserted(ONE))
    (report,) = bench.tell(SliceUpserted(BOTH))
    assert isinstance(report, StaleFlowReport)
    assert bench.agent.due_s() == bench.now_s + 10.0


class WithoutConntrack(MemoryKernel):
    def udp_flows(self, servers: Collection[VirtualServer]) -> Iterator[list[Flow]]:
        raise KernelError("this kernel can't list UDP flows", hint="modprobe nf_conntrack_netlink")


def test_a_kernel_without_conntrack_is_warned_of_once_and_serves_on(caplog: pytest.LogCaptureFixture) -> None:
    bench = serving(kernel=WithoutConntrack())
    for part in (ONE, BOTH, ONE):
        bench.now_s += 31.0
        bench.tell(SliceUpserted(part))
        bench.settle()
    warnings = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert [
        (record.getMessage(), record.__dict__["values"]) for record in warnings if "flows" in record.getMessage()
    ] == [
        (
            "Failed to list UDP flows; flows to removed endpoints remain until they time out",
            {"err": "this kernel can't list UDP flows (modprobe nf_conntrack_netlink)"},
        )
    ]


def test_a_kernel_that_cannot_list_flows_has_no_report_of_flows() -> None:
    bench = Bench(WithoutConntrack())
    bench.tell(ServiceUpserted(UDP), SliceUpserted(BOTH))
    assert bench.settle() == []
    assert bench.agent.due_s() < NEVER
