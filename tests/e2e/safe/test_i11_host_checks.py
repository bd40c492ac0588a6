"""Checks of the host: each fault hurts a Service here, is reported once with its remedy, and so is its end."""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest

from lab.client import PATIENT_S, NoAnswer, QueryError
from lab.network import BY_NAME, Cluster
from tests.e2e.agent_process import AgentProcess, wait_until
from tests.e2e.client_requests import Request, send_request
from tests.e2e.kernel_state import shell
from tests.e2e.manifests import Folder, service_with_slice
from tests.e2e.probing import scrape
from tests.e2e.serving import cluster_fixture

pytestmark = pytest.mark.kernel

CLUSTER_IP = "10.96.0.60"
CONNTRACK_MAX = Path("/proc/sys/net/netfilter/nf_conntrack_max")
FULL_FLOWS = 40


cluster = cluster_fixture


@pytest.fixture(scope="module")
def agent(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[AgentProcess]:
    folder = Folder(tmp_path_factory.mktemp("manifests"))
    folder.write("web", service_with_slice("web", CLUSTER_IP, ["pod-a2"]))
    with AgentProcess(cluster.node_a, folder.path, "--ipvs-sync-period=1s") as process:
        process.wait_synced()
        yield process


def answer(cluster: Cluster, client: str, timeout_s: float = PATIENT_S) -> str:
    try:
        return send_request(cluster, Request(client, "tcp", CLUSTER_IP, 80), timeout_s).name
    except QueryError as error:
        return type(error).__name__


class Fault(NamedTuple):
    """Something that an administrator or another program does, how it is undone, and a client that it cuts off."""

    reason: str
    change: str
    undo: str
    client: str
    remedy: str


_RULE = "-p tcp -m tcp --dport 80 -j REDIRECT --to-ports 8091"
_BRIDGE = "sysctl -qw net.bridge.bridge-nf-call-iptables="
FAULTS = (
    Fault(
        "InputDropsServices",
        "iptables -A INPUT -i lo -j ACCEPT; iptables -A INPUT -p tcp --dport 22 -j ACCEPT; iptables -A INPUT -j REJECT",
        "iptables -D INPUT -j REJECT; iptables -D INPUT -p tcp --dport 22 -j ACCEPT; iptables -D INPUT -i lo -j ACCEPT",
        "pod-a1",
        "-A INPUT -j REJECT",
    ),
    Fault(
        "ForwardDropsServices",
        "iptables -I FORWARD -j DROP",
        "iptables -D FORWARD -j DROP",
        "pod-b1",
        "accept established connections",
    ),
    Fault(
        "HairpinOff",
        "bridge link set dev vpod2 hairpin off",
        "bridge link set dev vpod2 hairpin on",
        "pod-a2",  # the endpoint itself
        "bridge link set dev $port hairpin on",
    ),
    Fault("BridgeNetfilterOff", f"{_BRIDGE}0", f"{_BRIDGE}1", "pod-a1", "net.bridge.bridge-nf-call-iptables=1"),
    Fault(
        "NatRuleBeforeServices",
        f"iptables -t nat -I PREROUTING {_RULE}",
        f"iptables -t nat -D PREROUTING {_RULE}",
        "pod-b1",
        "--to-ports 8091",
    ),
)


def counted(cluster: Cluster) -> set[str]:
    """Return the reasons of which there is one finding."""
    return set(
        re.findall(r'^kubeproxy_ipvs_findings\{reason="(\w+)"\} 1(?:\.0)?$', scrape(cluster.node_a), re.MULTILINE)
    )


@contextmanager
def faulty(cluster: Cluster, *faults: Fault) -> Iterator[None]:
    for fault in faults:
        shell(cluster.node_a, fault.change)
    try:
        yield
    finally:
        for fault in faults:
            shell(cluster.node_a, fault.undo)


def test_healthy_host_has_no_findings(cluster: Cluster, agent: AgentProcess) -> None:
    agent.wait_for("Synced")
    counts = [line for line in scrape(cluster.node_a).splitlines() if line.startswith("kubeproxy_ipvs_findings{")]
    assert counts
    assert [line for line in counts if float(line.split()[-1])] == []


def test_faults_are_reported_once_with_their_remedy_and_so_are_their_ends(
    cluster: Cluster, agent: AgentProcess
) -> None:
    since = len(agent.lines())
    with faulty(cluster, *FAULTS):
        for fault in FAULTS:
            assert fault.remedy in agent.wait_for(f'reason="{fault.reason}"', since)
        wait_until(lambda: counted(cluster) == {fault.reason for fault in FAULTS})  # counted after they are logged
    for fault in FAULTS:
        agent.wait_for(f"Host finding resolved.*{fault.reason}", since)
        assert len([line for line in agent.lines()[since:] if f'reason="{fault.reason}"' in line]) == 2


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
    agent.wait_for("Host finding resolved.*ConntrackTableFull", since)


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.reason)
def test_fault_cuts_a_client_off(cluster: Cluster, agent: AgentProcess, fault: Fault) -> None:
    assert answer(cluster, fault.client) == "pod-a2"
    with faulty(cluster, fault):
        assert answer(cluster, fault.client, 0.5) != "pod-a2"
    assert answer(cluster, fault.client) == "pod-a2"
