"""What the loop tells its observer: what waits, what was done, how things stand."""

from __future__ import annotations

from errno import EBUSY

from kubeproxy_py.model.events import Event, Feed, ServiceUpserted, Synced
from kubeproxy_py.model.rows import Link
from kubeproxy_py.reconcile.loop import Loop
from kubeproxy_py.reconcile.reconciler import Timing
from kubeproxy_py.reconcile.report import SyncReport
from kubeproxy_py.reconcile.sync_status import SyncStatus
from tests.builders import service
from tests.reconcile.harness import FEEDS, Bench


class Notes:
    """Keeps the last of each that was told."""

    def __init__(self) -> None:
        self.asked_s: float | None = None
        self.events: list[Event] = []
        self.reports: list[SyncReport] = []
        self.standing = SyncStatus()

    def on_pending_since(self, since_s: float | None) -> None:
        self.asked_s = since_s

    def on_event(self, event: Event) -> None:
        self.events.append(event)

    def on_report(self, report: SyncReport) -> None:
        self.reports.append(report)

    def on_cycle_end(self, standing: SyncStatus) -> None:
        self.standing = standing


def observed(bench: Bench) -> tuple[Loop, Notes]:
    notes = Notes()
    return Loop(bench.agent, observer=notes), notes


def test_what_is_told_waits_until_it_is_done() -> None:
    loop, notes = observed(Bench())
    loop.enqueue(ServiceUpserted(service()))
    assert notes.asked_s is not None
    loop.turn()
    assert notes.asked_s is None
    assert [report.why for report in notes.reports] == ["first sync"]
    assert notes.events == [ServiceUpserted(service())]
    assert notes.standing.desired["VirtualServer"] == 1


def test_what_the_agent_does_not_get_to_goes_on_waiting() -> None:
    bench = Bench(timing=Timing(min_sync_period_s=60.0))
    loop, notes = observed(bench)
    loop.enqueue(ServiceUpserted(service()))
    loop.turn()
    loop.enqueue(ServiceUpserted(service(cluster_ips=("10.96.0.11",))))
    since_s = notes.asked_s
    loop._take_all(0)
    loop._end_turn(notes)
    assert notes.asked_s == since_s
    assert notes.standing.has_work


def test_before_the_first_lists_are_whole_nothing_waits_for_us() -> None:
    bench = Bench(synced=False)
    loop, notes = observed(bench)
    first: Feed = FEEDS[0]
    for event in (ServiceUpserted(service()), Synced(first)):
        loop.enqueue(event)
    loop._take_all(0)
    loop._end_turn(notes)
    assert notes.standing.is_waiting
    assert notes.asked_s is None


def test_rows_that_failed_are_told_and_do_not_count_as_waiting() -> None:
    bench = Bench()
    bench.kernel.fault = lambda step: EBUSY if isinstance(step.key, Link) else 0
    loop, notes = observed(bench)
    loop.enqueue(ServiceUpserted(service()))
    loop.turn()
    assert notes.standing.failed["Link"] == 1
    assert notes.standing.stuck == {"IPv4", "IPv6"}
    assert notes.asked_s is None


def test_a_full_compare_is_told_and_so_is_what_it_found() -> None:
    bench = Bench()
    loop, notes = observed(bench)
    loop.enqueue(ServiceUpserted(service()))
    loop.turn()
    bench.kernel.rows.pop(Link("kube-ipvs0"))
    bench.now_s += 31
    bench.agent.step()
    loop._end_turn(notes)
    assert notes.standing.compares == 1
    assert notes.standing.drift_found == notes.standing.drift_repaired == {"Link": 1}
