"""Loop: failures are logged and retried; only the end of the process ends it."""

import gc

import pytest

from kubeproxy_py.kernel.errors import KernelError
from kubeproxy_py.model.events import Event, ServiceUpserted, SliceDeleted, SliceUpserted
from kubeproxy_py.model.rows import Address, RealServer
from kubeproxy_py.reconcile import loop as module
from kubeproxy_py.reconcile.loop import Loop
from tests.builders import endpoint_slice, name, service
from tests.reconcile.harness import AgentHarness
from tests.reconcile.loop_waits import run_until_waits


@pytest.mark.parametrize("error", [KernelError("no netlink"), RuntimeError("a bug")])
def test_any_failure_is_retried_with_backoff(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    harness = AgentHarness()

    def fail(_scope: object) -> None:
        raise error

    harness.kernel.rows[Address("10.9.9.9")] = None
    harness.kernel.read = fail  # type: ignore[assignment,method-assign]
    assert run_until_waits(harness, Loop(harness.agent), monkeypatch, 7) == [1, 2, 4, 8, 16, 30, 30]


def test_after_an_internal_error_the_kernel_is_read_again_and_everything_is_served(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    harness = AgentHarness()
    for event in (ServiceUpserted(service()), SliceUpserted(endpoint_slice())):
        harness.agent.handle_event(event, harness.now_s)
    harness.agent.run_due(harness.now_s)
    expected_rows = dict(harness.kernel.rows)
    apply, harness.kernel.rows = harness.kernel.apply, {}
    harness.kernel.apply = None  # type: ignore[assignment,method-assign]
    harness.agent.handle_event(SliceUpserted(endpoint_slice(endpoints=[])), harness.now_s)
    run_until_waits(harness, Loop(harness.agent), monkeypatch, 1)
    harness.kernel.apply = apply  # type: ignore[method-assign]
    harness.agent.handle_event(SliceUpserted(endpoint_slice()), harness.now_s)
    harness.agent.run_due(harness.now_s)
    assert harness.kernel.rows == expected_rows


def test_messages_enqueued_with_one_that_triggers_an_internal_error_are_handled(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    harness = AgentHarness()
    handle_event = harness.agent.handle_event

    def fail_for_one(event: Event, at_s: float) -> None:
        if event == SliceDeleted(name("bad")):
            raise RuntimeError("a bug")
        handle_event(event, at_s)

    monkeypatch.setattr(harness.agent, "handle_event", fail_for_one)
    loop = Loop(harness.agent)
    loop.enqueue(ServiceUpserted(service()), SliceDeleted(name("bad")), SliceUpserted(endpoint_slice()))
    run_until_waits(harness, loop, monkeypatch, 1)
    loop.run_cycle()
    served = {key for key in harness.kernel.rows if isinstance(key, RealServer)}
    assert [server.address for server in served] == ["10.244.1.5"]


def test_garbage_collection_has_its_default_threshold_after_the_first_sync() -> None:
    threshold = gc.get_threshold()
    try:
        gc.set_threshold(100_000, 20, 20)
        Loop(AgentHarness().agent).run_cycle()
        assert gc.get_threshold() == module.DEFAULT_GC_THRESHOLD
    finally:
        gc.set_threshold(*threshold)
        gc.unfreeze()
