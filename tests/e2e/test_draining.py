"""Draining of a TCP real server with open connections: it gets no new ones, the old ones continue, then it is deleted.

If a real server is deleted while it has connections, Linux drops them (expire_nodest_conn=1), and answers the client's
next segment with a reset, because to the host it belongs to no connection.
"""

from __future__ import annotations

import re
import signal
import socket
import time
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest

from kubeproxy_py.kernel.host.sockopt import SocketOptions
from kubeproxy_py.kernel.netlink.socket import Message, Socket
from kubeproxy_py.reconcile.drain_queue import FIRST_CHECK_S
from lab.client import PATIENT_S, connect, query
from lab.network import BY_NAME, Cluster
from tests.e2e.agent_process import AgentProcess, wait_until
from tests.e2e.in_process_agent import InProcessAgent
from tests.e2e.kernel_state import run
from tests.e2e.manifests import Folder, Object, Port, service_with_slice
from tests.e2e.serving import serving_cluster

pytestmark = pytest.mark.kernel

OPEN_PORT = Port(80, "TCP", 7777)  # no echo server listens there: the test itself has both ends
VIPS = iter(f"10.96.1.{number}" for number in range(1, 255))  # a Service for each test
DEADLINE_S = 3
# Generous, for a busy machine: the agent counts connections after 1, 2, 4 s.
DELETED_WITHIN_S = 60.0


class Running(NamedTuple):
    cluster: Cluster
    agent: AgentProcess
    folder: Folder

    def set_pods(self, vip: str, *pods: str, port: Port = OPEN_PORT, deadline: str = "") -> None:
        """Set the pods of the Service at *vip*, and its drain deadline annotation, and wait until all is done."""
        with self.agent.settling():
            self.folder.write(vip, objects(vip, *pods, port=port, deadline=deadline))

    def delete(self, vip: str) -> None:
        """Delete the Service at *vip* and wait until all is done."""
        with self.agent.settling():
            self.folder.delete(vip)

    def server(self, vip: str, pod: str) -> ListedServer | None:
        """Return the real server of *pod* behind *vip*."""
        return listed_server(self.cluster, vip, pod)


class ListedServer(NamedTuple):
    """Weight and connections of a real server."""

    weight: int
    active: int
    inactive: int


def listed_server(cluster: Cluster, vip: str, pod: str) -> ListedServer | None:
    """Return the real server of *pod* behind *vip* as `ipvsadm -Ln` prints it; None if there is none."""
    listed = run(cluster.node_a, "ipvsadm", "-Ln")
    behind = re.search(rf"^TCP  {re.escape(vip)}:80 .*\n((?:  -> .*\n?)*)", listed, re.MULTILINE)
    real_server = f"{BY_NAME[pod].ipv4}:{OPEN_PORT.target}"
    match = re.search(rf"-> {re.escape(real_server)}\s+Masq\s+(\d+)\s+(\d+)\s+(\d+)", behind[1] if behind else "")
    return ListedServer(*map(int, match.groups())) if match else None


def objects(vip: str, *pods: str, port: Port = OPEN_PORT, deadline: str = "") -> list[Object]:
    web, web_slice = service_with_slice(f"s{vip.replace('.', '-')}", vip, pods, [port])
    if deadline:
        web["metadata"]["annotations"] = {"kubeproxy-py/drain-deadline": deadline}
    return [web, web_slice]


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = Folder(tmp_path_factory.mktemp("manifests"))
    folder.write("first", service_with_slice("first", "10.96.0.10", ["pod-a1"]))
    with serving_cluster() as cluster, AgentProcess(cluster.node_a, folder.path) as agent:
        agent.wait_synced()
        shorten_fin_timeout(cluster)
        yield Running(cluster, agent, folder)


@pytest.fixture(scope="module")
def limited(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """Yield an agent with the drain deadline DEADLINE_S."""
    folder = Folder(tmp_path_factory.mktemp("limited"))
    folder.write("first", service_with_slice("first", "10.96.0.10", ["pod-a1"]))
    with (
        serving_cluster() as cluster,
        AgentProcess(cluster.node_a, folder.path, "--drain-deadline", f"{DEADLINE_S}s") as agent,
    ):
        agent.wait_synced()
        shorten_fin_timeout(cluster)
        yield Running(cluster, agent, folder)


def shorten_fin_timeout(cluster: Cluster) -> None:
    """Let connections that one end closed expire after a second; those that both closed stay for two minutes."""
    run(cluster.node_a, "ipvsadm", "--set", "0", "1", "0")


@contextmanager
def open_connection(cluster: Cluster, vip: str, pod: str) -> Iterator[tuple[socket.socket, socket.socket]]:
    """Yield both ends of a TCP connection from outside to *pod* by *vip*: (client's, pod's)."""
    with cluster[pod].inside(), socket.create_server(("", OPEN_PORT.target)) as listener:
        listener.settimeout(PATIENT_S)
        with connect(cluster["outside"], "tcp", vip, 80) as client, listener.accept()[0] as server:
            server.settimeout(PATIENT_S)
            yield client, server


def passes_data(client: socket.socket, server: socket.socket) -> bool:
    """Return whether bytes pass both ways."""
    client.sendall(b"ping")
    server.sendall(server.recv(4))
    return client.recv(4) == b"ping"


def test_removed_real_server_drains_until_its_connections_are_closed(running: Running) -> None:
    vip = next(VIPS)
    running.set_pods(vip, "pod-b1")
    with open_connection(running.cluster, vip, "pod-b1") as (client, server):
        running.set_pods(vip, "pod-a2")
        assert running.server(vip, "pod-b1") == ListedServer(weight=0, active=1, inactive=0)
        until_s = time.monotonic() + 1.5 * FIRST_CHECK_S
        while time.monotonic() < until_s:  # beyond the first count of its connections
            assert passes_data(client, server)
            time.sleep(0.02)
        assert running.server(vip, "pod-b1") == ListedServer(weight=0, active=1, inactive=0)
        server.close()
        assert client.recv(4) == b"", "closed by FIN, not reset"
        wait_until(lambda: running.server(vip, "pod-b1") is None, timeout_s=DELETED_WITHIN_S)


def test_draining_real_server_gets_no_new_connection(running: Running) -> None:
    vip = next(VIPS)
    running.set_pods(vip, "pod-b1")
    with open_connection(running.cluster, vip, "pod-b1"):
        echo = Port(80, "TCP", 8080)
        running.set_pods(vip, "pod-a2", "pod-b2", port=echo)
        answers = {query(running.cluster["outside"], "tcp", vip, 80).name for _ in range(6)}
        assert (answers, running.server(vip, "pod-b1")) == ({"pod-a2", "pod-b2"}, ListedServer(0, 1, 0))


def test_draining_real_server_that_is_desired_again_keeps_its_connections(running: Running) -> None:
    vip = next(VIPS)
    running.set_pods(vip, "pod-b1")
    with open_connection(running.cluster, vip, "pod-b1") as (client, server):
        running.set_pods(vip, "pod-a2")
        running.set_pods(vip, "pod-a2", "pod-b1")
        assert (running.server(vip, "pod-b1"), passes_data(client, server)) == (ListedServer(1, 1, 0), True)


def test_real_server_without_connections_is_deleted_soon(running: Running) -> None:
    vip = next(VIPS)
    running.set_pods(vip, "pod-a2", "pod-b1")
    running.set_pods(vip, "pod-a2")
    at_first = running.server(vip, "pod-b1")
    wait_until(lambda: running.server(vip, "pod-b1") is None, timeout_s=DELETED_WITHIN_S)
    assert at_first in (ListedServer(0, 0, 0), None)


# Deadlines


def test_drain_deadline_ends_an_open_connection(limited: Running) -> None:
    vip = next(VIPS)
    limited.set_pods(vip, "pod-b1")
    with open_connection(limited.cluster, vip, "pod-b1") as (client, _):
        began_s = time.monotonic()
        limited.set_pods(vip, "pod-a2")
        wait_until(lambda: limited.server(vip, "pod-b1") is None, timeout_s=DELETED_WITHIN_S)
        assert time.monotonic() - began_s >= DEADLINE_S
        client.settimeout(DELETED_WITHIN_S)  # a segment without answer is sent again after 0.2, 0.4 ... s
        client.sendall(b"ping")
        with pytest.raises(ConnectionResetError):
            client.recv(4)


def test_deadline_annotation_applies_without_a_global_deadline(running: Running) -> None:
    vip = next(VIPS)
    running.set_pods(vip, "pod-b1", deadline="1s")
    with open_connection(running.cluster, vip, "pod-b1"):
        running.set_pods(vip, "pod-a2", deadline="1s")
        wait_until(lambda: running.server(vip, "pod-b1") is None, timeout_s=DELETED_WITHIN_S)


@pytest.mark.parametrize("own", ["0s", "1h"])
def test_deadline_annotation_overrides_the_global_deadline(limited: Running, own: str) -> None:
    vip, witness = next(VIPS), next(VIPS)
    limited.set_pods(vip, "pod-b1", deadline=own)
    limited.set_pods(witness, "pod-b2")
    with (
        open_connection(limited.cluster, witness, "pod-b2"),
        open_connection(limited.cluster, vip, "pod-b1") as (client, server),
    ):
        limited.set_pods(vip, "pod-a2", deadline=own)
        limited.set_pods(witness, "pod-a2")
        wait_until(lambda: limited.server(witness, "pod-b2") is None, timeout_s=DELETED_WITHIN_S)
        assert (limited.server(vip, "pod-b1"), passes_data(client, server)) == (ListedServer(0, 1, 0), True)


# Restarts and deletions while something drains


def test_draining_continues_after_a_restart_of_the_agent(tmp_path: Path) -> None:
    vip, folder = next(VIPS), Folder(tmp_path)
    folder.write(vip, objects(vip, "pod-b1"))
    with serving_cluster() as cluster, AgentProcess(cluster.node_a, tmp_path) as first:
        first.wait_synced()
        shorten_fin_timeout(cluster)
        with open_connection(cluster, vip, "pod-b1") as (client, server):
            Running(cluster, first, folder).set_pods(vip, "pod-a2")
            first.stop(signal.SIGTERM)
            assert passes_data(client, server), "the connection works without an agent"
            with AgentProcess(cluster.node_a, tmp_path) as second:
                synced = second.wait_synced()
                assert "nothing to do" in synced, "\n".join([*first.lines()[-30:], "-----", *second.lines()])
                still_draining = (listed_server(cluster, vip, "pod-b1"), passes_data(client, server))
                server.close()
                wait_until(lambda: listed_server(cluster, vip, "pod-b1") is None, timeout_s=DELETED_WITHIN_S)
                assert still_draining == (ListedServer(weight=0, active=1, inactive=0), True)


def test_endpoint_removed_while_no_agent_runs_drains_after_the_next_start(tmp_path: Path) -> None:
    vip, folder = next(VIPS), Folder(tmp_path)
    folder.write(vip, objects(vip, "pod-b1"))
    with serving_cluster() as cluster, AgentProcess(cluster.node_a, tmp_path) as first:
        first.wait_synced()
        with open_connection(cluster, vip, "pod-b1") as (client, server):
            first.stop(signal.SIGKILL)
            folder.write(vip, objects(vip, "pod-a2"))
            with AgentProcess(cluster.node_a, tmp_path) as second:
                second.wait_synced()
                drains = listed_server(cluster, vip, "pod-b1")
                assert (drains, passes_data(client, server)) == (ListedServer(weight=0, active=1, inactive=0), True)


def test_draining_real_server_is_deleted_with_its_virtual_server_and_not_tracked_further(running: Running) -> None:
    # kube-proxy keeps it in its list, and may delete the real server of a Service that is created again.
    vip = next(VIPS)
    running.set_pods(vip, "pod-b1")
    with open_connection(running.cluster, vip, "pod-b1"):
        running.set_pods(vip, "pod-a2")
        running.delete(vip)
        after_deletion = running.server(vip, "pod-b1")
    running.set_pods(vip, "pod-b1")
    time.sleep(2 * FIRST_CHECK_S)  # its connections would have been counted by then
    assert (after_deletion, running.server(vip, "pod-b1")) == (None, ListedServer(weight=1, active=0, inactive=0))


# Cost of counting connections


@pytest.fixture
def listings(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """Record the listings that this process requests from the kernel, by netlink and by getsockopt."""
    requests: list[object] = []
    dump, get_option = Socket.dump, SocketOptions.get

    def recording_get(self: SocketOptions, option: int, buffer: bytearray) -> None:
        requests.append(option)
        get_option(self, option, buffer)

    monkeypatch.setattr(SocketOptions, "get", recording_get)

    def recording_dump(self: Socket, message: Message, *key_of: Callable[[bytes], Hashable]) -> list[bytes]:
        requests.append(message)
        return dump(self, message, *key_of)

    monkeypatch.setattr(Socket, "dump", recording_dump)
    return requests


def test_connections_are_counted_by_one_listing_and_only_while_something_drains(
    listings: list[object], tmp_path: Path
) -> None:
    vip, folder = next(VIPS), Folder(tmp_path)
    folder.write(vip, objects(vip, "pod-b1"))
    for other in range(20):
        folder.write(f"other-{other}", service_with_slice(f"other-{other}", f"10.96.2.{other}", ["pod-a1", "pod-b1"]))
    with serving_cluster() as cluster, cluster.node_a.inside():
        agent = InProcessAgent(tmp_path)
        agent.sync_folder()
        shorten_fin_timeout(cluster)

        def counted(seconds: int) -> list[int]:
            """Return the number of listings in each of the next *seconds*."""
            costs = []
            for _ in range(seconds):
                listings.clear()
                agent.run_drain_check()
                costs.append(len(listings))
            return costs

        idle = counted(5)
        with open_connection(cluster, vip, "pod-b1") as (_, server):
            folder.write(vip, objects(vip, "pod-a2", "pod-b2"))
            listings.clear()
            agent.sync_folder()
            costs = {"idle": idle, "removed": [len(listings)], "draining": counted(7)}
            server.close()
            wait_until(lambda: listed_server(cluster, vip, "pod-b1") == ListedServer(0, 0, 0))
        costs |= {"closed": counted(8), "gone": counted(5)}
        left = listed_server(cluster, vip, "pod-b1")
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
