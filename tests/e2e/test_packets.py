"""Requests to Services on a node where the agent runs: who answers, which source it sees, and what is rejected."""

from __future__ import annotations

import socket
import struct
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import ip_address

import pytest

from lab.client import NoAnswer, QueryError, Refused, Unreachable, query
from lab.echo import PROTOCOLS, Protocol
from lab.namespace import Namespace
from lab.network import Cluster
from tests.e2e.agent_process import AgentProcess
from tests.e2e.client_requests import PORT_UNREACHABLE, Request, send_request
from tests.e2e.kernel_state import kernel_state
from tests.e2e.manifests import Folder, Object, Port, endpoint_slice, endpoints, service, service_with_slice
from tests.e2e.packets_table import CLUSTER_IP, CLUSTER_IP_6, NODE_PORT, PORT, ROWS, WEB_PODS, Row
from tests.e2e.serving import serving_cluster

pytestmark = pytest.mark.kernel

REQUESTS = 8  # a multiple of the pods of `web`, so that rr distributes evenly wherever it starts
FREE_PORT = 81  # of a ClusterIP, in no Service

_WEB_PORTS = [Port(PORT, protocol.upper(), 8080, NODE_PORT) for protocol in PROTOCOLS]
_GAMES = (Port(80, "TCP", 8091),)
_IDLE_PORTS = [Port(80, protocol.upper()) for protocol in PROTOCOLS]
_AFFINE: Object = {"sessionAffinity": "ClientIP", "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 600}}}


def _other_proxys() -> list[Object]:
    objects = service_with_slice("mesh", "10.96.66.66", ["pod-a1"], [Port(66, "TCP", 8080, 30066)])
    objects[0]["metadata"]["labels"]["service.kubernetes.io/service-proxy-name"] = "other"
    return objects


SERVED = [
    service("web", [CLUSTER_IP, CLUSTER_IP_6], _WEB_PORTS),
    endpoint_slice("web", WEB_PODS, _WEB_PORTS),
    endpoint_slice("web", WEB_PODS, _WEB_PORTS, version=6),
    service("games", "10.96.0.20", _GAMES),
    endpoints("games", ["pod-b2"], _GAMES),
    *service_with_slice("sticky", "10.96.0.30", WEB_PODS, **_AFFINE),
    *service_with_slice("loose", "10.96.0.31", WEB_PODS),
    service("idle", "10.96.0.40", _IDLE_PORTS),
]
NOT_SERVED = [
    *service_with_slice("headless", "None", ["pod-a1"], [Port(66)]),
    service("elsewhere", "", [Port(66)], type="ExternalName", externalName="example.com", externalIPs=["203.0.113.66"]),
    *_other_proxys(),
]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    folder = Folder(tmp_path_factory.mktemp("manifests"))
    folder.write("served", SERVED)
    folder.write("not-served", NOT_SERVED)
    with serving_cluster() as built, AgentProcess(built.node_a, folder.path) as agent:
        agent.wait_synced()
        yield built


def who_answers(cluster: Cluster, client: str, protocol: Protocol, address: str, port: int) -> list[tuple[str, str]]:
    answers = [send_request(cluster, Request(client, protocol, address, port)) for _ in range(REQUESTS)]
    return [(answer.name, answer.peer_address) for answer in answers]


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("row", ROWS, ids=str)
def test_each_pod_answers_its_share_and_sees_the_expected_source(
    cluster: Cluster, row: Row, protocol: Protocol
) -> None:
    answers = Counter(who_answers(cluster, row.client, protocol, row.address, row.port))
    share = REQUESTS // len(row.sources)
    assert answers == dict.fromkeys(row.sources.items(), share), row.why


def test_endpoints_of_a_service_without_selector_are_served(cluster: Cluster) -> None:
    assert query(cluster["pod-a1"], "tcp", "10.96.0.20", 80).name == "pod-b2:8091"


def test_session_affinity_sends_a_client_to_one_pod(cluster: Cluster) -> None:
    chosen = [
        {name for name, _ in who_answers(cluster, client, "tcp", "10.96.0.30", 80)} for client in ("outside", "pod-a2")
    ]
    assert [len(pods) for pods in chosen] == [1, 1]


def test_session_affinity_distributes_clients(cluster: Cluster) -> None:
    clients = ("node-b", "pod-a1")
    assert len({query(cluster[client], "tcp", "10.96.0.30", 80).name for client in clients}) == 2


def test_without_affinity_one_client_reaches_all_pods(cluster: Cluster) -> None:
    assert {name for name, _ in who_answers(cluster, "outside", "tcp", "10.96.0.31", 80)} == set(WEB_PODS)


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
def test_node_ports_are_not_served_on_loopback(cluster: Cluster, address: str, protocol: Protocol) -> None:
    with pytest.raises((Refused, Unreachable)):
        query(cluster.node_a, protocol, address, NODE_PORT)


def result_of(client: Namespace, protocol: Protocol, address: str, port: int) -> object:
    """The ICMP error that a request gets, or else its result."""
    try:
        return query(client, protocol, address, port)
    except Unreachable as error:
        return error.icmp
    except QueryError as error:
        return type(error)


@pytest.mark.parametrize("protocol", ["tcp", "udp"])
@pytest.mark.parametrize("client", ["pod-a1", "node-a", "outside"])
@pytest.mark.parametrize("address", [CLUSTER_IP, CLUSTER_IP_6])
def test_cluster_ip_port_without_a_service_is_rejected(
    cluster: Cluster, address: str, client: str, protocol: Protocol
) -> None:
    expected = PORT_UNREACHABLE[ip_address(address).version]
    assert result_of(cluster[client], protocol, address, FREE_PORT) == expected


@pytest.mark.parametrize("protocol", ["tcp", "udp"])
@pytest.mark.parametrize("client", ["pod-a1", "node-a", "outside"])
def test_service_without_endpoints_is_rejected_by_icmp(cluster: Cluster, client: str, protocol: Protocol) -> None:
    assert result_of(cluster[client], protocol, "10.96.0.40", 80) == PORT_UNREACHABLE[4]


@pytest.mark.parametrize(("address", "port"), [(CLUSTER_IP, FREE_PORT), ("10.96.0.40", PORT)])
def test_sctp_without_service_or_endpoints_is_rejected_by_icmp(cluster: Cluster, address: str, port: int) -> None:
    with icmp_socket(cluster["pod-a1"], 4) as sock:
        with pytest.raises(NoAnswer):  # SCTP does not report the error to its user, and retries
            query(cluster["pod-a1"], "sctp", address, port, timeout_s=0.2)
        assert next_icmp(sock) == PORT_UNREACHABLE[4]


@pytest.mark.parametrize("client", ["pod-a1", "outside"])
@pytest.mark.parametrize("address", [CLUSTER_IP, CLUSTER_IP_6])
def test_ping_of_a_cluster_ip_is_rejected(cluster: Cluster, address: str, client: str) -> None:
    assert ping(cluster[client], address) == PORT_UNREACHABLE[ip_address(address).version]


@pytest.mark.parametrize(("address", "reply"), [("192.168.3.10", (0, 0)), ("fd00:3::10", (129, 0))])
def test_ping_of_the_node_is_answered(cluster: Cluster, address: str, reply: tuple[int, int]) -> None:
    assert ping(cluster["outside"], address) == reply


def ping(client: Namespace, address: str) -> tuple[int, int]:
    """Type and code of the ICMP message that answers an echo request; RFC 792, RFC 4443."""
    version = ip_address(address).version
    request = struct.pack("!BBHHH", 128 if version == 6 else 8, 0, 0, 0x4B50, 1)
    if version == 4:  # the kernel computes the checksum of ICMPv6
        request = request[:2] + struct.pack("!H", _checksum(request)) + request[4:]
    with icmp_socket(client, version) as sock:
        sock.sendto(request, (address, 0))
        return next_icmp(sock)


@contextmanager
def icmp_socket(client: Namespace, version: int) -> Iterator[socket.socket]:
    """A raw socket that receives all ICMP of one IP version sent to *client*."""
    family, protocol = {
        4: (socket.AF_INET, socket.IPPROTO_ICMP),
        6: (socket.AF_INET6, socket.IPPROTO_ICMPV6),
    }[version]
    with client.inside():
        sock = socket.socket(family, socket.SOCK_RAW, protocol)
    with sock:
        sock.settimeout(1.0)
        yield sock


def next_icmp(sock: socket.socket) -> tuple[int, int]:
    """Type and code of the next message that is not about routes or neighbours."""
    is_ipv4 = sock.family == socket.AF_INET
    ignored = {5} if is_ipv4 else set(range(133, 138))
    while True:
        message = sock.recv(1500)[20 if is_ipv4 else 0 :]  # only IPv4 includes the IP header
        if message[0] not in ignored:
            return message[0], message[1]


def _checksum(message: bytes) -> int:
    """RFC 1071."""
    total: int = sum(struct.unpack(f"!{len(message) // 2}H", message))
    return ~(total % 0xFFFF) & 0xFFFF


def test_headless_external_and_other_proxies_services_leave_no_kernel_state(cluster: Cluster) -> None:
    lines = [f"{line} " for lines in kernel_state(cluster.node_a).values() for line in lines]
    traces = ("203.0.113.66", "10.96.66.66", "30066", ":66 ")
    assert [line for line in lines if any(trace in line for trace in traces)] == []


def test_cluster_ip_of_another_proxy_is_not_served(cluster: Cluster) -> None:
    with pytest.raises((NoAnswer, Unreachable)):
        query(cluster["pod-a1"], "tcp", "10.96.66.66", 66, timeout_s=0.3)
