"""The lab's network: every machine reaches every pod, and the ways of not getting an answer are distinguished."""

from __future__ import annotations

import itertools
import socket
import subprocess
from pathlib import Path

import pytest

from lab.client import NoAnswer, Refused, Unreachable, connect, query, read_answer
from lab.echo import PROTOCOLS, EchoServers, Listener, Protocol
from lab.network import BY_NAME, MACHINES, PODS, Cluster, Machine
from lab.pristine import reset_host_state

pytestmark = pytest.mark.kernel

# A node's packets to its own pods have the address of its bridge as source.
_FROM_BRIDGE = {"node-a": ("10.244.1.1", "fd00:10:244:1::1"), "node-b": ("10.244.2.1", "fd00:10:244:2::1")}


def _address(machine: Machine, version: int) -> str:
    return machine.ipv4 if version == 4 else machine.ipv6


def _seen_address(client: Machine, server: Machine, version: int) -> str:
    if server.plugged_into == client.name:
        return _FROM_BRIDGE[client.name][version == 6]
    return _address(client, version)


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_every_machine_reaches_every_pod_untranslated(cluster: Cluster, protocol: Protocol, version: int) -> None:
    pairs = list(itertools.product(MACHINES, PODS))
    answers = {
        (client.name, pod.name): query(cluster[client.name], protocol, _address(pod, version), 8080)
        for client, pod in pairs
    }
    assert {pair: (answer.name, answer.peer_address) for pair, answer in answers.items()} == {
        (client.name, pod.name): (pod.name, _seen_address(client, pod, version)) for client, pod in pairs
    }


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_nodes_and_outside_reach_each_other(cluster: Cluster, protocol: Protocol, version: int) -> None:
    machines = [BY_NAME[name] for name in ("node-a", "node-b", "outside")]
    listeners = [Listener(machine.name, cluster[machine.name], protocol, 7000) for machine in machines]
    with EchoServers(listeners):
        answers = [
            query(cluster[client.name], protocol, _address(server, version), 7000).name
            for client, server in itertools.permutations(machines, 2)
        ]
    assert answers == [server.name for _, server in itertools.permutations(machines, 2)]


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_the_requested_source_port_is_used(cluster: Cluster, protocol: Protocol, version: int) -> None:
    answer = query(cluster["outside"], protocol, _address(BY_NAME["pod-a1"], version), 8080, source_port=40312)
    assert answer.peer_port == 40312


@pytest.mark.parametrize("protocol", ["tcp", "sctp"])
def test_closed_port_refuses(cluster: Cluster, protocol: Protocol) -> None:
    with pytest.raises(Refused):
        query(cluster["pod-a1"], protocol, "10.244.2.5", 1)


@pytest.mark.parametrize(("address", "icmp"), [("10.244.2.5", (3, 3)), ("fd00:10:244:2::5", (1, 4))])
def test_closed_udp_port_is_port_unreachable(cluster: Cluster, address: str, icmp: tuple[int, int]) -> None:
    with pytest.raises(Unreachable) as caught:
        query(cluster["pod-a1"], "udp", address, 1)
    assert caught.value.icmp == icmp


@pytest.mark.parametrize(
    ("command", "address", "icmp"),
    [
        ("iptables", "10.244.2.6", (3, 3)),
        ("ip6tables", "fd00:10:244:2::6", (1, 4)),
    ],
)
def test_a_reject_rule_differs_from_a_closed_port(
    cluster: Cluster, command: str, address: str, icmp: tuple[int, int]
) -> None:
    rule = [command, "-A", "INPUT", "-p", "tcp", "--dport", "5353", "-j", "REJECT"]
    subprocess.run(cluster["pod-b2"].wrap(rule), check=True)
    with pytest.raises(Unreachable) as caught:
        query(cluster["outside"], "tcp", address, 5353)
    assert caught.value.icmp == icmp


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_dropped_packets_are_not_answered(cluster: Cluster, protocol: Protocol) -> None:
    with pytest.raises(NoAnswer):
        query(cluster["outside"], protocol, "10.244.2.99", 8080, timeout_s=0.3)


@pytest.mark.parametrize("protocol", ["tcp", "sctp"])
def test_open_connection_echoes(cluster: Cluster, protocol: Protocol) -> None:
    with connect(cluster["outside"], protocol, "10.244.1.6", 9000) as sock:
        read_answer(sock)
        sock.sendall(b"still there?\n")
        assert sock.recv(100) == b"still there?\n"


def test_a_udp_answer_comes_from_the_requested_address(cluster: Cluster) -> None:
    with EchoServers([Listener("node-a", cluster.node_a, "udp", 7001)]):
        assert query(cluster["pod-a1"], "udp", "172.16.5.10", 7001).name == "node-a"


def test_node_a_as_initial_namespace_has_the_recorded_settings() -> None:
    with Cluster(node_a="initial") as cluster:
        with cluster.node_a.inside():
            routes = subprocess.run(
                ["ip", "route", "show", "default"], capture_output=True, text=True, check=True
            ).stdout
        assert (socket.gethostname(), routes.split()[2], Path("/proc/sys/net/ipv4/ip_forward").read_text()) == (
            "node-a",
            "192.168.3.1",
            "0\n",
        )


def _links() -> set[str]:
    return {path.name for path in Path("/sys/class/net").iterdir()}


def test_a_cluster_leaves_no_link_behind() -> None:
    before = _links()
    with Cluster(node_a="initial"):
        assert _links() - before >= {"eth0", "eth1", "cni0", "vpod1", "vpod2"}
    assert _links() == before


_CHANGED_STATE = """
ipvsadm -A -t 10.96.0.1:443 -s rr; ipvsadm -a -t 10.96.0.1:443 -r 10.244.1.5:8080 -m; ipvsadm --set 11 12 13
ipset create KUBE-CLUSTER-IP hash:ip,port; ipset create KUBE-6-CLUSTER-IP hash:ip,port family inet6
for tables in iptables ip6tables; do
  $tables -t nat -N KUBE-SERVICES; $tables -t nat -A PREROUTING -j KUBE-SERVICES; $tables -P FORWARD DROP
done
iptables -t nat -A KUBE-SERVICES -m set --match-set KUBE-CLUSTER-IP dst,dst -j ACCEPT
conntrack -I -p udp -s 10.0.0.1 -d 10.0.0.2 --sport 1 --dport 2 -t 100
ip link add kube-ipvs0 type dummy
echo 131072 > /proc/sys/net/netfilter/nf_conntrack_max
echo 1 > /proc/sys/net/ipv4/ip_forward; echo 1 > /proc/sys/net/ipv4/vs/conntrack
"""
_STATE_COMMANDS = (
    "ipvsadm -Sn",
    "ipvsadm -Ln --timeout",
    "ipset save",
    "iptables-save | grep -v '^#'",
    "ip6tables-save | grep -v '^#'",
    "conntrack -L -p udp --src 10.0.0.1 2>/dev/null",
    "ip -br link | grep kube-ipvs0",
    "cat /proc/sys/net/netfilter/nf_conntrack_max",
    "cat /proc/sys/net/ipv4/ip_forward",
    "cat /proc/sys/net/ipv4/vs/conntrack",
)


def _shell(script: str) -> str:
    return subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=False).stdout


def test_reset_host_state_deletes_everything_an_agent_programs() -> None:
    _shell(
        "for tables in iptables ip6tables; do $tables -t nat -L; $tables -L; done"
    )  # a table that was used once remains
    reset_host_state()
    clean = {command: _shell(command) for command in _STATE_COMMANDS}
    _shell(_CHANGED_STATE)
    unchanged = [command for command in _STATE_COMMANDS if _shell(command) == clean[command]]
    reset_host_state()
    assert unchanged == [], "every command must show the changed state, or the next line proves too little"
    assert {command: _shell(command) for command in _STATE_COMMANDS} == clean
