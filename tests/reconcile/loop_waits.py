"""Run a loop until it has waited for some retries."""

import pytest

from kubeproxy_py.reconcile import loop as module
from kubeproxy_py.reconcile.loop import Loop
from tests.reconcile.harness import AgentHarness


class ProcessEnded(BaseException):
    """Ends the loop, as the end of the process does."""


def run_until_waits(harness: AgentHarness, loop: Loop, monkeypatch: pytest.MonkeyPatch, count: int) -> list[float]:
    """Run *loop* until it has waited for a retry *count* times; return the duration of each wait, in seconds."""
    waits: list[float] = []

    def wait(seconds: float) -> None:
        waits.append(seconds)
        if len(waits) == count:
            raise ProcessEnded

    monkeypatch.setattr(loop, "_pause", wait)
    monkeypatch.setattr(module, "monotonic", lambda: harness.now_s)
    with pytest.raises(ProcessEnded):
        loop.run()
    return waits
