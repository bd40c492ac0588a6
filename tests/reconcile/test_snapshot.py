"""A snapshot of the agent: what it holds, that nothing in it changes, and when the loop answers a request for one."""

from errno import EINVAL

import pytest

from kubeproxy_py.diagnose.snapshot import Snapshot
from kubeproxy_py.kernel.errors import KernelError
from kubeproxy_py.model.events import AddressesChanged, ServiceDeleted, ServiceUpserted, SliceUpserted
from kubeproxy_py.model.rows import Address, RealServer, VirtualServer
from kubeproxy_py.reconcile.loop import Loop
from tests.builders import endpoint_slice, name, service
from tests.reconcile.harness import AgentHarness


def synced() -> AgentHarness:
    harness = AgentHarness()
    for event in (ServiceUpserted(service()), SliceUpserted(endpoint_slice())):
        harness.agent.handle_event(event, harness.now_s)
    harness.agent.run_due(harness.now_s)
    return harness


def test_snapshot_has_objects_claims_desired_and_actual_rows() -> None:
    harness = synced()
    snapshot = harness.agent.snapshot(harness.now_s, 1_000.0)
    server = next(key for key in snapshot.actual if isinstance(key, VirtualServer))
    assert list(snapshot.services) == [name("web")]
    assert snapshot.claims.holder(server) == name("web")
    assert snapshot.desired_rows() == snapshot.actual
    assert snapshot.slices_of(name("web")) == [endpoint_slice()]
    assert snapshot.is_adopted
    assert not snapshot.pending
    assert snapshot.activity.last_sync_s == harness.now_s
    assert snapshot.wall_time(harness.now_s - 5) == 995.0 + harness.now_s


def test_snapshot_does_not_change_with_the_agent() -> None:
    harness = synced()
    snapshot = harness.agent.snapshot(harness.now_s, 0.0)
    before = (dict(snapshot.actual), snapshot.desired_rows(), dict(snapshot.services), snapshot.slices_of(name("web")))
    servers = set(snapshot.claims.servers())
    harness.agent.handle_event(ServiceDeleted(name("web")), harness.now_s)
    harness.agent.run_due(harness.now_s)
    after = (dict(snapshot.actual), snapshot.desired_rows(), dict(snapshot.services), snapshot.slices_of(name("web")))
    assert after == before
    assert set(snapshot.claims.servers()) == servers
    assert not harness.agent.snapshot(harness.now_s, 0.0).services


def test_snapshot_has_why_a_row_failed_and_when_it_is_tried_again() -> None:
    harness = AgentHarness()
    harness.kernel.fault = lambda step: EINVAL if isinstance(step.key, VirtualServer) else 0
    for event in (ServiceUpserted(service()), SliceUpserted(endpoint_slice())):
        harness.agent.handle_event(event, harness.now_s)
    harness.agent.run_due(harness.now_s)
    snapshot = harness.agent.snapshot(harness.now_s, 0.0)
    failed = [snapshot.retries[key] for key in snapshot.pending if isinstance(key, VirtualServer)]
    waiting = [snapshot.retries[key] for key in snapshot.pending if isinstance(key, RealServer)]
    assert failed
    assert all(retry.failures == 1 and retry.error and retry.due_s > harness.now_s for retry in failed)
    assert all(retry.error for retry in waiting)


def test_snapshot_has_since_when_a_real_server_drains() -> None:
    harness = synced()
    harness.now_s += 7
    harness.agent.handle_event(SliceUpserted(endpoint_slice(endpoints=[])), harness.now_s)
    harness.agent.run_due(harness.now_s)
    draining = harness.agent.snapshot(harness.now_s, 0.0).draining
    assert draining
    assert {drain.since_s for drain in draining.values()} == {harness.now_s}


def test_loop_answers_all_requests_with_one_snapshot_and_nothing_becomes_pending() -> None:
    loop = Loop(synced().agent)
    answers: list[Snapshot] = []
    loop.request_snapshot(answers.append)
    loop.request_snapshot(answers.append)
    loop.run_cycle()
    assert len(answers) == 2
    assert answers[0] is answers[1]
    assert loop._pending_since_s is None


def test_loop_answers_requests_between_two_messages(monkeypatch: pytest.MonkeyPatch) -> None:
    agent = synced().agent
    loop = Loop(agent)
    answered_after: list[str] = []

    def handle(event: ServiceUpserted, _at_s: float) -> None:
        answered_after.append(event.service.name.name)
        if event.service.name.name == "slow":
            loop.request_snapshot(lambda _snapshot: answered_after.append("answer"))

    monkeypatch.setattr(agent, "handle_event", handle)
    loop.enqueue(*(ServiceUpserted(service(each)) for each in ("slow", "next")))
    loop.run_cycle()
    assert answered_after == ["slow", "answer", "next"]


def test_queued_notifications_of_addresses_are_handled_as_one(monkeypatch: pytest.MonkeyPatch) -> None:
    agent = synced().agent
    loop, handled = Loop(agent), list[AddressesChanged]()
    monkeypatch.setattr(agent, "handle_addresses_changed", lambda change, _at_s: handled.append(change))
    loop.enqueue(AddressesChanged(service_addresses={"10.96.0.1": True, "10.96.0.2": True}))
    loop.enqueue(ServiceUpserted(service("other", ("10.96.0.11",))))
    loop.enqueue(AddressesChanged(device=True), AddressesChanged(True, service_addresses={"10.96.0.2": False}))
    loop.run_cycle()
    assert handled == [AddressesChanged(True, True, {"10.96.0.1": True, "10.96.0.2": False})]
    assert name("other") in agent.compiler.cluster.services
    loop.enqueue(AddressesChanged(device=True))
    loop.run_cycle()
    assert handled[1:] == [AddressesChanged(device=True)]


def test_loop_answers_requests_while_it_waits_to_read_the_kernel_again() -> None:
    harness = AgentHarness()

    def fail(_scope: object) -> None:
        raise KernelError("no netlink")

    harness.kernel.rows[Address("10.9.9.9")] = None
    harness.kernel.read = fail  # type: ignore[assignment,method-assign]
    loop = Loop(harness.agent)
    answers: list[Snapshot] = []
    loop.request_snapshot(answers.append)
    loop._sleep(0.01)
    assert [snapshot.is_adopted for snapshot in answers] == [False]


def test_snapshot_has_exactly_the_actual_rows_whatever_fails_waits_or_drains() -> None:
    harness = synced()
    other, more = service("other", ("10.96.0.11",)), service("more", ("10.96.0.12",))
    harness.handle(*(ServiceUpserted(one) for one in (other, more)), SliceUpserted(endpoint_slice("other")))
    harness.kernel.fault = lambda step: EINVAL if isinstance(step.key, VirtualServer) else 0
    harness.handle(ServiceDeleted(name("more")), ServiceUpserted(service("new", ("10.96.0.13",))))
    harness.handle(SliceUpserted(endpoint_slice("other", endpoints=["10.244.1.6"])))
    snapshot, state = harness.agent.snapshot(harness.now_s, 0.0), harness.agent.state
    assert snapshot.pending
    assert snapshot.draining
    assert snapshot.kernel_rows._rows is None  # not copied
    assert snapshot.actual == state.rows
    harness.agent.invalidate()
    assert harness.agent.snapshot(harness.now_s, 0.0).actual == state.rows
