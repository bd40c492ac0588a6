"""Drift is found by marks and notifications, long before the full compare, and the agent's own changes are no drift.

The agent compares all kernel state once in ten minutes, so that whatever is repaired in a test was found otherwise.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from typing import NamedTuple

import pytest

from lab.client import query
from lab.network import BY_NAME, PODS, Cluster
from tests.e2e.agent_process import EVENT, AgentProcess, wait_until
from tests.e2e.kernel_state import State, differences, kernel_state, shell
from tests.e2e.manifests import Folder, Object, Port, endpoint_slice, service, service_with_slice
from tests.e2e.probing import scrape
from tests.e2e.serving import serving_cluster

pytestmark = pytest.mark.kernel

WITHIN_S = 60.0  # a tenth of the period of the full compare; it takes some 2 s on a machine that does nothing else
DRIFT = r'"Synced .*\(drift in'
QUIET_S = 4.0  # at least two readings of the marks

PODS_BEHIND = ["pod-a1", "pod-b1"]
DNS = (Port(53, "UDP", 8080),)
OBJECTS = [
    *service_with_slice("web", "10.96.0.10", PODS_BEHIND, [Port(80, "TCP", 8080, 30080)]),
    service("dns", ["10.96.0.53", "fd00:10:96::53"], DNS),
    endpoint_slice("dns", PODS_BEHIND, DNS),
    endpoint_slice("dns", PODS_BEHIND, DNS, version=6),
]

CHANGES = {
    "all virtual servers deleted": "ipvsadm -C",
    "a virtual server deleted": "ipvsadm -D -t 10.96.0.10:80",
    "an IPv6 virtual server deleted": "ipvsadm -D -u [fd00:10:96::53]:53",
    "a scheduler changed": "ipvsadm -E -t 10.96.0.10:80 -s wlc",
    "a real server deleted": "ipvsadm -d -t 192.168.3.10:30080 -r 10.244.2.5:8080",
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
        samples = re.findall(rf"^{name}(?:{{.*}})? (\S+)$", scrape(self.cluster.node_a), re.MULTILINE)
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


def test_a_renamed_device_gets_its_name_back(node: Node) -> None:
    def state() -> State:
        """Return the state without the labels of addresses, which Linux changes with the name."""
        current = kernel_state(node.cluster.node_a)
        return {part: tuple(re.sub(r" \S+$", "", line) for line in lines) for part, lines in current.items()}

    before = state()
    shell(node.cluster.node_a, "ip link set kube-ipvs0 name other0")
    wait_until(lambda: state() == before, lambda: "\n".join(differences(before, state())), timeout_s=WITHIN_S)
    assert "other0" not in shell(node.cluster.node_a, "ip -o link show")
    assert node.serves()
    shell(node.cluster.node_a, "ip link del kube-ipvs0")
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
        with node.agent.syncing(EVENT):
            node.folder.write("many", many_services(300, pods))
        time.sleep(QUIET_S)
    assert BY_NAME[PODS_BEHIND[0]].ipv4 in shell(node.cluster.node_a, "ipvsadm -Ln -t 10.96.2.49:80")
    with node.agent.syncing(EVENT):
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


def cpu_s(pid: int) -> float:
    """Return the CPU time of a process, its children aside, in seconds."""
    with open(f"/proc/{pid}/stat") as file:  # noqa: PTH123
        fields = file.read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / 100
