"""A TCP real server that is removed under open connections: no new ones, the old ones go on, then it goes."""

from __future__ import annotations

import re
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import pytest

from kubeproxy_py.plan.drain import FIRST_CHECK_S
from tests.lab.ask import ask, connect
from tests.lab.network import BY_NAME, Cluster
from tests.real.agent_process import AgentProcess, wait_until
from tests.real.kernel_state import run
from tests.real.manifests import Folder, Port, backed
from tests.real.serving import serving_cluster

pytestmark = pytest.mark.kernel

HELD_PORT = Port(80, "TCP", 7777)  # where no echo server listens: the test itself holds both ends
VIPS = iter(f"10.96.1.{number}" for number in range(1, 255))  # each test its own Service
GOES_WITHIN_S = 3.0
CLOSED_GOES_WITHIN_S = 10.0  # the wait between two counts doubles: 1, 2, 4 s


class Running(NamedTuple):
    cluster: Cluster
    agent: AgentProcess
    folder: Folder

    def back(self, vip: str, *pods: str, port: Port = HELD_PORT) -> None:
        """Have *pods*, and no others, behind the Service at *vip*."""
        with self.agent.syncing():
            self.folder.put(vip, backed(f"s{vip.replace('.', '-')}", vip, pods, [port]))

    def server(self, vip: str, pod: str, port: int = HELD_PORT.target) -> RealServerSeen | None:
        """What `ipvsadm -Ln` says of a real server; None: it is not there."""
        listed = run(self.cluster.node_a, "ipvsadm", "-Ln", "-t", f"{vip}:80")
        found = re.search(rf"-> {BY_NAME[pod].ipv4}:{port}\s+Masq\s+(\d+)\s+(\d+)\s+(\d+)", listed)
        return RealServerSeen(*map(int, found.groups())) if found else None


class RealServerSeen(NamedTuple):
    weight: int
    active: int
    inactive: int


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = Folder(tmp_path_factory.mktemp("manifests"))
    folder.put("first", backed("first", "10.96.0.10", ["pod-a1"]))
    with serving_cluster() as cluster, AgentProcess(cluster.node_a, folder.path) as agent:
        agent.wait_synced()
        run(cluster.node_a, "ipvsadm", "--set", "0", "1", "0")  # after FIN an entry stays a second, not two minutes
        yield Running(cluster, agent, folder)


@contextmanager
def conversation(cluster: Cluster, vip: str, pod: str) -> Iterator[tuple[socket.socket, socket.socket]]:
    """Both ends of a TCP connection from outside by way of *vip*: (client's, pod's)."""
    with cluster[pod].inside(), socket.create_server(("", HELD_PORT.target)) as listener:
        listener.settimeout(2.0)
        with connect(cluster["outside"], "tcp", vip, 80) as client, listener.accept()[0] as server:
            server.settimeout(1.0)
            yield client, server


def speaks(client: socket.socket, server: socket.socket) -> bool:
    """Whether bytes pass both ways."""
    client.sendall(b"ping")
    server.sendall(server.recv(4))
    return client.recv(4) == b"ping"


def test_a_removed_real_server_drains(running: Running) -> None:
    vip = next(VIPS)
    running.back(vip, "pod-b1")
    with conversation(running.cluster, vip, "pod-b1") as (client, server):
        running.back(vip, "pod-a2")
        assert running.server(vip, "pod-b1") == RealServerSeen(weight=0, active=1, inactive=0)
        until_s = time.monotonic() + 1.5 * FIRST_CHECK_S
        while time.monotonic() < until_s:  # beyond the first count of its connections
            assert speaks(client, server)
            time.sleep(0.02)
        assert running.server(vip, "pod-b1") == RealServerSeen(weight=0, active=1, inactive=0)
        server.close()
        assert client.recv(4) == b"", "closed in order, not reset"
        wait_until(lambda: running.server(vip, "pod-b1") is None, within_s=CLOSED_GOES_WITHIN_S)


def test_a_draining_real_server_gets_no_new_connection(running: Running) -> None:
    vip = next(VIPS)
    running.back(vip, "pod-b1")
    with conversation(running.cluster, vip, "pod-b1"):
        echo = Port(80, "TCP", 8080)
        running.back(vip, "pod-a2", "pod-b2", port=echo)
        answers = {ask(running.cluster["outside"], "tcp", vip, 80).name for _ in range(6)}
        assert (answers, running.server(vip, "pod-b1")) == ({"pod-a2", "pod-b2"}, RealServerSeen(0, 1, 0))


def test_a_real_server_that_comes_back_keeps_its_connections(running: Running) -> None:
    vip = next(VIPS)
    running.back(vip, "pod-b1")
    with conversation(running.cluster, vip, "pod-b1") as (client, server):
        running.back(vip, "pod-a2")
        running.back(vip, "pod-a2", "pod-b1")
        assert (running.server(vip, "pod-b1"), speaks(client, server)) == (RealServerSeen(1, 1, 0), True)


def test_a_real_server_without_connections_goes_soon(running: Running) -> None:
    vip = next(VIPS)
    running.back(vip, "pod-a2", "pod-b1")
    running.back(vip, "pod-a2")
    seen = running.server(vip, "pod-b1")
    wait_until(lambda: running.server(vip, "pod-b1") is None, within_s=GOES_WITHIN_S)
    assert seen in (RealServerSeen(0, 0, 0), None)
