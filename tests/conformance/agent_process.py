"""The agent as a process, as on a node, with the folder of manifests that it watches.

It is used only through command line, files and signals.  It has exited when the `with` ends.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

OBJECTS = "objects.yaml"
_STOP_TIMEOUT_S = 60.0
_TAIL_LINES = 12


def write_atomically(path: Path, text: str) -> None:
    """Replace the contents of *path* by *text* with one rename."""
    temporary = path.with_name(f".{path.name}.half")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)


class AgentProcess:
    """`kubeproxy-py run` with the folder *manifests* and the file *config*; it logs to the file *log*."""

    def __init__(self, manifests: Path, config: Path, log: Path) -> None:
        self.log = log
        argv = [sys.executable, "-m", "kubeproxy_py", "run", "--manifests", str(manifests), "--config", str(config)]
        with log.open("ab") as file:
            self._process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=file, stderr=file, cwd="/")

    @property
    def status(self) -> int | None:
        """The exit status; None while it runs."""
        return self._process.poll()

    def stop(self) -> int:
        """Send SIGTERM, as a service manager does, then SIGKILL if it does not exit; return the exit status."""
        if self.status is None:
            self._process.terminate()
        try:
            return self._process.wait(_STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            return self.kill()

    def kill(self) -> int:
        """Send SIGKILL, so that it cannot clean up; return the exit status."""
        if self.status is None:
            os.kill(self._process.pid, signal.SIGKILL)
        return self._process.wait(_STOP_TIMEOUT_S)

    def has_synced(self) -> bool:
        """Return whether the first sync is in the log."""
        return "(first sync)" in self.log.read_text(encoding="utf-8", errors="replace")

    def log_tail(self) -> Sequence[str]:
        return self.log.read_text(encoding="utf-8", errors="replace").splitlines()[-_TAIL_LINES:]


@contextmanager
def running(manifests: Path, config: Path, log: Path) -> Iterator[AgentProcess]:
    """Start the agent, and stop it at the end of the `with`."""
    agent = AgentProcess(manifests, config, log)
    try:
        yield agent
    finally:
        agent.stop()
