"""StaleFlowCleaner: short slices, judged by the destinations allowed now, retried after a failure."""

import time
from collections.abc import Collection, Iterator

from kubeproxy_py.kernel.errors import KernelError
from kubeproxy_py.kernel.memory import MemoryKernel
from kubeproxy_py.model.flows import Flow, StaleFlowResult
from kubeproxy_py.model.rows import VirtualServer
from kubeproxy_py.reconcile.stale_flows import RETRY, SLICE_BATCHES, StaleFlowCleaner

NEVER = float("inf")
CLOCK = time.monotonic  # durations are not compared here
DNS, NTP = VirtualServer("10.96.0.53", 53, "UDP"), VirtualServer("10.96.0.123", 123, "UDP")
POD, REMOVED = ("10.244.1.5", 8080), ("10.244.1.6", 8080)


class CleanerHarness:
    """A StaleFlowCleaner of two virtual servers that both allow POD only; DNS has *flows* flows to REMOVED."""

    def __init__(self, flows: int = 0) -> None:
        self.kernel = MemoryKernel()
        self.kernel.flows = [Flow(DNS, REMOVED, str(n).encode()) for n in range(flows)]
        self.allowed = {DNS: frozenset({POD}), NTP: frozenset({POD})}
        self.cleaner = StaleFlowCleaner(
            self.kernel, lambda servers: {server: self.allowed[server] for server in servers}, CLOCK
        )

    def run_scan(self, now_s: float = 0.0) -> StaleFlowResult:
        """Run slices until the scan ends; return its result."""
        while not (report := self.cleaner.run_slice(now_s)):
            pass
        return report.result


def test_nothing_is_due_before_a_server_is_enqueued() -> None:
    assert CleanerHarness().cleaner.due_s == NEVER


def test_an_enqueued_server_is_due_at_once() -> None:
    harness = CleanerHarness()
    harness.cleaner.enqueue([DNS], 7.0)
    assert harness.cleaner.due_s == 7.0


def test_enqueuing_no_server_makes_nothing_due() -> None:
    harness = CleanerHarness()
    harness.cleaner.enqueue([], 7.0)
    assert harness.cleaner.due_s == NEVER


def test_nothing_is_due_after_a_listing_without_flows() -> None:
    cleaner = StaleFlowCleaner(MemoryKernel(), lambda servers: {}, CLOCK)
    cleaner.enqueue([DNS], 7.0)
    report = cleaner.run_slice(7.0)
    assert report
    assert report.result == StaleFlowResult(servers=0, seen=0, deleted=0, errors=())
    assert cleaner.due_s == NEVER


def test_a_completed_scan_is_reported_and_no_longer_due() -> None:
    harness = CleanerHarness(flows=3)
    harness.kernel.flows.append(Flow(DNS, POD))
    harness.cleaner.enqueue([DNS, NTP], 0.0)
    assert harness.run_scan() == StaleFlowResult(servers=2, seen=4, deleted=3, errors=())
    assert harness.cleaner.due_s == NEVER


def test_a_slice_is_bounded() -> None:
    harness = CleanerHarness(flows=SLICE_BATCHES + 1)
    harness.cleaner.enqueue([DNS], 0.0)
    assert harness.cleaner.run_slice(0.0) is None
    assert len(harness.kernel.flows) == 1


def test_flows_of_an_endpoint_that_is_added_during_a_scan_are_kept() -> None:
    harness = CleanerHarness(flows=SLICE_BATCHES + 1)
    harness.cleaner.enqueue([DNS], 0.0)
    harness.cleaner.run_slice(0.0)
    harness.allowed[DNS] = frozenset({POD, REMOVED})
    harness.cleaner.enqueue([DNS], 0.0)
    assert harness.run_scan().deleted == SLICE_BATCHES


def test_flows_of_an_endpoint_that_is_removed_during_a_scan_are_deleted_by_the_next() -> None:
    harness = CleanerHarness()
    harness.kernel.flows = [Flow(DNS, POD, str(n).encode()) for n in range(SLICE_BATCHES + 1)]
    harness.cleaner.enqueue([DNS], 0.0)
    harness.cleaner.run_slice(0.0)
    harness.allowed[DNS] = frozenset()
    harness.cleaner.enqueue([DNS], 0.0)
    harness.run_scan(5.0)
    assert harness.cleaner.due_s == 5.0
    harness.run_scan()
    assert harness.kernel.flows == []


def test_many_changes_during_a_scan_cause_one_more_scan() -> None:
    harness = CleanerHarness(flows=SLICE_BATCHES + 1)
    harness.cleaner.enqueue([DNS], 0.0)
    harness.cleaner.run_slice(0.0)
    for _ in range(5):
        harness.cleaner.enqueue([DNS], 0.0)
        harness.cleaner.enqueue([NTP], 0.0)
    harness.run_scan()
    assert harness.run_scan().servers == 2
    assert harness.cleaner.due_s == NEVER


class FlakyKernel(MemoryKernel):
    """A kernel that lists flows only if *works* is set."""

    works = False

    def udp_flows(self, servers: Collection[VirtualServer]) -> Iterator[list[Flow]]:
        if not self.works:
            raise KernelError("no conntrack", hint="modprobe nf_conntrack_netlink")
        return super().udp_flows(servers)


def cleaner_after_failed_scan() -> tuple[StaleFlowCleaner, FlakyKernel]:
    """Return a cleaner whose first scan, of DNS, failed, and its kernel."""
    kernel = FlakyKernel()
    cleaner = StaleFlowCleaner(kernel, lambda servers: {server: frozenset({POD}) for server in servers}, CLOCK)
    cleaner.enqueue([DNS], 0.0)
    assert cleaner.run_slice(0.0) is None
    return cleaner, kernel


def test_a_failed_scan_is_retried_later() -> None:
    cleaner, _ = cleaner_after_failed_scan()
    cleaner.enqueue([NTP], 1.0)
    assert cleaner.due_s == RETRY.first_s


def test_a_retry_scans_the_servers_of_the_failed_scan() -> None:
    cleaner, kernel = cleaner_after_failed_scan()
    kernel.works = True
    kernel.flows = [Flow(DNS, REMOVED)]
    report = cleaner.run_slice(RETRY.first_s)
    assert report
    assert report.result == StaleFlowResult(servers=1, seen=1, deleted=1, errors=())


def test_consecutive_failures_are_counted() -> None:
    cleaner, kernel = cleaner_after_failed_scan()
    assert cleaner.run_slice(RETRY.first_s) is None
    assert cleaner.failures == 2
    kernel.works = True
    cleaner.run_slice(2 * RETRY.first_s)
    assert cleaner.failures == 0
