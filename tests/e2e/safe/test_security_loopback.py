"""Services of the host on 127.0.0.1 stay unreachable from its neighbours (CVE-2020-8558).

kube-proxy of that time set net.ipv4.conf.all.route_localnet to 1, with which Linux accepts packets to 127.0.0.0/8 from
the network.  The agent never sets it.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab.network import BY_NAME, Cluster
from tests.e2e.agent_process import AgentProcess
from tests.e2e.kernel_state import run
from tests.e2e.manifests import Folder, Port, service_with_slice
from tests.e2e.serving import serving_cluster

pytestmark = pytest.mark.kernel

ETCD = 23790  # of a program that trusts everybody on 127.0.0.1
_ETHERTYPE_IPV4 = 0x0800
_WAIT_S = 0.3


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    folder = Folder(tmp_path_factory.mktemp("manifests"))
    folder.write("web", service_with_slice("web", "10.96.0.110", ["pod-a1"], [Port(80, node_port=30110)]))
    with serving_cluster() as built, AgentProcess(built.node_a, folder.path) as agent:
        agent.wait_synced()
        yield built


def checksum(data: bytes) -> int:
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    total = (total & 0xFFFF) + (total >> 16)
    return ~((total & 0xFFFF) + (total >> 16)) & 0xFFFF


def datagram(source: str, port: int, payload: bytes) -> bytes:
    """Return an IPv4 packet with a UDP datagram to 127.0.0.1, which no socket would send to another machine."""
    udp = struct.pack("!HHHH", 40000, port, 8 + len(payload), 0) + payload
    fields = (0x45, 0, 20 + len(udp), 1, 0, 64, socket.IPPROTO_UDP)
    addresses = socket.inet_aton(source) + socket.inet_aton("127.0.0.1")
    header = struct.pack("!BBHHHBBH", *fields, 0) + addresses
    return struct.pack("!BBHHHBBH", *fields, checksum(header)) + addresses + udp


def send_to_loopback_of_node(cluster: Cluster, port: int, payload: bytes) -> None:
    """Send a frame from a neighbour on the LAN, as an attacker there can."""
    attacker = BY_NAME["outside"]
    link = mac_of_node(cluster)
    with cluster["outside"].inside():
        raw = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM)
    with raw:
        frame = datagram(attacker.ipv4, port, payload)
        raw.sendto(frame, ("eth0", _ETHERTYPE_IPV4, 0, 0, link))


def mac_of_node(cluster: Cluster) -> bytes:
    line = run(cluster.node_a, "ip", "-o", "link", "show", "eth0")
    return bytes.fromhex(line.partition("link/ether ")[2].split()[0].replace(":", ""))


def received(cluster: Cluster, payload: bytes) -> bool:
    """Send *payload* to a program that listens on the node's 127.0.0.1, and return whether it receives it."""
    with cluster.node_a.inside():
        server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with server:
        server.bind(("127.0.0.1", ETCD))
        server.settimeout(_WAIT_S)
        send_to_loopback_of_node(cluster, ETCD, payload)
        try:
            return server.recv(100) == payload
        except TimeoutError:
            return False


def test_route_localnet_is_off_on_every_interface(cluster: Cluster) -> None:
    with cluster.node_a.inside():
        settings = {
            path.parent.name: path.read_text().strip()
            for path in Path("/proc/sys/net/ipv4/conf").glob("*/route_localnet")
        }
    assert {"all", "default", "eth0", "kube-ipvs0"} <= settings.keys()
    assert set(settings.values()) == {"0"}


def test_packet_of_a_neighbour_to_loopback_is_not_received(cluster: Cluster) -> None:
    assert not received(cluster, b"from the LAN")


def test_the_same_packet_would_be_received_with_route_localnet(cluster: Cluster) -> None:
    cluster.node_a.set_sysctl("ipv4/conf/all/route_localnet", 1)
    try:
        assert received(cluster, b"from the LAN, let in")
    finally:
        cluster.node_a.set_sysctl("ipv4/conf/all/route_localnet", 0)
