"""Exact policies where endpoints are programs of nodes (hostNetwork), as those of the API server are."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import pytest

from lab.client import NoAnswer
from lab.echo import EchoServers, Listener, Protocol
from lab.network import BY_NAME, NODE_NAME, Cluster
from tests.e2e.agent_process import AgentProcess
from tests.e2e.client_requests import Request, send_request
from tests.e2e.manifests import Folder
from tests.e2e.policies_services import VERSIONS, Front, Served, Version, objects, place
from tests.e2e.probing import wait_served
from tests.e2e.serving import cluster_and_servers

pytestmark = pytest.mark.kernel

_LOCAL = {"externalTrafficPolicy": "Local"}
HERE = Served(1, "on both nodes, external Local", (NODE_NAME, "node-b"), _LOCAL)
FAR = Served(2, "on node B, external Local", ("node-b",), _LOCAL)
INNER = Served(
    3, "on both nodes, internal Local", (NODE_NAME, "node-b"), {"internalTrafficPolicy": "Local"}, external=()
)
INNER_FAR = Served(4, "on node B, internal Local", ("node-b",), {"internalTrafficPolicy": "Local"}, external=())
# Not SCTP: a host's answer has all addresses of kube-ipvs0, which together exceed a packet.
PROTOCOLS: tuple[Protocol, ...] = ("tcp", "udp")
BOUND_NODE = "node-a, bound"


class Row(NamedTuple):
    """The nodes whose programs answer *client*, whose address they see; none: dropped."""

    served: Served
    front: Front
    client: str
    nodes: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.client} to {self.front} of {self.served.name}"


ROWS = (
    *(Row(HERE, front, "pod-a2", (NODE_NAME, "node-b")) for front in ("LB VIP", "NodePort")),
    *(Row(HERE, front, BOUND_NODE, (NODE_NAME, "node-b")) for front in ("LB VIP", "NodePort")),
    *(Row(HERE, front, "node-a", (NODE_NAME, "node-b")) for front in ("LB VIP", "NodePort")),
    *(Row(HERE, front, "outside", (NODE_NAME,)) for front in ("LB VIP", "NodePort")),
    *(Row(FAR, front, "pod-a2", ("node-b",)) for front in ("LB VIP", "NodePort")),
    *(Row(FAR, front, BOUND_NODE, ("node-b",)) for front in ("LB VIP", "NodePort")),
    *(Row(FAR, front, "outside", ()) for front in ("LB VIP", "NodePort")),
    Row(INNER, "ClusterIP", "pod-a2", (NODE_NAME,)),
    Row(INNER, "ClusterIP", "node-a", (NODE_NAME,)),
    Row(INNER_FAR, "ClusterIP", "pod-a2", ()),
)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    folder = Folder(tmp_path_factory.mktemp("manifests"))
    folder.write("all", objects([HERE, FAR, INNER, INNER_FAR]))
    with cluster_and_servers() as (cluster, _):
        programs = [Listener(node, cluster[node], p, 8080) for node in (NODE_NAME, "node-b") for p in PROTOCOLS]
        with EchoServers(programs), AgentProcess(cluster.node_a, folder.path, "--policies=exact") as agent:
            agent.wait_synced()
            wait_served(cluster, "pod-a2", (place(HERE, "LB VIP", version)[0] for version in VERSIONS), 80)
            yield cluster


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("row", ROWS, ids=str)
def test_programs_of_nodes_answer_as_pods_do(cluster: Cluster, row: Row, protocol: Protocol, version: Version) -> None:
    client = NODE_NAME if row.client == BOUND_NODE else row.client
    machine = BY_NAME[client]
    own = machine.ipv4 if version == 4 else machine.ipv6
    address, port = place(row.served, row.front, version)
    request = Request(client, protocol, address, port, own if row.client == BOUND_NODE else "")
    if not row.nodes:
        with pytest.raises(NoAnswer):
            send_request(cluster, request, 0.5)
        return
    answers = [send_request(cluster, request, 15.0) for _ in row.nodes]
    assert {answer.name for answer in answers} == set(row.nodes)
    # What stays on this node may have any of its addresses.
    seen = {answer.peer_address for answer in answers if (client, answer.name) != (NODE_NAME, NODE_NAME)}
    assert seen <= {own}
