"""An agent on a MemoryKernel that answers at a debug socket, for tests of the commands that ask it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from kubeproxy_py import __version__
from kubeproxy_py.config.load import LoadedConfig
from kubeproxy_py.diagnose.snapshot import About
from kubeproxy_py.model.problem import Problem
from kubeproxy_py.server.debug_socket import DebugServer
from kubeproxy_py.server.documents import SOCKET_PAGES, Documents
from kubeproxy_py.server.snapshots import Snapshots
from tests.debug_servers import serving
from tests.diagnose.view import WALL_S
from tests.reconcile.harness import AgentHarness
from tests.server.test_debug_socket import Reader  # the counts of the harness's real server


@contextmanager
def answering(
    harness: AgentHarness,
    path: Path,
    loaded: LoadedConfig,
    version: str = __version__,
    rejected: tuple[Problem, ...] = (),
) -> Iterator[str]:
    """Yield the flag that names the socket, below *path*, of the agent of *harness*, which runs with *loaded*."""

    def answer(reply: object) -> None:
        reply(harness.agent.snapshot(harness.now_s, WALL_S - harness.now_s))  # type: ignore[operator]

    def about() -> About:
        return About(version, source="tests", config=loaded.config, settings=loaded.agent, rejected=rejected)

    file = path / "run" / "debug.sock"
    server = DebugServer(str(file), Documents(Snapshots(answer, about), Reader, SOCKET_PAGES).answer)
    with serving(server):
        yield f"--debug-socket={file}"
