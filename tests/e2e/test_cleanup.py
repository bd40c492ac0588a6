"""cleanup on a real kernel: it deletes the state of all modes of kube-proxy and no foreign state."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from kubeproxy_py.kernel.iptables.backend import detect_backend
from kubeproxy_py.kernel.iptables.other_modes import find_stale_rules
from lab.namespace import Namespace, new_namespace
from tests.e2e.agent_process import SYNCED, AgentProcess
from tests.e2e.kernel_state import shell
from tests.e2e.manifests import Folder, Port, service_with_slice
from tests.host_tools.iptables_mode import (
    FOREIGN_LINES,
    commands_of,
    kube_proxy_lines,
    kubeproxy_py,
    restore_iptables_mode,
    without_counters,
)

pytestmark = pytest.mark.kernel

WARNING = "Found rules of another kube-proxy mode"
FOREIGN = "ipvsadm -A -t 203.0.113.1:1 -s rr; ipset create foreign hash:ip; ipset add foreign 192.0.2.1"


@pytest.fixture
def namespace() -> Iterator[Namespace]:
    with new_namespace("cleanup") as namespace:
        shell(namespace, FOREIGN)
        yield namespace


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    manifests = Folder(tmp_path)
    ports = [Port(80, "TCP", 8080, 30080)]
    manifests.write("all", service_with_slice("web", "10.96.0.10", ["pod-a1"], ports))
    return manifests


@pytest.mark.parametrize("flags", [("cleanup",), ("--cleanup",)], ids=" ".join)
def test_cleanup_deletes_our_state_and_iptables_mode_and_keeps_foreign_state(
    namespace: Namespace, folder: Folder, flags: tuple[str, ...]
) -> None:
    with namespace.inside():
        restore_iptables_mode("legacy")
    with AgentProcess(namespace, folder.path) as agent:
        warning = agent.wait_for(WARNING)
        assert "10 chains and 8 rules of iptables mode (IPv4)" in warning
        assert "10 chains and 8 rules of iptables mode (IPv6)" in warning
        assert "kubeproxy-py cleanup" in warning
        assert len([line for line in agent.lines() if WARNING in line]) == 1
    assert "KUBE-6-IPVS-IPS" in shell(namespace, "ipset list -n")
    shell(namespace, "ipvsadm -A -t 203.0.113.1:1 -s rr")  # the agent has deleted the first one, as kube-proxy does
    with namespace.inside():
        completed = kubeproxy_py(*flags)
    assert completed.returncode == 0, completed.stderr
    assert shell(namespace, "ipset list -n") == "foreign\n"
    assert shell(namespace, "ipvsadm -Sn") == "-A -t 203.0.113.1:1 -s rr\n"
    assert "kube-ipvs0" not in shell(namespace, "ip link show")
    for family in ("iptables-save", "ip6tables-save"):
        assert kube_proxy_lines(shell(namespace, family)) == []
    assert set(FOREIGN_LINES) <= set(without_counters(shell(namespace, "iptables-save")))


def test_cleanup_deletes_iptables_mode_where_no_agent_ran(namespace: Namespace) -> None:
    with namespace.inside():
        restore_iptables_mode("legacy")
        assert kubeproxy_py("cleanup").returncode == 0
        assert kubeproxy_py("cleanup").returncode == 0
    for family in ("iptables-save", "ip6tables-save"):
        assert kube_proxy_lines(shell(namespace, family)) == []


def test_no_warning_is_logged_on_a_node_without_stale_rules(namespace: Namespace, folder: Folder) -> None:
    with AgentProcess(namespace, folder.path) as agent:
        agent.wait_for(SYNCED)
        with namespace.inside():
            assert not find_stale_rules(commands_of(detect_backend()))
        assert WARNING not in "\n".join(agent.lines())


def test_cleanup_reports_what_it_cannot_delete_and_deletes_the_rest(namespace: Namespace, folder: Folder) -> None:
    with AgentProcess(namespace, folder.path) as agent:
        agent.wait_synced()
    shell(namespace, "iptables -N HELD; iptables -A HELD -m set --match-set KUBE-CLUSTER-IP dst,dst -j ACCEPT")
    with namespace.inside():
        completed = kubeproxy_py("cleanup")
    assert completed.returncode == 1
    assert "KUBE-CLUSTER-IP" in completed.stderr
    assert shell(namespace, "ipset list -n").split() == ["foreign", "KUBE-CLUSTER-IP"]
