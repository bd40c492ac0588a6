"""Two connections of one client, from one source port, by two frontends to one pod: IPVS mixes up the answers.

Linux chooses source ports per destination, so a client may use one port for both.  IPVS finds the connection of an
answer by the addresses and ports of pod and client only (ip_vs_conn_out_get), so answers to the older connection get
the address of the younger one's frontend, until IPVS has forgotten that one.  So it is with an agent and without one.
"""

from __future__ import annotations

import signal
import socket
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab.client import connect, read_answer
from lab.network import BY_NAME, Cluster
from tests.e2e.agent_process import AgentProcess
from tests.e2e.manifests import Folder, Port, endpoint_slice, service
from tests.e2e.serving import cluster_fixture

pytestmark = pytest.mark.kernel

VIP, NODE_IP, NODE_PORT = "203.0.113.60", BY_NAME["node-a"].ipv4, 30060
SOURCE_PORT, OTHER_PORT = 20_000, 20_001
SHORT_S = 3.0
FORGOTTEN_S = 90.0  # IPVS forgets a closed connection after 10 s without a packet; TCP sends again after 14 s at last
PORT = Port(80, "TCP", 8080, NODE_PORT)

cluster = cluster_fixture


@pytest.fixture(params=["with an agent", "without an agent"])
def served(request: pytest.FixtureRequest, cluster: Cluster, tmp_path: Path) -> Iterator[Cluster]:
    """Return the cluster with a Service that has one pod, on another node."""
    web = service("web", "10.96.60.1", [PORT], type="LoadBalancer")
    web["status"] = {"loadBalancer": {"ingress": [{"ip": VIP, "ipMode": "VIP"}]}}
    folder = Folder(tmp_path)
    folder.write("all", [web, endpoint_slice("web", ["pod-b1"], [PORT])])
    with AgentProcess(cluster.node_a, folder.path) as agent:
        agent.wait_synced()
        if request.param == "without an agent":
            agent.stop(signal.SIGKILL)
        yield cluster


def is_answered(sock: socket.socket, timeout_s: float) -> bool:
    """Send a line; return whether it is echoed in time."""
    sock.settimeout(timeout_s)
    sock.sendall(b"line\n")
    try:
        return sock.recv(100).endswith(b"line\n")
    except TimeoutError:
        return False


def ignore_icmp(sock: socket.socket) -> None:
    sock.setsockopt(socket.IPPROTO_IP, 11, 0)  # IP_RECVERR, which lab.client sets


def reset_at_close(sock: socket.socket) -> None:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def test_held_connection_waits_until_ipvs_has_forgotten_another_one_from_its_port(served: Cluster) -> None:
    outside = served["outside"]
    with connect(outside, "tcp", VIP, 80, 10.0, SOURCE_PORT) as held:
        ignore_icmp(held)
        reset_at_close(held)
        read_answer(held)
        with connect(outside, "tcp", NODE_IP, NODE_PORT, 10.0, OTHER_PORT) as other:
            reset_at_close(other)
            read_answer(other)
            assert is_answered(held, 60.0)  # the ports differ
        with connect(outside, "tcp", NODE_IP, NODE_PORT, 10.0, SOURCE_PORT) as same:
            read_answer(same)
            assert not is_answered(held, SHORT_S)
            reset_at_close(same)
        held.settimeout(FORGOTTEN_S)
        assert held.recv(100)
