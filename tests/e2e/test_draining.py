"""A TCP real server that is removed under open connections: no new ones, the old ones go on, then it goes.

What is lost with a real server that goes while it has connections: Linux ends them with it (expire_nodest_conn=1), and
answers the client's next segment with a reset, since to the host it belongs to no connection.
"""

from __future__ import annotations

import re
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest

from kubeproxy_py.kernel.host.sockopt import SocketOptions
from kubeproxy_py.kernel.netlink.socket import Message, Socket
from kubeproxy_py.reconcile.drain_queue import FIRST_CHECK_S
from lab.ask import ask, connect
from lab.network import BY_NAME, Cluster
from tests.e2e.agent_process import EVENT, AgentProcess, wait_until
from tests.e2e.in_process_agent import AgentInside
from tests.e2e.kernel_state import run
from tests.e2e.manifests import Folder, Object, Port, backed
from tests.e2e.serving import serving_cluster

pytestmark = pytest.mark.kernel

HELD_PORT = Port(80, "TCP", 7777)  # where no echo server listens: the test itself holds both ends
VIPS = iter(f"10.96.1.{number}" for number in range(1, 255))  # each test its own Service
DEADLINE_S = 3
# Generous, for a busy machine: the agent's own measure are the counts after 1, 2, 4 s.
GOES_WITHIN_S = 20.0


class Running(NamedTuple):
    cluster: Cluster
    agent: AgentProcess
    folder: Folder

    def back(self, vip: str, *pods: str, port: Port = HELD_PORT, deadline: str = "") -> None:
        """Have *pods*, and no others, behind the Service at *vip*, and perhaps a drain deadline of its own."""
        with self.agent.syncing(EVENT):
            self.folder.put(vip, objects(vip, *pods, port=port, deadline=deadline))

    def drop(self, vip: str) -> None:
        """Have no Service at *vip*."""
        with self.agent.syncing(EVENT):
            self.folder.drop(vip)

    def server(self, vip: str, pod: str) -> RealServerSeen | None:
        return seen(self.cluster, vip, pod)


class RealServerSeen(NamedTuple):
    weight: int
    active: int
    inactive: int


def seen(cluster: Cluster, vip: str, pod: str) -> RealServerSeen | None:
    """What `ipvsadm -Ln` says of the real server behind *vip*; None: it is not there."""
    listed = run(cluster.node_a, "ipvsadm", "-Ln")
    behind = re.search(rf"^TCP  {re.escape(vip)}:80 .*\n((?:  -> .*\n?)*)", listed, re.MULTILINE)
    real_server = f"{BY_NAME[pod].ipv4}:{HELD_PORT.target}"
    found = re.search(rf"-> {re.escape(real_server)}\s+Masq\s+(\d+)\s+(\d+)\s+(\d+)", behind[1] if behind else "")
    return RealServerSeen(*map(int, found.groups())) if found else None


def objects(vip: str, *pods: str, port: Port = HELD_PORT, deadline: str = "") -> list[Object]:
    web, *rest = backed(f"s{vip.replace('.', '-')}", vip, pods, [port])
    if deadline:
        web["metadata"]["annotations"] = {"kubeproxy-py/drain-deadline": deadline}
    return [web, *rest]


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = Folder(tmp_path_factory.mktemp("manifests"))
    folder.put("first", backed("first", "10.96.0.10", ["pod-a1"]))
    with serving_cluster() as cluster, AgentProcess(cluster.node_a, folder.path) as agent:
        agent.wait_synced()
        forget_soon(cluster)
        yield Running(cluster, agent, folder)


@pytest.fixture(scope="module")
def limited(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """An agent whose real servers may drain for DEADLINE_S."""
    folder = Folder(tmp_path_factory.mktemp("limited"))
    folder.put("first", backed("first", "10.96.0.10", ["pod-a1"]))
    with (
        serving_cluster() as cluster,
        AgentProcess(cluster.node_a, folder.path, "--drain-deadline", f"{DEADLINE_S}s") as agent,
    ):
        agent.wait_synced()
        forget_soon(cluster)
        yield Running(cluster, agent, folder)


def forget_soon(cluster: Cluster) -> None:
    """Have connections that one end closed forgotten after a second; those that both did, Linux keeps two minutes."""
    run(cluster.node_a, "ipvsadm", "--set", "0", "1", "0")


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
        wait_until(lambda: running.server(vip, "pod-b1") is None, within_s=GOES_WITHIN_S)


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
    at_first = running.server(vip, "pod-b1")
    wait_until(lambda: running.server(vip, "pod-b1") is None, within_s=GOES_WITHIN_S)
    assert at_first in (RealServerSeen(0, 0, 0), None)


# Deadlines


def test_the_deadline_ends_a_connection_that_never_ends(limited: Running) -> None:
    vip = next(VIPS)
    limited.back(vip, "pod-b1")
    with conversation(limited.cluster, vip, "pod-b1") as (client, _):
        began_s = time.monotonic()
        limited.back(vip, "pod-a2")
        wait_until(lambda: limited.server(vip, "pod-b1") is None, within_s=GOES_WITHIN_S)
        assert time.monotonic() - began_s >= DEADLINE_S
        client.settimeout(GOES_WITHIN_S)  # a segment without answer is sent again after 0.2, 0.4 ... s
        client.sendall(b"ping")
        with pytest.raises(ConnectionResetError):
            client.recv(4)


def test_a_services_own_deadline_holds_though_the_agent_has_none(running: Running) -> None:
    vip = next(VIPS)
    running.back(vip, "pod-b1", deadline="1s")
    with conversation(running.cluster, vip, "pod-b1"):
        running.back(vip, "pod-a2", deadline="1s")
        wait_until(lambda: running.server(vip, "pod-b1") is None, within_s=GOES_WITHIN_S)


@pytest.mark.parametrize("own", ["0s", "1h"])
def test_a_services_own_deadline_goes_before_the_agents(limited: Running, own: str) -> None:
    vip, witness = next(VIPS), next(VIPS)
    limited.back(vip, "pod-b1", deadline=own)
    limited.back(witness, "pod-b2")
    with (
        conversation(limited.cluster, witness, "pod-b2"),
        conversation(limited.cluster, vip, "pod-b1") as (client, server),
    ):
        limited.back(vip, "pod-a2", deadline=own)
        limited.back(witness, "pod-a2")
        wait_until(lambda: limited.server(witness, "pod-b2") is None, within_s=GOES_WITHIN_S)
        assert (limited.server(vip, "pod-b1"), speaks(client, server)) == (RealServerSeen(0, 1, 0), True)


# What else may happen meanwhile


def test_draining_outlives_the_agent(tmp_path: Path) -> None:
    vip, folder = next(VIPS), Folder(tmp_path)
    folder.put(vip, objects(vip, "pod-b1"))
    with serving_cluster() as cluster, AgentProcess(cluster.node_a, tmp_path) as first:
        first.wait_synced()
        forget_soon(cluster)
        with conversation(cluster, vip, "pod-b1") as (client, server):
            Running(cluster, first, folder).back(vip, "pod-a2")
            first.end(signal.SIGTERM)
            assert speaks(client, server), "nobody watches"
            with AgentProcess(cluster.node_a, tmp_path) as second:
                assert "nothing to do" in second.wait_synced()
                drains_on = (seen(cluster, vip, "pod-b1"), speaks(client, server))
                server.close()
                wait_until(lambda: seen(cluster, vip, "pod-b1") is None, within_s=GOES_WITHIN_S)
                assert drains_on == (RealServerSeen(weight=0, active=1, inactive=0), True)


def test_what_left_while_no_agent_ran_drains_after_the_next_start(tmp_path: Path) -> None:
    vip, folder = next(VIPS), Folder(tmp_path)
    folder.put(vip, objects(vip, "pod-b1"))
    with serving_cluster() as cluster, AgentProcess(cluster.node_a, tmp_path) as first:
        first.wait_synced()
        with conversation(cluster, vip, "pod-b1") as (client, server):
            first.end(signal.SIGKILL)
            folder.put(vip, objects(vip, "pod-a2"))
            with AgentProcess(cluster.node_a, tmp_path) as second:
                second.wait_synced()
                drains = seen(cluster, vip, "pod-b1")
                assert (drains, speaks(client, server)) == (RealServerSeen(weight=0, active=1, inactive=0), True)


def test_a_draining_real_server_goes_with_its_virtual_server_and_is_forgotten(running: Running) -> None:
    # kube-proxy keeps it in its list, and may delete the one that serves the Service when that is made anew.
    vip = next(VIPS)
    running.back(vip, "pod-b1")
    with conversation(running.cluster, vip, "pod-b1"):
        running.back(vip, "pod-a2")
        running.drop(vip)
        gone = running.server(vip, "pod-b1")
    running.back(vip, "pod-b1")
    time.sleep(2 * FIRST_CHECK_S)  # when its connections would have been counted
    assert (gone, running.server(vip, "pod-b1")) == (None, RealServerSeen(weight=1, active=0, inactive=0))


# What it costs


@pytest.fixture
def listings(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """All listings that this process asks the kernel for, by netlink and by getsockopt, as they come."""
    asked: list[object] = []
    dump, ask = Socket.dump, SocketOptions.ask

    def noting_option(self: SocketOptions, option: int, buffer: bytearray) -> None:
        asked.append(option)
        ask(self, option, buffer)

    monkeypatch.setattr(SocketOptions, "ask", noting_option)

    def noting(self: Socket, message: Message) -> list[bytes]:
        asked.append(message)
        return dump(self, message)

    monkeypatch.setattr(Socket, "dump", noting)
    return asked


def test_connections_are_counted_by_one_listing_and_only_while_something_drains(
    listings: list[object], tmp_path: Path
) -> None:
    vip, folder = next(VIPS), Folder(tmp_path)
    folder.put(vip, objects(vip, "pod-b1"))
    for other in range(20):
        folder.put(f"other-{other}", backed(f"other-{other}", f"10.96.2.{other}", ["pod-a1", "pod-b1"]))
    with serving_cluster() as cluster, cluster.node_a.inside():
        agent = AgentInside(tmp_path)
        agent.take_in()
        forget_soon(cluster)

        def counted(seconds: int) -> list[int]:
            """How many listings each of the next *seconds* costs."""
            costs = []
            for _ in range(seconds):
                listings.clear()
                agent.let_drain()
                costs.append(len(listings))
            return costs

        idle = counted(5)
        with conversation(cluster, vip, "pod-b1") as (_, server):
            folder.put(vip, objects(vip, "pod-a2", "pod-b2"))
            listings.clear()
            agent.take_in()
            costs = {"idle": idle, "removed": [len(listings)], "draining": counted(7)}
            server.close()
            wait_until(lambda: seen(cluster, vip, "pod-b1") == RealServerSeen(0, 0, 0))
        costs |= {"closed": counted(8), "gone": counted(5)}
        left = seen(cluster, vip, "pod-b1")
        agent.close()
    assert (left, costs) == (
        None,
        {
            "idle": [0, 0, 0, 0, 0],
            "removed": [0],
            "draining": [1, 0, 1, 0, 0, 0, 1],  # after 1 s, 2 more, 4 more
            "closed": [0, 0, 0, 0, 0, 0, 0, 1],
            "gone": [0, 0, 0, 0, 0],
        },
    )
