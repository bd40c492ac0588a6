"""What no Service asks for is not looked for in the kernel again and again, and left-overs of it are found at start."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import patch

import pytest

from kubeproxy_py.kernel import Scope
from kubeproxy_py.kernel.address.loopback import LoopbackAdapter
from kubeproxy_py.kernel.address.tunnel import TunnelAdapter
from kubeproxy_py.model.rows import Rows
from kubeproxy_py.reconcile.drift_watch import MARKS_PERIOD_S
from lab.network import Cluster
from tests.e2e.handing_on import Served, write
from tests.e2e.in_process_agent import InProcessAgent
from tests.e2e.kernel_state import run, shell
from tests.e2e.manifests import Folder

pytestmark = [pytest.mark.kernel, pytest.mark.timeout(280)]

HANDED_ON = Served("far", 3, ("pod-b1",), "tunnel")
RETURN_RULE = "from all iif tunl0 blackhole"


@contextmanager
def counted_reads() -> Iterator[dict[type, int]]:
    """Count how often the rows of each adapter are read, within the `with`."""
    reads: dict[type, int] = {TunnelAdapter: 0, LoopbackAdapter: 0}

    def counting(adapter: type[TunnelAdapter] | type[LoopbackAdapter]) -> object:
        original = adapter.read

        def read(self: object, scope: Scope) -> Rows:
            reads[adapter] += 1
            return original(self, scope)  # type: ignore[arg-type]

        return patch.object(adapter, "read", read)

    with counting(TunnelAdapter), counting(LoopbackAdapter):  # type: ignore[attr-defined]
        yield reads


def is_up(cluster: Cluster) -> bool:
    return "UP" in shell(cluster.node_a, "ip link show tunl0 2>/dev/null || true").split(">")[0]


def test_return_tunnels_are_read_with_the_marks_only_while_there_are_any(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    write(folder)
    with Cluster(ipv4_forward=True) as cluster, cluster.node_a.inside(), counted_reads() as reads:

        def started() -> InProcessAgent:
            made = InProcessAgent(tmp_path, marks_period_s=MARKS_PERIOD_S, policies="exact", drain_deadline="20s")
            made.sync_folder()
            return made

        def read_by(agent: InProcessAgent) -> dict[type, int]:
            """Return what three readings of the marks read."""
            before = dict(reads)
            for _ in range(3):
                agent.advance(MARKS_PERIOD_S)
            return {adapter: number - before[adapter] for adapter, number in reads.items()}

        agent = started()
        assert reads == {TunnelAdapter: 1, LoopbackAdapter: 1}, "at the start"
        assert read_by(agent) == {TunnelAdapter: 0, LoopbackAdapter: 0}
        write(folder, HANDED_ON)
        agent.sync_folder()
        agent.sync_folder()  # the Nodes, which are read now
        assert is_up(cluster)
        found = read_by(agent)
        assert (found[TunnelAdapter] >= 3, found[LoopbackAdapter]) == (True, 0)
        shell(cluster.node_a, "ip link set tunl0 down")
        read_by(agent)
        assert is_up(cluster), "it is repaired"
        agent.close()
        write(folder, HANDED_ON._replace(way=""))
        again = started()
        assert is_up(cluster), "open connections drain"
        again.advance(30.0)
        assert (is_up(cluster), RETURN_RULE in run(cluster.node_a, "ip", "rule")) == (False, False)
        assert read_by(again) == {TunnelAdapter: 0, LoopbackAdapter: 0}
        again.close()
