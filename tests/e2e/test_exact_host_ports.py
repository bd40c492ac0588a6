"""Programs of the host at Service addresses (kubernetes#72236): two ways that kube-proxy's rules leave open are closed.

With exact policies no program of the host is reached at a Service address, but health-check node ports; and NodeLocal
DNSCache, whose packets are not tracked, goes on working.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from typing import NamedTuple

import pytest

from lab.client import Refused, Unreachable, query
from lab.echo import EchoServers, Listener, Protocol
from lab.network import Cluster
from tests.e2e.agent_process import AgentProcess, wait_until
from tests.e2e.client_requests import PORT_UNREACHABLE, Request, send_request
from tests.e2e.kernel_state import shell
from tests.e2e.manifests import Folder
from tests.e2e.policies_services import NEAR, VERSIONS, Served, objects, place
from tests.e2e.probing import wait_served
from tests.e2e.serving import serving_cluster

pytestmark = pytest.mark.kernel

HEALTH = Served(1, "near, external Local", NEAR, {"externalTrafficPolicy": "Local"})
DNS = Served(2, "kube-dns", NEAR, {}, port=53, external=())
HOST_PORT = 9999
HEALTH_PORT = HEALTH.health_check_node_port
CACHE = "169.254.20.10"
CLIENTS = ("pod-a2", "node-a", "outside")
ADDRESSES = tuple(place(HEALTH, front, version)[0] for front in ("ClusterIP", "LB VIP") for version in (4, 6))
DNS_ADDRESS = place(DNS, "ClusterIP", 4)[0]

# As node-cache writes them for its own address and that of kube-dns.
_NOT_TRACKED = "\n".join(
    f"iptables -t raw -A {chain} {match} -j CT --notrack"
    for address in (CACHE, DNS_ADDRESS)
    for protocol in ("udp", "tcp")
    for chain, match in (
        ("PREROUTING", f"-d {address} -p {protocol} --dport 53"),
        ("OUTPUT", f"-d {address} -p {protocol} --dport 53"),
        ("OUTPUT", f"-s {address} -p {protocol} --sport 53"),
    )
)
_ALL_NOT_TRACKED = "\n".join(
    f"{program} -t raw -A {chain} -p {protocol} --dport {HOST_PORT} -j CT --notrack"
    for program in ("iptables", "ip6tables")
    for chain in ("PREROUTING", "OUTPUT")
    for protocol in ("udp", "tcp")
)


class Node(NamedTuple):
    """The cluster whose node A runs an agent, and its policies."""

    cluster: Cluster
    policies: str


@pytest.fixture(scope="module", params=["kube-proxy", "exact"])
def node(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    folder = Folder(tmp_path_factory.mktemp("manifests"))
    folder.write("all", objects([HEALTH, DNS]))
    with ExitStack() as stack:
        cluster = stack.enter_context(serving_cluster())
        on_host: list[tuple[Protocol, int]] = [("udp", HEALTH_PORT), ("udp", HOST_PORT), ("tcp", HOST_PORT)]
        on_host += [("udp", 53), ("tcp", 53)]
        stack.enter_context(EchoServers(Listener("host", cluster.node_a, *each) for each in on_host))
        shell(cluster.node_a, f"ip link add nodelocaldns type dummy; ip address add {CACHE}/32 dev nodelocaldns")
        shell(cluster.node_a, _ALL_NOT_TRACKED)
        shell(cluster.node_a, _NOT_TRACKED)
        agent = stack.enter_context(AgentProcess(cluster.node_a, folder.path, f"--policies={request.param}"))
        agent.wait_synced()
        wait_served(cluster, "pod-a2", (place(HEALTH, "ClusterIP", version)[0] for version in VERSIONS), HEALTH.port)
        yield Node(cluster, request.param)


def end_of(node: Node, client: str, protocol: Protocol, address: str, port: int) -> str:
    """Who answers, or how else the request ends."""
    try:
        return send_request(node.cluster, Request(client, protocol, address, port), 5.0).name
    except Unreachable as error:
        is_refusal = error.icmp == PORT_UNREACHABLE[6 if ":" in address else 4]
        return "refused" if is_refusal else str(error)
    except Refused as error:
        return str(error)


@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize("address", ADDRESSES)
def test_udp_program_with_the_number_of_a_health_check_node_port(node: Node, address: str, client: str) -> None:
    expected = {"exact": "refused", "kube-proxy": "host"}
    assert end_of(node, client, "udp", address, HEALTH_PORT) == expected[node.policies]


@pytest.mark.parametrize("address", ADDRESSES)
def test_health_check_node_port_answers_at_service_addresses(node: Node, address: str) -> None:
    def is_open() -> bool:
        try:
            query(node.cluster["outside"], "tcp", address, HEALTH_PORT, payload=b"", timeout_s=0.2)
        except (Unreachable, Refused):
            return False
        except Exception:
            return True
        return True

    wait_until(is_open)


@pytest.mark.parametrize("client", ["pod-a2", "outside"])
@pytest.mark.parametrize("protocol", ["tcp", "udp"])
@pytest.mark.parametrize("address", ADDRESSES)
def test_packets_that_are_not_tracked(node: Node, address: str, protocol: Protocol, client: str) -> None:
    expected = {"exact": "refused", "kube-proxy": "host"}
    assert end_of(node, client, protocol, address, HOST_PORT) == expected[node.policies]


@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize("protocol", ["tcp", "udp"])
def test_local_dns_cache_answers_at_its_own_address(node: Node, protocol: Protocol, client: str) -> None:
    if client == "outside":
        shell(node.cluster["outside"], f"ip route replace {CACHE} via 192.168.3.10")
    assert end_of(node, client, protocol, CACHE, 53) == "host"


@pytest.mark.parametrize("protocol", ["tcp", "udp"])
def test_cluster_dns_answers_pods_whose_packets_are_not_tracked(node: Node, protocol: Protocol) -> None:
    answers = {end_of(node, "pod-a2", protocol, DNS_ADDRESS, 53) for _ in NEAR}
    assert answers == set(NEAR)
