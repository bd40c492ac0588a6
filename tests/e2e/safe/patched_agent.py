"""An agent whose process runs Python statements before it starts, so that a test can put a bug in it."""

from __future__ import annotations

import sys
from pathlib import Path

from lab.namespace import Namespace
from tests.e2e.agent_process import FLAGS, AgentProcess


def patched_command_line(statements: str, folder: Path, *words: str) -> list[str]:
    """Return the command line of the command *words[0]* on *folder* in a process that first runs *statements*."""
    name, *flags = words
    arguments = [name, "--manifests", str(folder), *FLAGS, *flags]
    program = f"import sys; from kubeproxy_py.__main__ import main; {statements}; main()"
    return [sys.executable, "-c", program, *arguments]


class PatchedAgent(AgentProcess):
    """An agent whose process first runs *statements*."""

    def __init__(self, namespace: Namespace, folder: Path, statements: str, *flags: str) -> None:
        super().__init__(namespace, folder, *flags)
        self._argv = patched_command_line(statements, folder, "run", *flags)
