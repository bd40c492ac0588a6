"""A UDP flow never continues to a removed endpoint, and no other flow is affected.

Linux since 5.9 deletes the conntrack entries of its own IPVS connections when their real server is deleted (with
expire_nodest_conn=1).  The agent deletes those that IPVS does not know: entries that are older than the virtual server,
that other programs created, or that lost their IPVS connection.  Here they are created by `conntrack -I`, or by packets
sent before the Service exists.

Each flow has its own source port: IPVS cannot distinguish the replies to flows of one client from the same port through
two virtual servers to one pod.
"""

from __future__ import annotations

import re
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path
from typing import NamedTuple

import pytest

from kubeproxy_py.kernel.conntrack import table as conntrack
from kubeproxy_py.kernel.conntrack.table import Conntrack
from kubeproxy_py.kernel.conntrack.wire import encode_list_udp
from kubeproxy_py.kernel.errors import KernelError
from kubeproxy_py.model.flows import Flow as KernelFlow
from kubeproxy_py.model.rows import VirtualServer
from lab.client import PATIENT_S, connect, read_answer
from lab.echo import EchoServers, Listener
from lab.namespace import Namespace
from lab.network import BY_NAME, Cluster
from tests.e2e.agent_process import SETTLED, AgentProcess, wait_until
from tests.e2e.kernel_state import run, shell
from tests.e2e.manifests import Folder, Object, Port, endpoint_slice, service
from tests.e2e.serving import serving_cluster

pytestmark = pytest.mark.kernel

# How long a flow waits for the answers to its datagrams after a sweep.  The first one may be lost with the connection
# that IPVS still had; a busy machine may need the time of the last ones.
MOVES_WITHIN_S = (0.1, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4)
BEGINS_WITHIN_S = 60.0  # the start of a flow is not measured, and the machine may be busy
SWEPT = r'"Deleted \d'
CLIENT, CLIENT_6 = BY_NAME["outside"].ipv4, BY_NAME["outside"].ipv6
NODE, NODE_6 = BY_NAME["node-a"].ipv4, BY_NAME["node-a"].ipv6
SECOND_ADDRESS = "172.16.5.10"  # node A's, on eth1

_numbers = count(1)
_source_ports = count(20001)


class Served(NamedTuple):
    """The Service of one test."""

    name: str
    cluster_ips: tuple[str, str]
    port: Port

    def objects(self, *pods: str, unready: Sequence[str] = ()) -> list[Object]:
        """Return the Service with ready *pods* in both families; *unready* ones are not ready but serving."""
        slices = [endpoint_slice(self.name, pods, [self.port], version=version, unready=unready) for version in (4, 6)]
        return [self.itself, *slices]

    @property
    def itself(self) -> Object:
        """The Service without endpoints, with an address of every kind."""
        fields = {"type": "LoadBalancer", "externalIPs": [self._own("198.51.100")]}
        ingress = {"loadBalancer": {"ingress": [{"ip": self._own("203.0.113")}]}}
        return service(self.name, self.cluster_ips, [self.port], **fields) | {"status": ingress}

    def way(self, kind: str) -> tuple[str, int]:
        """Return the address and port of one kind."""
        return {
            "ClusterIP": (self.cluster_ips[0], self.port.number),
            "ClusterIP, IPv6": (self.cluster_ips[1], self.port.number),
            "externalIP": (self._own("198.51.100"), self.port.number),
            "LoadBalancer": (self._own("203.0.113"), self.port.number),
            "NodePort": (NODE, self.port.node_port),
            "NodePort, second address": (SECOND_ADDRESS, self.port.node_port),
            "NodePort, IPv6": (NODE_6, self.port.node_port),
        }[kind]

    def _own(self, network: str) -> str:
        return f"{network}.{self.cluster_ips[0].rpartition('.')[2]}"


WAYS = (
    "ClusterIP",
    "ClusterIP, IPv6",
    "externalIP",
    "LoadBalancer",
    "NodePort",
    "NodePort, second address",
    "NodePort, IPv6",
)


class Running(NamedTuple):
    cluster: Cluster
    agent: AgentProcess
    folder: Folder

    def put(self, served: Served, *objects: Object) -> None:
        """Write *objects* and wait until they are synced and their stale flows deleted."""
        with self.agent.syncing(SWEPT):
            self.folder.write(served.name, objects)

    def drop(self, served: Served) -> None:
        with self.agent.syncing(SWEPT):
            self.folder.delete(served.name)


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = Folder(tmp_path_factory.mktemp("manifests"))
    # With an entry in each set, so that no test adds a rule, which is swept for a second time if iptables is slow.
    folder.write(
        "first", Served("first", ("10.96.5.254", "fd00:10:96::5:254"), Port(53, "UDP", 8080, 30754)).objects("pod-a1")
    )
    with serving_cluster() as cluster, AgentProcess(cluster.node_a, folder.path) as agent:
        agent.wait_for(SETTLED)
        agent.wait_for(SWEPT)
        yield Running(cluster, agent, folder)


@pytest.fixture
def served() -> Served:
    number = next(_numbers)
    return Served(
        f"dns-{number}", (f"10.96.5.{number}", f"fd00:10:96::5:{number}"), Port(53, "UDP", 8080, 30500 + number)
    )


class Flow:
    """A UDP flow from one port of a client to one address and port."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self.port: int = sock.getsockname()[1]

    def ask(self, timeout_s: float = PATIENT_S) -> str | None:
        """Return the name of the pod that answers; None if none does within *timeout_s*, or after an ICMP error."""
        self._sock.settimeout(timeout_s)
        with suppress(OSError):
            self._sock.send(b"who are you?\n")
            return read_answer(self._sock).name
        return None

    def wait_until_answered_by(self, pod: str) -> None:
        """Wait until *pod* answers."""
        wait_until(lambda: self.ask(0.1) == pod, lambda: f"{pod} does not answer", timeout_s=BEGINS_WITHIN_S)

    def moves_to(self, pod: str) -> None:
        """Wait until *pod* answers, which it must to one of a few datagrams."""
        for timeout_s in MOVES_WITHIN_S:
            next_s = time.monotonic() + timeout_s
            if self.ask(timeout_s) == pod:
                return
            time.sleep(max(0.0, next_s - time.monotonic()))  # an ICMP error comes at once
        raise AssertionError(f"{pod} does not answer")


@contextmanager
def flow(client: Namespace, address: str, port: int) -> Iterator[Flow]:
    with connect(client, "udp", address, port, PATIENT_S, next(_source_ports)) as sock:
        yield Flow(sock)


def entries(node: Namespace, address: str, protocol: str = "udp") -> dict[int, str]:
    """Return the id and the reply source of the conntrack entries to *address*, by client source port."""
    family = "ipv6" if ":" in address else "ipv4"
    listed = run(node, "conntrack", "-L", "-p", protocol, "-f", family, "--orig-dst", address, "-o", "id")
    pattern = r"src=\S+ dst=\S+ sport=(\d+) dport=\d+ .*?src=(\S+) dst=\S+ sport=(\d+) .* id=(\d+)"
    return {int(port): f"{entry} {src} {sport}" for port, src, sport, entry in re.findall(pattern, listed)}


def insert(
    node: Namespace,
    address: str,
    port: int,
    replies_from: tuple[str, int],
    protocol: str = "udp",
    source_port: int | None = None,
) -> int:
    """Create a conntrack entry from outside to *address* and *port* and return its source port."""
    client = CLIENT_6 if ":" in address else CLIENT
    source_port = source_port or next(_source_ports)
    state = "--state ESTABLISHED" if protocol == "tcp" else ""
    shell(
        node,
        f"conntrack -I -p {protocol} -t 300 {state} -s {client} --sport {source_port} -d {address} --dport {port} "
        f"--reply-src {replies_from[0]} --reply-port-src {replies_from[1]} "
        f"--reply-dst {client} --reply-port-dst {source_port} 2>/dev/null",
    )
    return source_port


# With packets


@pytest.mark.parametrize("way", WAYS)
def test_a_udp_flow_moves_to_another_pod_when_its_endpoint_is_removed(
    running: Running, served: Served, way: str
) -> None:
    running.put(served, *served.objects("pod-b1"))
    with flow(running.cluster["outside"], *served.way(way)) as udp_flow:
        udp_flow.wait_until_answered_by("pod-b1")
        running.put(served, *served.objects("pod-b2"))
        udp_flow.moves_to("pod-b2")


def test_a_udp_flow_from_a_pod_moves_when_its_endpoint_is_removed(running: Running, served: Served) -> None:
    running.put(served, *served.objects("pod-b1"))
    with flow(running.cluster["pod-a2"], *served.way("ClusterIP")) as udp_flow:
        udp_flow.wait_until_answered_by("pod-b1")
        running.put(served, *served.objects("pod-a1"))
        udp_flow.moves_to("pod-a1")


@pytest.mark.parametrize("way", WAYS)
def test_udp_flows_to_remaining_endpoints_keep_their_entry_and_pod(running: Running, served: Served, way: str) -> None:
    address, port = served.way(way)
    running.put(served, *served.objects("pod-b1"))
    with flow(running.cluster["outside"], address, port) as udp_flow:
        udp_flow.wait_until_answered_by("pod-b1")
        running.put(served, *served.objects("pod-a1", "pod-b1", "pod-b2"))
        before = entries(running.cluster.node_a, address)[udp_flow.port]
        running.put(served, *served.objects("pod-b1", "pod-b2"))
        assert udp_flow.ask() == "pod-b1"
        assert entries(running.cluster.node_a, address)[udp_flow.port] == before


@pytest.mark.parametrize("way", ["ClusterIP", "ClusterIP, IPv6"])
def test_a_udp_flow_older_than_its_service_is_served_once_the_service_exists(
    running: Running, served: Served, way: str
) -> None:
    address, port = served.way(way)
    with flow(running.cluster["outside"], address, port) as udp_flow:
        assert udp_flow.ask(0.1) is None
        assert entries(running.cluster.node_a, address)[udp_flow.port].endswith(f"{address} {port}"), "a stale entry"
        running.put(served, *served.objects("pod-b1"))
        udp_flow.moves_to("pod-b1")


@pytest.mark.parametrize("way", WAYS)
def test_a_udp_flow_older_than_all_endpoints_is_served_once_one_exists(
    running: Running, served: Served, way: str
) -> None:
    running.put(served, *served.objects())
    with flow(running.cluster["outside"], *served.way(way)) as udp_flow:
        assert udp_flow.ask(0.1) is None
        running.put(served, *served.objects("pod-b1"))
        udp_flow.moves_to("pod-b1")


@pytest.mark.parametrize("way", ["ClusterIP", "NodePort, IPv6"])
def test_a_udp_flow_moves_to_a_ready_endpoint_when_its_own_becomes_unready(
    running: Running, served: Served, way: str
) -> None:
    # As with kube-proxy: the real server is deleted immediately, and its flows with it, although the agent would not
    # have deleted them.  See expire_nodest_conn in ip_vs_in, net/netfilter/ipvs/ip_vs_core.c.
    running.put(served, *served.objects("pod-b1"))
    with flow(running.cluster["outside"], *served.way(way)) as udp_flow:
        udp_flow.wait_until_answered_by("pod-b1")
        running.put(served, *served.objects("pod-b2", unready=["pod-b1"]))
        udp_flow.moves_to("pod-b2")


def test_a_udp_flow_to_an_outside_host_on_a_node_port_number_is_not_deleted(running: Running, served: Served) -> None:
    outside = Listener("outside", running.cluster["outside"], "udp", served.port.node_port)
    running.put(served, *served.objects("pod-a1", "pod-b1"))
    with EchoServers([outside]), flow(running.cluster["pod-a1"], CLIENT, served.port.node_port) as udp_flow:
        udp_flow.wait_until_answered_by("outside")
        before = entries(running.cluster.node_a, CLIENT)[udp_flow.port]
        running.put(served, *served.objects("pod-b1"))
        assert (entries(running.cluster.node_a, CLIENT)[udp_flow.port], udp_flow.ask()) == (before, "outside")


def test_a_tcp_connection_keeps_its_entry(running: Running, served: Served) -> None:
    ports = [served.port, Port(53, "TCP", 8080)]
    address = served.cluster_ips[0]

    def objects(*pods: str) -> list[Object]:
        return [service(served.name, address, ports), endpoint_slice(served.name, pods, ports)]

    running.put(served, *objects("pod-b1"))
    with connect(running.cluster["outside"], "tcp", address, 53, PATIENT_S, next(_source_ports)) as sock:
        assert read_answer(sock).name == "pod-b1"
        source_port = sock.getsockname()[1]
        before = entries(running.cluster.node_a, address, "tcp")[source_port]
        running.put(served, *objects("pod-a1"))
        sock.send(b"still there?\n")
        assert sock.recv(99) == b"still there?\n"
        assert entries(running.cluster.node_a, address, "tcp")[source_port] == before


# With conntrack entries that IPVS does not know


ALL_WAYS = pytest.mark.parametrize("way", WAYS)


def pod(name: str, way: str, port: int = 8080) -> tuple[str, int]:
    machine = BY_NAME[name]
    return (machine.ipv6 if "IPv6" in way else machine.ipv4), port


@ALL_WAYS
def test_only_conntrack_entries_to_removed_endpoints_are_deleted(running: Running, served: Served, way: str) -> None:
    node, (address, port) = running.cluster.node_a, served.way(way)
    running.put(served, *served.objects("pod-a1", "pod-b1", "pod-b2"))
    inserted = {
        "to a ready endpoint": insert(node, address, port, pod("pod-a1", way)),
        "to a serving endpoint that is not ready": insert(node, address, port, pod("pod-b1", way)),
        "to a removed endpoint": insert(node, address, port, pod("pod-b2", way)),
        "to another port of an endpoint": insert(node, address, port, pod("pod-a1", way, 9999)),
        "to the service address itself": insert(node, address, port, (address, port)),
        "of another port": insert(node, address, port + 1000, pod("pod-b2", way)),
    }
    running.put(served, *served.objects("pod-a1", unready=["pod-b1"]))
    remaining = entries(node, address)
    assert {kind for kind, source_port in inserted.items() if source_port in remaining} == {
        "to a ready endpoint",
        "to a serving endpoint that is not ready",
        "of another port",
    }


@ALL_WAYS
def test_conntrack_entries_of_a_deleted_service_are_deleted(running: Running, served: Served, way: str) -> None:
    address, port = served.way(way)
    running.put(served, *served.objects("pod-b1"))
    source_port = insert(running.cluster.node_a, address, port, pod("pod-b1", way))
    running.drop(served)
    assert source_port not in entries(running.cluster.node_a, address)


@ALL_WAYS
def test_conntrack_entries_of_a_service_without_endpoints_are_deleted(
    running: Running, served: Served, way: str
) -> None:
    address, port = served.way(way)
    running.put(served, *served.objects("pod-b1"))
    source_port = insert(running.cluster.node_a, address, port, pod("pod-b1", way))
    running.put(served, *served.objects())
    assert source_port not in entries(running.cluster.node_a, address)


def test_conntrack_entries_to_a_terminating_endpoint_are_deleted_once_it_is_removed(
    running: Running, served: Served
) -> None:
    address, port = served.way("ClusterIP")
    terminating = endpoint_slice(served.name, ["pod-a1"], [served.port], unready=["pod-b1"])
    terminating["endpoints"][1]["conditions"]["terminating"] = True
    web = service(served.name, address, [served.port])
    running.put(served, web, terminating)
    source_port = insert(running.cluster.node_a, address, port, pod("pod-b1", ""))
    running.put(served, web, terminating, *another_service())
    assert source_port in entries(running.cluster.node_a, address)
    running.put(served, web, endpoint_slice(served.name, ["pod-a1"], [served.port]))
    assert source_port not in entries(running.cluster.node_a, address)


def another_service() -> list[Object]:
    """Return another UDP Service, so that there is something to sync."""
    number = next(_numbers)
    return [service(f"other-{number}", f"10.96.5.{number}", [Port(53, "UDP")])]


def test_a_tcp_entry_of_the_same_address_and_port_is_not_deleted(running: Running, served: Served) -> None:
    address, port = served.way("ClusterIP")
    running.put(served, *served.objects("pod-b1"))
    source_port = insert(running.cluster.node_a, address, port, pod("pod-b1", ""), "tcp")
    running.drop(served)
    assert source_port in entries(running.cluster.node_a, address, "tcp")


def test_a_restarted_agent_deletes_stale_entries_of_its_predecessor(tmp_path: Path) -> None:
    served = Served("dns", ("10.96.5.250", "fd00:10:96::5:250"), Port(53, "UDP", 8080, 30750))
    folder = Folder(tmp_path)
    folder.write("dns", served.objects("pod-a1"))
    with serving_cluster() as cluster:
        with AgentProcess(cluster.node_a, tmp_path) as first:
            first.wait_for(SWEPT)
            first.stop(signal.SIGKILL)
        inserted = {way: insert(cluster.node_a, *served.way(way), pod("pod-b1", way)) for way in WAYS}
        with AgentProcess(cluster.node_a, tmp_path) as second:
            assert "nothing to do" in second.wait_synced()
            assert f"Deleted {len(inserted)} of " in second.wait_for(SWEPT)
        remaining = {port for way in WAYS for port in entries(cluster.node_a, served.way(way)[0])}
        assert remaining.isdisjoint(inserted.values())


# Differences between kernels


DNS = VirtualServer("10.96.5.253", 53, "UDP")


def test_all_flows_are_listed_if_the_kernel_rejects_the_filter(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = cluster.node_a
    insert(node, DNS.address, DNS.port, ("10.244.1.5", 8080))
    insert(node, DNS.address, DNS.port, ("10.244.1.5", 8080), "tcp")

    def listed() -> list[tuple[str, int]]:
        with node.inside():
            return [flow.destination for part in Conntrack().udp_flows([DNS]) for flow in part]

    filtered = listed()
    unknown_filter = encode_list_udp("IPv4")[:-4] + b"\0\0\0\x40"
    monkeypatch.setattr(conntrack, "encode_list_udp", lambda _family: unknown_filter)
    assert (filtered, listed()) == ([("10.244.1.5", 8080)], filtered)


def test_the_kernel_filters_the_listing_for_udp(cluster: Cluster) -> None:
    for protocol in ("udp", "tcp"):
        insert(cluster.node_a, "10.96.5.252", 53, ("10.244.1.5", 8080), protocol)
    with cluster.node_a.inside():
        parts = [part.entries for part in conntrack._run_listing(encode_list_udp("IPv4"))]
    protocols = {entry[36] for part in parts for entry in part}  # of the original tuple
    assert protocols == {socket.IPPROTO_UDP}


def test_a_newer_flow_with_the_same_tuple_is_not_deleted(cluster: Cluster) -> None:
    server = VirtualServer("10.96.5.249", 53, "UDP")
    node, table = cluster.node_a, Conntrack()
    source_port = insert(node, server.address, server.port, ("10.244.1.5", 8080))
    with node.inside():
        (listed,) = [flow for part in table.udp_flows([server]) for flow in part]
        at = listed.entry.index(b"\x08\x00\x0c\x00") + 4  # CTA_ID
        other_id = bytes(byte ^ 1 for byte in listed.entry[at : at + 4])
        newer = KernelFlow(server, listed.destination, listed.entry[:at] + other_id + listed.entry[at + 4 :])
        assert table.delete_flows([newer]) == (0, [])
    assert source_port in entries(node, server.address)


@contextmanager
def without_conntrack_netlink() -> Iterator[None]:
    """Unload nf_conntrack_netlink and prevent the kernel from loading it."""
    loader = Path("/proc/sys/kernel/modprobe")
    before = loader.read_text()
    loader.write_text("/nowhere")
    subprocess.run(["modprobe", "-r", "nf_conntrack_netlink"], check=True)
    try:
        yield
    finally:
        loader.write_text(before)
        subprocess.run(["modprobe", "nf_conntrack_netlink"], check=True)


def test_listing_without_nf_conntrack_netlink_fails_with_a_hint(cluster: Cluster) -> None:
    error = pytest.raises(KernelError, match=r"cannot list UDP flows \(modprobe nf_conntrack_netlink on the host")
    with cluster.node_a.inside(), without_conntrack_netlink(), error:
        list(Conntrack().udp_flows([DNS]))
