"""A Service that triggers a bug keeps what it had, and all others follow."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from lab.client import query
from lab.network import Cluster
from tests.e2e.kernel_state import shell
from tests.e2e.manifests import Folder, Port, service_with_slice
from tests.e2e.safe.patched_agent import PatchedAgent
from tests.e2e.serving import cluster_fixture

pytestmark = pytest.mark.kernel

WEB, OTHER, LATE, SHARED = "10.96.0.10", "10.96.0.20", "10.96.0.30", "203.0.113.7"
PORTS = [Port(80, "TCP", 8080, 30080)]
# Compiling shop/web with an endpoint on node B raises, in every place that the compiler calls.
BUG = """exec('''
import kubeproxy_py.compile.compiler as compiler
original = compiler.compile_parts
def compile_parts(service, slices, context, cache, **options):
    if service.name.name == "web" and any(e.node == "node-b" for s in slices for e in s.endpoints):
        raise ZeroDivisionError("a bug")
    return original(service, slices, context, cache, **options)
compiler.compile_parts = compile_parts
''')"""


cluster = cluster_fixture


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    folder = Folder(tmp_path)
    folder.write("web", service_with_slice("web", WEB, ["pod-a1"], PORTS))
    folder.write("other", service_with_slice("other", OTHER, ["pod-a1"]))
    return folder


def responders(cluster: Cluster, address: str) -> set[str]:
    return {query(cluster["pod-a2"], "tcp", address, 80).name for _ in range(4)}


def test_the_service_keeps_its_rows_and_all_others_follow(cluster: Cluster, folder: Folder) -> None:
    with PatchedAgent(cluster.node_a, folder.path, BUG) as agent:
        agent.wait_synced()
        folder.write("web", service_with_slice("web", WEB, ["pod-b1"], PORTS))
        line = agent.wait_for("the last change of this object is not applied")
        assert 'object="Service shop/web"' in line
        assert "ZeroDivisionError" in line
        with agent.syncing():
            folder.write("other", service_with_slice("other", OTHER, ["pod-b1"]))
        with agent.syncing():
            folder.write("late", service_with_slice("late", LATE, ["pod-b2"]))
        assert responders(cluster, WEB) == {"pod-a1"}
        assert query(cluster["outside"], "tcp", "192.168.3.10", 30080).name == "pod-a1"
        assert (responders(cluster, OTHER), responders(cluster, LATE)) == ({"pod-b1"}, {"pod-b2"})
        assert not [line for line in agent.lines() if "resyncing from scratch" in line]
        with agent.syncing():
            folder.write("web", service_with_slice("web", WEB, ["pod-a2"], PORTS))
        assert "pod-a2" in responders(cluster, WEB)


def test_service_leaves_an_address_that_another_service_has_by_now(cluster: Cluster, folder: Folder) -> None:
    shared: dict[str, Any] = {"externalIPs": [SHARED]}
    folder.write("web", service_with_slice("web", WEB, ["pod-a1"], PORTS, **shared))
    with PatchedAgent(cluster.node_a, folder.path, BUG) as agent:
        agent.wait_synced()
        assert responders(cluster, SHARED) == {"pod-a1"}
        folder.write("web", service_with_slice("web", WEB, ["pod-b1"], PORTS))
        agent.wait_for("the last change of this object is not applied")
        with agent.syncing():
            folder.write("other", service_with_slice("other", OTHER, ["pod-b2"], **shared))
        assert (responders(cluster, SHARED), responders(cluster, OTHER)) == ({"pod-b2"}, {"pod-b2"})
        assert responders(cluster, WEB) == {"pod-a1"}


def test_a_restart_keeps_what_the_service_had(cluster: Cluster, folder: Folder) -> None:
    with PatchedAgent(cluster.node_a, folder.path, "pass") as agent:
        agent.wait_synced()
    folder.write("web", service_with_slice("web", WEB, ["pod-b1"], PORTS))
    before = shell(cluster.node_a, "ipvsadm -Sn; ipset save | sort; iptables-save -t nat | grep -v '^[:#]'")
    with PatchedAgent(cluster.node_a, folder.path, BUG, "--ipvs-sync-period=1s") as agent:
        agent.wait_synced()
        with agent.syncing():
            folder.write("late", service_with_slice("late", LATE, ["pod-b2"]))
        assert responders(cluster, LATE) == {"pod-b2"}
        assert responders(cluster, WEB) == {"pod-a1"}
        assert query(cluster["outside"], "tcp", "192.168.3.10", 30080).name == "pod-a1"
        with agent.syncing():
            folder.delete("late")
        after = shell(cluster.node_a, "ipvsadm -Sn; ipset save | sort; iptables-save -t nat | grep -v '^[:#]'")
    assert after == before
