"""Exact policies on a real kernel: who reaches which pods, and that nothing breaks when they come, stay and go."""

from __future__ import annotations

import re
import signal
import socket
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, suppress
from typing import NamedTuple

import pytest

from lab.client import QueryError, connect, query, read_answer
from lab.echo import Protocol
from lab.network import BY_NAME, NODE_NAME, Cluster
from tests.e2e.agent_process import AgentProcess, command_line, wait_until
from tests.e2e.background import Background
from tests.e2e.client_requests import Request, RequestResult, Series, send_series
from tests.e2e.kernel_state import State, kernel_state, run, shell
from tests.e2e.manifests import Folder, Object, Port, endpoint_slice, service
from tests.e2e.serving import cluster_and_servers, serving_cluster

pytestmark = pytest.mark.kernel

EXACT = "--policies=exact"
TIMES = 2  # one round of rr
PATIENCE_S = 20.0
DROPPED_S = 1.0  # how long a request waits that nobody should answer
PROTOCOLS: tuple[Protocol, ...] = ("tcp", "udp", "sctp")
VERSIONS = (4, 6)
NEAR, FAR = ("pod-a1", "pod-b1"), ("pod-b1", "pod-b3")
LOCAL = {"externalTrafficPolicy": "Local", "type": "LoadBalancer"}
DEADLINE_S = 15
ROUNDS = 15  # of traffic between two changes


class Served(NamedTuple):
    """A Service, by whose number its addresses and NodePorts are known."""

    name: str
    number: int
    pods: tuple[str, ...]
    fields: Object

    def vip(self, version: int) -> str:
        return f"203.0.113.{self.number}" if version == 4 else f"2001:db8:f::{self.number}"

    def cluster_ip(self, version: int) -> str:
        return f"10.96.7.{self.number}" if version == 4 else f"fd00:10:96::7:{self.number}"

    def node_port(self, protocol: Protocol) -> int:
        return 30100 + 10 * self.number + PROTOCOLS.index(protocol)

    def objects(self) -> list[Object]:
        is_outer = "externalTrafficPolicy" in self.fields
        ports = [Port(80, p.upper(), 8080, self.node_port(p) if is_outer else 0) for p in PROTOCOLS]
        both = {"ipFamilies": ["IPv4", "IPv6"], "ipFamilyPolicy": "RequireDualStack"}
        built = service(self.name, [self.cluster_ip(version) for version in VERSIONS], ports, **both, **self.fields)
        if is_outer:
            built["status"] = {"loadBalancer": {"ingress": [{"ip": self.vip(version)} for version in VERSIONS]}}
        return [built, *(endpoint_slice(self.name, self.pods, ports, version=version) for version in VERSIONS)]


NEAR_LOCAL = Served("near", 1, NEAR, LOCAL)
FAR_LOCAL = Served("far", 2, FAR, LOCAL)
INNER_LOCAL = Served("inner", 3, FAR, {"internalTrafficPolicy": "Local"})
STICKY = Served("sticky", 4, (*NEAR, "pod-b3"), {**LOCAL, "sessionAffinity": "ClientIP"})
SERVICES = (NEAR_LOCAL, FAR_LOCAL, INNER_LOCAL, STICKY)
NODE: Object = {
    "apiVersion": "v1",
    "kind": "Node",
    "metadata": {"name": NODE_NAME},
    "spec": {"podCIDRs": ["10.244.1.0/24", "fd00:10:244:1::/64"]},
    "status": {"addresses": [{"type": "InternalIP", "address": BY_NAME[NODE_NAME].ipv4}]},
}


def write(folder: Folder, *services: Served) -> None:
    folder.write("all", [NODE, *(each for served in services for each in served.objects())])


# Who reaches whom

OWN, MASQUERADED = "own", "masqueraded"


class Row(NamedTuple):
    """The pods that answer *clients* at the external addresses of *served*, and the source that they see.

    No pod: dropped.  *inside*: at the ClusterIP instead.
    """

    served: Served
    clients: tuple[str, ...]
    pods: tuple[str, ...]
    source: str = OWN
    inside: bool = False


ROWS = (
    Row(NEAR_LOCAL, ("pod-a2",), NEAR),
    Row(NEAR_LOCAL, ("node-a",), NEAR, MASQUERADED),
    Row(NEAR_LOCAL, ("node-b", "outside", "pod-b2"), ("pod-a1",)),  # pod-b2 is a pod of another node
    Row(FAR_LOCAL, ("pod-a1", "pod-a2"), FAR),
    Row(FAR_LOCAL, ("node-a",), FAR, MASQUERADED),
    Row(FAR_LOCAL, ("node-b", "outside", "pod-b2"), ()),
    Row(INNER_LOCAL, ("pod-a1", "node-a"), (), inside=True),
)
_BRIDGES = {
    4: {"node-a": "10.244.1.1", "node-b": "192.168.3.10"},
    6: {"node-a": "fd00:10:244:1::1", "node-b": "fd00:3::10"},
}


class Case(NamedTuple):
    row: Row
    client: str
    protocol: Protocol
    version: int
    front: str

    def __str__(self) -> str:
        return f"{self.client} to {self.front} of {self.row.served.name}, {self.protocol} v{self.version}"

    def request(self) -> Request:
        served, node = self.row.served, BY_NAME["node-a"]
        if self.front == "NodePort":
            address = node.ipv4 if self.version == 4 else node.ipv6
            return Request(self.client, self.protocol, address, served.node_port(self.protocol))
        address = served.vip(self.version) if self.front == "VIP" else served.cluster_ip(self.version)
        return Request(self.client, self.protocol, address, 80)

    def sources(self, pod: str) -> str:
        machine = BY_NAME[self.client]
        own = machine.ipv4 if self.version == 4 else machine.ipv6
        return own if self.row.source == OWN else _BRIDGES[self.version][BY_NAME[pod].plugged_into]

    def expected(self) -> set[RequestResult]:
        if not self.row.pods:
            return {RequestResult("dropped" if self.protocol == "udp" else "unanswered")}
        return {RequestResult("answered", pod, self.sources(pod)) for pod in self.row.pods}


CASES = tuple(
    Case(row, client, protocol, version, front)
    for row in ROWS
    for client in row.clients
    for protocol in PROTOCOLS
    for version in VERSIONS
    for front in (("ClusterIP",) if row.inside else ("VIP", "NodePort"))
    # An unbound SCTP socket of node A sends all its addresses, and what a program of the node itself sends into a
    # DROP is refused to it (EPERM).
    if not (client == "node-a" and (protocol == "sctp" or not row.pods))
)


Results = Mapping[Request, set[RequestResult]]


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Results]:
    folder = Folder(tmp_path_factory.mktemp("manifests"))
    write(folder, *SERVICES)
    with (
        cluster_and_servers() as (cluster, servers),
        AgentProcess(cluster.node_a, folder.path, EXACT) as agent,
    ):
        agent.wait_synced()
        series = {case.request(): Series(TIMES, PATIENCE_S if case.row.pods else DROPPED_S) for case in CASES}
        yield {request: set(found) for request, found in send_series(cluster, servers, series).items()}


@pytest.mark.parametrize("case", CASES, ids=str)
def test_each_client_reaches_the_pods_of_its_policy(results: Results, case: Case) -> None:
    found = results[case.request()]
    assert found <= case.expected()
    assert found


@pytest.mark.parametrize("client", ["pod-a2", "node-a"])
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_all_pods_answer_somebody_inside(results: Results, client: str, protocol: Protocol) -> None:
    if (client, protocol) == ("node-a", "sctp"):
        return
    pods = {
        result.pod
        for case in CASES
        if (case.client, case.protocol, case.row.served) == (client, protocol, NEAR_LOCAL)
        for result in results[case.request()]
    }
    assert pods == set(NEAR)


# On, restart, off


class InsideTraffic(Background):
    """New connections of a pod, of the node and from outside to a Service, and one that stays, within the `with`."""

    def __init__(self, cluster: Cluster) -> None:
        super().__init__()
        self._cluster = cluster
        self.rounds = 0
        self.answered: Counter[tuple[str, str]] = Counter()
        self.failures: list[str] = []

    def _run(self) -> None:
        while not self._stop.wait(0.02):
            # An odd number of clients inside, so that each gets both endpoints from round robin.
            for client, version in (("pod-a2", 4), ("node-a", 4), ("pod-a2", 4), ("outside", 4), ("pod-a2", 6)):
                try:
                    answer = query(self._cluster[client], "tcp", NEAR_LOCAL.vip(version), 80, PATIENCE_S)
                    self.answered[client, answer.name] += 1
                except (QueryError, OSError) as error:
                    self.failures.append(f"{client} IPv{version}: {error!r}")
            self.rounds += 1

    def wait_rounds(self) -> set[tuple[str, str]]:
        """Wait for ROUNDS more, and return who answered whom meanwhile."""
        self.answered.clear()
        until = self.rounds + ROUNDS
        wait_until(lambda: self.rounds >= until)
        return set(self.answered)


def open_connection(cluster: Cluster, pod: str) -> socket.socket:
    """Return a connection of pod-a2 to the Service that *pod* answers, and that has been used."""
    for _ in range(10):
        with connect(cluster["pod-a2"], "tcp", NEAR_LOCAL.vip(4), 80, PATIENCE_S) as connection:
            if read_answer(connection).name == pod:
                return connection.dup()  # which stays open
    pytest.fail(f"{pod} never answered")


def open_flow(cluster: Cluster, pod: str) -> socket.socket:
    """Return a UDP flow of pod-a2 to the Service that *pod* answers."""
    for _ in range(10):
        with connect(cluster["pod-a2"], "udp", NEAR_LOCAL.vip(4), 80, PATIENCE_S) as flow:
            flow.send(b"who are you?\n")
            if read_answer(flow).name == pod:
                return flow.dup()
    pytest.fail(f"{pod} never answered")


def datagrams_until_answered(flow: socket.socket) -> int:
    """Return how many datagrams were sent until one was answered; 0: none was."""
    flow.settimeout(5.0)
    for number in range(1, 6):
        flow.send(b"still there?\n")
        with suppress(TimeoutError):
            read_answer(flow)
            return number
    return 0


def still_answers(connection: socket.socket) -> bool:
    connection.sendall(b"still there?\n")
    return bool(connection.recv(100))


def marks(cluster: Cluster) -> dict[str, str]:
    found: dict[str, str] = {}
    for name in ("KUBE-PY-INSIDE", "KUBE-6-PY-INSIDE"):
        saved = run(cluster.node_a, "ipset", "save", name)
        found |= dict(re.findall(r"^add \S+ (\S+) skbmark (\S+)", saved, re.MULTILINE))
    return found


def servers_by_mark(cluster: Cluster) -> list[str]:
    return re.findall(r"^-A -f \d+.*", run(cluster.node_a, "ipvsadm", "-Sn"), re.MULTILINE)


LOCAL_ONLY = {("pod-a2", "pod-a1"), ("node-a", "pod-a1"), ("outside", "pod-a1")}
ALL_INSIDE = LOCAL_ONLY | {("pod-a2", "pod-b1"), ("node-a", "pod-b1")}


class Life(NamedTuple):
    """What was seen while policies were switched on, the agent restarted, and policies switched off, under traffic."""

    reached: dict[str, set[tuple[str, str]]]
    marks: dict[str, dict[str, str]]
    kept: dict[str, bool]
    failures: list[str]
    states: dict[str, State]
    changes: str  # of the first sync after the restart
    left: list[str]
    datagrams: dict[str, int]  # of a flow to a virtual server by mark, until one was answered


@pytest.fixture(scope="module")
def life(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Life]:
    folder = Folder(tmp_path_factory.mktemp("manifests"))
    write(folder, *SERVICES)
    seen = Life({}, {}, {}, [], {}, "", [], {})
    with serving_cluster() as cluster, ExitStack() as stack:
        with AgentProcess(cluster.node_a, folder.path) as agent:
            agent.wait_synced()
            traffic = stack.enter_context(InsideTraffic(cluster))
            seen.reached["before"] = traffic.wait_rounds()
            seen.states["before"] = kernel_state(cluster.node_a)
            before = open_connection(cluster, "pod-a1")
            agent.stop(signal.SIGKILL)
        with AgentProcess(cluster.node_a, folder.path, EXACT) as agent:
            agent.wait_synced()
            seen.reached["on"] = traffic.wait_rounds()
            seen.marks["on"], seen.kept["on"] = marks(cluster), still_answers(before)
            seen.states["on"] = kernel_state(cluster.node_a)
            during, flow = open_connection(cluster, "pod-b1"), open_flow(cluster, "pod-b1")
            agent.stop(signal.SIGKILL)
        with AgentProcess(cluster.node_a, folder.path, EXACT) as agent:
            changes = agent.wait_synced()
            seen.reached["restarted"] = traffic.wait_rounds()
            seen.marks["restarted"], seen.kept["restarted"] = marks(cluster), still_answers(during)
            seen.states["restarted"] = kernel_state(cluster.node_a)
            seen.datagrams["restarted"] = datagrams_until_answered(flow)
            agent.stop(signal.SIGKILL)
        # Closed connections are counted for two minutes more (TIME_WAIT).
        with AgentProcess(cluster.node_a, folder.path, f"--drain-deadline={DEADLINE_S}s") as agent:
            agent.wait_synced()
            seen.left.extend(servers_by_mark(cluster))  # at once: the deadline ends all connections to them
            seen.kept["off"], seen.datagrams["off"] = still_answers(during), datagrams_until_answered(flow)
            seen.reached["off"] = traffic.wait_rounds()
            flow.close()
            during.close()
            before.close()
            wait_until(lambda: not servers_by_mark(cluster), timeout_s=8 * DEADLINE_S)
            wait_until(lambda: "KUBE-PY" not in run(cluster.node_a, "ipset", "save"))
            seen.states["off"] = kernel_state(cluster.node_a)
        yield seen._replace(failures=list(traffic.failures), changes=changes)


def test_nothing_is_lost_when_policies_are_switched_on_and_off(life: Life) -> None:
    assert life.failures == []


def test_clients_inside_reach_all_pods_only_while_policies_are_on(life: Life) -> None:
    assert life.reached == {"before": LOCAL_ONLY, "on": ALL_INSIDE, "restarted": ALL_INSIDE, "off": LOCAL_ONLY}


def test_open_connections_go_on(life: Life) -> None:
    assert life.kept == {"on": True, "restarted": True, "off": True}


def test_a_udp_flow_loses_at_most_one_datagram_when_policies_are_switched_off(life: Life) -> None:
    assert life.datagrams["restarted"] == 1
    assert life.datagrams["off"] in (1, 2)


def test_a_restart_keeps_the_marks_and_changes_nothing(life: Life) -> None:
    assert life.marks["on"]
    assert life.marks["restarted"] == life.marks["on"]
    assert life.states["restarted"] == life.states["on"]
    assert "nothing to do" in life.changes or " 0 pending" in life.changes


def test_a_virtual_server_with_connections_outlives_the_policies_until_they_ended(life: Life) -> None:
    assert life.left


def test_off_leaves_what_was_before(life: Life) -> None:
    assert life.states["off"] == life.states["before"]


def test_on_only_adds(life: Life) -> None:
    on = _with_usual_rules(life.states["on"])
    for part, lines in life.states["before"].items():
        assert not set(lines) - set(on[part]), part


def _with_usual_rules(state: Mapping[str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
    """Return *state* with three rules, which exact policies make narrower or move, as kube-proxy writes them."""
    narrow = "-A KUBE-IPVS-FILTER -p tcp -m set"
    wide = {
        part: [line.replace("NEW,UNTRACKED", "NEW").replace(narrow, narrow.replace("-p tcp ", "")) for line in lines]
        for part, lines in state.items()
    }
    return {part: tuple(_with_accepts_last(lines) if "tables" in part else lines) for part, lines in wide.items()}


def _with_accepts_last(lines: list[str]) -> list[str]:
    """Return *lines* of tables with the rules of KUBE-SERVICES that accept by a set alone as the last of it."""
    accepts = [line for line in lines if re.match(r"nat -A KUBE-SERVICES -m set \S+ \S+ dst,dst -j ACCEPT$", line)]
    others = [line for line in lines if line not in accepts]
    end = max((number for number, line in enumerate(others, 1) if line.startswith("nat -A KUBE-SERVICES")), default=0)
    return [*others[:end], *accepts, *others[end:]]


# Affinity, drift, plan, cleanup


class Running(NamedTuple):
    cluster: Cluster
    agent: AgentProcess
    folder: Folder

    def plan(self, *flags: str, status: int = 0) -> str:
        return run(self.cluster.node_a, *command_line(self.folder.path, "plan", *flags), status=status)


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = Folder(tmp_path_factory.mktemp("manifests"))
    write(folder, STICKY, NEAR_LOCAL, FAR_LOCAL)
    with serving_cluster() as cluster, AgentProcess(cluster.node_a, folder.path, EXACT) as agent:
        agent.wait_synced()
        yield Running(cluster, agent, folder)


def test_affinity_keeps_a_client_inside_at_one_pod_of_the_target_port(running: Running) -> None:
    for client in ("pod-a1", "pod-a2"):
        names = {query(running.cluster[client], "tcp", STICKY.vip(4), 80, PATIENCE_S).name for _ in range(6)}
        assert len(names) == 1
    names = {query(running.cluster["outside"], "tcp", STICKY.vip(4), 80, PATIENCE_S).name for _ in range(3)}
    assert names == {"pod-a1"}


def test_plan_has_nothing_to_do_and_shows_what_switching_off_deletes(running: Running) -> None:
    running.plan(EXACT)  # exit status 0: no change
    assert "KUBE-PY-INSIDE" in running.plan(status=2)


DAMAGE = (
    "ipset del KUBE-PY-INSIDE 203.0.113.1,tcp:80",
    "ipset flush KUBE-6-PY-NO-LOCAL",
    "ipvsadm -D -f {mark}",
    "ipvsadm -d -f {mark} -r 10.244.2.5:8080",
    "iptables -t mangle -F KUBE-PY-INPUT",
    "ip6tables -t nat -D POSTROUTING -m comment --comment 'kubeproxy-py exact policies' -j KUBE-PY-POSTROUTING",
)


@pytest.mark.parametrize("damage", DAMAGE)
def test_what_another_program_changed_is_repaired(running: Running, damage: str) -> None:
    node = running.cluster.node_a
    before = kernel_state(node)
    mark = int(marks(running.cluster)["203.0.113.1,tcp:80"], 16)
    shell(node, damage.format(mark=mark))
    wait_until(lambda: kernel_state(node) == before, poll_s=0.5)


def test_cleanup_of_extras_leaves_what_kube_proxy_knows(running: Running) -> None:
    cluster, folder = running.cluster, running.folder
    running.agent.stop(signal.SIGTERM)
    run(cluster.node_a, "ipvsadm", "-A", "-f", "7", "-s", "rr")  # of another program
    run(cluster.node_a, *command_line(folder.path, "cleanup")[:4], "--extras")
    assert servers_by_mark(cluster) == ["-A -f 7 -s rr"]
    run(cluster.node_a, "ipvsadm", "-D", "-f", "7")
    extras = kernel_state(cluster.node_a)
    with AgentProcess(cluster.node_a, folder.path) as agent:
        agent.wait_synced()
        assert kernel_state(cluster.node_a) == _with_usual_rules(extras)
