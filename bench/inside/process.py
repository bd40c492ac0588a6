"""A measured program: run in a namespace within a `with`, observed through its log and /proc."""

import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from bench.inside import agent
from lab.namespace import Namespace

STAGES = {
    "begins": re.compile(r"Starting kubeproxy-py"),
    "listed": re.compile(r'"Received initial list" feed='),
}
"""Log messages of the agent before the first sync, with -v 2."""

_FIRST_SYNC = re.compile(r"\(first sync\)")
_TIMEOUT_S = 120
_TICKS = 100  # a second; USER_HZ

Process = subprocess.Popen[str]


def agent_words(*source: str) -> list[str]:
    """Return the command line of the agent; *source* are the flags of its source, and further ones."""
    flags = ["--v=2", *(word for name, value in agent.FLAGS.items() for word in (f"--{name}", value))]
    return [sys.executable, "-m", "kubeproxy_py", "run", *source, *flags]


@contextmanager
def running(words: Sequence[str], namespace: Namespace) -> Iterator[Process]:
    """Run the command *words* within the `with`; its log is `stderr`."""
    pipe, enter = subprocess.PIPE, namespace.enter
    with subprocess.Popen(words, stdout=pipe, stderr=pipe, text=True, preexec_fn=enter) as process:  # noqa: PLW1509 - no threads here
        try:
            yield process
        finally:
            process.send_signal(signal.SIGTERM)
            process.communicate(timeout=_TIMEOUT_S)


def wait_first_sync(process: Process, logged_s: dict[str, float] | None = None) -> str:
    """Wait for the first sync and return its log line; the times of STAGES are added to *logged_s*."""
    assert process.stderr is not None
    lines = []
    for line in process.stderr:
        lines.append(line)
        for stage, pattern in STAGES.items():
            if logged_s is not None and pattern.search(line):
                logged_s[stage] = time.monotonic()
        if _FIRST_SYNC.search(line):
            return line
    raise AssertionError(f"the agent ended before its first sync: {''.join(lines)}")


def memory_bytes(pid: int) -> dict[str, int]:
    """Return peak (VmHWM) and current (VmRSS) resident memory."""
    status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    names = {"peak_bytes": "VmHWM", "rss_bytes": "VmRSS"}
    return {name: int(status[field].split()[0]) * 1024 for name, field in names.items()}


def cpu_s(pid: int) -> tuple[float, float]:
    """Return the CPU seconds of the process, and of its children that have ended."""
    words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    own, children = words[11:13], words[13:15]  # utime, stime, cutime, cstime; proc(5)
    return sum(map(int, own)) / _TICKS, sum(map(int, children)) / _TICKS


def sleep_until(holds_at_s: float) -> None:
    """Sleep until that time of time.monotonic."""
    time.sleep(max(0.0, holds_at_s - time.monotonic()))
