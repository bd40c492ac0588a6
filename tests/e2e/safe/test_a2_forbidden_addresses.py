"""Addresses that no Service can have are left out, and the host keeps its use of them."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import pytest

from lab.client import PATIENT_S, query
from lab.echo import EchoServers, Listener
from lab.namespace import Namespace
from lab.network import Cluster
from tests.e2e.agent_process import AgentProcess
from tests.e2e.kernel_state import kernel_state
from tests.e2e.manifests import Folder, Object, endpoint_slice, service
from tests.e2e.serving import serving_cluster

pytestmark = pytest.mark.kernel

DAEMON = 2379
EXTERNAL, BALANCED, EXTERNAL_6 = "203.0.113.7", "203.0.113.8", "2001:db8::7"
FORBIDDEN = {
    4: ["127.0.0.1", "0.0.0.0", "169.254.169.254", "224.0.0.18", "255.255.255.255", "192.168.3.255"],
    6: ["::1", "::", "fe80::10", "ff02::12"],
}


def objects() -> list[Object]:
    ingress = [{"ip": address} for address in (*FORBIDDEN[4], *FORBIDDEN[6], BALANCED)]
    balanced = service("tunnel", ["10.96.2.1", "fd00:10:96::2:1"], type="LoadBalancer")
    external = service("named", ["10.96.2.2", "fd00:10:96::2:2"])
    external["spec"]["externalIPs"] = [*FORBIDDEN[4], *FORBIDDEN[6], EXTERNAL, EXTERNAL_6]
    slices = [endpoint_slice(name, ["pod-b1"], version=version) for name in ("tunnel", "named") for version in (4, 6)]
    return [{**balanced, "status": {"loadBalancer": {"ingress": ingress}}}, external, *slices]


class Served(NamedTuple):
    cluster: Cluster
    agent: AgentProcess


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = Folder(tmp_path_factory.mktemp("manifests"))
    folder.write("all", objects())
    with (
        serving_cluster() as cluster,
        EchoServers([Listener("daemon", cluster.node_a, "tcp", DAEMON)]),
        AgentProcess(cluster.node_a, folder.path) as agent,
    ):
        agent.wait_synced()
        yield Served(cluster, agent)


@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
def test_daemons_of_the_host_answer_on_loopback(served: Served, address: str) -> None:
    assert query(served.cluster.node_a, "tcp", address, DAEMON).name == "daemon"


@pytest.mark.parametrize("address", ["224.0.0.18", "192.168.3.255", "255.255.255.255", "ff02::12"])
def test_multicast_and_broadcast_reach_the_host(served: Served, address: str) -> None:
    with receiver(served.cluster.node_a, address) as inbox:
        send(served.cluster["outside"], address)
        assert inbox.recv(16) == b"hello"


@contextmanager
def receiver(namespace: Namespace, address: str) -> Iterator[socket.socket]:
    """A UDP socket at port 9999 of *namespace* that joined the group *address*, if it is one."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with namespace.inside():
        sock = socket.socket(family, socket.SOCK_DGRAM)
        index = socket.if_nametoindex("eth0")
    with sock:
        sock.settimeout(PATIENT_S)
        sock.bind(("", 9999))
        packed = socket.inet_pton(family, address)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, packed + index.to_bytes(4, "little"))
        elif address.startswith("224."):
            interface = socket.inet_aton("192.168.3.10")
            sock.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, packed + interface)
        yield sock


def send(namespace: Namespace, address: str) -> None:
    """Send a datagram to port 9999 of *address* on eth0."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with namespace.inside(), socket.socket(family, socket.SOCK_DGRAM) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"eth0")
        sock.sendto(b"hello", (address, 9999))


@pytest.mark.parametrize("address", [EXTERNAL, BALANCED, EXTERNAL_6, "10.96.2.1", "fd00:10:96::2:2"])
def test_the_rest_of_the_service_is_served(served: Served, address: str) -> None:
    assert query(served.cluster["outside"], "tcp", address, 80).name == "pod-b1"


def test_forbidden_addresses_are_nowhere_in_the_kernel_and_named(served: Served) -> None:
    state = kernel_state(served.cluster.node_a)
    lines = [line for part in ("virtual servers", "ipsets") for line in state[part]]
    lines += [line for line in state["addresses"] if "kube-ipvs0" in line]
    for address in (*FORBIDDEN[4], *FORBIDDEN[6]):
        found = [line for line in lines if {f"{address}:80", f"[{address}]:80", f"{address}/32"} & set(line.split())]
        found += [line for line in lines if f" {address},tcp:80" in line or line.endswith(f" {address}")]
        assert found == []
    for name in ("tunnel", "named"):
        assert served.agent.wait_for(f"Service shop/{name}: ForbiddenAddress: .*127.0.0.1.*loopback")
    assert not [line for line in served.agent.lines() if "Failed to apply" in line]
