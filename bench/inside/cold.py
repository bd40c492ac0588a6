"""Cold, warm and offline start: the program as a process, from exec to its log line of the first sync.

Invariants:
  - A cold start is valid only if the kernel, read back by the bench, has every row.
  - A warm start is valid only if it wrote nothing.
  - An offline start is a cold one from saved objects, while the API server refuses connections.
"""

import re
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from bench import objects
from bench.inside import agent
from bench.inside.machine import page_faults
from bench.inside.network import fresh_namespace
from bench.inside.process import agent_words, cpu_s, memory_bytes, running, wait_first_sync
from bench.inside.standin import stand_in
from kubeproxy_py.commands.exit_status import CHANGES
from kubeproxy_py.sources.saved.folder import NAME
from lab.namespace import Namespace

_PHASE = re.compile(r"(compile_ms|plan_ms|apply_ms)=([\d.]+)")
_TIMEOUT_S = 120

Start = dict[str, Any]


def measure(n: int, repeats: int) -> dict[str, list[Start]]:
    """Measure *repeats* starts of each kind: seconds, CPU seconds, peak and resident memory in bytes, phases in ms."""
    with TemporaryDirectory() as folder:
        objects.write_manifests(Path(folder), n)
        prime(folder)
        starts = [_cold_then_warm(folder, n) for _ in range(repeats)]
    return {"cold": [cold for cold, _ in starts], "warm": [warm for _, warm in starts]}


def measure_api(n: int, repeats: int) -> dict[str, list[Start]]:
    """Measure *repeats* cold starts from the stand-in API server, with its CPU seconds."""
    with TemporaryDirectory() as folder:
        path = Path(folder, "objects.json")
        objects.write_list(path, n)
        prime(folder)
        return {"cold": [_cold_from_api(path, n) for _ in range(repeats)]}


def measure_offline(n: int, repeats: int) -> dict[str, list[Start]]:
    """Measure *repeats* cold starts from the objects that an agent saved before its API server ended."""
    with TemporaryDirectory() as folder:
        path, saved = Path(folder, "objects.json"), Path(folder, "state")
        objects.write_list(path, n)
        words = agent_words("--state-dir", str(saved), "--master", _saved(path, saved))
        return {"offline": [_offline(words, n) for _ in range(repeats)]}


def _saved(path: Path, folder: Path) -> str:
    """Have an agent save the objects of *path* in *folder*; return the URL of the API server, which has ended."""
    with fresh_namespace() as namespace, stand_in(path, namespace) as server:
        with running(agent_words("--state-dir", str(folder), "--master", server.url), namespace) as process:
            wait_first_sync(process)
            deadline_s = time.monotonic() + _TIMEOUT_S
            while not (folder / NAME).exists():
                assert time.monotonic() < deadline_s, "nothing was saved"
                time.sleep(0.1)
        return server.url


def _offline(words: list[str], n: int) -> Start:
    with fresh_namespace() as namespace:
        started = start(words, namespace)
        _check(n)
        return started


def prime(folder: str) -> None:
    """Read the host's files into memory: a kernel after boot must request each from the host."""
    words = [sys.executable, "-m", "kubeproxy_py", "plan", "--assume-empty", "--manifests", folder]
    ended = subprocess.run(words, check=False, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, timeout=_TIMEOUT_S)
    assert ended.returncode == CHANGES, ended


def _cold_then_warm(folder: str, n: int) -> tuple[Start, Start]:
    with fresh_namespace() as namespace:
        words = agent_words("--manifests", folder)
        cold = start(words, namespace)
        _check(n)
        warm = start(words, namespace)
        assert "nothing to do" in warm["line"], warm["line"]
        return cold, warm


def _cold_from_api(path: Path, n: int) -> Start:
    with fresh_namespace() as namespace, stand_in(path, namespace) as server:
        before_s, _ = cpu_s(server.pid)
        cold = start(agent_words("--master", server.url), namespace)
        cold["server_s"] = cpu_s(server.pid)[0] - before_s
        _check(n)
        return cold


def start(words: list[str], namespace: Namespace) -> Start:
    """Run the agent until its first sync, then stop it."""
    logged_s: dict[str, float] = {}
    began_s = time.monotonic()
    with running(words, namespace) as process:
        line = wait_first_sync(process, logged_s)
        took_s = time.monotonic() - began_s
        memory = {**memory_bytes(process.pid), "faults": page_faults(process.pid), "cpu_s": sum(cpu_s(process.pid))}
    phases = {name: float(value) for name, value in _PHASE.findall(line)}
    stages = {"begins_s": logged_s["begins"] - began_s, "lists_s": logged_s["listed"] - logged_s["begins"]}
    return {"seconds": took_s, "line": line, **stages, **memory, **phases}


def _check(n: int) -> None:
    kernel = agent.make_parts().kernel
    agent.check_programmed(kernel, n)
    kernel.close()
