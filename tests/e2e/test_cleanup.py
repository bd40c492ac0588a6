"""Cleaning up on a real kernel: all of kube-proxy's modes goes, and nothing of others."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from kubeproxy_py.kernel.iptables.backend import choose_flavour
from kubeproxy_py.kernel.iptables.other_modes import find_leftovers
from lab.namespace import Namespace, new_namespace
from tests.e2e.agent_process import SYNCED, AgentProcess
from tests.e2e.kernel_state import shell
from tests.e2e.manifests import Folder, Port, backed
from tests.host_tools.iptables_mode import (
    OTHERS,
    kubeproxy_py,
    leave_iptables_mode,
    mine,
    programs_of,
    without_counters,
)

pytestmark = pytest.mark.kernel

WARNING = "another mode of kube-proxy left"
FOREIGN = "ipvsadm -A -t 203.0.113.1:1 -s rr; ipset create theirs hash:ip; ipset add theirs 192.0.2.1"


@pytest.fixture
def namespace() -> Iterator[Namespace]:
    made = new_namespace("cleanup")
    shell(made, FOREIGN)
    yield made
    made.close()


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    made = Folder(tmp_path)
    ports = [Port(80, "TCP", 8080, 30080)]
    made.put("all", backed("web", "10.96.0.10", ["pod-a1"], ports))
    return made


@pytest.mark.parametrize("flags", [("cleanup",), ("--cleanup",)], ids=" ".join)
def test_all_of_ours_and_of_iptables_mode_goes_and_all_of_others_stays(
    namespace: Namespace, folder: Folder, flags: tuple[str, ...]
) -> None:
    with namespace.inside():
        leave_iptables_mode("legacy")
    with AgentProcess(namespace, folder.path) as agent:
        warning = agent.wait_for(WARNING)
        assert "10 chains and 8 rules of iptables mode (IPv4)" in warning
        assert "10 chains and 8 rules of iptables mode (IPv6)" in warning
        assert "kubeproxy-py cleanup" in warning
        assert len([line for line in agent.lines() if WARNING in line]) == 1
    assert "KUBE-6-IPVS-IPS" in shell(namespace, "ipset list -n")
    shell(namespace, "ipvsadm -A -t 203.0.113.1:1 -s rr")  # the agent took the first one for ours, as kube-proxy does
    with namespace.inside():
        done = kubeproxy_py(*flags)
    assert done.returncode == 0, done.stderr
    assert shell(namespace, "ipset list -n") == "theirs\n"
    assert shell(namespace, "ipvsadm -Sn") == "-A -t 203.0.113.1:1 -s rr\n"
    assert "kube-ipvs0" not in shell(namespace, "ip link show")
    for family in ("iptables-save", "ip6tables-save"):
        assert mine(shell(namespace, family)) == []
    assert set(OTHERS) <= set(without_counters(shell(namespace, "iptables-save")))


def test_iptables_mode_alone_goes_where_no_agent_ever_was(namespace: Namespace) -> None:
    with namespace.inside():
        leave_iptables_mode("legacy")
        assert kubeproxy_py("cleanup").returncode == 0
        assert kubeproxy_py("cleanup").returncode == 0
    for family in ("iptables-save", "ip6tables-save"):
        assert mine(shell(namespace, family)) == []


def test_a_node_with_no_leftovers_is_not_warned_of_any(namespace: Namespace, folder: Folder) -> None:
    with AgentProcess(namespace, folder.path) as agent:
        agent.wait_for(SYNCED)
        with namespace.inside():
            assert not find_leftovers(programs_of(choose_flavour()))
        assert WARNING not in "\n".join(agent.lines())


def test_what_cannot_be_removed_is_told_and_all_else_goes(namespace: Namespace, folder: Folder) -> None:
    with AgentProcess(namespace, folder.path) as agent:
        agent.wait_synced()
    shell(namespace, "iptables -N HELD; iptables -A HELD -m set --match-set KUBE-CLUSTER-IP dst,dst -j ACCEPT")
    with namespace.inside():
        done = kubeproxy_py("cleanup")
    assert done.returncode == 1
    assert "KUBE-CLUSTER-IP" in done.stderr
    assert shell(namespace, "ipset list -n").split() == ["theirs", "KUBE-CLUSTER-IP"]
