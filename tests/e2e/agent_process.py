"""`kubeproxy-py run` as a process in a namespace, observed through its log only.

Invariants:
  - A test waits for a line of the log or for the end of the process; nothing else of the agent is visible.
  - The process has ended when the `with` is left, by whatever error.
"""

from __future__ import annotations

import os
import re
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

from lab.namespace import Namespace
from lab.network import NODE_NAME

FLAGS = (
    "--hostname-override",
    NODE_NAME,
    "--cluster-cidr",
    "10.244.0.0/16,fd00:10:244::/56",
    # Only the initial network namespace may write nf_conntrack_max.
    "--conntrack-max-per-core",
    "0",
    "-v2",
)
INITIAL_LISTS = r'"Received initial list" feed="node"'  # the last line before the first sync
SYNCED = r'"Synced '
EVENT = r'"Synced .* since the event'  # not a sync after drift or after draining
SETTLED = r'"Synced .*, 0 pending'  # nothing waits any more, for iptables on a busy machine, for example

# A full compare that takes a second, on a busy machine, delays the next by twenty times that (MAX_CPU_SHARE).
_TIMEOUT_S = 60.0
_POLL_S = 0.005
_LONGEST_POLL_S = 0.1


def command_line(folder: Path, *words: str) -> list[str]:
    """Return the command line of the command *words[0]* on the manifests in *folder*, with FLAGS and further flags."""
    name, *flags = words
    return [sys.executable, "-m", "kubeproxy_py", name, "--manifests", str(folder), *FLAGS, *flags]


class AgentProcess:
    """The agent, running within the `with`; `lines()` is its log."""

    def __init__(self, namespace: Namespace, folder: Path, *flags: str) -> None:
        self._argv = command_line(folder, "run", *flags)
        self._namespace = namespace
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - closed by __exit__
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            self._namespace.wrap(self._argv), stdin=subprocess.DEVNULL, stdout=self._log, stderr=self._log
        )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.is_running():
            self.stop(signal.SIGKILL)
        self._log.close()

    @property
    def pid(self) -> int:
        return self._started.pid  # nsenter becomes the agent

    def lines(self) -> list[str]:
        """Return the complete lines of the log so far."""
        text = os.pread(self._log.fileno(), os.fstat(self._log.fileno()).st_size, 0)
        return text.decode().split("\n")[:-1]

    def is_running(self) -> bool:
        return self._started.poll() is None

    def wait_for(self, pattern: str, since: int = 0) -> str:
        """Wait for a line that matches *pattern*, from line *since* on, and return the first one."""
        matches: list[str] = []

        def is_logged() -> bool:
            running = self.is_running()  # read before the log, so that the last lines of an ended process are seen
            matches.extend(line for line in self.lines()[since:] if re.search(pattern, line))
            assert matches or running, f"ended without {pattern!r}:\n{self._tail()}"
            return bool(matches)

        wait_until(is_logged, lambda: f"no {pattern!r} in the log:\n{self._tail()}")
        return matches[0]

    def wait_synced(self) -> str:
        """Wait for the first sync and return its line of the log."""
        return self.wait_for(SYNCED)

    @contextmanager
    def syncing(self, pattern: str = EVENT) -> Iterator[None]:
        """Wait at the end of the `with` for a line of *pattern* after its start, as a rule the sync of an event."""
        since = len(self.lines())
        yield
        self.wait_for(pattern, since)

    @contextmanager
    def settling(self, pattern: str = EVENT) -> Iterator[None]:
        """Wait at the end of the `with` as `syncing` does, and then for a sync after which nothing is pending.

        On a busy machine iptables may take longer than a sync waits, and rows that need its rules follow later.
        """
        since = len(self.lines())
        yield
        synced = self.wait_for(pattern, since)
        self.wait_for(SETTLED, self.lines().index(synced, since))

    def stop(self, number: signal.Signals) -> tuple[int, float]:
        """Send the signal and wait; return the exit status (-N: killed by signal N) and the seconds until then."""
        ended = os.pidfd_open(self.pid)  # Popen.wait with a timeout polls only every 50 ms
        try:
            poll = select.poll()
            poll.register(ended, select.POLLIN)
            before_s = time.monotonic()
            self._started.send_signal(number)
            assert poll.poll(_TIMEOUT_S * 1000), f"outlives {number.name}"
            took_s = time.monotonic() - before_s
        finally:
            os.close(ended)
        return self._started.wait(), took_s

    @property
    def _started(self) -> subprocess.Popen[bytes]:
        assert self._process, "not started"
        return self._process

    def _tail(self) -> str:
        """Return the end of the log, and of a running agent whether it waited or had no CPU.

        In user-mode-linux the time for which the kernel itself had no CPU counts as that of the process that would run.
        """
        at = (
            f"{time.strftime('%H:%M:%S')}: it has used {cpu_s(self.pid):.1f} s of CPU time" if self.is_running() else ""
        )
        return "\n".join([*self.lines()[-30:], at])


def cpu_s(pid: int) -> float:
    """Return the CPU time of a process, its children aside, in seconds."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / 100


def wait_until(
    condition: Callable[[], bool],
    message: Callable[[], str] = lambda: "condition not met",
    *,
    timeout_s: float = _TIMEOUT_S,
    poll_s: float | None = None,
) -> float:
    """Wait until *condition* and return the seconds waited; fail with *message* on timeout.

    *condition* is checked every *poll_s*.  By default it takes no more than half of the time, because what is waited
    for needs the same CPU, and is checked more seldom the longer it takes.
    """
    before_s = time.monotonic()
    checked_s = before_s
    while not condition():
        now_s = time.monotonic()
        waited_s = now_s - before_s
        if waited_s > timeout_s:
            raise AssertionError(f"{message()} (waited {timeout_s:g} s)")
        time.sleep(min(max(_POLL_S, now_s - checked_s, waited_s / 20), _LONGEST_POLL_S) if poll_s is None else poll_s)
        checked_s = time.monotonic()
    return time.monotonic() - before_s
