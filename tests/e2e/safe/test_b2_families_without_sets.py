"""B2: a kernel that cannot have the fixed sets: no address is bound, and no port of the host answers at one."""

from __future__ import annotations

from pathlib import Path

import pytest

from lab.client import PATIENT_S
from lab.echo import EchoServers, Listener
from tests.e2e.agent_process import AgentProcess, wait_until
from tests.e2e.manifests import Folder
from tests.e2e.probing import get
from tests.e2e.safe.guarded import HOST_PORT, PODS, SILENT_S, LoadBalancer, answers, bound, without_modules
from tests.e2e.serving import serving_cluster

pytestmark = pytest.mark.kernel

SERVED = LoadBalancer(23, node_port=30923)
NODE = ("192.168.3.10", "fd00:3::10")
HEALTHZ = 10256


@pytest.mark.parametrize(
    ("module", "served_at_node_port"),
    [
        ("ip_set_hash_ip", set(PODS)),  # the set hides ports of the host at Service addresses, and has no node's
        ("ip_set_hash_ipport", {""}),
        ("ip_set_bitmap_port", {""}),
    ],
)
def test_nothing_is_bound_until_the_chains_of_the_family_stand(
    module: str, served_at_node_port: set[str], tmp_path: Path
) -> None:
    folder = Folder(tmp_path)
    folder.write("all", SERVED.objects())
    with (
        serving_cluster() as cluster,
        EchoServers([Listener("node-a", cluster.node_a, "tcp", HOST_PORT)]),
        without_modules(module) as loading,
        AgentProcess(cluster.node_a, folder.path) as agent,
    ):
        agent.wait_synced()
        assert bound(cluster) == set()
        for port in (80, HOST_PORT):
            assert answers(cluster, "outside", SERVED.addresses, port, timeout_s=SILENT_S) == {""}
        timeout_s = SILENT_S if served_at_node_port == {""} else PATIENT_S
        assert answers(cluster, "outside", NODE, SERVED.node_port, timeout_s) == served_at_node_port
        statuses = [get(cluster.node_a, NODE[0], HEALTHZ, path).status for path in ("/readyz", "/livez")]
        assert statuses == [503, 200]
        assert len([line for line in agent.lines() if line.startswith("E")]) <= 4
        loading.allow()
        wait_until(lambda: bound(cluster) == {*SERVED.addresses, *SERVED.cluster_ips})
        for addresses, port in ((SERVED.addresses, 80), (NODE, SERVED.node_port)):
            assert answers(cluster, "outside", addresses, port) == set(PODS)
        assert answers(cluster, "outside", SERVED.addresses, HOST_PORT, timeout_s=SILENT_S) == {""}
        wait_until(lambda: get(cluster.node_a, NODE[0], HEALTHZ, "/readyz").status == 200)
