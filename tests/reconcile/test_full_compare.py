"""FullCompare: short slices, correct between syncs, within a bounded share of the time."""

from collections.abc import Iterator
from errno import EBADMSG, EIO

import pytest

from kubeproxy_py.kernel import LINK, VIRTUAL_SERVERS, Readable, Scope, Snapshot, ipset_scope, scope_of
from kubeproxy_py.kernel.errors import KernelError
from kubeproxy_py.model.events import ServiceDeleted, ServiceUpserted, SliceUpserted
from kubeproxy_py.model.rows import (
    DRAINING,
    SERVING,
    Address,
    Chain,
    Ipset,
    IpsetEntry,
    IpsetSpec,
    Key,
    Link,
    RealServer,
    Rows,
    Sysctl,
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


def make_unreadable(harness: AgentHarness, *unreadable: Scope) -> None:
    """Have the kernel fail to read *unreadable*."""
    read, virtual_servers = harness.kernel.read, harness.kernel.virtual_servers

    def fail_or_read(scope: Scope) -> Rows:
        if scope in unreadable:
            raise KernelError(f"{scope} can't be read", errno=EIO)
        return read(scope)

    def fail_or_list() -> Iterator[Rows]:
        if VIRTUAL_SERVERS in unreadable:
            raise KernelError("no virtual server can be read", errno=EIO)
        return virtual_servers()

    harness.kernel.read = fail_or_read  # type: ignore[method-assign]
    harness.kernel.virtual_servers = fail_or_list  # type: ignore[method-assign]


def all_scopes() -> list[Scope]:
    return list(serving().kernel.scopes())


@pytest.mark.parametrize("unreadable", all_scopes(), ids=str)
@pytest.mark.parametrize("compared_before", [False, True])
def test_a_scope_that_cannot_be_read_does_not_stop_the_repair_of_others(
    unreadable: Scope, compared_before: bool, caplog: pytest.LogCaptureFixture
) -> None:
    harness = serving()
    if compared_before:
        harness.advance(PERIOD_S)
    before = dict(harness.kernel.rows)
    make_unreadable(harness, unreadable)
    # A set cannot be deleted while a chain refers to it, so sets lose an entry only.
    victims = [
        key for key in before if scope_of(key) != unreadable and not isinstance(key, Ipset | Link | Sysctl | Chain)
    ]
    for key in victims:
        del harness.kernel.rows[key]
    for _ in range(2):
        harness.advance(PERIOD_S)
        run_compare_if_due(harness)
    assert {key for key in before if scope_of(key) != unreadable} <= harness.kernel.rows.keys()
    assert caplog.text.count("Failed to read a part of kernel state") == 1
    assert harness.agent.status().unread == 1


def make_undecodable(harness: AgentHarness, undecodable: Readable) -> None:
    """Have the kernel list *undecodable* so that its rows cannot be decoded, with another fingerprint than before."""
    snapshot = harness.kernel.snapshot

    def rows() -> Rows:
        raise KernelError("a listing cannot be decoded", errno=EBADMSG)

    def listed(readable: Readable) -> Snapshot:
        return Snapshot(lambda: -1, rows) if readable == undecodable else snapshot(readable)

    harness.kernel.snapshot = listed  # type: ignore[method-assign]


@pytest.mark.parametrize(
    ("undecodable", "lost"),
    [(ipset_scope("KUBE-CLUSTER-IP"), IpsetEntry("KUBE-CLUSTER-IP", "10.96.0.10,tcp:80")), (SERVER, POD)],
    ids=str,
)
def test_a_listing_that_cannot_be_decoded_changes_nothing_and_is_read_again(undecodable: Readable, lost: Key) -> None:
    harness = serving()
    harness.advance(PERIOD_S)
    snapshot = harness.kernel.snapshot
    del harness.kernel.rows[lost]
    make_undecodable(harness, undecodable)
    harness.applied_steps()
    for _ in range(2):
        harness.advance(PERIOD_S)
        assert (harness.applied_steps(), harness.agent.status().unread) == ([], 1)
    harness.kernel.snapshot = snapshot  # type: ignore[method-assign]
    harness.advance(PERIOD_S)
    assert (harness.applied_steps(), harness.agent.status().unread) == ([("add", lost)], 0)


def run_compare_if_due(harness: AgentHarness) -> None:
    while harness.agent.due_s() <= harness.now_s:
        harness.agent.run_due(harness.now_s)


@pytest.mark.parametrize("unreadable", all_scopes(), ids=str)
def test_the_first_sync_programs_everything_although_a_scope_cannot_be_read(unreadable: Scope) -> None:
    complete = serving().kernel.rows
    left_behind = {key: spec for key, spec in complete.items() if scope_of(key) == unreadable}
    readable: Rows = {Ipset("KUBE-PY-TEMPORARY"): IpsetSpec("hash:ip", "IPv4")}
    harness = AgentHarness({**readable, **left_behind})
    harness.kernel.idempotent = True
    make_unreadable(harness, unreadable)
    harness.handle(ServiceUpserted(service()), SliceUpserted(endpoint_slice()))
    assert complete.items() <= harness.kernel.rows.items()


def test_surplus_rows_of_an_unread_scope_are_deleted_once_it_can_be_read(caplog: pytest.LogCaptureFixture) -> None:
    surplus = Address("10.96.0.99")
    readable: Rows = {Ipset("KUBE-PY-TEMPORARY"): IpsetSpec("hash:ip", "IPv4")}
    harness = AgentHarness({**readable, Link("kube-ipvs0"): None, surplus: None})
    harness.kernel.idempotent = True
    read = harness.kernel.read
    make_unreadable(harness, LINK)
    harness.handle(ServiceUpserted(service()), SliceUpserted(endpoint_slice()))
    assert surplus in harness.kernel.rows
    harness.kernel.read = read  # type: ignore[method-assign]
    with caplog.at_level("INFO"):
        harness.advance(PERIOD_S)
        run_compare_if_due(harness)
    assert surplus not in harness.kernel.rows
    assert "can be read again" in caplog.text


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
