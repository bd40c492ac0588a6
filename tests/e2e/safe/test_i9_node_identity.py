"""Who this node is: another node's name is noticed, and without a Node manifest the host itself is the node."""

from __future__ import annotations

from pathlib import Path

import pytest

from lab.network import BY_NAME, Cluster
from tests.e2e.agent_process import AgentProcess, wait_until
from tests.e2e.client_requests import Request, send_request
from tests.e2e.manifests import Folder, Object, Port, service_with_slice
from tests.e2e.probing import HEALTHZ, get, scrape
from tests.e2e.serving import cluster_fixture

pytestmark = pytest.mark.kernel

NODE_A, NODE_B = BY_NAME["node-a"], BY_NAME["node-b"]
VIP = "203.0.113.40"
NODE_PORT = 30040
LOCAL = service_with_slice(
    "local", "10.96.0.40", ["pod-a1", "pod-b1"], [Port(80, node_port=NODE_PORT)], externalTrafficPolicy="Local"
)


def restricted() -> list[Object]:
    """Return a load balancer Service that only machines of the LAN may use, the node itself among them."""
    objects = service_with_slice(
        "restricted", "10.96.0.41", ["pod-a1"], type="LoadBalancer", loadBalancerSourceRanges=["192.168.3.0/24"]
    )
    objects[0]["status"] = {"loadBalancer": {"ingress": [{"ip": VIP}]}}
    return objects


cluster = cluster_fixture


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    folder = Folder(tmp_path)
    folder.write("services", [*LOCAL, *restricted()])
    return folder


def node(name: str, *addresses: str) -> Object:
    typed = [{"type": "InternalIP", "address": address} for address in addresses]
    return {"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}, "status": {"addresses": typed}}


def test_manifests_without_a_node_serve_with_the_host_as_the_node(cluster: Cluster, folder: Folder) -> None:
    with AgentProcess(cluster.node_a, folder.path) as agent:
        agent.wait_synced()
        wait_until(lambda: get(cluster.node_a, NODE_A.ipv4, HEALTHZ, "/healthz").status == 200)
        assert get(cluster.node_a, NODE_A.ipv4, HEALTHZ, "/healthz").json["nodeEligible"] is True
        for _ in range(4):  # local endpoints only, and they see the client
            answer = send_request(cluster, Request("outside", "tcp", NODE_A.ipv4, NODE_PORT))
            assert (answer.name, answer.peer_address) == ("pod-a1", BY_NAME["outside"].ipv4)
        # The host's own address is within the source ranges, so the host may use the load balancer's address.
        assert send_request(cluster, Request("node-a", "tcp", VIP, 80)).name == "pod-a1"
        assert not [line for line in agent.lines() if "Node not found" in line]


def test_node_manifest_decides_health_while_it_exists(cluster: Cluster, folder: Folder) -> None:
    def status() -> int:
        return get(cluster.node_a, NODE_A.ipv4, HEALTHZ, "/healthz").status

    leaving = node("node-a", NODE_A.ipv4)
    leaving["spec"] = {"taints": [{"key": "ToBeDeletedByClusterAutoscaler", "effect": "NoSchedule"}]}
    folder.write("node", [leaving])
    with AgentProcess(cluster.node_a, folder.path) as agent:
        agent.wait_synced()
        wait_until(lambda: status() == 503)
        folder.delete("node")
        wait_until(lambda: status() == 200)


def test_name_of_another_node_is_noticed(cluster: Cluster, folder: Folder) -> None:
    folder.write("node", [node("node-b", NODE_B.ipv4, NODE_B.ipv6)])
    with AgentProcess(cluster.node_a, folder.path, "--hostname-override=node-b") as agent:
        line = agent.wait_for("NodeAddressesNotOnHost")
        assert "192.168.3.11, fd00:3::11 are on no interface of this host" in line
        assert "hostnameOverride" in line
        wait_until(lambda: 'kubeproxy_ipvs_findings{reason="NodeAddressesNotOnHost"} 1' in scrape(cluster.node_a))


def test_own_name_is_no_finding(cluster: Cluster, folder: Folder) -> None:
    folder.write("node", [node("node-a", NODE_A.ipv4, "198.51.100.77")])  # and an address of the cloud's NAT
    with AgentProcess(cluster.node_a, folder.path, "--ipvs-sync-period=1s") as agent:
        agent.wait_synced()
        wait_until(lambda: "kubeproxy_ipvs_full_compares_total 1" in scrape(cluster.node_a))
        assert 'kubeproxy_ipvs_findings{reason="NodeAddressesNotOnHost"} 0' in scrape(cluster.node_a)
        assert not [line for line in agent.lines() if "NodeAddressesNotOnHost" in line]
