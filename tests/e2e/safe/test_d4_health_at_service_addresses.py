"""/healthz at load balancer addresses, where passthrough load balancers ask, and no other port of the host."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from lab.client import Unreachable, connect
from lab.network import Cluster
from tests.e2e.agent_process import AgentProcess
from tests.e2e.client_requests import PORT_UNREACHABLE
from tests.e2e.manifests import Folder, Object, Port, endpoint_slice, service
from tests.e2e.probing import HEALTHZ, get
from tests.e2e.serving import serving_cluster

pytestmark = pytest.mark.kernel

VIPS = {4: "203.0.113.44", 6: "2001:db8::44"}
CLUSTER_IPS = ("10.96.0.44", "fd00:10:96::44")
HOST_PORT = 22044  # of a program of the host
OPTION = "--healthz-at-service-addresses"


def load_balancer() -> list[Object]:
    lb = service("front", CLUSTER_IPS, (Port(),), type="LoadBalancer")
    lb["status"] = {"loadBalancer": {"ingress": [{"ip": vip} for vip in VIPS.values()]}}
    return [lb, *(endpoint_slice("front", ["pod-a1"], version=version) for version in VIPS)]


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with serving_cluster() as built, host_program(built):
        yield built


@contextmanager
def host_program(cluster: Cluster) -> Iterator[None]:
    """A program listens on all addresses of node A, at a TCP port, and at the health port for UDP."""
    with cluster.node_a.inside():
        tcp = socket.create_server(("::", HOST_PORT), family=socket.AF_INET6, dualstack_ipv6=True)
        udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        udp.bind(("0.0.0.0", HEALTHZ))
    with tcp, udp:
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Folder:
    folder = Folder(tmp_path_factory.mktemp("manifests"))
    folder.write("front", load_balancer())
    return folder


def assert_rejected(cluster: Cluster, version: int, port: int) -> None:
    with pytest.raises(Unreachable) as raised, connect(cluster["outside"], "tcp", VIPS[version], port):
        pass
    assert raised.value.icmp == PORT_UNREACHABLE[version]


def test_health_is_answered_at_service_addresses_and_no_other_port_is_opened(cluster: Cluster, folder: Folder) -> None:
    with AgentProcess(cluster.node_a, folder.path, OPTION) as agent:
        agent.wait_synced()
        for version, vip in VIPS.items():
            assert get(cluster["outside"], vip, HEALTHZ, "/healthz").status == 200
            assert_rejected(cluster, version, HOST_PORT)
        assert get(cluster["pod-a2"], CLUSTER_IPS[0], HEALTHZ, "/healthz").status == 200
        with connect(cluster["outside"], "udp", VIPS[4], HEALTHZ) as udp, pytest.raises(ConnectionRefusedError):
            udp.send(b"anybody?")
            udp.recv(1)


def test_without_the_option_health_is_rejected_as_by_kube_proxy(cluster: Cluster, folder: Folder) -> None:
    with AgentProcess(cluster.node_a, folder.path) as agent:
        agent.wait_synced()
        for version in VIPS:
            assert_rejected(cluster, version, HEALTHZ)


def test_health_server_at_one_address_is_not_let_through(cluster: Cluster, folder: Folder) -> None:
    with AgentProcess(cluster.node_a, folder.path, OPTION, "--healthz-bind-address=192.168.3.10:10256") as agent:
        agent.wait_synced()
        for version in VIPS:
            assert_rejected(cluster, version, HEALTHZ)
