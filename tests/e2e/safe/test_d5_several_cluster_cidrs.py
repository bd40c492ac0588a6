"""Two pod networks of one family: pods of both keep their address, everybody else is masqueraded."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from lab.network import BY_NAME, Cluster
from tests.e2e.agent_process import AgentProcess
from tests.e2e.client_requests import Request, send_request
from tests.e2e.manifests import Folder, endpoint_slice, service
from tests.e2e.serving import serving_cluster

pytestmark = pytest.mark.kernel

CLUSTER_IPS = ("10.96.0.90", "fd00:10:96::90")
# In the order in which the first network is that of the other node's pods.
CIDRS = "10.244.2.0/24,10.244.1.0/24,fd00:10:244:2::/64,fd00:10:244:1::/64"


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    folder = Folder(tmp_path_factory.mktemp("manifests"))
    slices = [endpoint_slice("web", ["pod-a2"], version=version) for version in (4, 6)]
    folder.write("web", [service("web", CLUSTER_IPS), *slices])
    with serving_cluster() as built, AgentProcess(built.node_a, folder.path, f"--cluster-cidr={CIDRS}") as agent:
        agent.wait_synced()
        yield built


@pytest.mark.parametrize("address", CLUSTER_IPS)
@pytest.mark.parametrize("client", ["pod-a1", "pod-b1"])
def test_pods_of_either_network_keep_their_address(cluster: Cluster, client: str, address: str) -> None:
    machine = BY_NAME[client]
    own = machine.ipv6 if ":" in address else machine.ipv4
    assert send_request(cluster, Request(client, "tcp", address, 80)).peer_address == own


@pytest.mark.parametrize("address", CLUSTER_IPS)
def test_clients_outside_both_networks_are_masqueraded(cluster: Cluster, address: str) -> None:
    machine = BY_NAME["outside"]
    seen = send_request(cluster, Request("outside", "tcp", address, 80)).peer_address
    assert seen not in (machine.ipv4, machine.ipv6)
