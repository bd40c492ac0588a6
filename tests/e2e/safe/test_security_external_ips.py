"""What a user who may set externalIPs can take, and what not (CVE-2020-8554).

Kubernetes defines that traffic of the cluster's nodes to an external IP reaches the Service, whosever address it is.
Who may set it is decided by admission (DenyServiceExternalIPs), not by the proxy.  These tests show the limits.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from lab.client import Unreachable
from lab.echo import EchoServers, Listener
from lab.network import BY_NAME, Cluster
from tests.e2e.agent_process import AgentProcess
from tests.e2e.client_requests import Request, send_request
from tests.e2e.kernel_state import run
from tests.e2e.manifests import Folder, Port, service_with_slice
from tests.e2e.serving import serving_cluster

pytestmark = pytest.mark.kernel

BANK = "192.0.2.55"  # a machine on the Internet
NODE = BY_NAME["node-a"]
SSHD, TAKEN = 22130, 8130


@pytest.fixture(scope="module")
def agent_and_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[AgentProcess, Cluster]]:
    folder = Folder(tmp_path_factory.mktemp("manifests"))
    malicious = service_with_slice("malicious", "10.96.0.130", ["pod-a2"], [Port(443)], externalIPs=[BANK])
    node = service_with_slice("node", "10.96.0.131", ["pod-a2"], [Port(TAKEN)], externalIPs=[NODE.ipv4])
    folder.write("services", [*malicious, *node])
    with (
        serving_cluster() as built,
        EchoServers([Listener("host", built.node_a, "tcp", SSHD)]),
        AgentProcess(built.node_a, folder.path) as agent,
    ):
        agent.wait_synced()
        yield agent, built


@pytest.fixture(scope="module")
def cluster(agent_and_cluster: tuple[AgentProcess, Cluster]) -> Cluster:
    return agent_and_cluster[1]


def test_traffic_of_pods_to_an_external_ip_reaches_the_service(cluster: Cluster) -> None:
    """This is the man in the middle of CVE-2020-8554; kube-proxy serves it in every mode."""
    assert send_request(cluster, Request("pod-a1", "tcp", BANK, 443)).name == "pod-a2"


def test_other_ports_of_an_external_ip_are_rejected_not_taken(cluster: Cluster) -> None:
    with pytest.raises(Unreachable):
        send_request(cluster, Request("pod-a1", "tcp", BANK, SSHD))


def test_external_ip_that_the_node_has_is_not_bound_and_keeps_its_other_ports(
    agent_and_cluster: tuple[AgentProcess, Cluster],
) -> None:
    agent, cluster = agent_and_cluster
    assert NODE.ipv4 not in run(cluster.node_a, "ip", "-o", "address", "show", "dev", "kube-ipvs0")
    assert send_request(cluster, Request("outside", "tcp", NODE.ipv4, SSHD)).name == "host"
    assert send_request(cluster, Request("outside", "tcp", NODE.ipv4, TAKEN)).name == "pod-a2"
    assert NODE.ipv4 in agent.wait_for("ExternalIPOnNode")
