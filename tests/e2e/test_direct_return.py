"""Direct server return on a real kernel: two nodes that hand on to each other, and answer clients themselves."""

from __future__ import annotations

import re
import signal
import socket
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import pytest

from kubeproxy_py.sources.decode.settings import PREFIX
from lab.client import QueryError, connect, query, read_answer
from lab.echo import Protocol
from lab.network import BY_NAME, Cluster
from tests.e2e.agent_process import AgentProcess, command_line, wait_until
from tests.e2e.handing_on import NODES, PROTOCOLS, VERSIONS, WAYS, Served, node, write
from tests.e2e.kernel_state import ip_monitor, run, shell
from tests.e2e.manifests import Folder
from tests.e2e.serving import serving_cluster

pytestmark = pytest.mark.kernel

DEADLINE_S = 15
FLAGS = ("--policies=exact", "--ipvs-sync-period", "5s", "--drain-deadline", f"{DEADLINE_S}s")
PATIENCE_S = 20.0
TIMES = 12
SILENCE_S = 1.0
DEVICES = ("tunl0", "ip6tnl0")
POD_B = BY_NAME["pod-b1"].ipv4

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
        """Have the agent of one node know *services* only, and wait until all their rows are there."""
        with self.agents[name].settling():
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


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("way", WAYS)
def test_a_packet_is_handed_on_once_where_the_other_node_does_not_have_the_address(
    nodes: Nodes, way: str, version: int
) -> None:
    """Node B routes what is not for it by its default gateway, which routes all Service addresses to node A."""
    far = FAR[way]
    nodes.sync("node-b", *(served for served in SERVICES if served is not far))
    b = nodes.cluster["node-b"]
    wait_until(lambda: f" {far.vip(version)}/" not in run(b, "ip", "address", "show", "kube-ipvs0"))
    try:
        with counting(nodes, far, version) as count:
            send_datagram(nodes, far, version)
            wait_until(lambda: count("node-b") > 0)
            time.sleep(SILENCE_S)
            # By route, what comes back has DSCP 3, so node A keeps it.
            assert (count("node-a"), count("node-b")) == {"tunnel": (1, 1), "route": (2, 1)}[way]
    finally:
        nodes.sync("node-b", *SERVICES)
    assert nodes.answers(far, "udp", version).keys() == {"pod-b1", "pod-b3"}


@contextmanager
def counting(nodes: Nodes, served: Served, version: int) -> Iterator[Callable[[str], int]]:
    """Yield what returns how many packets to *served* have come to a node; one around them does not count."""
    iptables = "iptables" if version == 4 else "ip6tables"
    rule = f"PREROUTING -d {served.vip(version)} -p udp -m comment --comment counted"
    for name in NODES:
        shell(nodes.cluster[name], f"{iptables} -t mangle -I {rule}")

    def count(name: str) -> int:
        listed = run(nodes.cluster[name], iptables, "-t", "mangle", "-L", "PREROUTING", "-nvx").splitlines()
        return int(next(line for line in listed if "counted" in line).split()[0])

    try:
        yield count
    finally:
        for name in NODES:
            shell(nodes.cluster[name], f"{iptables} -t mangle -D {rule}")


def send_datagram(nodes: Nodes, served: Served, version: int) -> None:
    """Send one datagram from outside."""
    family = socket.AF_INET if version == 4 else socket.AF_INET6
    with nodes.cluster["outside"].inside(), socket.socket(family, socket.SOCK_DGRAM) as sock:
        sock.sendto(b"once", (served.vip(version), 80))


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
    for command in ("ip", "ip -6"):
        shell(b, f"{command} rule del pref 32765")
    wait_until(lambda: drops(nodes, "node-b") == set(DEVICES))
    shell(b, "ip rule add pref 32765 lookup local; ip rule del pref 0")  # as with VRFs
    try:
        wait_until(lambda: [line for line in shell(b, "ip rule").splitlines() if "32765" in line][-1].endswith("hole"))
        assert nodes.answers(SPREAD["tunnel"], "udp", 4).keys() == set(SPREAD["tunnel"].pods)
    finally:
        shell(b, "ip rule add pref 0 lookup local; ip rule del pref 32765 lookup local")
    for name in NODES:
        nodes.sync(name, *(served._replace(way="") for served in SERVICES))
    for name in NODES:
        wait_until(lambda name=name: not is_up(nodes, name), timeout_s=DEADLINE_S + PATIENCE_S)  # type: ignore[misc]
        link = run(nodes.cluster[name], "ip", "-d", "address", "show", "tunl0")
        assert "alias" not in link
        assert "inet " not in link
        assert not drops(nodes, name)
        assert "KUBE-PY-OUTSIDE" not in run(nodes.cluster[name], "ipset", "list", "-n")
    for name in NODES:
        nodes.sync(name, *SERVICES)


def drops(nodes: Nodes, name: str) -> set[str]:
    """Return the devices by which nothing arrives that is routed on."""
    rules = shell(nodes.cluster[name], "ip rule; ip -6 rule")
    return set(re.findall(r"from all iif (\S+) blackhole", rules))


def test_what_arrives_is_not_routed_on_at_any_moment(nodes: Nodes) -> None:
    """The kernel's notifications have the order in which rules and devices changed."""
    b = nodes.cluster["node-b"]
    off = [served._replace(way="") for served in SERVICES]
    with ip_monitor(b, "link", "rule") as notified:
        nodes.sync("node-b", *off)
        wait_until(lambda: not drops(nodes, "node-b"), timeout_s=DEADLINE_S + PATIENCE_S)
        nodes.sync("node-b", *SERVICES)
        assert drops(nodes, "node-b") == set(DEVICES)
        shell(b, "ip link add last0 type dummy; ip link del last0")
        lines = notified("last0")
    state = dict.fromkeys(DEVICES, (True, True))  # is it up, does it drop
    seen = {device: [state[device]] for device in DEVICES}
    for line in lines:
        for device in DEVICES:
            is_up, does_drop = state[device]
            if f"iif {device} " in line:
                does_drop = "Deleted" not in line
            elif f" {device}@" in line:
                is_up = "UP" in line.split("<")[1].split(">")[0].split(",")
            if state[device] != (is_up, does_drop):
                state[device] = (is_up, does_drop)
                seen[device].append(state[device])
    expected = [(True, True), (False, True), (False, False), (False, True), (True, True)]
    assert seen == dict.fromkeys(DEVICES, expected), lines


def test_device_that_another_program_begins_to_use_is_routed_on(nodes: Nodes) -> None:
    """As Calico does with IPIP: tunl0 has an address of the pod network, and pods of other nodes come by it."""
    a, b = nodes.cluster["node-a"], nodes.cluster["node-b"]
    served = SPREAD["tunnel"]
    shell(a, f"ip route add {POD_B} via 192.168.3.11 dev tunl0 onlink")
    try:
        assert not reaches_pod(nodes), "the device is the agent's alone"
        shell(b, "ip address add 10.244.2.128/32 dev tunl0")
        wait_until(lambda: reaches_pod(nodes))
        link = run(b, "ip", "-d", "address", "show", "tunl0")
        assert "alias kubeproxy-py 192.168.3.11 shared" in link
        assert "inet 192.168.3.11" not in link
        assert drops(nodes, "node-b") == {"ip6tnl0"}
        assert nodes.answers(served, "udp", 4).keys() == set(served.pods)
        shell(b, "ip link set tunl0 alias ''")  # what it is if it was used before the agent came
        wait_until(lambda: "shared" in run(b, "ip", "link", "show", "tunl0"))
        assert reaches_pod(nodes)
        assert drops(nodes, "node-b") == {"ip6tnl0"}
    finally:
        shell(a, f"ip route del {POD_B} dev tunl0")
        shell(b, "ip address flush dev tunl0; ip link set tunl0 down; ip link set tunl0 alias ''")
    wait_until(lambda: is_up(nodes, "node-b") and drops(nodes, "node-b") == set(DEVICES))
    assert nodes.answers(served, "udp", 4).keys() == set(served.pods)


def reaches_pod(nodes: Nodes) -> bool:
    """Return whether a pod of node A reaches one of node B by the tunnel."""
    try:
        return query(nodes.cluster["pod-a1"], "udp", POD_B, 8080, SILENCE_S).name == "pod-b1"
    except (QueryError, OSError):
        return False


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
    assert not drops(nodes, "node-a")


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


def test_new_endpoint_on_a_node_of_its_own_starts_slowly(tmp_path_factory: pytest.TempPathFactory) -> None:
    folders = {name: Folder(tmp_path_factory.mktemp(name)) for name in NODES}
    served = Served("slow", 41, ("pod-a1",), "tunnel")

    def write_all(pods: tuple[str, ...], slow_start: str) -> None:
        changed = served._replace(pods=pods)
        body, *slices = changed.objects()
        body["metadata"]["annotations"] |= {PREFIX + "scheduler": "wrr", PREFIX + "slow-start": slow_start}
        for folder in folders.values():
            folder.write("all", [*map(node, NODES), body, *slices])

    write_all(("pod-a1", "pod-b1"), "1h")
    with serving_cluster() as cluster, Nodes(cluster, folders) as both:
        assert counted(both, served, 20) == {"pod-a1": 10, "pod-b1": 10}, "all are new"
        with both.agents["node-a"].syncing(), both.agents["node-b"].syncing():
            write_all(("pod-a1",), "1s")
        time.sleep(1.1)
        with both.agents["node-a"].syncing(), both.agents["node-b"].syncing():
            write_all(("pod-a1", "pod-b1"), "1h")
        for version in VERSIONS:
            assert counted(both, served, 22, version) == {"pod-a1": 20, "pod-b1": 2}


def counted(nodes: Nodes, served: Served, count: int, version: int = 4) -> Counter[str]:
    return Counter(nodes.ask(served, "tcp", version)[0] for _ in range(count))
