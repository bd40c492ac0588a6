"""DriftWatch: drift is found by marks long before the full compare, at bounded cost, and our changes are no drift."""

from collections.abc import Callable, Mapping, Sequence
from errno import EIO
from itertools import pairwise
from typing import Any

import pytest

from kubeproxy_py.kernel import Mark, MarkReader, Readable, Scope, Snapshot
from kubeproxy_py.kernel.errors import KernelError
from kubeproxy_py.kernel.memory import MemoryKernel
from kubeproxy_py.model.events import ServiceUpserted, SliceUpserted
from kubeproxy_py.model.rows import (
    Chain,
    ChainSpec,
    IpsetEntry,
    Key,
    RealServer,
    RealServerSpec,
    Rows,
    VirtualServer,
    VirtualServerSpec,
)
from kubeproxy_py.model.time import NEVER
from kubeproxy_py.reconcile.agent import Timing
from kubeproxy_py.reconcile.drift import PAUSE
from kubeproxy_py.reconcile.drift_watch import COMPARE_BURST_S, COMPARE_SHARE, EVENTS_FIRST_S, MARKS_SHARE
from kubeproxy_py.reconcile.report import Trigger
from tests.builders import endpoint_slice, service
from tests.reconcile.harness import POD, SERVER, AgentHarness, serving

MARKS_S = 2.0
TIMING = Timing(sync_period_s=NEVER, marks_period_s=MARKS_S)
CHAIN = Chain("IPv4", "nat", "KUBE-POSTROUTING")
ENTRY = IpsetEntry("KUBE-CLUSTER-IP", "10.96.0.10,tcp:80")


def watched(**options: Any) -> AgentHarness:
    """Return a harness that serves shop/web, and whose marks are all confirmed; full compares never run."""
    harness = serving(timing=TIMING, **options)
    harness.advance(MARKS_S)
    harness.run_all_due()
    return harness


def compares(harness: AgentHarness) -> int:
    return harness.agent.status().partial_compares


@pytest.mark.parametrize("lost", [SERVER, POD, ENTRY, CHAIN], ids=str)
def test_a_row_that_another_program_deletes_is_restored_when_the_marks_are_read_next(lost: Key) -> None:
    harness = watched()
    before = dict(harness.kernel.rows)
    del harness.kernel.rows[lost]
    if lost == SERVER:
        del harness.kernel.rows[POD]
    (report,) = harness.advance(MARKS_S)
    assert (report.trigger, harness.kernel.rows) == (Trigger.DRIFT, before)


@pytest.mark.parametrize(
    ("key", "spec"),
    [(SERVER, VirtualServerSpec("wlc")), (POD, RealServerSpec(7)), (CHAIN, ChainSpec(("-j ACCEPT",)))],
)
def test_a_row_that_another_program_changes_is_restored(key: Key, spec: object) -> None:
    harness = watched()
    before = dict(harness.kernel.rows)
    harness.kernel.rows[key] = spec  # type: ignore[assignment]
    harness.advance(MARKS_S)
    assert harness.kernel.rows == before


def test_a_changed_scheduler_is_restored_without_comparing_all_virtual_servers() -> None:
    harness = watched()
    before, done = dict(harness.kernel.rows), compares(harness)
    for scheduler in ("wlc", "sh"):
        harness.kernel.rows[SERVER] = VirtualServerSpec(scheduler)
        harness.advance(MARKS_S)
        assert harness.kernel.rows == before
    assert compares(harness) == done


def test_a_scheduler_changed_just_after_a_change_of_ours_is_restored() -> None:
    harness = watched()
    harness.handle(ServiceUpserted(service("other", ["10.96.0.77"])))
    before = dict(harness.kernel.rows)
    harness.kernel.rows[SERVER] = VirtualServerSpec("wlc")
    harness.advance(MARKS_S)
    assert harness.kernel.rows == before


def test_all_rows_deleted_are_restored_by_one_partial_compare() -> None:
    harness = watched()
    before = dict(harness.kernel.rows)
    for key in [key for key in before if isinstance(key, VirtualServer | RealServer | IpsetEntry)]:
        del harness.kernel.rows[key]
    done = compares(harness)
    harness.advance(MARKS_S)
    assert (harness.kernel.rows, compares(harness)) == (before, done + 1)


def test_nothing_is_compared_while_nothing_changes() -> None:
    harness = watched()
    done = compares(harness)
    for _ in range(10):
        assert harness.advance(MARKS_S) == []
    assert compares(harness) == done


def test_our_changes_of_services_and_endpoints_are_not_compared() -> None:
    harness = watched()
    harness.handle(ServiceUpserted(service("other", ["10.96.0.77"])))
    harness.advance(MARKS_S)
    harness.run_all_due()
    done = compares(harness)
    for number in range(20):
        harness.handle(ServiceUpserted(service(f"web-{number}", [f"10.96.1.{number}"])))
        harness.handle(SliceUpserted(endpoint_slice(endpoints=[f"10.244.1.{pod}" for pod in range(5, 7 + number)])))
        harness.advance(MARKS_S)
    assert (compares(harness), harness.agent.status().drift_found) == (done, {})


def test_a_row_lost_while_we_write_others_of_its_scope_is_restored() -> None:
    harness = watched()
    harness.handle(ServiceUpserted(service("other", ["10.96.0.77"])))
    del harness.kernel.rows[ENTRY]
    del harness.kernel.rows[POD]
    harness.advance(MARKS_S)
    assert {ENTRY, POD} <= harness.kernel.rows.keys()


def test_virtual_servers_that_are_not_ours_are_compared_once() -> None:
    foreign = VirtualServer("198.51.100.7", 80, "TCP")
    harness = watched(exclude=("198.51.100.0/24",))
    harness.kernel.rows[foreign] = VirtualServerSpec()
    done = compares(harness)
    for number in range(5):
        harness.handle(ServiceUpserted(service(f"web-{number}", [f"10.96.1.{number}"])))
        harness.advance(MARKS_S)
    assert (compares(harness), foreign in harness.kernel.rows) == (done + 1, True)


class FailingMarksKernel(MemoryKernel):
    """A kernel with a reader of marks that fails, before that of all marks."""

    def __init__(self) -> None:
        super().__init__()
        self.tries = 0

    def mark_readers(self) -> Sequence[MarkReader]:
        return [MarkReader("broken", self._fail), *super().mark_readers()]

    def _fail(self) -> Mapping[str, Mark]:
        self.tries += 1
        raise KernelError("no marks", errno=EIO)


def test_a_reader_that_fails_is_read_again_later_and_does_not_stop_the_others() -> None:
    kernel = FailingMarksKernel()
    harness = watched(kernel=kernel)
    del kernel.rows[ENTRY]
    harness.advance(MARKS_S)
    assert (kernel.tries, harness.applied_steps()) == (1, [("add", ENTRY)])
    harness.advance(60.0)
    assert kernel.tries == 2


def test_marks_that_take_long_to_read_are_read_less_often() -> None:
    harness = serving(timing=TIMING, kernel=(kernel := SlowMarksKernel()))
    kernel.advance = lambda: setattr(harness, "now_s", harness.now_s + 0.1)
    began_s = harness.now_s
    while harness.now_s < began_s + 1000.0:
        harness.advance(MARKS_S)
        harness.run_all_due()
    assert 0 < kernel.reads * 0.1 <= 0.1 + 1000.0 * MARKS_SHARE


class SlowMarksKernel(MemoryKernel):
    """A kernel that calls `advance` whenever its marks are read."""

    def __init__(self) -> None:
        super().__init__()
        self.reads = 0
        self.advance: Callable[[], None] = lambda: None

    def mark_readers(self) -> Sequence[MarkReader]:
        (reader,) = super().mark_readers()
        return [MarkReader(reader.name, lambda: self._read_slowly(reader))]

    def _read_slowly(self, reader: MarkReader) -> Mapping[str, Mark]:
        self.reads += 1
        self.advance()
        return reader.read()


def test_an_event_is_handled_before_marks_that_are_due_are_read() -> None:
    harness = serving(timing=TIMING, kernel=(kernel := SlowMarksKernel()))
    harness.advance(MARKS_S)
    reads = kernel.reads
    harness.now_s += MARKS_S
    (report,) = harness.handle(SliceUpserted(endpoint_slice(endpoints=["10.244.1.5", "10.244.1.99"])))
    assert (report.trigger, kernel.reads) == (Trigger.EVENT, reads)
    harness.advance(0.0)
    assert kernel.reads == reads + 1


def test_marks_are_read_although_events_never_end() -> None:
    harness = serving(timing=TIMING, kernel=(kernel := SlowMarksKernel()))
    period_s, seconds = 0.05, 60.0
    for number in range(int(seconds / period_s)):
        harness.now_s += period_s
        harness.handle(SliceUpserted(endpoint_slice(endpoints=[f"10.244.1.{number % 200}"])))
    longest_s = MARKS_S + EVENTS_FIRST_S + 2 * period_s
    assert seconds / longest_s - 1 <= kernel.reads <= seconds / MARKS_S


def test_partial_compares_take_a_bounded_share_of_the_time() -> None:
    harness = watched()
    read = harness.kernel.read

    def read_slowly(scope: Scope) -> Rows:
        harness.now_s += 1.0
        return read(scope)

    harness.kernel.read = read_slowly  # type: ignore[method-assign]
    began_s, done = harness.now_s, compares(harness)
    while harness.now_s < began_s + 400.0:
        harness.kernel.rows.pop(ENTRY, None)
        harness.advance(MARKS_S)
        harness.run_all_due()
    assert 0 < (compares(harness) - done) * 1.0 <= 1.0 + COMPARE_BURST_S + 400.0 * COMPARE_SHARE


def test_on_a_busy_machine_drift_is_found_when_the_marks_are_read_next() -> None:
    cpu_s = 0.0
    harness = watched(cpu_clock=lambda: cpu_s)
    take = harness.kernel.snapshot

    def take_slowly(readable: Readable) -> Snapshot:
        nonlocal cpu_s
        harness.now_s += 1.0  # other programs have run for most of it
        cpu_s += 0.001
        return take(readable)

    harness.kernel.snapshot = take_slowly  # type: ignore[method-assign]
    for lost in (ENTRY, POD, CHAIN) * 5:
        del harness.kernel.rows[lost]
        harness.advance(MARKS_S)
        harness.run_all_due()
        assert lost in harness.kernel.rows


def test_drift_just_after_a_compare_that_took_long_is_found_when_the_marks_are_read_next() -> None:
    harness = watched()
    take = harness.kernel.snapshot

    def take_slowly(readable: Readable) -> Snapshot:
        harness.now_s += COMPARE_BURST_S / 10
        return take(readable)

    harness.kernel.snapshot = take_slowly  # type: ignore[method-assign]
    harness.advance(100.0)
    for _ in range(2):
        del harness.kernel.rows[ENTRY]
        harness.advance(MARKS_S)
        harness.run_all_due()
        assert ENTRY in harness.kernel.rows


def test_a_foreign_virtual_server_that_comes_back_is_deleted_after_growing_pauses() -> None:
    foreign = VirtualServer("198.51.100.7", 80, "TCP")
    harness = watched()
    deleted_s: list[float] = []
    while harness.now_s < 3000.0:
        harness.kernel.rows.setdefault(foreign, VirtualServerSpec())
        harness.advance(MARKS_S)
        harness.run_all_due()
        deleted_s += [harness.now_s for _, key in harness.applied_steps() if key == foreign]
    waits_s = [later - earlier for earlier, later in pairwise(deleted_s)]
    assert (waits_s[0], waits_s[1] >= PAUSE.first_s) == (MARKS_S, True)
    assert waits_s[-1] == pytest.approx(PAUSE.longest_s, abs=2 * MARKS_S)
    assert len(deleted_s) < 40


def test_a_row_that_packets_need_is_restored_each_time() -> None:
    harness = watched()
    for _ in range(30):
        del harness.kernel.rows[POD]
        harness.advance(MARKS_S)
        harness.run_all_due()
        assert POD in harness.kernel.rows
