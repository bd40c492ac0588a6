"""NodePorts that the host itself uses: ports on which its processes listen, and from which it opens connections."""

from __future__ import annotations

import signal
import socket
import struct
from pathlib import Path

import pytest

from kubeproxy_py.kernel.host.listening import ListeningSocket, listening_sockets
from lab.client import NoAnswer, connect, query
from lab.namespace import new_namespace
from lab.network import BY_NAME, Cluster
from tests.e2e.agent_process import AgentProcess, wait_until
from tests.e2e.manifests import Folder, Port, service_with_slice
from tests.e2e.serving import cluster_fixture

pytestmark = pytest.mark.kernel

IN_RANGE = 40123  # a NodePort among the ports from which Linux opens connections
POD = BY_NAME["pod-b1"].ipv4


cluster = cluster_fixture


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path)


def write_service(folder: Folder, name: str, number: int, *node_ports: int, protocol: str = "TCP") -> None:
    ports = [Port(80 + index, protocol, node_port=port) for index, port in enumerate(node_ports)]
    folder.write(name, service_with_slice(name, f"10.96.83.{number}", ["pod-b1"], ports))


def reserved(cluster: Cluster) -> str:
    with cluster.node_a.inside():
        return Path("/proc/sys/net/ipv4/ip_local_reserved_ports").read_text().strip()


def test_node_port_on_which_a_process_listens_is_reported(cluster: Cluster, folder: Folder) -> None:
    with cluster.node_a.inside():
        listeners = [
            socket.create_server(("", 30022)),
            socket.create_server(("127.0.0.1", 30023)),
            socket.create_server(("::", 30024), family=socket.AF_INET6, dualstack_ipv6=True),
            socket.socket(socket.AF_INET, socket.SOCK_DGRAM),
        ]
        listeners[-1].bind(("192.168.3.10", 30025))
    write_service(folder, "tcp", 1, 30022, 30023, 30024, 30025)
    write_service(folder, "udp", 2, 30022, 30025, protocol="UDP")
    try:
        with AgentProcess(cluster.node_a, folder.path) as agent:
            agent.wait_synced()
            for port in ("30022/TCP", "30024/TCP", "30025/UDP"):
                agent.wait_for(rf"W.*NodePortInUse.*node port {port}")
            assert sum("NodePortInUse" in line for line in agent.lines()) == 3
            assert query(cluster["outside"], "tcp", BY_NAME["node-a"].ipv4, 30022).name == "pod-b1"
    finally:
        for listener in listeners:
            listener.close()


def test_every_kind_of_listening_socket_is_listed() -> None:
    with new_namespace("a6") as namespace:
        with namespace.inside():
            sockets = [
                socket.create_server(("", 1001)),
                socket.create_server(("::1", 1002), family=socket.AF_INET6),
                socket.create_server(("::", 1003), family=socket.AF_INET6, dualstack_ipv6=True),
                socket.socket(socket.AF_INET6, socket.SOCK_DGRAM),
                socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_SCTP),
            ]
            sockets[3].bind(("::", 1004))
            sockets[4].bind(("127.0.0.1", 1005))
            sockets[4].listen()
            client = socket.create_connection(("127.0.0.1", 1001))
            found = listening_sockets()
        for each in (*sockets, client):
            each.close()
    assert found == {
        ListeningSocket("TCP", "IPv4", "0.0.0.0", 1001),
        ListeningSocket("TCP", "IPv6", "::1", 1002),
        ListeningSocket("TCP", "IPv6", "::", 1003),
        ListeningSocket("TCP", "IPv4", "0.0.0.0", 1003),
        ListeningSocket("UDP", "IPv6", "::", 1004),
        ListeningSocket("UDP", "IPv4", "0.0.0.0", 1004),
        ListeningSocket("SCTP", "IPv4", "127.0.0.1", 1005),
    }


def open_connection(cluster: Cluster) -> int:
    """Have node A ask a pod, and return the port that the kernel chose; the connection is reset."""
    with connect(cluster.node_a, "tcp", POD, 8080, source_port=0) as sock:
        sock.recv(100)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        return int(sock.getsockname()[1])


def test_node_opens_no_connection_from_a_node_port(cluster: Cluster, folder: Folder) -> None:
    cluster.node_a.set_sysctl("ipv4/ip_local_port_range", f"{IN_RANGE} {IN_RANGE + 3}")
    try:
        assert IN_RANGE in {open_connection(cluster) for _ in range(40)}
        write_service(folder, "web", 3, IN_RANGE)
        with AgentProcess(cluster.node_a, folder.path) as agent:
            agent.wait_synced()
            wait_until(lambda: reserved(cluster) == str(IN_RANGE))
            assert IN_RANGE not in {open_connection(cluster) for _ in range(40)}
            with pytest.raises(NoAnswer):  # why: its answer is taken for a connection to the NodePort
                query(cluster.node_a, "tcp", POD, 8080, 1.0, IN_RANGE)
    finally:
        cluster.node_a.set_sysctl("ipv4/ip_local_port_range", "32768 60999")
        cluster.node_a.set_sysctl("ipv4/ip_local_reserved_ports", "\n")


def test_reserved_ports_follow_the_services_over_a_restart_and_spare_others(cluster: Cluster, folder: Folder) -> None:
    cluster.node_a.set_sysctl("ipv4/ip_local_reserved_ports", "8080,50000-50010")
    write_service(folder, "one", 4, IN_RANGE, 30081)
    write_service(folder, "two", 5, IN_RANGE + 100)
    with AgentProcess(cluster.node_a, folder.path) as agent:
        agent.wait_synced()
        wait_until(lambda: reserved(cluster) == f"8080,{IN_RANGE},{IN_RANGE + 100},50000-50010")
        folder.delete("one")
        wait_until(lambda: reserved(cluster) == f"8080,{IN_RANGE + 100},50000-50010")
        agent.stop(signal.SIGKILL)
    folder.delete("two")
    write_service(folder, "three", 6, IN_RANGE + 1)
    with AgentProcess(cluster.node_a, folder.path) as agent:
        agent.wait_synced()
        wait_until(lambda: reserved(cluster) == f"8080,{IN_RANGE + 1},50000-50010")
        cluster.node_a.set_sysctl("ipv4/ip_local_reserved_ports", f"{IN_RANGE + 1}")
        folder.delete("three")
        wait_until(lambda: not reserved(cluster))


def test_setting_leaves_the_reserved_ports_alone(cluster: Cluster, folder: Folder) -> None:
    write_service(folder, "web", 7, IN_RANGE)
    with AgentProcess(cluster.node_a, folder.path, "--reserve-node-ports=false") as agent:
        agent.wait_synced()
        write_service(folder, "later", 8, IN_RANGE + 1)
        agent.wait_for(r'"Synced .* since the event')
        assert reserved(cluster) == ""
