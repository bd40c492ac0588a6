"""FullCompare: short slices, correct between syncs, within a bounded share of the time."""

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
from kubeproxy_py.reconcile import full_compare as module
from kubeproxy_py.reconcile.full_compare import MAX_CPU_SHARE, SLICE_S, YIELD_FACTOR
from kubeproxy_py.reconcile.report import Trigger
from tests.builders import endpoint_slice, name, service
from tests.reconcile.harness import POD, SERVER, AgentHarness, serving

PERIOD_S = 30.0


def slow_down_reads(harness: AgentHarness, seconds: float) -> list[Scope]:
    """Make each read of a scope last *seconds*; return a list that receives each scope that is read."""
    read, scopes_read = harness.kernel.read, []

    def read_slowly(scope: Scope) -> Rows:
        harness.now_s += seconds
        scopes_read.append(scope)
        return read(scope)

    harness.kernel.read = read_slowly  # type: ignore[method-assign]
    return scopes_read


def run_compare(harness: AgentHarness) -> int:
    """Run the compare that is due to its end; return the number of slices."""
    slices, before = 0, harness.agent.status().compares
    while harness.agent.status().compares == before:
        harness.advance(max(0.0, harness.agent.due_s() - harness.now_s))
        slices += 1
    return slices


def test_an_event_waits_for_one_slice_and_not_for_the_full_compare() -> None:
    harness = serving()
    scopes_read = slow_down_reads(harness, 1.5 * SLICE_S)
    harness.advance(PERIOD_S)
    assert len(scopes_read) == 1
    other = VirtualServer("10.96.0.77", 80, "TCP")
    (report,) = harness.handle(ServiceUpserted(service("other", ["10.96.0.77"])))
    assert report.trigger is Trigger.EVENT
    assert other in harness.kernel.rows
    assert len(scopes_read) == 2
    run_compare(harness)
    assert set(scopes_read) == {scope for scope in harness.kernel.scopes() if scope != VIRTUAL_SERVERS}
    assert len(scopes_read) == len(set(scopes_read))


def test_a_compare_continues_at_once_but_pauses_while_events_arrive() -> None:
    harness = serving()
    scopes_read = slow_down_reads(harness, 1.5 * SLICE_S)
    harness.advance(PERIOD_S)
    assert (len(scopes_read), harness.agent.due_s() <= harness.now_s) == (1, True)
    harness.handle(ServiceUpserted(service("other", ["10.96.0.77"])))
    assert harness.agent.due_s() == pytest.approx(harness.now_s + YIELD_FACTOR * 1.5 * SLICE_S)
    assert len(scopes_read) == 2
    (report,) = harness.handle(ServiceUpserted(service("third", ["10.96.0.78"])))
    assert (len(report.steps) > 0, len(scopes_read)) == (True, 2)
    harness.advance(YIELD_FACTOR * 1.5 * SLICE_S)
    assert (len(scopes_read), harness.agent.due_s() <= harness.now_s) == (3, True)


def test_rows_that_are_synced_during_a_compare_are_not_drift() -> None:
    harness = serving()
    slow_down_reads(harness, 1.5 * SLICE_S)
    harness.advance(PERIOD_S)
    harness.handle(ServiceUpserted(service("other", ["10.96.0.77"])))
    harness.applied_steps()
    run_compare(harness)
    assert harness.applied_steps() == []


@pytest.mark.parametrize("compared_before", [False, True])
@pytest.mark.parametrize("parts", range(10, 60))
def test_a_service_that_is_deleted_during_a_compare_is_not_drift(
    monkeypatch: pytest.MonkeyPatch, parts: int, compared_before: bool
) -> None:
    harness = serving()
    harness.handle(*(ServiceUpserted(service(f"other-{number}", [f"10.96.1.{number}"])) for number in range(6)))
    if compared_before:
        harness.advance(PERIOD_S)
    monkeypatch.setattr(module, "SLICE_S", 0.0)  # a slice ends after each part
    harness.now_s += PERIOD_S
    for _ in range(parts):
        harness.agent.run_due(harness.now_s)
    harness.applied_steps()
    harness.handle(ServiceDeleted(name("other-5")))
    assert ("delete", VirtualServer("10.96.1.5", 80, "TCP")) in harness.applied_steps()
    run_compare(harness)
    assert (harness.applied_steps(), harness.agent.status().drift_found) == ([], {})
    assert VirtualServer("10.96.1.5", 80, "TCP") not in harness.agent.state.fingerprints


def test_a_lost_virtual_server_is_restored_with_its_real_servers_in_one_sync() -> None:
    harness = serving()
    for key in (SERVER, POD):
        del harness.kernel.rows[key]
    (report,) = harness.advance(PERIOD_S)
    assert report.drift_rows == 2
    assert harness.applied_steps() == [("add", SERVER), ("add", POD)]


def record_decoded(harness: AgentHarness) -> list[Readable]:
    """Return a list that receives each part of kernel state whose rows are decoded from now on."""
    snapshot_of, decoded = harness.kernel.snapshot, []

    def recording(readable: Readable) -> Snapshot:
        snapshot = snapshot_of(readable)

        def rows() -> Rows:
            decoded.append(readable)
            return snapshot.rows()

        return Snapshot(snapshot.fingerprint, rows)

    harness.kernel.snapshot = recording  # type: ignore[method-assign]
    return decoded


def test_unchanged_parts_are_not_decoded() -> None:
    harness = serving()
    decoded = record_decoded(harness)
    harness.advance(PERIOD_S)
    assert set(decoded) == {SERVER, *harness.kernel.scopes()} - {VIRTUAL_SERVERS}
    decoded.clear()
    harness.advance(PERIOD_S)
    assert (decoded, harness.agent.status().compares) == ([], 2)


def test_only_changed_parts_are_decoded() -> None:
    harness = serving()
    harness.advance(PERIOD_S)
    decoded = record_decoded(harness)
    harness.handle(SliceUpserted(endpoint_slice(endpoints=["10.244.1.5", "10.244.1.6"])))
    harness.applied_steps()
    harness.advance(PERIOD_S)
    assert (set(decoded), harness.applied_steps()) == ({SERVER, ipset_scope("KUBE-LOOP-BACK")}, [])


@pytest.mark.parametrize(
    "lost", [POD, SERVER, Address("10.96.0.10"), IpsetEntry("KUBE-CLUSTER-IP", "10.96.0.10,tcp:80")]
)
def test_a_row_that_is_lost_after_a_compare_is_restored(lost: Key) -> None:
    harness = serving()
    harness.advance(PERIOD_S)
    del harness.kernel.rows[lost]
    harness.advance(PERIOD_S)
    assert harness.applied_steps() == [("add", lost)]


def test_rows_that_another_program_adds_after_a_compare_are_deleted() -> None:
    harness = serving()
    harness.advance(PERIOD_S)
    foreign = VirtualServer("10.96.0.77", 80, "TCP")
    behind = RealServer(foreign, "10.244.1.9", 80)
    pod = RealServer(SERVER, "10.244.1.9", 80)
    harness.kernel.rows.update({foreign: VirtualServerSpec(), behind: SERVING, pod: SERVING})
    harness.advance(PERIOD_S)
    assert {("delete", foreign), ("update", pod)} <= set(harness.applied_steps())  # a pod drains before it is deleted
    assert not {foreign, behind} & harness.kernel.rows.keys()
    assert harness.kernel.rows[pod] == DRAINING


def test_a_step_that_the_kernel_acknowledged_but_did_not_apply_is_detected(monkeypatch: pytest.MonkeyPatch) -> None:
    harness = serving()
    harness.advance(PERIOD_S)
    with monkeypatch.context() as patch:
        patch.setattr(harness.kernel, "_carry_out", lambda _step: None)
        harness.handle(SliceUpserted(endpoint_slice(endpoints=["10.244.1.5", "10.244.1.6"])))
    acknowledged = harness.applied_steps()
    harness.advance(PERIOD_S)
    assert (len(acknowledged), sorted(harness.applied_steps(), key=str)) == (2, sorted(acknowledged, key=str))


def test_a_compare_that_fails_begins_again_a_period_later() -> None:
    harness = serving()
    read = harness.kernel.read

    def fail(scope: Scope) -> Rows:
        raise KernelError(f"{scope} can't be read", errno=EIO)

    harness.kernel.read = fail  # type: ignore[method-assign]
    with pytest.raises(KernelError):
        harness.advance(PERIOD_S)
    harness.kernel.read = read  # type: ignore[method-assign]
    del harness.kernel.rows[POD]
    assert harness.advance(PERIOD_S - 1) == []
    assert [report.drift_rows for report in harness.advance(1)] == [1]


def test_compares_use_a_bounded_share_of_the_time() -> None:
    harness = serving()
    scopes_read = slow_down_reads(harness, 1.0)
    harness.advance(PERIOD_S)
    run_compare(harness)
    took_s = len(scopes_read) * 1.0
    assert took_s / MAX_CPU_SHARE > PERIOD_S
    scopes_read.clear()
    harness.advance(took_s / MAX_CPU_SHARE - 1)
    assert scopes_read == []
    harness.advance(1)
    assert scopes_read
