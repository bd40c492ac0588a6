"""A program that is measured: run in a namespace, known by its log and by what /proc says of it.

Law: it is gone when the `with` ends.
"""

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
    "begins": re.compile(r"kubeproxy-py \S+ starts"),
    "listed": re.compile(r"first list of the feed \w+ is whole"),
}
"""What the agent says on its way to the first sync, told with -v 2."""

_FIRST_SYNC = re.compile(r"\(first sync\)")
_TIMEOUT_S = 120
_TICKS = 100  # a second; USER_HZ

Process = subprocess.Popen[str]


def agent_words(*source: str) -> list[str]:
    """The command line of the agent, told by *source*: its flags."""
    flags = ["--v=2", *(word for name, value in agent.FLAGS.items() for word in (f"--{name}", value))]
    return [sys.executable, "-m", "kubeproxy_py", "run", *source, *flags]


@contextmanager
def running(words: Sequence[str], namespace: Namespace) -> Iterator[Process]:
    """*words*, started; its log is ``stderr``, its other words ``stdout``."""
    pipe, enter = subprocess.PIPE, namespace.enter
    with subprocess.Popen(words, stdout=pipe, stderr=pipe, text=True, preexec_fn=enter) as process:  # noqa: PLW1509 - no threads here
        try:
            yield process
        finally:
            process.send_signal(signal.SIGTERM)
            process.communicate(timeout=_TIMEOUT_S)


def first_sync(process: Process, heard_s: dict[str, float] | None = None) -> str:
    """The agent's line on its first sync, once it was made; when each of STAGES was last said goes to *heard_s*."""
    assert process.stderr is not None
    seen = []
    for line in process.stderr:
        seen.append(line)
        for stage, words in STAGES.items():
            if heard_s is not None and words.search(line):
                heard_s[stage] = time.monotonic()
        if _FIRST_SYNC.search(line):
            return line
    raise AssertionError(f"the agent ended before its first sync: {''.join(seen)}")


def memory_bytes(pid: int) -> dict[str, int]:
    """Peak (VmHWM) and present (VmRSS) resident memory."""
    status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    names = {"peak_bytes": "VmHWM", "rss_bytes": "VmRSS"}
    return {name: int(status[field].split()[0]) * 1024 for name, field in names.items()}


def cpu_s(pid: int) -> tuple[float, float]:
    """CPU seconds so far: of the process itself, and of those that it started and that have ended."""
    words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    own, children = words[11:13], words[13:15]  # utime, stime, cutime, cstime; proc(5)
    return sum(map(int, own)) / _TICKS, sum(map(int, children)) / _TICKS


def wait_s(holds_at_s: float) -> None:
    """Wait until that moment of time.monotonic."""
    time.sleep(max(0.0, holds_at_s - time.monotonic()))
