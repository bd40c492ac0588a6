"""Virtual servers of other programs: their deletion is logged by name, or they are left alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from lab.network import BY_NAME, Cluster
from tests.e2e.agent_process import AgentProcess, command_line
from tests.e2e.client_requests import Request, send_request
from tests.e2e.kernel_state import run, shell
from tests.e2e.manifests import Folder, Port, service_with_slice
from tests.e2e.serving import cluster_fixture

pytestmark = pytest.mark.kernel

KUBE_VIP = "172.16.5.10:6443"  # at a node's own address, as kube-vip's control plane
DELETED = "Deleted virtual servers that this agent did not create"
KEEP = "--keep-foreign-virtual-servers"
WEB = service_with_slice("web", "10.96.0.70", ["pod-a1"], [Port(80, node_port=30070)])


cluster = cluster_fixture


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    folder = Folder(tmp_path)
    folder.write("web", WEB)
    return folder


def add_foreign(cluster: Cluster) -> None:
    """Add a virtual server with a real server, by one process: an agent may delete it before a second one begins."""
    pod = f"{BY_NAME['pod-a2'].ipv4}:8080"
    lines = f"-A -t {KUBE_VIP}\\n-a -t {KUBE_VIP} -r {pod} -m\\n"
    shell(cluster.node_a, f"ipvsadm -D -t {KUBE_VIP} || true; printf -- '{lines}' | ipvsadm -R")


def servers(cluster: Cluster) -> str:
    return run(cluster.node_a, "ipvsadm", "-Sn")


def test_deleted_virtual_server_is_named_at_the_start_and_later(cluster: Cluster, folder: Folder) -> None:
    add_foreign(cluster)
    with AgentProcess(cluster.node_a, folder.path, "--ipvs-sync-period=1s") as agent:
        line = agent.wait_for(DELETED)
        assert f"{KUBE_VIP}/TCP" in line
        assert "ipvs.excludeCIDRs" in line
        assert KUBE_VIP not in servers(cluster)
        since = len(agent.lines())
        add_foreign(cluster)
        assert f"{KUBE_VIP}/TCP" in agent.wait_for(DELETED, since)
        assert KUBE_VIP not in servers(cluster)


def test_virtual_servers_of_deleted_services_are_not_called_foreign(cluster: Cluster, folder: Folder) -> None:
    with AgentProcess(cluster.node_a, folder.path) as agent:
        agent.wait_synced()
    folder.write("web", service_with_slice("other", "10.96.0.71", ["pod-a1"]))  # deleted while no agent runs
    with AgentProcess(cluster.node_a, folder.path) as agent:
        agent.wait_synced()
        assert "10.96.0.70:80" not in servers(cluster)
        with agent.syncing():
            folder.write("web", WEB)  # and while one runs
        assert not [line for line in agent.lines() if DELETED in line]


def test_with_the_option_foreign_virtual_servers_serve_on_and_ours_are_deleted(
    cluster: Cluster, folder: Folder
) -> None:
    folder.write("gone", service_with_slice("gone", "10.96.0.72", ["pod-a1"], [Port(80, node_port=30072)]))
    with AgentProcess(cluster.node_a, folder.path) as agent:
        agent.wait_synced()
    folder.delete("gone")
    add_foreign(cluster)
    with AgentProcess(cluster.node_a, folder.path, KEEP, "--ipvs-sync-period=1s") as agent:
        agent.wait_synced()
        kept = servers(cluster)
        assert KUBE_VIP in kept
        assert "10.96.0.72:80" not in kept
        assert ":30072" not in kept
        stray = "10.96.0.70:8888"  # at an address of ours: nobody else's
        since = len(agent.lines())
        shell(cluster.node_a, f"ipvsadm -A -t {stray}")
        agent.wait_for("drift in", since)
        assert stray not in servers(cluster)
        assert send_request(cluster, Request("outside", "tcp", "172.16.5.10", 6443)).name == "pod-a2"
        assert KUBE_VIP not in run(cluster.node_a, *command_line(folder.path, "plan", KEEP))
        assert KUBE_VIP in run(cluster.node_a, *command_line(folder.path, "plan"), status=2)
    shell(cluster.node_a, f"ipvsadm -D -t {KUBE_VIP}")
