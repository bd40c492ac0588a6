"""The loop: nothing but the end of the process ends it."""

import pytest

from kubeproxy_py import loop as module
from kubeproxy_py.kernel import KernelError
from kubeproxy_py.loop import Loop
from kubeproxy_py.model.events import ServiceSet, SliceSet
from kubeproxy_py.model.rows import Address
from tests.agent.bench import Bench
from tests.builders import endpoint_slice, service


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
    for event in (ServiceSet(service()), SliceSet(endpoint_slice())):
        bench.agent.take(event, bench.now_s)
    bench.agent.step()
    whole = dict(bench.kernel.rows)
    apply, bench.kernel.rows = bench.kernel.apply, {}
    bench.kernel.apply = None  # type: ignore[assignment,method-assign]
    bench.agent.take(SliceSet(endpoint_slice(endpoints=[])), bench.now_s)
    run_until_tired(bench, Loop(bench.agent), monkeypatch, 1)
    bench.kernel.apply = apply  # type: ignore[method-assign]
    bench.agent.take(SliceSet(endpoint_slice()), bench.now_s)
    bench.agent.step()
    assert bench.kernel.rows == whole
