"""Drift is found by marks and notifications, long before the full compare, and the agent's own changes are no drift.

The agent compares all kernel state once in ten minutes, so that whatever is repaired in a test was found otherwise.
"""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import NamedTuple

import pytest

from lab.client import QueryError, query
from lab.network import BY_NAME, PODS, Cluster
from tests.e2e.agent_process import AgentProcess, cpu_s, wait_until
from tests.e2e.kernel_state import State, differences, kernel_state, run, shell
from tests.e2e.manifests import Folder, Object, Port, endpoint_slice, service, service_with_slice
from tests.e2e.probing import scrape
from tests.e2e.serving import serving_cluster
from tests.e2e.this_kernel import IPTABLES

pytestmark = pytest.mark.kernel

WITHIN_S = 60.0  # a tenth of the period of the full compare; it takes some 2 s on a machine that does nothing else
DRIFT = r'"Synced .*\(drift in'
QUIET_S = 4.0  # at least two readings of the marks

PODS_BEHIND = ["pod-a1", "pod-b1"]
DNS = (Port(53, "UDP", 8080),)
LIMITED = ["10.96.0.12", "fd00:10:96::12"]
LIMIT = {"kubeproxy-py.io/max-connections": "7"}
OBJECTS = [
    {**(limited := service("limited", LIMITED)), "metadata": {**limited["metadata"], "annotations": LIMIT}},
    *(endpoint_slice("limited", PODS_BEHIND, version=version) for version in (4, 6)),
    *service_with_slice("web", "10.96.0.10", PODS_BEHIND, [Port(80, "TCP", 8080, 30080)]),
    service("dns", ["10.96.0.53", "fd00:10:96::53"], DNS),
    endpoint_slice("dns", PODS_BEHIND, DNS),
    endpoint_slice("dns", PODS_BEHIND, DNS, version=6),
]

A = BY_NAME[PODS_BEHIND[0]]

CHANGES = {
    "all virtual servers deleted": "ipvsadm -C",
    "a virtual server deleted": "ipvsadm -D -t 10.96.0.10:80",
    "an IPv6 virtual server deleted": "ipvsadm -D -u [fd00:10:96::53]:53",
    "a scheduler changed": "ipvsadm -E -t 10.96.0.10:80 -s wlc",
    "a real server deleted": "ipvsadm -d -t 192.168.3.10:30080 -r 10.244.2.5:8080",
    "a virtual server made persistent": "ipvsadm -E -t 10.96.0.10:80 -s rr -p 300",
    "a weight changed": f"ipvsadm -e -t 10.96.0.10:80 -r {A.ipv4}:8080 -m -w 7",
    "a weight changed, IPv6": f"ipvsadm -e -u [fd00:10:96::53]:53 -r [{A.ipv6}]:8080 -m -w 0",
    "a real server in place of another": (
        f"ipvsadm -d -t 10.96.0.10:80 -r {A.ipv4}:8080; ipvsadm -a -t 10.96.0.10:80 -r 10.244.9.9:8080 -m"
    ),
    "an IPv6 real server deleted": f"ipvsadm -d -u [fd00:10:96::53]:53 -r [{A.ipv6}]:8080",
    "all IPv6 real servers deleted": "; ".join(
        f"ipvsadm -d -u [fd00:10:96::53]:53 -r [{BY_NAME[pod].ipv6}]:8080" for pod in PODS_BEHIND
    ),
    "a foreign virtual server added": "ipvsadm -A -t 198.51.100.77:99 -s rr",
    "a set emptied": "ipset flush KUBE-CLUSTER-IP",
    "a set entry deleted": "ipset del KUBE-CLUSTER-IP 10.96.0.10,tcp:80",
    "a set entry added": "ipset add KUBE-CLUSTER-IP 10.96.9.9,tcp:80",
    "a chain emptied": "iptables -t nat -F KUBE-POSTROUTING",
    "a rule deleted": "iptables -t nat -D KUBE-SERVICES 1",
    "a rule added": "ip6tables -t nat -A KUBE-POSTROUTING -j ACCEPT",
    "a jump deleted": "iptables -D INPUT -m comment --comment 'kubernetes ipvs access filter' -j KUBE-IPVS-FILTER",
    "iptables flushed": "iptables -t nat -F; iptables -F",
    "a setting changed": "echo 0 > /proc/sys/net/ipv4/vs/conntrack",
    "the device set up and down": "ip link set kube-ipvs0 up; ip link set kube-ipvs0 down",
    "the device deleted": "ip link del kube-ipvs0",
}
"""Shell commands; each leaves kernel state that differs from the agent's."""


class Node(NamedTuple):
    """A node with a running agent, and its kernel state after the first sync."""

    cluster: Cluster
    agent: AgentProcess
    folder: Folder
    state: State

    def serves(self) -> bool:
        """Return whether a NodePort, and ClusterIPs of both families, answer."""
        node_port = {query(self.cluster["outside"], "tcp", "192.168.3.10", 30080).name for _ in range(2)}
        cluster_ips = [
            {query(self.cluster["pod-a2"], "udp", address, 53).name for _ in range(2)}
            for address in ("10.96.0.53", "fd00:10:96::53")
        ]
        return [node_port, *cluster_ips] == 3 * [set(PODS_BEHIND)]

    def metric(self, name: str) -> float:
        """Return the sum of the samples of a metric of the agent."""
        samples = re.findall(rf"^{re.escape(name)}(?:{{.*}})? (\S+)$", scrape(self.cluster.node_a), re.MULTILINE)
        return sum(map(float, samples))

    def wait_quiet(self) -> None:
        """Wait until no partial compare is due."""
        compares = -1.0
        while compares != (compares := self.metric("kubeproxy_ipvs_partial_compares_total")):
            time.sleep(QUIET_S)


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    folder = Folder(tmp_path_factory.mktemp("manifests"))
    folder.write("all", OBJECTS)
    flags = ("--ipvs-sync-period=10m", "--ipvs-udp-timeout=77s")
    with serving_cluster() as cluster, AgentProcess(cluster.node_a, folder.path, *flags) as agent:
        agent.wait_synced()
        yield Node(cluster, agent, folder, kernel_state(cluster.node_a))


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_drift_is_repaired_long_before_the_full_compare(node: Node, change: str) -> None:
    since = len(node.agent.lines())
    shell(node.cluster.node_a, change)
    changed_s = time.monotonic()
    node.agent.wait_for(r'"Synced ', since)
    print(f"repaired {time.monotonic() - changed_s:.2f} s after: {change}")
    wait_until(
        lambda: kernel_state(node.cluster.node_a) == node.state,
        lambda: "\n".join(differences(node.state, kernel_state(node.cluster.node_a))),
        timeout_s=WITHIN_S,
    )
    assert node.serves()
    assert node.metric("kubeproxy_ipvs_full_compares_total") == 0


@pytest.mark.parametrize("thresholds", ["-x 5 -y 2", ""])
@pytest.mark.parametrize(
    ("virtual", "real"), [(LIMITED[0], A.ipv4), (f"[{LIMITED[1]}]", f"[{A.ipv6}]")], ids=["IPv4", "IPv6"]
)
def test_thresholds_of_a_service_with_a_limit_are_restored_long_before_the_full_compare(
    node: Node, virtual: str, real: str, thresholds: str
) -> None:
    def listed() -> list[str]:
        lines = run(node.cluster.node_a, "ipvsadm", "-Ln", "--thresholds").splitlines()
        return sorted(line for line in lines if re.search(r" 7 +7 ", line))

    before, since = listed(), len(node.agent.lines())
    assert len(before) == 2 * len(PODS_BEHIND), before
    shell(node.cluster.node_a, f"ipvsadm -e -t {virtual}:80 -r {real}:8080 -m -w 1 {thresholds}")
    node.agent.wait_for(DRIFT, since)  # the command may end after the repair
    wait_until(lambda: listed() == before, lambda: "\n".join(listed()), timeout_s=WITHIN_S)
    assert node.metric("kubeproxy_ipvs_full_compares_total") == 0


def state_without_labels(node: Node) -> State:
    """Return the kernel state without the labels of addresses, which Linux changes with the name of their device."""
    current = kernel_state(node.cluster.node_a)
    return {part: tuple(re.sub(r" \S+$", "", line) for line in lines) for part, lines in current.items()}


def wait_until_as_before(node: Node, before: State) -> None:
    wait_until(
        lambda: state_without_labels(node) == before,
        lambda: "\n".join(differences(before, state_without_labels(node))),
        timeout_s=WITHIN_S,
    )


def test_a_renamed_device_gets_its_name_back(node: Node) -> None:
    before = state_without_labels(node)
    shell(node.cluster.node_a, "ip link set kube-ipvs0 name other0")
    wait_until_as_before(node, before)
    assert "other0" not in shell(node.cluster.node_a, "ip -o link show")
    assert node.serves()
    shell(node.cluster.node_a, "ip link del kube-ipvs0")
    wait_until(lambda: kernel_state(node.cluster.node_a) == node.state, timeout_s=WITHIN_S)


def test_a_weight_changed_just_after_a_change_of_ours_is_restored(node: Node) -> None:
    server, weight = "10.96.4.1:80", f"ipvsadm -e -t 10.96.4.1:80 -r {A.ipv4}:8080 -m -w 9"
    with node.agent.syncing():
        node.folder.write("new", service_with_slice("new", "10.96.4.1", ["pod-a1"]))
    with node.agent.syncing(DRIFT):
        shell(node.cluster.node_a, weight)
    assert f"{A.ipv4}:8080 Masq 1 " in re.sub(" +", " ", shell(node.cluster.node_a, f"ipvsadm -Ln -t {server}"))
    with node.agent.syncing():
        node.folder.delete("new")


def test_a_rule_in_place_of_another_is_found_among_thousands_of_another_program(node: Node) -> None:
    others = "".join(f"-A OTHERS -s 198.18.{n // 250}.{n % 250} -j RETURN\n" for n in range(3000))
    script = f"*nat\n:OTHERS - [0:0]\n{others}COMMIT\n"
    try:
        shell(node.cluster.node_a, f"iptables-restore --noflush <<'end'\n{script}end")
        node.wait_quiet()
        replaced_s = time.monotonic()
        shell(node.cluster.node_a, "iptables -t nat -R KUBE-MARK-MASQ 1 -j MARK --set-xmark 0x8000/0x8000")
        wait_until(
            lambda: "0x4000/0x4000" in shell(node.cluster.node_a, "iptables -t nat -S KUBE-MARK-MASQ"),
            timeout_s=WITHIN_S,
        )
        print(f"repaired {time.monotonic() - replaced_s:.2f} s after a rule was replaced")
        assert node.metric("kubeproxy_ipvs_full_compares_total") == 0
    finally:
        shell(node.cluster.node_a, "iptables -t nat -F OTHERS; iptables -t nat -X OTHERS")
    node.wait_quiet()


REDIRECT = "PREROUTING -d {} -p tcp -m tcp --dport 8443 -j REDIRECT --to-ports 443"


@pytest.mark.parametrize(
    ("command", "family", "network"),
    [("iptables", "IPv4", "10.96.0.0/16"), ("ip6tables", "IPv6", "fd00:10:96::/112")],
    ids=["IPv4", "IPv6"],
)
def test_a_rule_inserted_before_our_jump_is_reported_once_and_left_in_place(
    node: Node, command: str, family: str, network: str
) -> None:
    rule, since = REDIRECT.format(network), len(node.agent.lines())
    reported = rf"NatRuleBeforeServices: {family} nat PREROUTING"
    try:
        shell(node.cluster.node_a, f"{command} -t nat -I {rule}")
        inserted_s = time.monotonic()
        assert rule.removeprefix("PREROUTING ") in node.agent.wait_for(reported, since)
        print(f"reported after {time.monotonic() - inserted_s:.2f} s")
        shell(node.cluster.node_a, f"{command} -t nat -I {rule.replace('8443', '8444')}")
        node.wait_quiet()
        shell(node.cluster.node_a, f"{command} -t nat -D {rule.replace('8443', '8444')}; {command} -t nat -C {rule}")
        node.wait_quiet()
    finally:
        shell(node.cluster.node_a, f"{command} -t nat -D {rule}")
    assert len([line for line in node.agent.lines()[since:] if re.search(reported, line)]) == 1
    node.agent.wait_for("Host finding resolved", since)


ACCEPTING = {
    "from outside": ("iptables -t nat -{} PREROUTING -i eth0 -j ACCEPT", "NatRuleBeforeServices: IPv4 nat PREROUTING"),
    "from anywhere": ("iptables -t nat -{} PREROUTING -p tcp -j ACCEPT", "NatRuleBeforeServices: IPv4 nat PREROUTING"),
    "all that leaves": ("iptables -t nat -{} POSTROUTING -j ACCEPT", "NatRuleBeforeServices: IPv4 nat POSTROUTING"),
}


@pytest.mark.parametrize(("rule", "reported"), ACCEPTING.values(), ids=ACCEPTING)
def test_a_rule_that_accepts_packets_to_services_before_our_jump_is_reported(
    node: Node, rule: str, reported: str
) -> None:
    def answers() -> set[str]:
        """Return who answers, from the NodePort's client, of the pods on both nodes."""
        return {answer_or_error(node.cluster) for _ in range(2)}

    since = len(node.agent.lines())
    assert answers() == set(PODS_BEHIND)
    try:
        shell(node.cluster.node_a, rule.format("I"))
        inserted_s = time.monotonic()
        assert "not masqueraded" in node.agent.wait_for(reported, since)
        print(f"reported after {time.monotonic() - inserted_s:.2f} s")
        assert answers() != set(PODS_BEHIND)
    finally:
        shell(node.cluster.node_a, rule.format("D"))
    node.agent.wait_for("Host finding resolved", since)
    assert answers() == set(PODS_BEHIND)


def answer_or_error(cluster: Cluster) -> str:
    try:
        return query(cluster["outside"], "tcp", "192.168.3.10", 30080, 1.0).name
    except QueryError as error:
        return type(error).__name__


def test_a_rule_that_accepts_what_source_ranges_refuse_is_reported(node: Node) -> None:
    since = len(node.agent.lines())
    try:
        shell(node.cluster.node_a, "ip6tables -I INPUT -j ACCEPT")
        line = node.agent.wait_for("FilterRuleBeforeServices: IPv6 filter INPUT", since)
    finally:
        shell(node.cluster.node_a, "ip6tables -D INPUT -j ACCEPT")
    assert "loadBalancerSourceRanges" in line
    assert "KUBE-IPVS-FILTER: -j ACCEPT" in line
    node.agent.wait_for("Host finding resolved", since)


def test_our_jump_behind_one_for_all_local_addresses_is_moved_to_the_top(node: Node) -> None:
    local = "-t nat -{} PREROUTING -m addrtype --dst-type LOCAL -j HOSTPORTS"
    shell(node.cluster.node_a, "iptables -t nat -N HOSTPORTS")
    try:
        shell(node.cluster.node_a, f"iptables {local.format('I')}")
        wait_until(
            lambda: "KUBE-SERVICES" in shell(node.cluster.node_a, "iptables -t nat -S PREROUTING").splitlines()[1],
            timeout_s=WITHIN_S,
        )
    finally:
        shell(node.cluster.node_a, f"iptables {local.format('D')}; iptables -t nat -X HOSTPORTS")
    wait_until(lambda: kernel_state(node.cluster.node_a) == node.state, timeout_s=WITHIN_S)


FIGHTER = """
import socket, subprocess, sys, time
netlink = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 16)
netlink.bind((0, 0))
while True:
    subprocess.run(sys.argv[1], shell=True)
    time.sleep(0.5)
"""


def test_a_fight_for_a_weight_is_reported_with_the_suspect_and_repaired_each_time(node: Node) -> None:
    fights = 'kubeproxy_ipvs_fights_total{kind="RealServer"}'
    before, since = node.metric(fights), len(node.agent.lines())
    change = f"ipvsadm -e -t 10.96.0.10:80 -r {A.ipv4}:8080 -m -w 0"
    argv = node.cluster.node_a.wrap([sys.executable, "-c", FIGHTER, change])
    with subprocess.Popen(argv) as fighter:
        try:
            line = node.agent.wait_for("RepeatedDrift", since)
            wait_until(lambda: node.metric(fights) >= before + 2, timeout_s=WITHIN_S)
        finally:
            fighter.kill()
    assert "RealServer " in line
    assert f"(pid {fighter.pid})" in line
    assert len([each for each in node.agent.lines()[since:] if "RepeatedDrift" in each]) == 1
    wait_until(lambda: kernel_state(node.cluster.node_a) == node.state, timeout_s=WITHIN_S)


def test_a_configured_ipvs_timeout_is_set_again(node: Node) -> None:
    def udp_timeout() -> str:
        return shell(node.cluster.node_a, "ipvsadm -Ln --timeout").split()[-1]

    assert udp_timeout() == "77"
    shell(node.cluster.node_a, "ipvsadm --set 0 0 300")
    wait_until(lambda: udp_timeout() == "77", timeout_s=WITHIN_S, poll_s=0.1)


def many_services(number: int, pods: list[str]) -> list[Object]:
    """Return the first *number* of Services with the ClusterIPs 10.96.1.0, 10.96.1.1, ..."""
    return [
        item
        for index in range(number)
        for item in service_with_slice(f"many-{index}", f"10.96.{1 + index // 250}.{index % 250}", pods)
    ]


def test_own_changes_are_neither_compared_nor_reported_as_drift(node: Node) -> None:
    node.wait_quiet()
    names = ("kubeproxy_ipvs_partial_compares_total", "kubeproxy_ipvs_drift_found_total")
    before, since = [node.metric(name) for name in names], len(node.agent.lines())
    for pods in (["pod-a1"], [pod.name for pod in PODS], PODS_BEHIND):
        with node.agent.syncing():
            node.folder.write("many", many_services(300, pods))
        time.sleep(QUIET_S)
    assert BY_NAME[PODS_BEHIND[0]].ipv4 in shell(node.cluster.node_a, "ipvsadm -Ln -t 10.96.2.49:80")
    with node.agent.syncing():
        node.folder.delete("many")
    time.sleep(QUIET_S)
    assert [node.metric(name) for name in names] == before
    assert not [line for line in node.agent.lines()[since:] if re.search(DRIFT, line)]


def test_a_program_that_writes_all_the_time_does_not_keep_the_agent_busy(node: Node) -> None:
    node.wait_quiet()
    before_s, compares = cpu_s(node.agent.pid), node.metric("kubeproxy_ipvs_partial_compares_total")
    began_s = time.monotonic()
    while time.monotonic() < began_s + 6.0:
        shell(node.cluster.node_a, "ipvsadm -C")
        shell(node.cluster.node_a, "ipset flush KUBE-CLUSTER-IP")
    took_s = time.monotonic() - began_s
    assert node.metric("kubeproxy_ipvs_partial_compares_total") > compares
    assert cpu_s(node.agent.pid) - before_s < took_s / 3
    wait_until(lambda: kernel_state(node.cluster.node_a) == node.state, timeout_s=WITHIN_S)


@pytest.mark.skipif(IPTABLES != "nft", reason="only nf_tables counts the commits of all programs together")
def test_commits_of_another_program_to_its_own_table_cost_little(node: Node) -> None:
    node.wait_quiet()
    before_s, compares = cpu_s(node.agent.pid), node.metric("kubeproxy_ipvs_partial_compares_total")
    began_s = time.monotonic()
    number = 0
    while time.monotonic() < began_s + 10.0:
        number += 1
        shell(node.cluster.node_a, f"iptables -t mangle -A OUTPUT -d 198.51.100.{number} -j ACCEPT")
        time.sleep(0.5)
    took_s = time.monotonic() - began_s
    shell(node.cluster.node_a, "iptables -t mangle -F")
    print(f"{(cpu_s(node.agent.pid) - before_s) / took_s:.4f} of a core for {number} commits in {took_s:.1f} s")
    assert node.metric("kubeproxy_ipvs_partial_compares_total") == compares


def test_a_device_renamed_while_no_agent_runs_gets_its_name_back(node: Node) -> None:
    before = state_without_labels(node)
    node.agent.stop(signal.SIGKILL)
    shell(node.cluster.node_a, "ip link set kube-ipvs0 name other0")
    flags = ("--ipvs-sync-period=10m", "--ipvs-udp-timeout=77s")
    with AgentProcess(node.cluster.node_a, node.folder.path, *flags) as agent:
        agent.wait_synced()
        assert "other0" not in shell(node.cluster.node_a, "ip -o link show")
        wait_until_as_before(node, before)
        wait_until(
            lambda: (
                kernel_state(node.cluster.node_a, ["virtual servers"])["virtual servers"]
                == node.state["virtual servers"]
            )
        )
        assert node._replace(agent=agent).serves()
