"""The full compare: in short turns, whole at each, and never too much of the time."""

from errno import EIO

import pytest

from kubeproxy_py.kernel import VIRTUAL_SERVERS, Readable, Scope, Snapshot, ipset_scope
from kubeproxy_py.kernel.errors import KernelError
from kubeproxy_py.model.events import ServiceDeleted, ServiceUpserted, SliceUpserted
from kubeproxy_py.model.rows import (
    DRAINING,
    SERVING,
    Address,
    IpsetEntry,
    Key,
    RealServer,
    Rows,
    VirtualServer,
    VirtualServerSpec,
)
from kubeproxy_py.reconcile import full_compare as walk
from kubeproxy_py.reconcile.full_compare import MAX_CPU_SHARE, SLICE_S, YIELD_FACTOR
from kubeproxy_py.reconcile.report import Trigger
from tests.builders import endpoint_slice, name, service
from tests.reconcile.harness import POD, SERVER, Bench, serving

PERIOD_S = 30.0


def slow(bench: Bench, seconds: float) -> list[Scope]:
    """Have each scope take *seconds* to read; which were read, as they are."""
    read, seen = bench.kernel.read, []

    def slowly(scope: Scope) -> Rows:
        bench.now_s += seconds
        seen.append(scope)
        return read(scope)

    bench.kernel.read = slowly  # type: ignore[method-assign]
    return seen


def walk_to_the_end(bench: Bench) -> int:
    """Let the compare that is due end; in how many turns."""
    turns, before = 0, bench.agent.status().compares
    while bench.agent.status().compares == before:
        bench.after(max(0.0, bench.agent.due_s() - bench.now_s))
        turns += 1
    return turns


def test_an_event_waits_for_one_turn_and_not_for_the_whole() -> None:
    bench = serving()
    seen = slow(bench, 1.5 * SLICE_S)
    bench.after(PERIOD_S)
    assert len(seen) == 1
    other = VirtualServer("10.96.0.77", 80, "TCP")
    (report,) = bench.tell(ServiceUpserted(service("other", ["10.96.0.77"])))
    assert report.trigger is Trigger.EVENT
    assert other in bench.kernel.rows
    assert len(seen) == 2
    walk_to_the_end(bench)
    assert set(seen) == {scope for scope in bench.kernel.scopes() if scope != VIRTUAL_SERVERS}
    assert len(seen) == len(set(seen))


def test_a_compare_goes_on_at_once_and_rests_while_events_come() -> None:
    bench = serving()
    seen = slow(bench, 1.5 * SLICE_S)
    bench.after(PERIOD_S)
    assert (len(seen), bench.agent.due_s() <= bench.now_s) == (1, True)
    bench.tell(ServiceUpserted(service("other", ["10.96.0.77"])))
    assert bench.agent.due_s() == pytest.approx(bench.now_s + YIELD_FACTOR * 1.5 * SLICE_S)
    assert len(seen) == 2
    (report,) = bench.tell(ServiceUpserted(service("third", ["10.96.0.78"])))
    assert (len(report.steps) > 0, len(seen)) == (True, 2)
    bench.after(YIELD_FACTOR * 1.5 * SLICE_S)
    assert (len(seen), bench.agent.due_s() <= bench.now_s) == (3, True)


def test_what_is_compiled_while_a_compare_is_under_way_is_no_drift() -> None:
    bench = serving()
    slow(bench, 1.5 * SLICE_S)
    bench.after(PERIOD_S)
    bench.tell(ServiceUpserted(service("other", ["10.96.0.77"])))
    bench.steps()
    walk_to_the_end(bench)
    assert bench.steps() == []


@pytest.mark.parametrize("is_proven", [False, True])
@pytest.mark.parametrize("pieces", range(10, 60))
def test_a_service_that_goes_while_a_compare_is_under_way_is_no_drift(
    monkeypatch: pytest.MonkeyPatch, pieces: int, is_proven: bool
) -> None:
    bench = serving()
    bench.tell(*(ServiceUpserted(service(f"other-{number}", [f"10.96.1.{number}"])) for number in range(6)))
    if is_proven:
        bench.after(PERIOD_S)
    monkeypatch.setattr(walk, "SLICE_S", 0.0)  # a turn ends after each piece
    bench.now_s += PERIOD_S
    for _ in range(pieces):
        bench.agent.step()
    bench.steps()
    bench.tell(ServiceDeleted(name("other-5")))
    assert ("delete", VirtualServer("10.96.1.5", 80, "TCP")) in bench.steps()
    walk_to_the_end(bench)
    assert (bench.steps(), bench.agent.status().drift_found) == ([], {})
    assert VirtualServer("10.96.1.5", 80, "TCP") not in bench.agent.state.fingerprints


def test_a_virtual_server_that_is_lost_comes_back_with_its_real_servers_in_one_sync() -> None:
    bench = serving()
    for key in (SERVER, POD):
        del bench.kernel.rows[key]
    (report,) = bench.after(PERIOD_S)
    assert report.drift_rows == 2
    assert bench.steps() == [("add", SERVER), ("add", POD)]


def looked_into(bench: Bench) -> list[Readable]:
    """Of which parts rows are made from now on."""
    listing, made = bench.kernel.snapshot, []

    def noting(readable: Readable) -> Snapshot:
        told = listing(readable)

        def rows() -> Rows:
            made.append(readable)
            return told.rows()

        return Snapshot(told.fingerprint, rows)

    bench.kernel.snapshot = noting  # type: ignore[method-assign]
    return made


def test_of_what_is_as_it_was_no_rows_are_made() -> None:
    bench = serving()
    made = looked_into(bench)
    bench.after(PERIOD_S)
    assert set(made) == {SERVER, *bench.kernel.scopes()} - {VIRTUAL_SERVERS}
    made.clear()
    bench.after(PERIOD_S)
    assert (made, bench.agent.status().compares) == ([], 2)


def test_of_what_changed_rows_are_made_and_of_nothing_else() -> None:
    bench = serving()
    bench.after(PERIOD_S)
    made = looked_into(bench)
    bench.tell(SliceUpserted(endpoint_slice(endpoints=["10.244.1.5", "10.244.1.6"])))
    bench.steps()
    bench.after(PERIOD_S)
    assert (set(made), bench.steps()) == ({SERVER, ipset_scope("KUBE-LOOP-BACK")}, [])


@pytest.mark.parametrize(
    "whose", [POD, SERVER, Address("10.96.0.10"), IpsetEntry("KUBE-CLUSTER-IP", "10.96.0.10,tcp:80")]
)
def test_what_is_lost_after_it_was_proven_comes_back(whose: Key) -> None:
    bench = serving()
    bench.after(PERIOD_S)
    del bench.kernel.rows[whose]
    bench.after(PERIOD_S)
    assert bench.steps() == [("add", whose)]


def test_what_a_stranger_adds_after_all_was_proven_goes() -> None:
    bench = serving()
    bench.after(PERIOD_S)
    foreign = VirtualServer("10.96.0.77", 80, "TCP")
    behind = RealServer(foreign, "10.244.1.9", 80)
    pod = RealServer(SERVER, "10.244.1.9", 80)
    bench.kernel.rows.update({foreign: VirtualServerSpec(), behind: SERVING, pod: SERVING})
    bench.after(PERIOD_S)
    assert {("delete", foreign), ("update", pod)} <= set(bench.steps())  # a pod drains before it goes
    assert not {foreign, behind} & bench.kernel.rows.keys()
    assert bench.kernel.rows[pod] == DRAINING


def test_a_step_that_the_kernel_says_it_did_and_did_not_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = serving()
    bench.after(PERIOD_S)
    with monkeypatch.context() as patch:
        patch.setattr(bench.kernel, "_carry_out", lambda _step: None)
        bench.tell(SliceUpserted(endpoint_slice(endpoints=["10.244.1.5", "10.244.1.6"])))
    claimed = bench.steps()
    bench.after(PERIOD_S)
    assert (len(claimed), sorted(bench.steps(), key=str)) == (2, sorted(claimed, key=str))


def test_a_compare_that_the_kernel_refuses_is_begun_anew_a_period_later() -> None:
    bench = serving()
    read = bench.kernel.read

    def refuses(scope: Scope) -> Rows:
        raise KernelError(f"{scope} can't be read", errno=EIO)

    bench.kernel.read = refuses  # type: ignore[method-assign]
    with pytest.raises(KernelError):
        bench.after(PERIOD_S)
    bench.kernel.read = read  # type: ignore[method-assign]
    del bench.kernel.rows[POD]
    assert bench.after(PERIOD_S - 1) == []
    assert [report.drift_rows for report in bench.after(1)] == [1]


def test_compares_take_a_bounded_share_of_the_time() -> None:
    bench = serving()
    seen = slow(bench, 1.0)
    bench.after(PERIOD_S)
    walk_to_the_end(bench)
    took_s = len(seen) * 1.0
    assert bench.agent.due_s() == pytest.approx(bench.now_s + took_s / MAX_CPU_SHARE)
    assert took_s / MAX_CPU_SHARE > PERIOD_S
