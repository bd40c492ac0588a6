"""The log names rows: what another program changed, and at -v2 each step of a sync."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from lab.network import Cluster
from tests.e2e.agent_process import AgentProcess
from tests.e2e.kernel_state import run, shell
from tests.e2e.manifests import Folder, service_with_slice
from tests.e2e.serving import serving_cluster

pytestmark = pytest.mark.kernel

DELETED = r"Another program deleted rows; restoring them"
CHANGED = r"Another program changed rows; changing them back"
ADDED = r"Another program added rows; deleting them"


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with serving_cluster() as built:
        yield built


def test_drift_names_the_rows_and_what_was_done_to_them(cluster: Cluster, folder: Folder) -> None:
    folder.write("all", service_with_slice("web", "10.96.0.10", ["pod-a1", "pod-b1"]))
    with AgentProcess(cluster.node_a, folder.path, "-v0") as agent:
        agent.wait_synced()
        shell(cluster.node_a, "ipvsadm -d -t 10.96.0.10:80 -r 10.244.2.5:8080")
        line = agent.wait_for(DELETED)
        assert line.endswith('rows="RealServer 10.96.0.10:80/TCP -> 10.244.2.5:8080" total=1'), line
        assert line.startswith("W")
        shell(cluster.node_a, "ipvsadm -E -t 10.96.0.10:80 -s wlc")
        assert 'rows="VirtualServer 10.96.0.10:80/TCP" total=1' in agent.wait_for(CHANGED)
        strays = [f"10.96.8.{number},tcp:80" for number in range(12)]
        run(cluster.node_a, "sh", "-ec", "".join(f"ipset add KUBE-CLUSTER-IP {stray}\n" for stray in strays))
        totals = 0
        since = 0
        while totals < len(strays):  # a compare may find some of them before the others are added
            line = agent.wait_for(ADDED, since)
            since = agent.lines().index(line) + 1
            named = re.findall(r"IpsetEntry KUBE-CLUSTER-IP (10\.96\.8\.\d+,tcp:80)", line)
            total = int(line.rpartition("total=")[2])
            assert len(named) == min(total, 10)
            assert set(named) <= set(strays)
            totals += total
        assert totals == len(strays)


def test_at_v2_the_steps_of_a_sync_follow_it_as_plan_prints_them(cluster: Cluster, folder: Folder) -> None:
    folder.write("all", service_with_slice("web", "10.96.0.20", ["pod-a1"]))
    with AgentProcess(cluster.node_a, folder.path) as agent:
        agent.wait_synced()
        with agent.syncing():
            folder.write("all", service_with_slice("web", "10.96.0.20", ["pod-a1", "pod-b1"]))
        line = agent.wait_for(r"\+ RealServer .* 10\.96\.0\.20:80/TCP -> 10\.244\.2\.5:8080")
        assert re.search(r'\] "\+ RealServer    10\.96\.0\.20:80/TCP -> 10\.244\.2\.5:8080"$', line)
