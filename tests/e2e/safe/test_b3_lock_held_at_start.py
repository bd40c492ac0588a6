"""B3: another program holds the iptables lock at the first start: addresses wait, and are bound soon after."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from kubeproxy_py.kernel.iptables.backend import LOCK_WAIT_S
from lab.echo import EchoServers, Listener
from tests.e2e.agent_process import AgentProcess, wait_until
from tests.e2e.manifests import Folder
from tests.e2e.safe.guarded import HOST_PORT, PODS, SILENT_S, LoadBalancer, answers, bound, held_xtables_lock
from tests.e2e.serving import serving_cluster

pytestmark = pytest.mark.kernel

CLOSED = LoadBalancer(24, ranges=("192.168.3.11/32", "fd00:3::11/128"))


def test_addresses_are_bound_when_the_lock_is_released_and_not_before(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    folder.write("all", CLOSED.objects())
    with (
        serving_cluster() as cluster,
        EchoServers([Listener("node-a", cluster.node_a, "tcp", HOST_PORT)]),
        AgentProcess(cluster.node_a, folder.path) as agent,
    ):
        held_s = time.monotonic()
        with held_xtables_lock():
            agent.wait_for("xtables")
            assert bound(cluster) == set()
            for client, port in (("outside", 80), ("node-b", 80), ("outside", HOST_PORT)):
                assert answers(cluster, client, CLOSED.addresses, port, timeout_s=SILENT_S) == {""}
        held_s = time.monotonic() - held_s
        wait_until(lambda: bound(cluster) == {*CLOSED.addresses, *CLOSED.cluster_ips})
        assert answers(cluster, "node-b", CLOSED.addresses) == set(PODS)
        assert answers(cluster, "outside", CLOSED.addresses, timeout_s=SILENT_S) == {""}
        assert answers(cluster, "outside", CLOSED.addresses, HOST_PORT, timeout_s=SILENT_S) == {""}
        tries = 2 + held_s // LOCK_WAIT_S
        assert len([line for line in agent.lines() if "xtables" in line]) <= tries, "one line for each try"
