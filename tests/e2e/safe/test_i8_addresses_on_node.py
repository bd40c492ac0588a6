"""Service addresses that another interface of the node has, too: what is said, and what happens to packets."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from lab.network import Cluster
from tests.e2e.agent_process import AgentProcess
from tests.e2e.client_requests import Request, send_request
from tests.e2e.kernel_state import shell
from tests.e2e.manifests import Folder, service_with_slice
from tests.e2e.serving import cluster_fixture

pytestmark = pytest.mark.kernel

DNS, VIP, LB_VIP = "10.96.0.53", "172.16.5.50", "172.16.5.51"


cluster = cluster_fixture


@pytest.fixture(scope="module")
def agent(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[AgentProcess]:
    folder = Folder(tmp_path_factory.mktemp("manifests"))
    balanced = service_with_slice("balanced", "10.96.0.54", ["pod-a1"], type="LoadBalancer")
    balanced[0]["status"] = {"loadBalancer": {"ingress": [{"ip": LB_VIP}]}}
    kept_alive = service_with_slice("kept-alive", "10.96.0.55", ["pod-a1"], externalIPs=[VIP])
    folder.write("services", [*service_with_slice("dns", DNS, ["pod-b1"]), *balanced, *kept_alive])
    with AgentProcess(cluster.node_a, folder.path) as process:
        process.wait_synced()
        yield process


def add_interface(cluster: Cluster, name: str, address: str) -> None:
    shell(cluster.node_a, f"ip link add {name} type dummy; ip link set {name} up; ip addr add {address}/32 dev {name}")


def test_cluster_ip_on_another_interface_is_served_and_reported(cluster: Cluster, agent: AgentProcess) -> None:
    add_interface(cluster, "nodelocaldns", DNS)
    line = agent.wait_for("ClusterIPOnNode")
    assert DNS in line
    assert "receives nothing" in line
    with cluster.node_a.inside():
        cache = socket.create_server((DNS, 80))
    with cache:  # as the message says, the program hears nothing
        assert send_request(cluster, Request("pod-a1", "tcp", DNS, 80)).name == "pod-b1"
    shell(cluster.node_a, "ip link del nodelocaldns")


def test_external_ip_that_comes_to_another_interface_is_reported(cluster: Cluster, agent: AgentProcess) -> None:
    add_interface(cluster, "keepalived", VIP)
    assert VIP in agent.wait_for("ExternalIPOnNode")
    shell(cluster.node_a, "ip link del keepalived")


def test_load_balancer_address_on_another_interface_is_logged_without_an_event(
    cluster: Cluster, agent: AgentProcess
) -> None:
    add_interface(cluster, "servicelb", LB_VIP)
    assert LB_VIP in agent.wait_for("Load balancer addresses are addresses of this node")
    assert not [line for line in agent.lines() if "IPOnNode" in line and LB_VIP in line]
    shell(cluster.node_a, "ip link del servicelb")
