"""Health-check node ports from every client: the agent answers, and none of its own rules drops the request.

A load balancer queries them to learn where to send, so they must be reachable, and answer 200 if a local endpoint is
ready and 503 if none is.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from typing import NamedTuple

import pytest

from lab.client import Refused, Unreachable, connect
from lab.network import Cluster
from tests.e2e.agent_process import AgentProcess, wait_until
from tests.e2e.client_requests import PORT_UNREACHABLE
from tests.e2e.manifests import Folder
from tests.e2e.policies_services import SERVED, VERSIONS, Front, Version, objects, place
from tests.e2e.policies_table import ALL_CLIENTS
from tests.e2e.serving import serving_cluster

pytestmark = pytest.mark.kernel

# At node A's address, as load balancers query; and at the Service's, which is local too: KUBE-IPVS-FILTER accepts the
# port of any Service's health check at every address of kube-ipvs0.  (In iptables mode that address is not local.)
_PLACES: tuple[Front, ...] = ("NodePort", "LB VIP")


class HealthAnswer(NamedTuple):
    """The answer of a health-check node port."""

    status: int
    local_endpoints: int


# By kube-proxy's rules: local endpoints that are ready count.
EXPECTED = {
    "near, external Local": HealthAnswer(200, 1),
    "near, both Local": HealthAnswer(200, 1),
    "far, external Local": HealthAnswer(503, 0),
    "nobody, both Local": HealthAnswer(503, 0),
    # Its terminating pod still serves, but the load balancer must use other nodes.
    "near ends, external Local": HealthAnswer(503, 0),
    # Source ranges restrict the Service's port, not its health-check node port.
    "for outside, external Local": HealthAnswer(200, 1),
}


class Case(NamedTuple):
    service: str
    client: str
    front: Front
    version: Version

    def __str__(self) -> str:
        return f"{self.client} to {self.service}, at its {self.front}'s address, v{self.version}"


CASES = tuple(itertools.starmap(Case, itertools.product(EXPECTED, ALL_CLIENTS, _PLACES, VERSIONS)))


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    folder = Folder(tmp_path_factory.mktemp("manifests"))
    folder.write("all", objects())
    with serving_cluster() as built, AgentProcess(built.node_a, folder.path) as agent:
        agent.wait_synced()
        ports = tuple(itertools.product(EXPECTED, VERSIONS))
        wait_until(lambda: all(is_open(built, *port) for port in ports))  # opened soon after the sync
        yield built


def is_open(cluster: Cluster, service: str, version: Version) -> bool:
    try:
        query_health(cluster, Case(service, "outside", "NodePort", version))
    except Refused:
        return False
    return True


def query_health(cluster: Cluster, case: Case) -> HealthAnswer:
    """Query the health-check node port; raises as `lab.client.query`."""
    served = SERVED[case.service]
    address, _ = place(served, case.front, case.version)
    with connect(cluster[case.client], "tcp", address, served.health_check_node_port) as sock:
        sock.sendall(b"GET / HTTP/1.1\r\nHost: node\r\nConnection: close\r\n\r\n")
        head, _, body = b"".join(iter(lambda: sock.recv(4096), b"")).partition(b"\r\n\r\n")
    return HealthAnswer(int(head.split()[1]), json.loads(body)["localEndpoints"])


@pytest.mark.parametrize("case", CASES, ids=str)
def test_health_check_node_port_answers_with_the_ready_local_endpoints(cluster: Cluster, case: Case) -> None:
    assert query_health(cluster, case) == EXPECTED[case.service]


@pytest.mark.parametrize("version", VERSIONS)
def test_with_policy_cluster_no_health_check_node_port_is_open(cluster: Cluster, version: Version) -> None:
    with pytest.raises(Refused):
        query_health(cluster, Case("near", "outside", "NodePort", version))


@pytest.mark.parametrize("version", VERSIONS)
def test_with_policy_cluster_the_port_is_rejected_at_service_addresses(cluster: Cluster, version: Version) -> None:
    with pytest.raises(Unreachable) as raised:
        query_health(cluster, Case("near", "outside", "LB VIP", version))
    assert raised.value.icmp == PORT_UNREACHABLE[version]
