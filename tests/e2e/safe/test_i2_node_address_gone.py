"""A node address that goes for a moment takes no NodePort connections with it."""

from __future__ import annotations

import re
from contextlib import ExitStack
from pathlib import Path

import pytest

from kubeproxy_py.commands.parts import real_parts
from kubeproxy_py.config.load import load
from kubeproxy_py.model.events import AddressesChanged
from kubeproxy_py.reconcile.agent import Agent, Timing
from kubeproxy_py.sources.manifests.source import ManifestSource
from lab.client import connect, read_answer
from lab.network import BY_NAME, Cluster
from tests.e2e.agent_process import SETTLED, AgentProcess, wait_until
from tests.e2e.kernel_state import run, shell
from tests.e2e.manifests import Folder, Port, endpoint_slice, service
from tests.e2e.serving import cluster_fixture

pytestmark = pytest.mark.kernel

NODE, NODE_6 = BY_NAME["node-a"].ipv4, BY_NAME["node-a"].ipv6
NODE_PORT = 30080
FLAPS = {
    NODE: f"ip address del {NODE}/24 dev eth0; sleep 0.3; ip address add {NODE}/24 dev eth0; "
    "ip route replace default via 192.168.3.1",
    NODE_6: f"ip address del {NODE_6}/64 dev eth0; sleep 0.3; ip address add {NODE_6}/64 dev eth0 nodad; "
    "ip -6 route replace default via fd00:3::1",
}


cluster = cluster_fixture


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    """A Service with a NodePort, whose pods are on the node: else MASQUERADE itself drops the connections."""
    ports = (Port(node_port=NODE_PORT),)
    slices = [endpoint_slice("web", ["pod-a1", "pod-a2"], ports, version=version) for version in (4, 6)]
    created = Folder(tmp_path)
    created.write("web", [service("web", ["10.96.0.10", "fd00:10:96::10"], ports), *slices])
    return created


def servers(cluster: Cluster) -> str:
    return run(cluster.node_a, "ipvsadm", "-Sn")


def test_node_port_connections_survive_an_address_that_goes_for_a_moment(cluster: Cluster, folder: Folder) -> None:
    with AgentProcess(cluster.node_a, folder.path) as agent, ExitStack() as stack:
        agent.wait_for(SETTLED)
        before, since = servers(cluster), len(agent.lines())
        for address, flap in FLAPS.items():
            connections = [
                stack.enter_context(connect(cluster["outside"], "tcp", address, NODE_PORT, 5.0)) for _ in range(4)
            ]
            for connection in connections:
                read_answer(connection)
            shell(cluster.node_a, flap)
            for connection in connections:
                connection.sendall(b"still there?")
                assert connection.recv(100) == b"still there?"
        assert servers(cluster) == before
        assert not [line for line in agent.lines()[since:] if re.search(r"Synced.*(removed|added)", line)]


def test_address_that_a_service_takes_over_is_bound_at_once(cluster: Cluster, folder: Folder) -> None:
    second = "172.16.5.10"
    folder.write("external", [service("external", "10.96.0.11", externalIPs=[second]), endpoint_slice("external", [])])
    with AgentProcess(cluster.node_a, folder.path) as agent:
        agent.wait_synced()
        assert f"{second}:{NODE_PORT}" in servers(cluster)
        shell(cluster.node_a, f"ip address del {second}/24 dev eth1")
        try:
            wait_until(lambda: second in run(cluster.node_a, "ip", "-o", "address", "show", "dev", "kube-ipvs0"))
            wait_until(lambda: f"{second}:{NODE_PORT}" not in servers(cluster))
        finally:
            shell(cluster.node_a, f"ip address add {second}/24 dev eth1")


def test_node_ports_leave_an_address_that_stays_away(cluster: Cluster, folder: Folder) -> None:
    second, grace_s = "172.16.5.10", 5.0
    flags = {"manifests": str(folder.path), "hostname-override": "node-a", "conntrack-max-per-core": "0"}
    now_s = 100.0
    with cluster.node_a.inside():
        parts = real_parts(load(flags))
        agent = Agent(parts.kernel, parts.compiler, lambda: now_s, timing=Timing(address_grace_s=grace_s))
        assert isinstance(parts.source, ManifestSource)
        for event in parts.source.poll():
            agent.handle_event(event, now_s)
        agent.run_due(now_s)
        shell(cluster.node_a, f"ip address del {second}/24 dev eth1")
        agent.handle_addresses_changed(AddressesChanged(other_interfaces=True), now_s)
        agent.run_due(now_s)
        assert f"{second}:{NODE_PORT}" in servers(cluster)
        assert agent.due_s() <= now_s + grace_s
        agent.run_due(now_s + grace_s)
        assert f"{second}:{NODE_PORT}" not in servers(cluster)
        shell(cluster.node_a, f"ip address add {second}/24 dev eth1")
        parts.kernel.close()
