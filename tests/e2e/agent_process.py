"""agent_process: `kubeproxy-py run` as a process of its own in a namespace, known by its log alone.

Law: what a test waits for is a line of the log, or the end of the process; there is no other way to see inside.  The
process is gone when the `with` ends, however it ends.
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
LISTED = r"first list of the feed node is whole"  # the last line before the first sync
SYNCED = r'"synced '
EVENT = r'"synced .* since the event'  # not a sync for drift, nor for what has drained

_PATIENCE_S = 20.0
_LOOK_S = 0.005


def command(folder: Path, *words: str) -> list[str]:
    """The command line of a verb, and flags beyond FLAGS, on the manifests in *folder*."""
    verb, *flags = words
    return [sys.executable, "-m", "kubeproxy_py", verb, "--manifests", str(folder), *FLAGS, *flags]


class AgentProcess:
    """The agent, running within the `with`; its log, so far, is `lines()`."""

    def __init__(self, namespace: Namespace, folder: Path, *flags: str) -> None:
        self._argv = command(folder, "run", *flags)
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
            self.end(signal.SIGKILL)
        self._log.close()

    @property
    def pid(self) -> int:
        return self._started.pid  # nsenter becomes the agent

    def lines(self) -> list[str]:
        """The whole lines of the log so far."""
        text = os.pread(self._log.fileno(), os.fstat(self._log.fileno()).st_size, 0)
        return text.decode().split("\n")[:-1]

    def is_running(self) -> bool:
        return self._started.poll() is None

    def wait_for(self, pattern: str, since: int = 0) -> str:
        """The first line from line *since* on in which *pattern* is found, once it is there."""
        found: list[str] = []

        def look() -> bool:
            running = self.is_running()  # before the log: what it wrote last is then in it
            found.extend(line for line in self.lines()[since:] if re.search(pattern, line))
            assert found or running, f"ended without {pattern!r}:\n{self._tail()}"
            return bool(found)

        wait_until(look, lambda: f"no {pattern!r} in the log:\n{self._tail()}")
        return found[0]

    def wait_synced(self) -> str:
        """What the log says of the first sync, once it was made."""
        return self.wait_for(SYNCED)

    @contextmanager
    def syncing(self, pattern: str = SYNCED) -> Iterator[None]:
        """What is done within has been answered by a sync at the end."""
        since = len(self.lines())
        yield
        self.wait_for(pattern, since)

    def end(self, number: signal.Signals) -> tuple[int, float]:
        """Send the signal and wait; the exit status (-N: by signal N), and how many seconds it took."""
        ended = os.pidfd_open(self.pid)  # Popen.wait with a timeout would look only every 50 ms
        try:
            poll = select.poll()
            poll.register(ended, select.POLLIN)
            before_s = time.monotonic()
            self._started.send_signal(number)
            assert poll.poll(_PATIENCE_S * 1000), f"outlives {number.name}"
            took_s = time.monotonic() - before_s
        finally:
            os.close(ended)
        return self._started.wait(), took_s

    @property
    def _started(self) -> subprocess.Popen[bytes]:
        assert self._process, "not started"
        return self._process

    def _tail(self) -> str:
        return "\n".join(self.lines()[-30:])


def wait_until(
    holds: Callable[[], bool],
    complaint: Callable[[], str] = lambda: "did not come to hold",
    *,
    within_s: float = _PATIENCE_S,
    look_s: float = _LOOK_S,
) -> float:
    """Wait until *holds*, looking every *look_s*; how many seconds that took.

    Fails with *complaint* if it takes longer than *within_s*.
    """
    before_s = time.monotonic()
    while not holds():
        if time.monotonic() - before_s > within_s:
            raise AssertionError(f"{complaint()} (waited {within_s:g} s)")
        time.sleep(look_s)
    return time.monotonic() - before_s
