"""A legacy table that iptables-save cannot print for another program's rule: everything is served, and kept.

The rule uses a match whose extension is not installed where the agent runs, as in another distribution's container.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from lab.client import query
from lab.network import Cluster
from tests.e2e.agent_process import AgentProcess, command_line, wait_until
from tests.e2e.kernel_state import run, shell
from tests.e2e.manifests import Folder, Port, endpoint_slice, service
from tests.e2e.module_loading import without_iptables_extension

pytestmark = pytest.mark.kernel

PORTS = [Port(80, "TCP", 8080, 30080)]
CLUSTER_IPS = ("10.96.0.10", "fd00:10:96::10")
REQUESTS = [
    *(("pod-a1", address, 80) for address in CLUSTER_IPS),
    *(("outside", address, 30080) for address in ("192.168.3.10", "fd00:3::10")),
]
STRANGE = "-m statistic --mode random --probability 0.000001 -j ACCEPT"
TABLES = {"filter": "INPUT", "nat": "OUTPUT"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Folder:
    folder = Folder(tmp_path_factory.mktemp("manifests"))
    slices = [endpoint_slice("web", ["pod-b1"], PORTS, version=version) for version in (4, 6)]
    folder.write("all", [service("web", CLUSTER_IPS, PORTS), *slices])
    return folder


@pytest.fixture(params=TABLES)
def table(request: pytest.FixtureRequest, cluster: Cluster, folder: Folder) -> Iterator[str]:
    """Yield a table of node A, in both families, that cannot be printed within the test."""
    table, chain = request.param, TABLES[request.param]
    for command in ("iptables", "ip6tables"):
        shell(cluster.node_a, f"{command} -t {table} -A {chain} {STRANGE}")
    with without_iptables_extension("statistic"):
        yield table
    run(cluster.node_a, *command_line(folder.path, "cleanup"))
    for command in ("iptables", "ip6tables"):
        shell(cluster.node_a, f"{command} -t {table} -F {chain}")


def assert_served(cluster: Cluster) -> None:
    for client, address, port in REQUESTS:
        assert query(cluster[client], "tcp", address, port).name == "pod-b1"


def warnings(agent: AgentProcess) -> int:
    return len([line for line in agent.lines() if "iptables cannot print a table" in line])


def test_services_are_served_and_our_rules_are_kept(cluster: Cluster, folder: Folder, table: str) -> None:
    with AgentProcess(cluster.node_a, folder.path, "--ipvs-sync-period=1s") as agent:
        assert " 0 pending" in agent.wait_synced()
        assert_served(cluster)
        chain = {"filter": "KUBE-IPVS-FILTER", "nat": "KUBE-POSTROUTING"}[table]
        rules = shell(cluster.node_a, f"iptables -t {table} -S {chain}")
        with agent.syncing("drift in"):
            shell(cluster.node_a, f"iptables -t {table} -F {chain}; ipvsadm -D -t 10.96.0.10:80")
        wait_until(lambda: shell(cluster.node_a, f"iptables -t {table} -S {chain}") == rules)
        wait_until(lambda: "-t 10.96.0.10:80 -r 10.244.2.5" in shell(cluster.node_a, "ipvsadm -Sn"))
        wait_until(lambda: warnings(agent) == 2)  # one per family
        assert_served(cluster)
        assert warnings(agent) == 2
    with AgentProcess(cluster.node_a, folder.path) as agent:
        assert "nothing to do" in agent.wait_synced()
