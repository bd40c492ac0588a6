"""The agent has flows forgotten after the syncs that ask for it, and never before traffic."""

import logging
from collections.abc import Collection, Iterator

import pytest

from kubeproxy_py.compile.compiler import Compiler
from kubeproxy_py.kernel.errors import KernelError
from kubeproxy_py.kernel.memory import MemoryKernel
from kubeproxy_py.model.events import Event, ServiceDeleted, ServiceUpserted, SliceUpserted, Synced
from kubeproxy_py.model.flows import Flow, StaleFlowResult
from kubeproxy_py.model.rows import RealServer, VirtualServer
from kubeproxy_py.model.time import NEVER
from kubeproxy_py.reconcile.reconciler import Reconciler, Timing
from kubeproxy_py.reconcile.report import SyncReport
from tests.builders import endpoint, endpoint_slice, name, port, service, site

DNS = VirtualServer("10.96.0.10", 53, "UDP")
POD, OTHER = ("10.244.1.5", 8080), ("10.244.1.6", 8080)
UDP = service(ports=(port(53, "UDP"),))
BOTH = endpoint_slice("web", ["10.244.1.5", "10.244.1.6"], protocol="UDP")
ONE = endpoint_slice("web", ["10.244.1.5"], protocol="UDP")


class Bench:
    def __init__(self, kernel: MemoryKernel | None = None, *, min_sync_period_s: float = 0.0) -> None:
        self.now_s = 100.0
        self.kernel = kernel or MemoryKernel()
        compiler = Compiler(lambda _node, _addresses: site(families=("IPv4",)))
        timing = Timing(min_sync_period_s=min_sync_period_s)
        self.agent = Reconciler(self.kernel, compiler, lambda: self.now_s, timing=timing)
        for feed in ("services", "slices", "node"):
            self.agent.handle_event(Synced(feed), self.now_s)

    def tell(self, *events: Event) -> list[SyncReport]:
        for event in events:
            self.agent.handle_event(event, self.now_s)
        return self.agent.step()

    def settle(self) -> list[SyncReport]:
        """All that is due now."""
        reports: list[SyncReport] = []
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
    assert (report.flows, len(bench.kernel.flows)) == (None, 2)


def test_then_the_flows_of_the_endpoint_that_went_are_forgotten() -> None:
    bench = serving()
    bench.tell(SliceUpserted(ONE))
    (report,) = bench.settle()
    assert report.flows == StaleFlowResult(servers=1, seen=2, forgotten=1, refused=())
    assert bench.kernel.flows == [Flow(DNS, POD)]


def test_what_was_forgotten_is_the_sentence_of_the_report() -> None:
    bench = serving()
    bench.tell(SliceUpserted(ONE))
    assert [(str(report), report.why) for report in bench.settle()] == [
        ("forgot 1 UDP flow of 2 to 1 virtual server", "stale flows")
    ]


def test_a_sweep_that_forgot_nothing_is_no_news() -> None:
    bench = serving()
    bench.tell(SliceUpserted(endpoint_slice("web", ["10.244.1.5", "10.244.1.6", "10.244.1.7"], protocol="UDP")))
    assert [report.why for report in bench.settle()] == [""]


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
    assert [report for report in bench.settle() if report.flows] == []


def test_looking_at_flows_does_not_shorten_the_least_time_between_syncs() -> None:
    bench = serving(min_sync_period_s=10.0)
    bench.now_s += 10.0
    bench.tell(SliceUpserted(ONE))
    (report,) = bench.tell(SliceUpserted(BOTH))
    assert report.flows
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
    warnings = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert [warning for warning in warnings if "flows" in warning] == [
        "UDP flows to endpoints that are gone stay until they time out: "
        "this kernel can't list UDP flows (modprobe nf_conntrack_netlink)"
    ]


class WithoutFlows:
    """A Kernel that is no FlowTable."""

    def __init__(self) -> None:
        kernel = MemoryKernel()
        for word in ("scopes", "read", "apply", "connections", "host_addresses", "close"):
            setattr(self, word, getattr(kernel, word))


def test_a_kernel_that_has_no_flows_is_not_asked() -> None:
    bench = Bench(WithoutFlows())  # type: ignore[arg-type]
    bench.tell(ServiceUpserted(UDP), SliceUpserted(BOTH))
    assert bench.settle() == []
    assert bench.agent.due_s() < NEVER
