"""Health-check node ports, asked from everywhere: the agent answers, and no rule of its own is in the way.

A load balancer asks them to learn where to send, so they must be open to it, and tell the truth: 200 where a local
endpoint is ready, 503 where none is.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from typing import NamedTuple

import pytest

from lab.ask import Refused, Unreachable, connect
from lab.network import Cluster
from tests.e2e.agent_process import AgentProcess, wait_until
from tests.e2e.client_requests import PORT_UNREACHABLE
from tests.e2e.manifests import Folder
from tests.e2e.policies_services import SERVED, VERSIONS, Front, Version, objects, place
from tests.e2e.policies_table import EVERYONE
from tests.e2e.serving import serving_cluster

pytestmark = pytest.mark.kernel

# At node A's address, as load balancers ask; and at the Service's, which is as local: KUBE-IPVS-FILTER lets the port
# of any Service's health check through to every address of kube-ipvs0.  (In iptables mode that address is not local.)
_PLACES: tuple[Front, ...] = ("NodePort", "LB VIP")


class Told(NamedTuple):
    """What the answer says."""

    status: int
    local_endpoints: int


# By kube-proxy's rules: local endpoints that are ready count.
TOLD = {
    "near, external Local": Told(200, 1),
    "near, both Local": Told(200, 1),
    "far, external Local": Told(503, 0),
    "nobody, both Local": Told(503, 0),
    # Its terminating pod still serves, but the load balancer shall go elsewhere.
    "near ends, external Local": Told(503, 0),
    # Source ranges are for the Service's port, not for its health.
    "for outside, external Local": Told(200, 1),
}


class Case(NamedTuple):
    service: str
    client: str
    front: Front
    version: Version

    def __str__(self) -> str:
        return f"{self.client} to {self.service}, at its {self.front}'s address, v{self.version}"


CASES = tuple(itertools.starmap(Case, itertools.product(TOLD, EVERYONE, _PLACES, VERSIONS)))


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    folder = Folder(tmp_path_factory.mktemp("manifests"))
    folder.put("all", objects())
    with serving_cluster() as built, AgentProcess(built.node_a, folder.path) as agent:
        agent.wait_synced()
        wait_until(lambda: all(is_open(built, *at) for at in itertools.product(TOLD, VERSIONS)))  # soon after the sync
        yield built


def is_open(cluster: Cluster, service: str, version: Version) -> bool:
    try:
        told(cluster, Case(service, "outside", "NodePort", version))
    except Refused:
        return False
    return True


def told(cluster: Cluster, case: Case) -> Told:
    """What the health-check node port says; raises as `ask`."""
    served = SERVED[case.service]
    address, _ = place(served, case.front, case.version)
    with connect(cluster[case.client], "tcp", address, served.health_check_node_port) as sock:
        sock.sendall(b"GET / HTTP/1.1\r\nHost: node\r\nConnection: close\r\n\r\n")
        head, _, body = b"".join(iter(lambda: sock.recv(4096), b"")).partition(b"\r\n\r\n")
    return Told(int(head.split()[1]), json.loads(body)["localEndpoints"])


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_health_check_is_answered_by_the_ready_endpoints_of_this_node(cluster: Cluster, case: Case) -> None:
    assert told(cluster, case) == TOLD[case.service]


@pytest.mark.parametrize("version", VERSIONS)
def test_where_the_policy_is_cluster_nobody_listens(cluster: Cluster, version: Version) -> None:
    with pytest.raises(Refused):
        told(cluster, Case("near", "outside", "NodePort", version))


@pytest.mark.parametrize("version", VERSIONS)
def test_where_the_policy_is_cluster_the_port_is_shut_at_service_addresses(cluster: Cluster, version: Version) -> None:
    with pytest.raises(Unreachable) as raised:
        told(cluster, Case("near", "outside", "LB VIP", version))
    assert raised.value.icmp == PORT_UNREACHABLE[version]
