"""Every wait of the product for a queue ends when its time is over.

`queue.SimpleQueue.get(timeout=...)` of CPython 3.11 and 3.12 does not: it waits for ever if the deadline has passed
when it reads the clock a second time (the remaining time is negative then, which means "no timeout").  Where reading
the clock is a system call, as on the lab kernel, a timeout of some microseconds is enough for that.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import patch

import pytest

from kubeproxy_py.commands.reload import ConfigFile
from kubeproxy_py.compile.compiler import Compiler
from kubeproxy_py.config.load import ConfigInput
from kubeproxy_py.events import poster
from kubeproxy_py.events.recorder import Recorder
from kubeproxy_py.kernel.memory import MemoryKernel
from kubeproxy_py.model.events import Event
from kubeproxy_py.model.peers import PeerNeeds
from kubeproxy_py.reconcile.agent import Agent
from kubeproxy_py.reconcile.loop import Loop
from kubeproxy_py.sources import EventHandler, SourceError, initial_snapshot
from kubeproxy_py.sources.manifests.source import ManifestSource
from tests.builders import node_context

pytestmark = pytest.mark.kernel

TIMEOUTS_S = (1e-6, 5e-6, 2e-5, 1e-4)
REPETITIONS = 5
PATIENCE_S = 10.0

Wait = Callable[[float], object]
"""Waits for up to so many seconds on a new object in which nothing is queued.

Clocks that the product reads before the wait are replaced by constants, or the time would be over before it begins.
"""


def wait_of_loop(timeout_s: float) -> None:
    agent = Agent(MemoryKernel(), Compiler(lambda _node, _addresses: node_context()), lambda: 0.0)
    Loop(agent, alive=lambda: timeout_s).run_cycle()  # no feed is synced, so nothing else is due


def wait_of_config_file(timeout_s: float) -> None:
    config_input = ConfigInput({"config": "/nowhere"}, b"")
    assert not ConfigFile(config_input, lambda _reconfigured: None)._poll_requested(timeout_s)


def wait_of_poster(timeout_s: float) -> None:
    recorder = Recorder("node-a")
    recorder.due_ns = int(timeout_s * 1e9)
    with patch.object(poster, "time_ns", lambda: 0):
        poster.Poster(None, recorder, lambda: 0.0)._post_next()  # type: ignore[arg-type]  # there is nothing to post


def wait_of_manifests(timeout_s: float) -> None:
    assert ManifestSource("/nowhere", "node-a")._wait(timeout_s) == set()


class SilentSource:
    """A source that never delivers its initial lists."""

    def start(self, emit: EventHandler) -> None:
        """Emit nothing."""

    def read_once(self, _timeout_s: float, _on_problem: object) -> list[Event]:
        return []

    def watch_peers(self, needs: PeerNeeds, *, at_once: bool = False) -> None:
        """Read nothing."""

    @staticmethod
    def rejected() -> tuple[()]:
        return ()

    def stop(self) -> None:
        """There is no thread."""


def wait_of_initial_snapshot(timeout_s: float) -> None:
    with patch.object(initial_snapshot, "time", SimpleNamespace(monotonic=lambda: 0.0)), suppress(SourceError):
        initial_snapshot.read_initial_snapshot(SilentSource(), timeout_s)


WAITS = (wait_of_loop, wait_of_config_file, wait_of_poster, wait_of_manifests, wait_of_initial_snapshot)


@pytest.mark.parametrize("timeout_s", TIMEOUTS_S)
@pytest.mark.parametrize("wait", WAITS, ids=lambda wait: wait.__name__)
def test_wait_ends_when_its_time_is_over(wait: Wait, timeout_s: float) -> None:
    for _ in range(REPETITIONS):
        ended = threading.Event()
        thread = threading.Thread(target=_run, args=(wait, timeout_s, ended), daemon=True)
        thread.start()
        assert ended.wait(PATIENCE_S), "still waiting" if thread.is_alive() else "failed"


def _run(wait: Wait, timeout_s: float, ended: threading.Event) -> None:
    wait(timeout_s)
    ended.set()


def test_no_module_waits_with_a_simple_queue() -> None:
    package = Path(__file__).parents[2] / "kubeproxy_py"
    sources = {path: path.read_text(encoding="utf-8") for path in package.rglob("*.py")}
    assert [str(path) for path, text in sources.items() if "SimpleQueue(" in text or "SimpleQueue[" in text] == []
