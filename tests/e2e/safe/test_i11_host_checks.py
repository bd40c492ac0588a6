"""Checks of the host: each fault hurts a Service here, is reported once with its remedy, and so is its end."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from lab.client import NoAnswer, QueryError
from lab.network import BY_NAME, Cluster
from tests.e2e.agent_process import AgentProcess
from tests.e2e.client_requests import Request, send_request
from tests.e2e.kernel_state import shell
from tests.e2e.manifests import Folder, service_with_slice
from tests.e2e.probing import scrape
from tests.e2e.serving import serving_cluster

pytestmark = pytest.mark.kernel

CLUSTER_IP = "10.96.0.60"
CONNTRACK_MAX = Path("/proc/sys/net/netfilter/nf_conntrack_max")
FULL_FLOWS = 40


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with serving_cluster() as built:
        yield built


@pytest.fixture(scope="module")
def agent(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[AgentProcess]:
    folder = Folder(tmp_path_factory.mktemp("manifests"))
    folder.write("web", service_with_slice("web", CLUSTER_IP, ["pod-a2"]))
    with AgentProcess(cluster.node_a, folder.path, "--ipvs-sync-period=1s") as process:
        process.wait_synced()
        yield process


@contextmanager
def changed_host(cluster: Cluster, change: str, undo: str) -> Iterator[None]:
    shell(cluster.node_a, change)
    try:
        yield
    finally:
        shell(cluster.node_a, undo)


def answer(cluster: Cluster, client: str) -> str:
    try:
        return send_request(cluster, Request(client, "tcp", CLUSTER_IP, 80), 0.5).name
    except QueryError as error:
        return type(error).__name__


INPUT_DROP = ("iptables -P INPUT DROP", "iptables -P INPUT ACCEPT")
INPUT_REJECT = (
    "iptables -A INPUT -p tcp --dport 22 -j ACCEPT; iptables -A INPUT -j REJECT",
    "iptables -D INPUT -j REJECT; iptables -D INPUT -p tcp --dport 22 -j ACCEPT",
)
BRIDGE = (
    "sysctl -qw net.bridge.bridge-nf-call-iptables=0",
    "sysctl -qw net.bridge.bridge-nf-call-iptables=1",
)
FORWARD = ("iptables -I FORWARD -j DROP", "iptables -D FORWARD -j DROP")


@pytest.mark.parametrize(
    ("reason", "commands", "client", "remedy"),
    [
        ("InputDropsServices", INPUT_DROP, "pod-a1", "--match-set KUBE-CLUSTER-IP dst,dst -j ACCEPT"),
        ("InputDropsServices", INPUT_REJECT, "pod-a1", "-A INPUT -j REJECT"),
        ("BridgeNetfilterOff", BRIDGE, "pod-a1", "net.bridge.bridge-nf-call-iptables=1"),
        ("ForwardDropsServices", FORWARD, "pod-b1", "accept established connections"),
    ],
    ids=["INPUT policy", "INPUT rule", "bridge", "FORWARD"],
)
def test_fault_is_reported_once_with_its_remedy_and_so_is_its_end(
    cluster: Cluster, agent: AgentProcess, reason: str, commands: tuple[str, str], client: str, remedy: str
) -> None:
    assert answer(cluster, client) == "pod-a2"
    since = len(agent.lines())
    with changed_host(cluster, *commands):
        assert answer(cluster, client) != "pod-a2"
        line = agent.wait_for(rf'reason="{reason}"', since)
        assert remedy in line
        assert f'kubeproxy_ipvs_findings{{reason="{reason}"}} 1' in scrape(cluster.node_a)
    agent.wait_for(f"A finding about this host is over.*{reason}", since)
    assert len([line for line in agent.lines()[since:] if reason in line]) == 2
    assert answer(cluster, client) == "pod-a2"


def test_full_conntrack_table_is_reported_and_so_are_its_drops(cluster: Cluster, agent: AgentProcess) -> None:
    before = CONNTRACK_MAX.read_text()
    since = len(agent.lines())
    with cluster.node_a.inside():
        sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with sender:
        for port in range(40000, 40000 + FULL_FLOWS):
            sender.sendto(b"x", (BY_NAME["outside"].ipv4, port))
    try:
        CONNTRACK_MAX.write_text(str(FULL_FLOWS))
        assert "sysctl -w net.netfilter.nf_conntrack_max" in agent.wait_for('reason="ConntrackTableFull"', since)
        with pytest.raises(NoAnswer):
            for _ in range(FULL_FLOWS):
                send_request(cluster, Request("pod-b1", "udp", CLUSTER_IP, 81), 0.2)
                send_request(cluster, Request("pod-b1", "tcp", CLUSTER_IP, 80), 0.2)
        agent.wait_for('reason="ConntrackDrops"', since)
    finally:
        CONNTRACK_MAX.write_text(before)
    agent.wait_for("A finding about this host is over.*ConntrackTableFull", since)


def test_translation_before_our_jump_is_reported(cluster: Cluster, agent: AgentProcess) -> None:
    rule = "-p tcp -m tcp --dport 80 -m addrtype --dst-type LOCAL -j REDIRECT --to-ports 8091"
    since = len(agent.lines())
    with changed_host(cluster, f"iptables -t nat -I PREROUTING {rule}", f"iptables -t nat -D PREROUTING {rule}"):
        line = agent.wait_for('reason="NatRuleBeforeServices"', since)
        assert "--to-ports 8091" in line
        assert answer(cluster, "pod-a1") != "pod-a2"
    agent.wait_for("A finding about this host is over.*NatRuleBeforeServices", since)


def test_healthy_host_has_no_findings(cluster: Cluster, agent: AgentProcess) -> None:
    counts = [line for line in scrape(cluster.node_a).splitlines() if line.startswith("kubeproxy_ipvs_findings{")]
    assert counts
    assert [line for line in counts if not line.endswith(" 0")] == []
