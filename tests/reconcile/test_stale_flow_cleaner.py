"""A sweep goes on in short turns, judges by what is allowed now, and outlives a kernel that can't be asked."""

import time
from collections.abc import Collection, Iterator

from kubeproxy_py.kernel.errors import KernelError
from kubeproxy_py.kernel.memory import MemoryKernel
from kubeproxy_py.model.flows import Flow, StaleFlowResult
from kubeproxy_py.model.rows import VirtualServer
from kubeproxy_py.reconcile.stale_flows import RETRY_S, SLICE_BATCHES, StaleFlowCleaner

NEVER = float("inf")
CLOCK = time.monotonic  # durations are not compared here
DNS, NTP = VirtualServer("10.96.0.53", 53, "UDP"), VirtualServer("10.96.0.123", 123, "UDP")
POD, GONE = ("10.244.1.5", 8080), ("10.244.1.6", 8080)


class Bench:
    def __init__(self, flows: int = 0) -> None:
        self.kernel = MemoryKernel()
        self.kernel.flows = [Flow(DNS, GONE, str(n).encode()) for n in range(flows)]
        self.allowed = {DNS: frozenset({POD}), NTP: frozenset({POD})}
        self.sweep = StaleFlowCleaner(
            self.kernel, lambda servers: {server: self.allowed[server] for server in servers}, CLOCK
        )

    def finish(self, now_s: float = 0.0) -> StaleFlowResult:
        while not (report := self.sweep.run_slice(now_s)):
            pass
        return report.result


def test_nothing_is_due_before_something_is_noted() -> None:
    assert Bench().sweep.due_s == NEVER


def test_what_is_noted_is_due_at_once() -> None:
    bench = Bench()
    bench.sweep.enqueue([DNS], 7.0)
    assert bench.sweep.due_s == 7.0


def test_noting_nothing_makes_nothing_due() -> None:
    bench = Bench()
    bench.sweep.enqueue([], 7.0)
    assert bench.sweep.due_s == NEVER


def test_nothing_is_due_after_a_listing_without_flows() -> None:
    sweep = StaleFlowCleaner(MemoryKernel(), lambda servers: {}, CLOCK)
    sweep.enqueue([DNS], 7.0)
    report = sweep.run_slice(7.0)
    assert report
    assert report.result == StaleFlowResult(servers=0, seen=0, deleted=0, errors=())
    assert sweep.due_s == NEVER


def test_a_finished_sweep_tells_what_it_did_and_is_due_no_more() -> None:
    bench = Bench(flows=3)
    bench.kernel.flows.append(Flow(DNS, POD))
    bench.sweep.enqueue([DNS, NTP], 0.0)
    assert bench.finish() == StaleFlowResult(servers=2, seen=4, deleted=3, errors=())
    assert bench.sweep.due_s == NEVER


def test_a_turn_is_bounded() -> None:
    bench = Bench(flows=SLICE_BATCHES + 1)
    bench.sweep.enqueue([DNS], 0.0)
    assert bench.sweep.run_slice(0.0) is None
    assert len(bench.kernel.flows) == 1


def test_an_endpoint_that_comes_during_a_sweep_keeps_its_flows() -> None:
    bench = Bench(flows=SLICE_BATCHES + 1)
    bench.sweep.enqueue([DNS], 0.0)
    bench.sweep.run_slice(0.0)
    bench.allowed[DNS] = frozenset({POD, GONE})
    bench.sweep.enqueue([DNS], 0.0)
    assert bench.finish().deleted == SLICE_BATCHES


def test_an_endpoint_that_goes_during_a_sweep_is_swept_for_after_it() -> None:
    bench = Bench()
    bench.kernel.flows = [Flow(DNS, POD, str(n).encode()) for n in range(SLICE_BATCHES + 1)]
    bench.sweep.enqueue([DNS], 0.0)
    bench.sweep.run_slice(0.0)
    bench.allowed[DNS] = frozenset()
    bench.sweep.enqueue([DNS], 0.0)
    bench.finish(5.0)
    assert bench.sweep.due_s == 5.0
    bench.finish()
    assert bench.kernel.flows == []


def test_many_changes_during_a_sweep_are_one_more_sweep() -> None:
    bench = Bench(flows=SLICE_BATCHES + 1)
    bench.sweep.enqueue([DNS], 0.0)
    bench.sweep.run_slice(0.0)
    for _ in range(5):
        bench.sweep.enqueue([DNS], 0.0)
        bench.sweep.enqueue([NTP], 0.0)
    bench.finish()
    assert bench.finish().servers == 2
    assert bench.sweep.due_s == NEVER


class BrokenKernel(MemoryKernel):
    works = False

    def udp_flows(self, servers: Collection[VirtualServer]) -> Iterator[list[Flow]]:
        if not self.works:
            raise KernelError("no conntrack", hint="modprobe nf_conntrack_netlink")
        return super().udp_flows(servers)


def broken() -> tuple[StaleFlowCleaner, BrokenKernel]:
    kernel = BrokenKernel()
    sweep = StaleFlowCleaner(kernel, lambda servers: {server: frozenset({POD}) for server in servers}, CLOCK)
    sweep.enqueue([DNS], 0.0)
    assert sweep.run_slice(0.0) is None
    return sweep, kernel


def test_a_kernel_that_can_not_be_asked_is_asked_again_later() -> None:
    sweep, _ = broken()
    sweep.enqueue([NTP], 1.0)
    assert sweep.due_s == RETRY_S


def test_what_could_not_be_swept_is_swept_once_it_can_be() -> None:
    sweep, kernel = broken()
    kernel.works = True
    kernel.flows = [Flow(DNS, GONE)]
    report = sweep.run_slice(RETRY_S)
    assert report
    assert report.result == StaleFlowResult(servers=1, seen=1, deleted=1, errors=())


def test_failures_in_a_row_are_counted() -> None:
    sweep, kernel = broken()
    assert sweep.run_slice(RETRY_S) is None
    assert sweep.failures == 2
    kernel.works = True
    sweep.run_slice(2 * RETRY_S)
    assert sweep.failures == 0
