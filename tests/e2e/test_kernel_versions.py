"""What differs by kernel version: which settings the agent leaves alone, what it reports, and what is behind it."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from kubeproxy_py.kernel.host_probe import probe
from kubeproxy_py.kernel.iptables import nf_tables
from kubeproxy_py.kernel.kernel_facts import count_connections, read_kernel_facts
from kubeproxy_py.net import FAMILIES
from lab.client import query
from lab.namespace import Namespace
from lab.network import Cluster
from tests.e2e.agent_process import AgentProcess, wait_until
from tests.e2e.kernel_state import shell
from tests.e2e.manifests import Folder, Port, service_with_slice
from tests.e2e.probing import scrape
from tests.e2e.safe.modules import without_modules
from tests.e2e.this_kernel import IPTABLES, VERSION
from tests.metrics.recorded import samples

pytestmark = pytest.mark.kernel

CLUSTER_IP = "10.96.0.70"
SETTINGS = Path("/proc/sys/net/ipv4/vs")
ESTIMATION_S = 2.0  # between two estimations
CONNECTIONS = "kubeproxy_ipvs_service_connections_total"

needs_both_iptables = pytest.mark.skipif(IPTABLES != "nft", reason="needs a kernel with legacy tables and nf_tables")
needs_run_estimation = pytest.mark.skipif(
    not (SETTINGS / "run_estimation").exists(), reason="this kernel has no net.ipv4.vs.run_estimation"
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Folder:
    folder = Folder(tmp_path_factory.mktemp("manifests"))
    folder.write("web", service_with_slice("web", CLUSTER_IP, ["pod-a2"], [Port(), Port(81, "UDP", 5353)]))
    return folder


@pytest.fixture(scope="module")
def agent(cluster: Cluster, folder: Folder) -> Iterator[AgentProcess]:
    with AgentProcess(cluster.node_a, folder.path, "--ipvs-sync-period=1s") as process:
        process.wait_synced()
        yield process


@contextmanager
def setting(cluster: Cluster, name: str, value: int, otherwise: int) -> Iterator[None]:
    cluster.node_a.set_sysctl(f"ipv4/vs/{name}", value)
    try:
        yield
    finally:
        cluster.node_a.set_sysctl(f"ipv4/vs/{name}", otherwise)


def test_facts_are_those_of_this_kernel() -> None:
    facts = read_kernel_facts(None, legacy=True)
    assert facts.version == VERSION
    assert facts.connection_buckets == 1 << 12
    assert facts.ipvs_settings["conn_reuse_mode"] in (0, 1)
    assert ("run_estimation" in facts.ipvs_settings) is (VERSION >= (5, 16))


@pytest.mark.usefixtures("agent")
def test_conn_reuse_mode_is_set_only_before_linux_5_9(cluster: Cluster) -> None:
    expected = "0" if VERSION < (5, 9) else "1"
    assert shell(cluster.node_a, "cat /proc/sys/net/ipv4/vs/conn_reuse_mode").strip() == expected
    assert shell(cluster.node_a, "cat /proc/sys/net/ipv4/vs/expire_nodest_conn").strip() == "1"


def test_conn_reuse_mode_0_is_reported_where_it_harms(cluster: Cluster, agent: AgentProcess) -> None:
    since = len(agent.lines())
    with setting(cluster, "conn_reuse_mode", 0, otherwise=1):
        if VERSION < (5, 16):
            assert "net.ipv4.vs.conn_reuse_mode=1" in agent.wait_for('reason="SourcePortReuse"', since)
            return
        with setting(cluster, "run_estimation", 0, otherwise=1):  # by which it is known that the check has run
            agent.wait_for('reason="EstimationOff"', since)
        assert not [line for line in agent.lines()[since:] if "SourcePortReuse" in line]
    agent.wait_for("Host finding resolved.*EstimationOff", since)


def connections(cluster: Cluster) -> float:
    """Return how many connections to the Service are counted."""
    found = samples(scrape(cluster.node_a), CONNECTIONS)
    return sum(value for labels, value in found.items() if ("protocol", "TCP") in labels)


def connect(cluster: Cluster, count: int) -> None:
    for _ in range(count):
        assert query(cluster["pod-b1"], "tcp", CLUSTER_IP, 80).name == "pod-a2"


@needs_run_estimation
def test_traffic_metrics_stand_still_while_estimation_is_off_and_that_is_reported(
    cluster: Cluster, agent: AgentProcess
) -> None:
    since = len(agent.lines())
    connect(cluster, 3)
    wait_until(lambda: connections(cluster) >= 3)
    with setting(cluster, "run_estimation", 0, otherwise=1):
        assert "kubeproxy_ipvs_service_*" in agent.wait_for('reason="EstimationOff"', since)
        time.sleep(1.5 * ESTIMATION_S)  # one that has begun may still end
        before = connections(cluster)
        connect(cluster, 5)
        time.sleep(1.5 * ESTIMATION_S)
        assert connections(cluster) == before
    agent.wait_for("Host finding resolved.*EstimationOff", since)
    wait_until(lambda: connections(cluster) >= before + 5)


@pytest.mark.usefixtures("agent")
def test_connections_are_counted_up_to_a_limit(cluster: Cluster) -> None:
    with cluster["pod-b1"].inside():
        senders = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(30)]
    for sender in senders:
        sender.sendto(b"x", (CLUSTER_IP, 81))
        sender.close()

    def counted(enough: int) -> int:
        with cluster.node_a.inside():
            return count_connections(Path("/"), enough)

    wait_until(lambda: counted(10_000) >= len(senders))
    assert counted(20) == 20


@needs_both_iptables
def test_kernel_without_legacy_tables_is_served_by_nf_tables_and_legacy_is_answered_with_the_remedy() -> None:
    assert all(nf_tables.works(family) for family in FAMILIES)  # loads its modules
    legacy = [f"{name}_{table}" for name in ("iptable", "ip6table") for table in ("nat", "filter", "mangle", "raw")]
    with without_modules(*legacy):
        hints = [problem.hint for problem in probe("legacy").problems]
        found = probe()
    assert [hint for hint in hints if hint.startswith("modprobe iptable_nat") and "--iptables-flavour=nft" in hint]
    assert [hint for hint in hints if hint.startswith("modprobe ip6table_nat") and "--iptables-flavour=nft" in hint]
    assert (found.backend, found.host.families) == ("nft", FAMILIES)


@needs_both_iptables
@pytest.mark.skipif(VERSION < (6, 17), reason="legacy tables are no option of this kernel, but always there")
def test_legacy_rules_on_a_kernel_with_nf_tables_are_reported(namespace: Namespace, folder: Folder) -> None:
    assert nf_tables.works("IPv4")
    with AgentProcess(namespace, folder.path, "--ipvs-sync-period=1s", "--iptables-flavour=legacy") as process:
        assert "--iptables-flavour=nft" in process.wait_for('reason="LegacyTablesDeprecated"')
