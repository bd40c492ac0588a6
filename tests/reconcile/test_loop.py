"""The loop: nothing but the end of the process ends it."""

import gc

import pytest

from kubeproxy_py.kernel.errors import KernelError
from kubeproxy_py.model.events import Event, ServiceUpserted, SliceDeleted, SliceUpserted
from kubeproxy_py.model.rows import Address, RealServer
from kubeproxy_py.reconcile import loop as module
from kubeproxy_py.reconcile.loop import Loop
from tests.builders import endpoint_slice, name, service
from tests.reconcile.harness import Bench


class EndError(BaseException):
    """The process ends."""


def run_until_tired(bench: Bench, loop: Loop, monkeypatch: pytest.MonkeyPatch, naps: int) -> list[float]:
    """Run *loop* until it has waited *naps* times; how long each time."""
    waits: list[float] = []

    def nap(seconds: float) -> None:
        waits.append(seconds)
        if len(waits) == naps:
            raise EndError

    monkeypatch.setattr(module, "sleep", nap)
    monkeypatch.setattr(module, "monotonic", lambda: bench.now_s)
    with pytest.raises(EndError):
        loop.run()
    return waits


@pytest.mark.parametrize("error", [KernelError("no netlink"), RuntimeError("a bug")])
def test_whatever_goes_wrong_is_tried_again_later_and_later(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench()

    def fail(_scope: object) -> None:
        raise error

    bench.kernel.rows[Address("10.9.9.9")] = None
    bench.kernel.read = fail  # type: ignore[assignment,method-assign]
    assert run_until_tired(bench, Loop(bench.agent), monkeypatch, 7) == [1, 2, 4, 8, 16, 30, 30]


def test_after_a_bug_the_kernel_is_read_anew_and_everything_is_served(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench()
    for event in (ServiceUpserted(service()), SliceUpserted(endpoint_slice())):
        bench.agent.handle_event(event, bench.now_s)
    bench.agent.step()
    whole = dict(bench.kernel.rows)
    apply, bench.kernel.rows = bench.kernel.apply, {}
    bench.kernel.apply = None  # type: ignore[assignment,method-assign]
    bench.agent.handle_event(SliceUpserted(endpoint_slice(endpoints=[])), bench.now_s)
    run_until_tired(bench, Loop(bench.agent), monkeypatch, 1)
    bench.kernel.apply = apply  # type: ignore[method-assign]
    bench.agent.handle_event(SliceUpserted(endpoint_slice()), bench.now_s)
    bench.agent.step()
    assert bench.kernel.rows == whole


def test_what_was_told_together_with_something_that_brings_out_a_bug_is_known_all_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bench = Bench()
    take = bench.agent.handle_event

    def stumble(event: Event, at_s: float) -> None:
        if event == SliceDeleted(name("odd")):
            raise RuntimeError("a bug")
        take(event, at_s)

    monkeypatch.setattr(bench.agent, "handle_event", stumble)
    loop = Loop(bench.agent)
    loop.enqueue(ServiceUpserted(service()), SliceDeleted(name("odd")), SliceUpserted(endpoint_slice()))
    run_until_tired(bench, loop, monkeypatch, 1)
    loop.run_cycle()
    served = {key for key in bench.kernel.rows if isinstance(key, RealServer)}
    assert [server.address for server in served] == ["10.244.1.5"]


def test_garbage_is_looked_for_as_usual_once_the_first_sync_is_made() -> None:
    usual = gc.get_threshold()
    try:
        gc.set_threshold(100_000, 20, 20)
        Loop(Bench().agent).run_cycle()
        assert gc.get_threshold() == module.DEFAULT_GC_THRESHOLD
    finally:
        gc.set_threshold(*usual)
        gc.unfreeze()
