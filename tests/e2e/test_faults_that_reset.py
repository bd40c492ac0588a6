"""Faults after which Linux itself ends established connections: the same ones with and without an agent.

Each test holds connections, injects the fault, sends a line on each connection while it lasts, and then has the fault
repaired: by the agent, which was frozen meanwhile; or, without one, by `ip`, if anything has to be repaired at all.
docs/reliability.md has the reasons.
"""

from __future__ import annotations

import os
import select
import signal
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from socket import SO_LINGER, SOL_SOCKET, socket
from typing import NamedTuple

import pytest

from lab.client import connect, read_answer
from lab.network import BY_NAME, Cluster
from tests.e2e.agent_process import AgentProcess, wait_until
from tests.e2e.kernel_state import kernel_state, shell
from tests.e2e.manifests import Folder, Object, Port, endpoint_slice, service
from tests.e2e.serving import serving_cluster

pytestmark = pytest.mark.kernel

NODE_PORT = 30040
PODS = ("pod-a1", "pod-b1")  # on this node, and on another one
CLUSTER_IPS = ["10.96.40.1", "fd00:10:96::40:1"]
VIPS = ["203.0.113.40", "2001:db8::40"]
LOCAL_VIPS = ["203.0.113.41", "2001:db8::41"]
PORT = Port(80, "TCP", 8080, NODE_PORT)
_RECVERR = {4: (0, 11), 6: (41, 25)}  # IP_RECVERR, IPV6_RECVERR, which lab.client sets

WINDOW_S, TIMEOUT_S = 1.0, 90.0

Held = tuple[str, str]  # the target's name and the pod


class Target(NamedTuple):
    """Where a client is connected to; masqueraded: the pods see an address of the node."""

    name: str
    client: str
    address: str
    port: int
    masqueraded: bool
    pods: tuple[str, ...] = PODS


TARGETS = (
    *(
        Target(f"NodePort {ip}", "outside", ip, NODE_PORT, True)
        for ip in (BY_NAME["node-a"].ipv4, BY_NAME["node-a"].ipv6)
    ),
    *(Target(f"load balancer {ip}", "outside", ip, 80, True) for ip in VIPS),
    *(Target(f"load balancer {ip}, policy Local", "outside", ip, 80, False, PODS[:1]) for ip in LOCAL_VIPS),
    *(Target(f"ClusterIP {ip} from a pod", "pod-a2", ip, 80, False) for ip in CLUSTER_IPS),
    *(Target(f"ClusterIP {ip} from the node", "node-a", ip, 80, True) for ip in CLUSTER_IPS),
)


def objects() -> list[Object]:
    both: Object = {"ipFamilies": ["IPv4", "IPv6"], "ipFamilyPolicy": "RequireDualStack"}
    local = {"externalTrafficPolicy": "Local", "healthCheckNodePort": 32041}
    slices = [endpoint_slice("web", PODS, [PORT], version=version) for version in (4, 6)]
    slices += [endpoint_slice("local", PODS[:1], version=version) for version in (4, 6)]
    web = _load_balancer("web", CLUSTER_IPS, VIPS, PORT, **both)
    return [
        web,
        _load_balancer("local", ["10.96.40.2", "fd00:10:96::40:2"], LOCAL_VIPS, Port(), **both, **local),
        *slices,
    ]


def _load_balancer(name: str, cluster_ips: list[str], vips: list[str], port: Port, **fields: object) -> Object:
    built = service(name, cluster_ips, [port], type="LoadBalancer", **fields)
    return built | {"status": {"loadBalancer": {"ingress": [{"ip": vip, "ipMode": "VIP"} for vip in vips]}}}


class Connection:
    """A connection that is held open; `received` has its answers."""

    def __init__(self, target: Target, sock: socket) -> None:
        self.target = target
        self.pod = read_answer(sock).name
        self.sock = sock
        sock.setsockopt(*_RECVERR[6 if ":" in target.address else 4], 0)  # an ICMP error ends no ordinary connection
        sock.setblocking(False)

    @property
    def held(self) -> Held:
        return self.target.name, self.pod

    def send(self) -> None:
        self.sock.send(b"line\n")

    def result(self) -> str:
        """Return "answered" or "reset"; "" if neither has come yet."""
        poll = select.poll()
        poll.register(self.sock, select.POLLIN)
        if not poll.poll(0):
            return ""
        try:
            return "answered" if self.sock.recv(100) else "reset"
        except OSError:
            return "reset"


@contextmanager
def held_connections(cluster: Cluster) -> Iterator[list[Connection]]:
    """Yield one connection of each target to each of its pods."""
    with ExitStack() as stack:
        connections: dict[Held, Connection] = {}
        for target in TARGETS:
            for _ in range(2 * len(target.pods)):  # the scheduler is rr, and nobody else opens connections
                sock = stack.enter_context(connect(cluster[target.client], "tcp", target.address, target.port, 10.0))
                # Closed at once: what waits for a lost answer would keep node A's namespace, and its sets, for minutes.
                sock.setsockopt(SOL_SOCKET, SO_LINGER, struct.pack("ii", 1, 0))
                opened = Connection(target, sock)
                connections.setdefault(opened.held, opened)
            assert {pod for name, pod in connections if name == target.name} == set(target.pods)
        yield list(connections.values())


def results(connections: list[Connection], timeout_s: float) -> dict[Held, str]:
    """Return the result of each connection, as soon as all have one, or after *timeout_s*."""
    found: dict[Held, str] = {}
    deadline_s = time.monotonic() + timeout_s
    while len(found) < len(connections) and time.monotonic() < deadline_s:
        for connection in connections:
            if connection.held not in found and (result := connection.result()):
                found[connection.held] = result
        time.sleep(0.02)
    return found


class Node(NamedTuple):
    cluster: Cluster
    agent: AgentProcess | None  # None: none runs, and kernel state is what one left

    def shell(self, script: str) -> str:
        return shell(self.cluster.node_a, script)

    @contextmanager
    def unrepaired(self) -> Iterator[None]:
        """Have the agent repair nothing within the `with`, and wait at its end until it has repaired all."""
        if not self.agent:
            yield
            return
        before = kernel_state(self.cluster.node_a)
        os.kill(self.agent.pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(self.agent.pid, signal.SIGCONT)
        wait_until(lambda: kernel_state(self.cluster.node_a) == before, timeout_s=120.0, poll_s=0.2)


@pytest.fixture(params=["with an agent", "without an agent"])
def node(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Node]:
    folder = Folder(tmp_path)
    folder.write("all", objects())
    with serving_cluster() as cluster, AgentProcess(cluster.node_a, folder.path) as agent:
        agent.wait_synced()
        if request.param == "without an agent":
            agent.stop(signal.SIGKILL)
            yield Node(cluster, None)
        else:
            yield Node(cluster, agent)


# The addresses of kube-ipvs0, and the rules, kept in files, so that a test has them again where no agent runs.
_KEEP = """
iptables-save >{file}-4
ip6tables-save >{file}-6
ip -o address show dev kube-ipvs0 | grep -v fe80 | sed -n 's/.* inet6\\? \\([^ ]*\\) .*/\\1/p' >{file}
"""
_REPAIR = """
iptables-restore <{file}-4
ip6tables-restore <{file}-6
ip link show kube-ipvs0 >/dev/null 2>&1 || ip link add kube-ipvs0 type dummy
while read -r address; do ip address add $address dev kube-ipvs0 nodad 2>/dev/null || true; done <{file}
"""
_VIP, _POD = VIPS[0], BY_NAME[PODS[0]].ipv4


class Case(NamedTuple):
    """A fault: the script that injects it, and which connections it ends."""

    name: str
    script: str
    ends: Callable[[Target, str], bool]
    before: str = ":"  # a script that is run before the connections are opened


def _leaves_by_another_link(target: Target, pod: str) -> bool:
    return target.masqueraded and target.address in VIPS and pod == PODS[0]


def _answer_passes_this_node(target: Target, pod: str) -> bool:
    """Return whether a pod that gets a packet with the client's own address answers through this node.

    Otherwise its reset reaches the client with the pod's address, to which it has no connection; it waits.
    """
    is_from_service_address = target.client == "node-a" and ":" not in target.address
    return target.masqueraded and (pod == PODS[0] or is_from_service_address)


_NO_RULES = "for tables in iptables ip6tables; do $tables -w -t nat -F; $tables -w -F; done"
_TRACKING = (
    "for tables in iptables ip6tables; do $tables -w -t mangle -A PREROUTING -m conntrack --ctstate INVALID; done"
)

CASES = (
    Case("ip link del kube-ipvs0", "ip link del kube-ipvs0", _leaves_by_another_link),
    Case("ip address flush", "ip address flush dev kube-ipvs0", _leaves_by_another_link),
    Case("conntrack -F", "conntrack -F", lambda target, _: target.masqueraded),
    Case("iptables -F", _NO_RULES, _answer_passes_this_node),
    Case("iptables -F, another table needs conntrack", _NO_RULES, lambda *_: False, before=_TRACKING),
    Case("ipvsadm -C", "ipvsadm -C", lambda *_: True),
    Case("ipvsadm -D", f"ipvsadm -D -t {_VIP}:80", lambda target, _: target.address == _VIP),
    Case(
        "ipvsadm -d",
        f"ipvsadm -d -t {_VIP}:80 -r {_POD}:8080",
        lambda target, pod: (target.address, pod) == (_VIP, PODS[0]),
    ),
)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_fault_resets_what_it_resets_without_an_agent_too(node: Node, case: Case, tmp_path: Path) -> None:
    kept = tmp_path / "addresses"
    node.shell(case.before)
    with held_connections(node.cluster) as connections:
        with node.unrepaired():
            node.shell(f"{_KEEP.format(file=kept)}{case.script}")
            for connection in connections:
                connection.send()
            first = results(connections, WINDOW_S)
        if not node.agent:
            node.shell(_REPAIR.format(file=kept))
        found = first | results([one for one in connections if one.held not in first], TIMEOUT_S)
    expected = {one.held for one in connections if case.ends(one.target, one.pod)}
    assert {held for held, result in found.items() if result == "reset"} == expected
    assert {held for held, result in found.items() if result == "answered"} == {
        one.held for one in connections
    } - expected


def entry_leads_to_the_pod(node: Node, connection: Connection) -> bool:
    """Return whether node A's conntrack entry of *connection* is that with which it was masqueraded to its pod."""
    port, is_ipv6 = connection.sock.getsockname()[1], ":" in connection.target.address
    options = f"-f {'ipv6' if is_ipv6 else 'ipv4'} -p tcp --orig-port-src {port}"
    listed = node.shell(f"conntrack -L {options} 2>/dev/null || true")
    pod = BY_NAME[connection.pod]
    return f" src={pod.ipv6 if is_ipv6 else pod.ipv4} " in listed


def test_packet_that_leaves_by_another_link_costs_a_masqueraded_connection_its_conntrack_entry(
    node: Node, tmp_path: Path
) -> None:
    kept = tmp_path / "addresses"
    with held_connections(node.cluster) as connections:
        to_vips = [one for one in connections if one.target.address in VIPS]
        assert all(entry_leads_to_the_pod(node, one) for one in to_vips)
        with node.unrepaired():
            node.shell(f"{_KEEP.format(file=kept)}ip link del kube-ipvs0")
            assert all(entry_leads_to_the_pod(node, one) for one in to_vips)  # the deletion itself does nothing
            for connection in to_vips:
                connection.send()
            results(to_vips, WINDOW_S)
            lost = {one.pod for one in to_vips if not entry_leads_to_the_pod(node, one)}
        if not node.agent:
            node.shell(_REPAIR.format(file=kept))
        results(to_vips, TIMEOUT_S)
    assert lost == {PODS[0]}  # the packets of the other pod would have left by the same link as before


def test_connection_that_sends_nothing_while_the_device_is_gone_continues(node: Node, tmp_path: Path) -> None:
    kept = tmp_path / "addresses"
    with held_connections(node.cluster) as connections:
        with node.unrepaired():
            node.shell(f"{_KEEP.format(file=kept)}ip link del kube-ipvs0")
        if not node.agent:
            node.shell(_REPAIR.format(file=kept))
        for connection in connections:
            connection.send()
        found = results(connections, TIMEOUT_S)
    assert found == {one.held: "answered" for one in connections}
