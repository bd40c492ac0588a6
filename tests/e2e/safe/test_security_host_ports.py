"""Ports of the host cannot be reached through Service addresses (kubernetes#72236), in all families and protocols.

Service addresses are local addresses of every node, so a program that listens on all addresses listens on them, too.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest

from lab.client import QueryError, Unreachable
from lab.echo import PROTOCOLS, EchoServers, Listener, Protocol
from lab.network import BY_NAME, Cluster
from tests.e2e.agent_process import AgentProcess
from tests.e2e.client_requests import PORT_UNREACHABLE, Request, send_request
from tests.e2e.manifests import Folder, Object, Port, endpoint_slice, service
from tests.e2e.serving import serving_cluster

pytestmark = pytest.mark.kernel

SSHD = 22022
_TIMEOUT_S = 0.3
CLUSTER_IPS = ("10.96.0.100", "fd00:10:96::100")
VIPS = ("203.0.113.100", "2001:db8::100")
EXTERNAL_IPS = ("198.51.100.100", "2001:db8:1::100")
PORTS = [Port(80, protocol.upper(), node_port=30100) for protocol in PROTOCOLS]


def objects() -> list[Object]:
    front = service("front", CLUSTER_IPS, PORTS, type="LoadBalancer", externalIPs=list(EXTERNAL_IPS))
    front["status"] = {"loadBalancer": {"ingress": [{"ip": vip} for vip in VIPS]}}
    return [front, *(endpoint_slice("front", ["pod-a1"], PORTS, version=version) for version in (4, 6))]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    folder = Folder(tmp_path_factory.mktemp("manifests"))
    folder.write("front", objects())
    with serving_cluster() as built:
        listeners = [Listener("host", built.node_a, protocol, SSHD) for protocol in PROTOCOLS]
        with EchoServers(listeners), AgentProcess(built.node_a, folder.path) as agent:
            agent.wait_synced()
            yield built


ADDRESSES = (*CLUSTER_IPS, *VIPS, *EXTERNAL_IPS)


@pytest.mark.parametrize("address", ADDRESSES)
@pytest.mark.parametrize(("client", "protocol"), list(itertools.product(("outside", "pod-a1"), PROTOCOLS)))
def test_host_port_is_rejected_at_service_addresses(
    cluster: Cluster, client: str, protocol: Protocol, address: str
) -> None:
    with pytest.raises(QueryError) as raised:
        send_request(cluster, Request(client, protocol, address, SSHD), _TIMEOUT_S)
    if protocol != "sctp":  # whose sockets do not learn of ICMP errors
        assert isinstance(raised.value, Unreachable)
        assert raised.value.icmp == PORT_UNREACHABLE[6 if ":" in address else 4]


def test_host_port_answers_at_the_address_of_the_node(cluster: Cluster) -> None:
    for protocol in PROTOCOLS:
        assert send_request(cluster, Request("outside", protocol, BY_NAME["node-a"].ipv4, SSHD)).name == "host"
