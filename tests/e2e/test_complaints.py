"""Each complaint of docs/troubleshooting.md, made for real: packets fail as users say, and one command names why.

A state is a context manager, by the slug of its complaint: it makes the state, sends packets where the complaint is
about packets, and undoes it.  The command runs within it.  What it prints is written to build/complaints/, from where
`make complaints-page` takes it to the page.
"""

from __future__ import annotations

import select
import shlex
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from kubeproxy_py.server.snapshots import PERIOD_S
from lab.client import Answer, NoAnswer, QueryError, Refused, Unreachable, connect, query, read_answer
from lab.echo import EchoServers, Listener
from lab.namespace import Namespace
from lab.network import BY_NAME, Cluster
from lab.pristine import unload_modules
from tests.complaints.excerpt import excerpt
from tests.complaints.page import captured
from tests.complaints.table import COMPLAINTS, Complaint
from tests.e2e.agent_process import EVENT, AgentProcess, command_line, wait_until
from tests.e2e.kernel_state import run, shell
from tests.e2e.manifests import Folder, Object, Port, endpoint_slice, service, service_with_slice
from tests.e2e.module_loading import without_module_loading
from tests.e2e.serving import serving_cluster
from tests.e2e.this_kernel import VERSION

pytestmark = pytest.mark.kernel

WRITTEN = Path(__file__).resolve().parents[2] / "build" / "complaints"
WEB, NODE_PORT = "10.96.0.10", 30080
NODE_A, NODE_B, OUTSIDE = BY_NAME["node-a"].ipv4, BY_NAME["node-b"].ipv4, BY_NAME["outside"].ipv4
API_PORT = 6443
PORT_UNREACHABLE = (3, 3)
HARMLESS_SINCE = (5, 16)  # conn_reuse_mode 0
TIMEOUT_S = 10.0
LOST_S = 0.7  # for how long a request waits that is to get no answer
CONNTRACK_MAX = Path("/proc/sys/net/netfilter/nf_conntrack_max")


class Node(NamedTuple):
    """The cluster in which the agent runs."""

    cluster: Cluster
    agent: AgentProcess
    folder: Folder
    socket: Path

    def ask(self, client: str, address: str, port: int = 80, **options: Any) -> Answer:
        return query(self.cluster[client], "tcp", address, port, options.pop("timeout_s", TIMEOUT_S), **options)

    def refuses(self, client: str, address: str, port: int = 80) -> None:
        """Fail unless an ICMP error answers."""
        with pytest.raises((Refused, Unreachable)):
            self.ask(client, address, port)

    def loses(self, client: str, address: str, port: int = 80, **options: Any) -> None:
        """Fail unless there is no answer at all."""
        with pytest.raises(NoAnswer):
            self.ask(client, address, port, timeout_s=LOST_S, **options)

    def change(self, script: str) -> None:
        shell(self.cluster.node_a, script)

    def serve(self, name: str, address: str, pod: str) -> None:
        """Let the Service *name* have this one pod, and wait until it answers at *address*."""
        self.folder.write(name, service_with_slice(name, address, [pod]))
        self.wait_answered(address, pod)

    def forget(self, name: str) -> None:
        """Delete the Service *name*, and wait for the sync, which another state must not meet."""
        with self.agent.syncing(EVENT):
            self.folder.delete(name)

    def wait_answered(self, address: str, pod: str) -> None:
        """Wait until *pod* answers a new connection to *address*."""

        def is_answered() -> bool:
            with suppress(QueryError):
                return self.ask("pod-a2", address, timeout_s=1.0).name == pod
            return False

        wait_until(is_answered, lambda: f"{pod} does not answer at {address}", poll_s=0.05)


# Objects


def load_balancer(name: str, cluster_ip: str, address: str, pods: list[str], **spec: Any) -> list[Object]:
    objects = service_with_slice(name, cluster_ip, pods, type="LoadBalancer", **spec)
    objects[0]["status"] = {"loadBalancer": {"ingress": [{"ip": address}]}}
    return objects


def misnamed() -> list[Object]:
    """A Service as the EndpointSlice controller sees it, of which one targetPort names no port of the pods."""
    objects = service_with_slice("misnamed", "10.96.0.42", ["pod-a1"], [Port(80), Port(9100, target=8091)])
    for port, (name, target) in zip(
        objects[0]["spec"]["ports"], (("http", "htpp"), ("metrics", "metrics")), strict=True
    ):
        port.update(name=name, targetPort=target)
    objects[1]["ports"] = [{"name": "metrics", "port": 8091, "protocol": "TCP"}]
    return objects


def affine() -> list[Object]:
    affinity: dict[str, Any] = {
        "sessionAffinity": "ClientIP",
        "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 2}},
    }
    return service_with_slice("affine", "10.96.0.44", ["pod-a1", "pod-a2", "pod-b1", "pod-b2"], **affinity)


def api_server() -> list[Object]:
    """The Service of an API server on node B."""
    objects = service_with_slice("kubernetes", "10.96.0.1", ["pod-b1"], [Port(443, target=API_PORT)])
    objects[1]["endpoints"] = [{"addresses": [NODE_B], "conditions": {"ready": True}}]
    return objects


LOCAL = (Port(80, node_port=30081),)
OBJECTS: tuple[Object, ...] = (
    *service_with_slice("web", WEB, ["pod-a1", "pod-a2", "pod-b1", "pod-b2"], [Port(80, node_port=NODE_PORT)]),
    *service_with_slice("idle", "10.96.0.40", []),
    service("unready", "10.96.0.41"),
    endpoint_slice("unready", [], unready=["pod-a1", "pod-b1"]),
    *misnamed(),
    service("local", "10.96.0.43", LOCAL, externalTrafficPolicy="Local"),
    endpoint_slice("local", ["pod-b1"], LOCAL),
    *load_balancer("ranged", "10.96.0.70", "203.0.113.70", ["pod-a1"], loadBalancerSourceRanges=["198.18.0.0/15"]),
    *service_with_slice("lonely", "10.96.0.45", ["pod-a1"]),
    *service_with_slice("neighbour", "10.96.0.46", ["pod-a2"]),
    *affine(),
    *service_with_slice("on-node", "10.96.0.47", ["pod-b1"], [Port(8000)], externalIPs=[NODE_A]),
    *api_server(),
    *load_balancer("traefik", "10.96.0.48", NODE_B, ["pod-a1"]),
    *service_with_slice("thief", "10.96.0.49", ["pod-b1"], [Port(80)], externalIPs=[WEB]),
)


# States


States = dict[str, Callable[[Node], AbstractContextManager[object]]]
STATES: States = {}


def state(slug: str) -> Callable[[Callable[[Node], Iterator[None]]], Callable[[Node], Iterator[None]]]:
    """Register the state of the complaint *slug*."""

    def register(make: Callable[[Node], Iterator[None]]) -> Callable[[Node], Iterator[None]]:
        STATES[slug] = contextmanager(make)
        return make

    return register


@contextmanager
def changed(node: Node, change: str, undo: str) -> Iterator[None]:
    """Run *change* on node A, and *undo* at the end of the `with`."""
    node.change(change)
    try:
        yield
    finally:
        node.change(undo)


@state("no-endpoints")
def _(node: Node) -> Iterator[None]:
    node.refuses("pod-a1", "10.96.0.40")
    yield


@state("not-ready")
def _(node: Node) -> Iterator[None]:
    node.refuses("pod-a1", "10.96.0.41")
    yield


@state("port-name")
def _(node: Node) -> Iterator[None]:
    node.refuses("pod-a2", "10.96.0.42")
    assert node.ask("pod-a2", "10.96.0.42", 9100).name == "pod-a1:8091"
    yield


@state("local-policy")
def _(node: Node) -> Iterator[None]:
    node.loses("outside", NODE_A, 30081)
    assert node.ask("pod-a1", "10.96.0.43").name == "pod-b1"
    yield


@state("source-ranges")
def _(node: Node) -> Iterator[None]:
    node.loses("outside", "203.0.113.70")
    assert node.ask("pod-a2", "10.96.0.70").name == "pod-a1"
    yield


@state("loopback-node-port")
def _(node: Node) -> Iterator[None]:
    node.refuses("node-a", "127.0.0.1", NODE_PORT)
    assert node.ask("node-a", NODE_A, NODE_PORT).name.startswith("pod-")
    yield


@state("ping")
def _(node: Node) -> Iterator[None]:
    assert ping(node.cluster["pod-a1"], WEB) == PORT_UNREACHABLE
    assert node.ask("pod-a1", WEB).name.startswith("pod-")
    yield


def ping(client: Namespace, address: str) -> tuple[int, int] | None:
    """Send an echo request; return type and code of the ICMP message that answers, None if none does."""
    with client.inside():
        raw = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
    with raw:
        raw.sendto(struct.pack("!BBHHH", 8, 0, 0xFFFF - (0x0800 + 1 + 1), 1, 1), (address, 0))
        while select.select([raw], [], [], 5.0)[0]:
            packet = raw.recv(1500)
            kind, code = packet[20], packet[21]
            if kind in (0, 3):
                return kind, code
    return None


@state("strict-arp")
def _(node: Node) -> Iterator[None]:
    address = "192.168.3.200"
    node.folder.write("metallb", load_balancer("metallb", "10.96.0.50", address, ["pod-a1"]))
    try:
        node.wait_answered(address, "pod-a1")
        assert node.ask("outside", address).name == "pod-a1"  # though nothing announces it, by ARP of this node
        mac = shell(node.cluster.node_a, "ip -o link show eth0").partition("link/ether ")[2].split()[0]
        assert mac in shell(node.cluster["outside"], f"ip neigh show {address}")
        yield
    finally:
        node.forget("metallb")


@state("hairpin")
def _(node: Node) -> Iterator[None]:
    hairpin = "bridge link set dev vpod1 hairpin"
    assert node.ask("pod-a1", "10.96.0.45").name == "pod-a1"
    with changed(node, f"{hairpin} off", f"{hairpin} on"):
        node.loses("pod-a1", "10.96.0.45")
        yield


@state("stale-udp-flow")
def _(node: Node) -> Iterator[None]:
    address, dns = "10.96.0.53", [Port(53, "UDP", 8080)]
    node.change(
        f"conntrack -I -p udp -t 300 -s {OUTSIDE} --sport 20999 -d {address} --dport 53 "
        f"--reply-src 10.244.1.99 --reply-port-src 8080 --reply-dst {OUTSIDE} --reply-port-dst 20999 2>/dev/null"
    )
    since = len(node.agent.lines())
    node.folder.write("dns", service_with_slice("dns", address, ["pod-a2"], dns))
    node.agent.wait_for("UDP flow", since)
    assert query(node.cluster["outside"], "udp", address, 53, source_port=20999).name == "pod-a2"
    try:
        yield
    finally:
        node.forget("dns")


@state("endless-drain")
def _(node: Node) -> Iterator[None]:
    address = "10.96.0.51"
    node.serve("drains", address, "pod-a1")
    with connect(node.cluster["pod-a2"], "tcp", address, 80) as sock:
        assert read_answer(sock).name == "pod-a1"
        node.serve("drains", address, "pod-b1")
        sock.sendall(b"still there?\n")
        assert sock.recv(100) == b"still there?\n"
        yield
    node.forget("drains")


@contextmanager
def reused_ports(node: Node) -> Iterator[None]:
    """Set conn_reuse_mode 0, and connect from one port again and again while a pod is replaced, which drains."""
    address, port = "10.96.0.52", 21999
    node.serve("reused", address, "pod-b1")
    try:
        with (
            changed(node, "sysctl -qw net.ipv4.vs.conn_reuse_mode=0", "sysctl -qw net.ipv4.vs.conn_reuse_mode=1"),
            connect(node.cluster["outside"], "tcp", address, 80, 5.0) as another,
        ):
            read_answer(another)
            assert reset_connection(node, address, port) == "pod-b1"
            node.serve("reused", address, "pod-b2")
            answered = reset_connection(node, address, port)
            assert answered == "pod-b2" or VERSION < HARMLESS_SINCE, answered
            yield
    finally:
        node.forget("reused")


def reset_connection(node: Node, address: str, source_port: int) -> str:
    """Connect from *source_port*, end by a reset so that the port is free at once, and return the pod."""
    with connect(node.cluster["pod-a2"], "tcp", address, 80, 10.0, source_port) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        return read_answer(sock).name


STATES["conn-reuse-mode"] = STATES["conn-reuse-mode-before-5.16"] = reused_ports


@state("node-address")
def _(node: Node) -> Iterator[None]:
    with EchoServers([Listener("sshd", node.cluster.node_a, "tcp", 8000)]):
        assert node.ask("outside", NODE_A, 8000).name == "pod-b1"
        yield


@state("foreign-server")
def _(node: Node) -> Iterator[None]:
    since = len(node.agent.lines())
    lines = "-A -t 172.16.5.10:6443 -s rr\\n-a -t 172.16.5.10:6443 -r 192.168.3.11:6443 -m\\n"
    node.change(f"printf -- '{lines}' | ipvsadm -R")  # by one process: the agent may delete it before a second begins
    node.agent.wait_for("Deleted virtual servers", since)
    assert "172.16.5.10:6443" not in shell(node.cluster.node_a, "ipvsadm -Ln")
    yield


@state("affinity")
def _(node: Node) -> Iterator[None]:
    first = node.ask("outside", "10.96.0.44").name
    for _ in range(3):
        time.sleep(2.5)  # longer than the timeout of the Service
        assert node.ask("outside", "10.96.0.44").name == first
    yield


@state("conntrack-full")
def _(node: Node) -> Iterator[None]:
    before = CONNTRACK_MAX.read_text()  # only the initial network namespace may write it
    with ExitStack() as stack:
        for _ in range(40):  # established ones, which the kernel does not drop early
            read_answer(stack.enter_context(connect(node.cluster["outside"], "tcp", WEB, 80, 5.0)))
        try:
            CONNTRACK_MAX.write_text("30")
            node.loses("outside", WEB)
            yield
        finally:
            CONNTRACK_MAX.write_text(before)


_RIVAL = f"while :; do ipvsadm -E -t {WEB}:80 -s wlc; sleep 0.5; done"


@state("two-proxies")
def _(node: Node) -> Iterator[None]:
    """What is called kube-proxy sets another scheduler again and again; the agent repairs it again and again."""
    since = len(node.agent.lines())
    with node.cluster.node_a.inside():
        process = subprocess.Popen(["/usr/local/bin/kube-proxy", "-c", _RIVAL], executable="/bin/sh")
    try:
        node.agent.wait_for("Another program changed rows", since)
        yield
    finally:
        process.kill()
        process.wait()


# From public trackers


@state("other-node-address")
def _(node: Node) -> Iterator[None]:
    with EchoServers([Listener("node-b", node.cluster["node-b"], "tcp", API_PORT)]):
        assert node.ask("node-a", NODE_B, API_PORT).name == "node-b"
        assert node.ask("pod-a1", "10.96.0.1", 443).name == "node-b"
        yield


@state("contested-address")
def _(node: Node) -> Iterator[None]:
    names = {node.ask("pod-a1", WEB).name for _ in range(4)}
    assert names == {"pod-a1", "pod-a2", "pod-b1", "pod-b2"}  # those of web, not the thief's only one
    yield


@state("local-ports")
def _(node: Node) -> Iterator[None]:
    reserved = "net.ipv4.ip_local_reserved_ports"
    before = shell(node.cluster.node_a, f"sysctl -n {reserved}").strip()
    ports = "net.ipv4.ip_local_port_range"
    with (
        EchoServers([Listener("node-b", node.cluster["node-b"], "tcp", API_PORT)]),
        changed(
            node,
            f"sysctl -qw {reserved}=''; sysctl -qw {ports}='20000 60999'",
            f"sysctl -qw {ports}='32768 60999'; sysctl -qw {reserved}='{before}'",
        ),
    ):
        node.loses("node-a", NODE_B, API_PORT, source_port=NODE_PORT)
        assert node.ask("node-a", NODE_B, API_PORT, source_port=NODE_PORT + 9).name == "node-b"
        yield


@state("input-drop")
def _(node: Node) -> Iterator[None]:
    with changed(node, "iptables -w -P INPUT DROP", "iptables -w -P INPUT ACCEPT"):
        node.loses("outside", WEB)
        yield


@state("forward-drop")
def _(node: Node) -> Iterator[None]:
    with changed(node, "iptables -w -I FORWARD -j DROP", "iptables -w -D FORWARD -j DROP"):
        node.loses("outside", NODE_A, NODE_PORT)
        yield


@state("bridge-netfilter")
def _(node: Node) -> Iterator[None]:
    sysctl = "sysctl -qw net.bridge.bridge-nf-call-iptables"
    assert node.ask("pod-a1", "10.96.0.46").name == "pod-a2"
    with changed(node, f"{sysctl}=0", f"{sysctl}=1"):
        node.loses("pod-a1", "10.96.0.46")
        yield


@state("stale-rules")
def _(node: Node) -> Iterator[None]:
    chain, reject = "KUBE-EXTERNAL-SERVICES", f"-p tcp -m addrtype --dst-type LOCAL --dport {NODE_PORT} -j REJECT"
    with changed(
        node,
        f"iptables -w -N {chain}; iptables -w -A {chain} {reject}; iptables -w -I INPUT -j {chain}",
        f"iptables -w -D INPUT -j {chain}; iptables -w -F {chain}; iptables -w -X {chain}",
    ):
        node.refuses("outside", NODE_A, NODE_PORT)
        yield


@state("host-port")
def _(node: Node) -> Iterator[None]:
    rule = "PREROUTING -p tcp -m tcp --dport 80 -m addrtype --dst-type LOCAL -j DNAT --to-destination 10.244.1.6:8091"
    with changed(node, f"iptables -w -t nat -I {rule}", f"iptables -w -t nat -D {rule}"):
        assert {node.ask("pod-a1", WEB).name for _ in range(4)} == {"pod-a2:8091"}
        yield


@state("node-local-dns")
def _(node: Node) -> Iterator[None]:
    with (
        changed(
            node,
            f"ip link add nodelocaldns type dummy; ip address add {WEB}/32 dev nodelocaldns",
            "ip link delete nodelocaldns",
        ),
        EchoServers([Listener("cache", node.cluster.node_a, "tcp", 80)]),
    ):
        assert "cache" not in {node.ask("pod-a1", WEB).name for _ in range(4)}
        yield


@state("idle-connections")
def _(node: Node) -> Iterator[None]:
    yield
    with (
        changed(node, "ipvsadm --set 3 1 1", "ipvsadm --set 900 120 300"),  # 3 s in the place of 900
        connect(node.cluster["outside"], "tcp", WEB, 80, 5.0) as sock,
    ):
        read_answer(sock)
        time.sleep(6.0)
        sock.sendall(b"still there?\n")
        with pytest.raises(ConnectionError):
            sock.recv(100)


# Commands


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    folder = Folder(tmp_path_factory.mktemp("manifests"))
    folder.write("first", OBJECTS)
    path = tmp_path_factory.mktemp("run") / "agent" / "debug.sock"
    with (
        serving_cluster() as built,
        AgentProcess(built.node_a, folder.path, f"--debug-socket={path}") as agent,
    ):
        agent.wait_synced()
        wait_until(path.exists)
        yield Node(built, agent, folder, path)


def output_of(one: Complaint, namespace: Namespace, folder: Path, path: Path | None = None) -> str:
    """Run the command of *one* with the flags that it needs, and return what it prints."""
    words = shlex.split(one.command)
    if words[0] in ("explain", "status"):
        time.sleep(PERIOD_S)  # the agent may still answer with the snapshot that the last complaint asked for
        argv = [sys.executable, "-m", "kubeproxy_py", words[0], f"--debug-socket={path}", *words[1:]]
    elif words[0] == "check":
        argv = [sys.executable, "-m", "kubeproxy_py", *words]
    else:
        argv = command_line(folder, *words)
    with namespace.inside():
        done = subprocess.run(argv, capture_output=True, text=True, check=False)
    return done.stdout or done.stderr


def judge(one: Complaint, output: str) -> None:
    """Fail unless *output* names cause and remedy of *one*, and is what the page shows."""
    shown = excerpt(one.command, output, one.pick)
    WRITTEN.mkdir(parents=True, exist_ok=True)
    (WRITTEN / f"{one.slug}.txt").write_text(shown, encoding="utf-8")
    assert [word for word in (*one.cause, *one.remedy) if word not in shown] == [], f"not named in:\n{shown or output}"
    assert shown == captured(one), "hint: make complaints-page"


OWN_NODE = ("missing-module", "unknown-scheduler", "no-ipv6")  # with a node of their own, or none
_OLD = "conn-reuse-mode-before-5.16"


def named(slug: str) -> Complaint:
    return next(one for one in COMPLAINTS if one.slug == slug)


@pytest.fixture
def plain(tmp_path: Path, namespace: Namespace) -> Iterator[tuple[Namespace, Folder]]:
    """A network namespace where no agent ran, and a folder with a dual-stack Service."""
    folder = Folder(tmp_path)
    folder.write("web", [service("web", [WEB, "fd00:10:96::10"]), endpoint_slice("web", ["pod-a1"])])
    yield namespace, folder


def test_missing_module(plain: tuple[Namespace, Folder]) -> None:
    """First, because the module is in use where another test's agent runs.  The agent loads all that it needs."""
    namespace, folder = plain
    with AgentProcess(namespace, folder.path) as agent:
        agent.wait_synced()
        agent.stop(signal.SIGTERM)
    run(namespace, *command_line(folder.path, "cleanup"))
    unload_modules("ip_set_hash_ipportnet")
    with without_module_loading():
        output = output_of(named("missing-module"), namespace, folder.path)
    judge(named("missing-module"), output)


def test_unknown_scheduler(plain: tuple[Namespace, Folder]) -> None:
    judge(named("unknown-scheduler"), output_of(named("unknown-scheduler"), plain[0], plain[1].path))


def test_no_ipv6(plain: tuple[Namespace, Folder]) -> None:
    namespace, folder = plain
    namespace.set_sysctl("ipv6/conf/all/disable_ipv6", 1)
    with AgentProcess(namespace, folder.path) as agent:
        agent.wait_synced()
        log = "\n".join(agent.lines())
        assert f"-A -t {WEB}:80" in run(namespace, "ipvsadm", "-Sn")
        agent.stop(signal.SIGTERM)
    judge(named("no-ipv6"), log)


@pytest.mark.parametrize("one", [one for one in COMPLAINTS if one.slug not in OWN_NODE], ids=lambda one: one.slug)
def test_complaint_is_real_and_one_command_names_cause_and_remedy(node: Node, one: Complaint) -> None:
    is_old = VERSION < HARMLESS_SINCE
    if (one.slug == _OLD and not is_old) or (one.slug == "conn-reuse-mode" and is_old):
        pytest.skip("of another kernel")
    with STATES[one.slug](node):
        if one.command:
            output = output_of(one, node.cluster.node_a, node.folder.path, node.socket)
        else:
            output = "\n".join(node.agent.lines())
        judge(one, output)
