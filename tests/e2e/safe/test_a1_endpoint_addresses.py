"""An external address that an endpoint has is not bound: the node still reaches the machine that has it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import pytest

from lab.client import query
from lab.echo import EchoServers, Listener
from lab.network import BY_NAME, Cluster
from tests.e2e.agent_process import AgentProcess
from tests.e2e.kernel_state import run
from tests.e2e.manifests import Folder, Object, Port, endpoint_slice, service
from tests.e2e.serving import serving_cluster

pytestmark = pytest.mark.kernel

API_PORT = 6443
API = "10.96.0.1"
OTHER = [BY_NAME["node-b"].ipv4, BY_NAME["node-b"].ipv6]
OWN = [BY_NAME["node-a"].ipv4, BY_NAME["node-a"].ipv6]
FREE = ["203.0.113.7", "2001:db8::7"]


def traefik() -> list[Object]:
    """The Service of an ingress controller with the addresses that k3s's load balancer gives it: those of the nodes."""
    written = service("traefik", ["10.96.43.1", "fd00:10:96::43:1"], type="LoadBalancer")
    ingress = [{"ip": address, "ipMode": "VIP"} for address in (*OWN, *OTHER, *FREE)]
    slices = [endpoint_slice("traefik", ["pod-a1"], version=version) for version in (4, 6)]
    return [{**written, "status": {"loadBalancer": {"ingress": ingress}}}, *slices]


def kubernetes() -> list[Object]:
    """The API server, on node B, at both of its addresses."""
    ports = [Port(443, "TCP", API_PORT)]
    slices = [endpoint_slice("kubernetes", ["node-b"], ports, version=version) for version in (4, 6)]
    return [service("kubernetes", [API, "fd00:10:96::1"], ports), *slices]


class Served(NamedTuple):
    cluster: Cluster
    agent: AgentProcess
    folder: Folder

    def bound(self) -> set[str]:
        output = run(self.cluster.node_a, "ip", "-o", "address", "show", "dev", "kube-ipvs0")
        return {line.split()[3].partition("/")[0] for line in output.splitlines()}


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = Folder(tmp_path_factory.mktemp("manifests"))
    folder.write("traefik", traefik())
    folder.write("kubernetes", kubernetes())
    with serving_cluster() as cluster, AgentProcess(cluster.node_a, folder.path) as agent:
        listeners = [Listener("api", cluster["node-b"], "tcp", API_PORT), Listener("ssh", cluster["node-b"], "tcp", 22)]
        with EchoServers(listeners):
            agent.wait_synced()
            yield Served(cluster, agent, folder)


@pytest.mark.parametrize("client", ["node-a", "pod-a1"])
@pytest.mark.parametrize("address", OTHER)
@pytest.mark.parametrize(("port", "name"), [(API_PORT, "api"), (22, "ssh")])
def test_other_node_is_reached_at_its_own_address(
    served: Served, port: int, name: str, address: str, client: str
) -> None:
    assert query(served.cluster[client], "tcp", address, port).name == name


@pytest.mark.parametrize("address", [API, "fd00:10:96::1"])
@pytest.mark.parametrize("client", ["node-a", "pod-a1"])
def test_api_server_is_reached_by_its_cluster_ip(served: Served, client: str, address: str) -> None:
    assert query(served.cluster[client], "tcp", address, 443).name == "api"


@pytest.mark.parametrize("address", [*OWN, *FREE])
def test_service_is_served_at_its_other_addresses(served: Served, address: str) -> None:
    assert query(served.cluster["outside"], "tcp", address, 80).name == "pod-a1"


def test_address_in_use_is_reported(served: Served) -> None:
    served.agent.wait_for(f"Service shop/traefik: AddressInUse: .*{OTHER[0]}.*the address of an endpoint")


def test_address_is_released_when_it_becomes_an_endpoint_and_bound_again_afterwards(served: Served) -> None:
    """With an address that no machine has; those of node B are refused because node B answers for them, too."""
    assert FREE[0] in served.bound()
    with served.agent.syncing():
        served.folder.write("other", [{**endpoint_slice("other", ["pod-a1"]), "endpoints": [{"addresses": [FREE[0]]}]}])
    assert FREE[0] not in served.bound()
    with served.agent.syncing():
        served.folder.delete("other")
    assert FREE[0] in served.bound()
