"""Commands that ask the agent: how long `status`, `explain` and `trace` take, and how long the loop pauses for that.

The agent and the commands are processes in one namespace; the pause is that of the product's loop, fed with values.
"""

import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from bench import objects
from bench.inside import agent
from bench.inside.network import fresh_namespace
from bench.inside.process import agent_words, memory_bytes, running, wait_first_sync
from kubeproxy_py.diagnose.snapshot import Snapshot
from kubeproxy_py.model.events import Event, ServiceUpserted, SliceUpserted, Synced
from kubeproxy_py.reconcile.report import Report
from kubeproxy_py.sources import FEEDS

_SETTLE_S = 15.0  # after the first sync, which wrote much that is compared once
_WAIT_S = 1.1  # so that each command gets a snapshot of its own
_COMMANDS: dict[str, Sequence[str]] = {
    "status": ("status",),
    "explain": ("explain", "10.96.1.1:80"),
    "status of one": ("status", "--address=10.96.1.1"),
    "trace": ("trace", "--from=node", "--to=10.96.1.1:80"),
}


def measure(n: int, repeats: int) -> dict[str, list[float]]:
    """Return the seconds of each command, of snapshots within the loop, and the agent's memory before and after."""
    figures: dict[str, list[float]] = {"pause": _pauses_s(n, repeats)}
    with TemporaryDirectory() as folder, fresh_namespace() as namespace:
        (Path(folder) / "services").mkdir()
        objects.write_manifests(Path(folder) / "services", n)
        path = f"--debug-socket={folder}/run/debug.sock"
        words = agent_words("--manifests", f"{folder}/services", path)
        with running(words, namespace) as process:
            wait_first_sync(process)
            time.sleep(_SETTLE_S)
            figures["rss_before"] = [memory_bytes(process.pid)["rss_bytes"]]
            for name, command in _COMMANDS.items():
                figures[name] = [_command_s([*command, path]) for _ in range(repeats + 1)][1:]
            figures["rss_after"] = [memory_bytes(process.pid)["rss_bytes"]]
    return figures


def _command_s(words: Sequence[str]) -> float:
    time.sleep(_WAIT_S)
    began_s = time.perf_counter()
    subprocess.run([sys.executable, "-m", "kubeproxy_py", *words], stdout=subprocess.DEVNULL, check=True)
    return time.perf_counter() - began_s


def _pauses_s(n: int, repeats: int) -> list[float]:
    """Return how long the loop needs for each snapshot."""
    with fresh_namespace():
        measured = agent.make_agent(_ignore)
        events: list[Event] = [
            event
            for number in range(n)
            for event in (ServiceUpserted(objects.service(number)), SliceUpserted(objects.endpoint_slice(number)))
        ]
        measured.loop.enqueue(*events, *map(Synced, FEEDS))
        measured.loop.run_cycle()
        pauses_s, kept = [], list[Snapshot]()
        for _ in range(4 * repeats):
            kept.clear()
            began_s = time.perf_counter()
            kept.append(measured.agent.snapshot(began_s, 0.0))
            pauses_s.append(time.perf_counter() - began_s)
        measured.parts.kernel.close()
        return pauses_s


def _ignore(_report: Report) -> None:
    pass
