"""Cold and warm start: the real program as a process, from exec to its line on the first sync.

Law: it counts only if the kernel, read back by us, then has every row; and warm, only if nothing was written.
"""

import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from bench import objects
from bench.inside import agent
from bench.inside.network import fresh_namespace
from tests.lab.namespace import Namespace

_DONE = re.compile(r"\(first sync\)")
_PHASE = re.compile(r"(compile_ms|plan_ms|apply_ms)=([\d.]+)")
_TIMEOUT_S = 120


def measure(n: int, repeats: int) -> dict[str, Any]:
    """*repeats* starts of each sort: seconds, peak and present memory in bytes, phases in ms."""
    with TemporaryDirectory() as folder:
        objects.write_manifests(Path(folder), n)
        _prime(folder)
        starts = [_cold_then_warm(folder, n) for _ in range(repeats)]
    return {"cold": [cold for cold, _ in starts], "warm": [warm for _, warm in starts]}


def _prime(folder: str) -> None:
    """Have the host's files in memory: a freshly booted kernel has to ask the host for each."""
    words = [sys.executable, "-m", "kubeproxy_py", "plan", "--assume-empty", "--manifests", folder]
    subprocess.run(words, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, timeout=_TIMEOUT_S)


def _cold_then_warm(folder: str, n: int) -> tuple[dict[str, Any], dict[str, Any]]:
    with fresh_namespace() as namespace:
        cold = _start(folder, namespace)
        kernel = agent.parts().kernel
        cold["rows"] = agent.check_programmed(kernel, n)
        kernel.close()
        warm = _start(folder, namespace)
        assert "nothing to do" in warm["line"], warm["line"]
        return cold, warm


def _start(folder: str, namespace: Namespace) -> dict[str, Any]:
    """Run the agent until its first sync, then end it."""
    words = [sys.executable, "-m", "kubeproxy_py", "run", "--manifests", folder]
    words += [word for name, value in agent.FLAGS.items() for word in (f"--{name}", value)]
    began_s = time.monotonic()
    with subprocess.Popen(words, stderr=subprocess.PIPE, text=True, preexec_fn=namespace.enter) as process:  # noqa: PLW1509 - no threads here
        try:
            line = _first_sync(process)
            took_s = time.monotonic() - began_s
            memory = _memory_bytes(process.pid)
        finally:
            process.send_signal(signal.SIGTERM)
            process.communicate(timeout=_TIMEOUT_S)
    phases = {name: float(value) for name, value in _PHASE.findall(line)}
    return {"seconds": took_s, "line": line, **memory, **phases}


def _first_sync(process: "subprocess.Popen[str]") -> str:
    assert process.stderr is not None
    seen = []
    for line in process.stderr:
        seen.append(line)
        if _DONE.search(line):
            return line
    raise AssertionError(f"the agent ended before its first sync: {''.join(seen)}")


def _memory_bytes(pid: int) -> dict[str, int]:
    """Peak (VmHWM) and present (VmRSS) resident memory."""
    status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    names = {"peak_bytes": "VmHWM", "rss_bytes": "VmRSS"}
    return {name: int(status[field].split()[0]) * 1024 for name, field in names.items()}
