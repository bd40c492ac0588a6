"""Metrics that name what hurts Services: ports that nothing serves, deleted foreign servers, tracked connections."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from kubeproxy_py.compile.unserved import KINDS
from lab.network import Cluster
from tests.e2e.agent_process import AgentProcess, wait_until
from tests.e2e.kernel_state import shell
from tests.e2e.manifests import Folder, Port, endpoint_slice, service, service_with_slice
from tests.e2e.probing import scrape

pytestmark = pytest.mark.kernel

UNSERVED = 'kubeproxy_ipvs_unserved_service_ports{{reason="{}"}}'
FOREIGN = "172.16.5.10:6443"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Folder:
    folder = Folder(tmp_path_factory.mktemp("manifests"))
    folder.write("web", service_with_slice("web", "10.96.0.80", ["pod-a1"]))
    return folder


@pytest.fixture(scope="module")
def agent(cluster: Cluster, folder: Folder) -> Iterator[AgentProcess]:
    with AgentProcess(cluster.node_a, Path(folder.path), "--ipvs-sync-period=1s") as running:
        running.wait_synced()
        yield running


def value(cluster: Cluster, series: str) -> float | None:
    """Return the value of *series* now; None if it is not served."""
    lines = (line.rpartition(" ") for line in scrape(cluster.node_a).splitlines())
    return next((float(number) for name, _, number in lines if name == series), None)


def wait_for_value(cluster: Cluster, series: str, wanted: float) -> None:
    wait_until(lambda: value(cluster, series) == wanted, lambda: f"{series} is {value(cluster, series)}", poll_s=0.2)


def test_every_reason_is_served_with_0(cluster: Cluster, agent: AgentProcess) -> None:
    assert {kind: value(cluster, UNSERVED.format(kind)) for kind in KINDS} == dict.fromkeys(KINDS, 0.0)


def test_ports_that_nothing_serves_are_counted_by_reason(cluster: Cluster, agent: AgentProcess, folder: Folder) -> None:
    named, other = [Port(80)], [Port(81)]  # whose names are tcp-80 and tcp-81
    folder.write("wrong", [service("wrong", ["10.96.0.81"], named), endpoint_slice("wrong", ["pod-a1"], other)])
    folder.write("none", [service("none", ["10.96.0.82"], named)])
    wait_for_value(cluster, UNSERVED.format("NoSuchPort"), 1)
    wait_for_value(cluster, UNSERVED.format("NoEndpointSlice"), 1)
    folder.write("wrong", [service("wrong", ["10.96.0.81"], named), endpoint_slice("wrong", ["pod-a1"], named)])
    folder.delete("none")
    wait_for_value(cluster, UNSERVED.format("NoSuchPort"), 0)
    wait_for_value(cluster, UNSERVED.format("NoEndpointSlice"), 0)


def test_deleted_servers_of_other_programs_are_counted(cluster: Cluster, agent: AgentProcess) -> None:
    series = "kubeproxy_ipvs_foreign_servers_deleted_total"
    assert value(cluster, series) == 0
    shell(cluster.node_a, f"ipvsadm -A -t {FOREIGN}")
    wait_for_value(cluster, series, 1)


def test_tracked_connections_are_served_with_their_limit(cluster: Cluster, agent: AgentProcess) -> None:
    limit = float(Path("/proc/sys/net/netfilter/nf_conntrack_max").read_text())
    assert value(cluster, "kubeproxy_ipvs_conntrack_limit") == limit
    entries = value(cluster, "kubeproxy_ipvs_conntrack_entries")
    assert entries is not None
    assert 0 < entries < limit  # at least the scrape itself
