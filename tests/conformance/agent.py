"""agent: the agent as the process that it is on a node, and the folder of manifests that it watches.

Law: it is spoken to as by its users: command line, files, signals.  It is gone when the `with` is over.
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
_END_S = 10.0
_TAIL_LINES = 12


def write_whole(path: Path, text: str) -> None:
    """Replace *path* by *text* in one move, as a careful tool does."""
    half = path.with_name(f".{path.name}.half")
    half.write_text(text, encoding="utf-8")
    half.replace(path)


class AgentProcess:
    """`kubeproxy-py run` on the folder *manifests* with the file *config*; its log is in *log*."""

    def __init__(self, manifests: Path, config: Path, log: Path) -> None:
        self.log = log
        words = [sys.executable, "-m", "kubeproxy_py", "run", "--manifests", str(manifests), "--config", str(config)]
        with log.open("ab") as file:
            self._process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=file, stderr=file, cwd="/")

    @property
    def status(self) -> int | None:
        """The exit status; None while it runs."""
        return self._process.poll()

    def end(self) -> int:
        """SIGTERM, as a service manager sends it; the exit status.  One that does not heed it is killed."""
        if self.status is None:
            self._process.terminate()
        try:
            return self._process.wait(_END_S)
        except subprocess.TimeoutExpired:
            return self.kill()

    def kill(self) -> int:
        """SIGKILL: it gets no chance to tidy up."""
        if self.status is None:
            os.kill(self._process.pid, signal.SIGKILL)
        return self._process.wait(_END_S)

    def last_words(self) -> Sequence[str]:
        return self.log.read_text(encoding="utf-8", errors="replace").splitlines()[-_TAIL_LINES:]


@contextmanager
def running(manifests: Path, config: Path, log: Path) -> Iterator[AgentProcess]:
    """The agent, started at the beginning and ended at the end."""
    agent = AgentProcess(manifests, config, log)
    try:
        yield agent
    finally:
        agent.end()
