"""Direct server return on a real kernel: two nodes that hand on to each other, and answer clients themselves."""

from __future__ import annotations

import signal
import socket
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from lab.client import QueryError, connect, query, read_answer
from lab.echo import Protocol
from lab.network import BY_NAME, Cluster
from tests.e2e.agent_process import AgentProcess, command_line, wait_until
from tests.e2e.handing_on import NODES, PROTOCOLS, VERSIONS, WAYS, Served, write
from tests.e2e.kernel_state import run, shell
from tests.e2e.manifests import Folder
from tests.e2e.serving import serving_cluster

pytestmark = [pytest.mark.kernel, pytest.mark.timeout(280)]

DEADLINE_S = 15
FLAGS = ("--policies=exact", "--ipvs-sync-period", "5s", "--drain-deadline", f"{DEADLINE_S}s")
PATIENCE_S = 20.0
TIMES = 12
SILENCE_S = 1.0

SPREAD = {
    way: Served(f"spread-{way}", 1 + index, ("pod-a1", "pod-b1", "pod-b2"), way) for index, way in enumerate(WAYS)
}
FAR = {way: Served(f"far-{way}", 11 + index, ("pod-b1", "pod-b3"), way) for index, way in enumerate(WAYS)}
NEAR = {way: Served(f"near-{way}", 21 + index, ("pod-a1",), way) for index, way in enumerate(WAYS)}
SERVICES = (*SPREAD.values(), *FAR.values(), *NEAR.values())


class Nodes:
    """Both nodes with an agent on each, within the `with`."""

    def __init__(self, cluster: Cluster, folders: dict[str, Folder]) -> None:
        self.cluster, self.folders = cluster, folders
        self._stack = ExitStack()
        self.agents = {
            name: AgentProcess(cluster[name], folders[name].path, *FLAGS, "--hostname-override", name) for name in NODES
        }

    def __enter__(self) -> Nodes:
        with ExitStack() as stack:
            for agent in self.agents.values():
                stack.enter_context(agent)
            for agent in self.agents.values():
                agent.wait_synced()
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def sync(self, name: str, *services: Served) -> None:
        """Have the agent of one node know *services* only, and wait for its sync."""
        with self.agents[name].syncing():
            write(self.folders[name], *services)

    def ask(self, served: Served, protocol: Protocol, version: int, timeout_s: float = PATIENCE_S) -> tuple[str, str]:
        answer = query(self.cluster["outside"], protocol, served.vip(version), 80, timeout_s)
        return answer.name, answer.peer_address

    def answers(self, served: Served, protocol: Protocol, version: int) -> Counter[str]:
        """Ask TIMES times from outside, and return who answered; each saw the client's address."""
        outside = BY_NAME["outside"].ipv4 if version == 4 else BY_NAME["outside"].ipv6
        found: Counter[str] = Counter()
        for _ in range(TIMES):
            name, source = self.ask(served, protocol, version)
            assert source == outside
            found[name] += 1
        return found

    def is_answered(self, served: Served, protocol: Protocol, version: int) -> bool:
        try:
            self.ask(served, protocol, version, SILENCE_S)
        except (QueryError, OSError):
            return False
        return True


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nodes]:
    folders = {name: Folder(tmp_path_factory.mktemp(name)) for name in NODES}
    for folder in folders.values():
        write(folder, *SERVICES)
    with serving_cluster() as cluster, Nodes(cluster, folders) as both:
        yield both


def forwarded(nodes: Nodes, name: str) -> list[list[str]]:
    """Return the columns of each real server that packets are handed on to, with its counters, as ipvsadm has them."""
    listing = run(nodes.cluster[name], "ipvsadm", "-Ln").splitlines()
    stats = run(nodes.cluster[name], "ipvsadm", "-Ln", "--stats", "--exact").splitlines()
    handed_on = {line.split()[1] for line in listing if "Tunnel" in line or "Route" in line}
    return [columns for line in stats if (columns := line.split())[:1] == ["->"] and columns[1] in handed_on]


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("way", WAYS)
def test_each_endpoint_answers_with_its_share_and_sees_the_client(
    nodes: Nodes, way: str, protocol: Protocol, version: int
) -> None:
    found = nodes.answers(SPREAD[way], protocol, version)
    assert found == Counter(dict.fromkeys(SPREAD[way].pods, TIMES // 3))


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("way", WAYS)
def test_a_node_without_an_endpoint_hands_on_and_answers_go_by_it(
    nodes: Nodes, way: str, protocol: Protocol, version: int
) -> None:
    assert nodes.answers(FAR[way], protocol, version).keys() == {"pod-b1", "pod-b3"}
    # The kernel sums counters up every two seconds.
    wait_until(lambda: hand_ons(nodes)["node-a"] > 0, lambda: f"nothing was handed on: {forwarded(nodes, 'node-a')}")
    assert {columns[4] for columns in forwarded(nodes, "node-a")} <= {"0"}, "answers came back by node A"


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("way", WAYS)
def test_nothing_goes_round_if_nodes_differ_in_what_they_know(
    nodes: Nodes, way: str, protocol: Protocol, version: int
) -> None:
    """Node A believes that the endpoints are on node B, and node B that they are on node A."""
    far, near = FAR[way], NEAR[way]
    moved = far._replace(pods=near.pods)
    nodes.sync("node-b", *(moved if served is far else served for served in SERVICES))
    try:
        before = hand_ons(nodes)
        for _ in range(2):  # the kernel sums counters up every two seconds, those of both nodes
            last = hand_ons(nodes)["node-a"]

            def is_handed_on(last: int = last) -> bool:
                assert not nodes.is_answered(far, protocol, version)
                return hand_ons(nodes)["node-a"] > last

            wait_until(is_handed_on)
        assert hand_ons(nodes)["node-b"] == before["node-b"], "node B handed it on again"
    finally:
        nodes.sync("node-b", *SERVICES)
    assert nodes.answers(far, protocol, version).keys() == {"pod-b1", "pod-b3"}


def hand_ons(nodes: Nodes) -> dict[str, int]:
    """Return how many packets each node has handed on."""
    return {name: sum(int(columns[3]) for columns in forwarded(nodes, name)) for name in NODES}


@pytest.mark.parametrize("way", WAYS)
def test_switched_off_and_on_no_open_connection_of_a_pod_here_breaks(nodes: Nodes, way: str) -> None:
    served = SPREAD[way]
    off = served._replace(way="")
    connection = connection_to(nodes, served, "pod-a1")
    try:
        for name in NODES:
            nodes.sync(name, *(off if each is served else each for each in SERVICES))
        assert nodes.answers(served, "tcp", 4).keys() == {"pod-a1"}
        for name in NODES:
            nodes.sync(name, *SERVICES)
        assert nodes.answers(served, "tcp", 4).keys() == set(served.pods)
        connection.sendall(b"still there?\n")
        assert connection.recv(1000)
    finally:
        connection.close()


@pytest.mark.parametrize("way", WAYS)
def test_connection_that_was_handed_on_drains_when_the_annotation_is_removed(nodes: Nodes, way: str) -> None:
    served = SPREAD[way]
    off = served._replace(way="")
    connection = connection_to(nodes, served, "pod-b1")
    try:
        for name in reversed(NODES):  # that which answers first: it must not refuse what the other one still hands on
            nodes.sync(name, *(off if each is served else each._replace(way="") for each in SERVICES))
        assert nodes.answers(served, "tcp", 4).keys() == {"pod-a1"}
        connection.settimeout(PATIENCE_S)
        for _ in range(3):
            connection.sendall(b"still there?\n")
            assert connection.recv(1000)
        assert is_up(nodes, "node-b")
        wait_until(lambda: not is_up(nodes, "node-b"), timeout_s=DEADLINE_S + PATIENCE_S)
    finally:
        connection.close()
        for name in NODES:
            nodes.sync(name, *SERVICES)


def connection_to(nodes: Nodes, served: Served, pod: str) -> socket.socket:
    """Return a connection from outside that *pod* answers."""
    for _ in range(10):
        with connect(nodes.cluster["outside"], "tcp", served.vip(4), 80) as connection:
            if read_answer(connection).name == pod:
                return connection.dup()
    raise AssertionError(f"{pod} has never answered")


def is_up(nodes: Nodes, name: str) -> bool:
    return "UP" in run(nodes.cluster[name], "ip", "link", "show", "tunl0").split(">")[0]


def test_the_device_is_repaired_and_follows_the_services(nodes: Nodes) -> None:
    b = nodes.cluster["node-b"]
    assert "kubeproxy-py 192.168.3.11" in run(b, "ip", "link", "show", "tunl0")
    shell(b, "ip link set tunl0 down")
    wait_until(lambda: is_up(nodes, "node-b"))
    for name in NODES:
        nodes.sync(name, *(served._replace(way="") for served in SERVICES))
    for name in NODES:
        wait_until(lambda name=name: not is_up(nodes, name), timeout_s=DEADLINE_S + PATIENCE_S)  # type: ignore[misc]
        link = run(nodes.cluster[name], "ip", "address", "show", "tunl0")
        assert "alias" not in link
        assert "inet " not in link
        assert "KUBE-PY-OUTSIDE" not in run(nodes.cluster[name], "ipset", "list", "-n")
    for name in NODES:
        nodes.sync(name, *SERVICES)


def test_cleanup_deletes_all_of_it(nodes: Nodes) -> None:
    a = nodes.cluster["node-a"]
    nodes.agents["node-a"].stop(signal.SIGTERM)
    assert is_up(nodes, "node-a")
    run(a, *command_line(nodes.folders["node-a"].path, "cleanup"))
    assert len(run(a, "ipvsadm", "-Ln").splitlines()) == 3  # headings
    assert "KUBE-" not in run(a, "ipset", "list", "-n")
    assert "KUBE-" not in run(a, "iptables-save")
    assert "alias" not in run(a, "ip", "link", "show", "tunl0")
    assert not is_up(nodes, "node-a")


@pytest.mark.parametrize("way", WAYS)
def test_nothing_goes_round_where_the_load_balancer_announces_the_address_of_a_node(
    tmp_path_factory: pytest.TempPathFactory, way: str
) -> None:
    """Such an address is on no other node, so what node A handed on there would come back to it, again and again."""
    folders = {name: Folder(tmp_path_factory.mktemp(name)) for name in NODES}
    served = Served("announced", 31, ("pod-a1", "pod-b1", "pod-b2"), way, "node-a")
    for folder in folders.values():
        write(folder, served)
    with serving_cluster() as cluster, Nodes(cluster, folders) as both:
        found = {(p, v): set(both.answers(served, p, v)) for p in PROTOCOLS for v in VERSIONS}
        assert found == {key: {"pod-a1"} for key in found}
        assert both.agents["node-a"].wait_for("SettingIgnored.*has no effect at addresses that a machine has")
