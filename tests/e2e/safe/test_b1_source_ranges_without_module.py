"""B1: a kernel that cannot have the sets of source ranges: Services with ranges wait, all others are served."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.e2e.agent_process import AgentProcess, wait_until
from tests.e2e.manifests import Folder
from tests.e2e.safe.guarded import PODS, SILENT_S, LoadBalancer, answers, without_modules
from tests.e2e.serving import serving_cluster

pytestmark = pytest.mark.kernel

OPEN = LoadBalancer(21)
CLOSED = LoadBalancer(22, ranges=("192.168.3.11/32", "fd00:3::11/128"))  # node-b's addresses


def test_address_with_source_ranges_is_closed_until_the_firewall_stands(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    folder.write("all", OPEN.objects() + CLOSED.objects())
    with (
        serving_cluster() as cluster,
        without_modules("ip_set_hash_ipportnet") as loading,
        AgentProcess(cluster.node_a, folder.path) as agent,
    ):
        agent.wait_synced()
        assert answers(cluster, "outside", OPEN.addresses) == set(PODS)
        assert answers(cluster, "outside", CLOSED.addresses, timeout_s=SILENT_S) == {""}
        assert answers(cluster, "node-b", CLOSED.addresses, timeout_s=SILENT_S) == {""}
        errors = [line for line in agent.lines() if line.startswith("E") and "hash:ip,port,net" in line]
        assert len(errors) == 1, "one line for the cause"
        loading.allow()
        wait_until(lambda: answers(cluster, "node-b", CLOSED.addresses, timeout_s=1.0) == set(PODS))
        assert answers(cluster, "outside", CLOSED.addresses, timeout_s=SILENT_S) == {""}
        assert answers(cluster, "outside", OPEN.addresses) == set(PODS)


def test_bound_address_is_served_further_and_another_service_at_it_waits(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    folder.write("open", OPEN.objects())
    guarded = CLOSED.objects()
    guarded[0]["status"] = {"loadBalancer": {"ingress": [{"ip": address} for address in OPEN.addresses]}}
    guarded[0]["spec"]["ports"][0]["port"] = 81
    with (
        serving_cluster() as cluster,
        without_modules("ip_set_hash_ipportnet") as loading,
        AgentProcess(cluster.node_a, folder.path) as agent,
    ):
        agent.wait_synced()
        with agent.syncing():
            folder.write("closed", guarded)
        assert answers(cluster, "outside", OPEN.addresses) == set(PODS)
        assert answers(cluster, "outside", OPEN.addresses, 81, timeout_s=SILENT_S) == {""}
        loading.allow()
        wait_until(lambda: answers(cluster, "node-b", OPEN.addresses, 81, timeout_s=1.0) == set(PODS))
        assert answers(cluster, "outside", OPEN.addresses, 81, timeout_s=SILENT_S) == {""}
