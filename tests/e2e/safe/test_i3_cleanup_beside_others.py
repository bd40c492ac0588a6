"""Rules of CNI plugins and administrators that jump to our chains: no warning, and cleanup keeps them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from kubeproxy_py.kernel.iptables.other_modes import find_stale_rules
from lab.namespace import Namespace, new_namespace
from tests.e2e.agent_process import AgentProcess
from tests.e2e.kernel_state import shell
from tests.e2e.manifests import Folder, service_with_slice
from tests.host_tools.iptables_mode import commands_of, kubeproxy_py, restore_iptables_mode

pytestmark = pytest.mark.kernel

OTHERS = """
for i in iptables ip6tables; do
    $i -t nat -N CNI-DN-5c33
    $i -t nat -A CNI-DN-5c33 -p tcp --dport 8888 -j KUBE-MARK-MASQ
    $i -t nat -N KUBE-HP-AAAABBBBCCCCDDDD
    $i -t nat -A KUBE-HP-AAAABBBBCCCCDDDD -p tcp -j KUBE-MARK-MASQ
    $i -t nat -A PREROUTING -p tcp --dport 8443 -j KUBE-MARK-MASQ
done
"""
WARNING = "Found rules of another kube-proxy mode"


@pytest.fixture
def node(tmp_path: Path) -> Iterator[tuple[Namespace, Folder]]:
    """Yield a node on which the agent synced and then other programs added rules that jump to our chain."""
    folder = Folder(tmp_path)
    folder.write("all", service_with_slice("web", "10.96.0.10", ["pod-a1"]))
    with new_namespace("others") as namespace:
        with AgentProcess(namespace, folder.path) as agent:
            agent.wait_synced()
        shell(namespace, OTHERS)
        yield namespace, folder


def rules_of_others(namespace: Namespace) -> list[str]:
    saved = shell(namespace, "iptables-save -t nat; ip6tables-save -t nat").splitlines()
    return [line for line in saved if line.startswith(("-A CNI", "-A KUBE-HP", "-A PREROUTING -p"))]


def test_a_restart_does_not_take_them_for_rules_of_another_mode(node: tuple[Namespace, Folder]) -> None:
    namespace, folder = node
    with AgentProcess(namespace, folder.path) as agent:
        agent.wait_synced()
        with namespace.inside():
            assert not find_stale_rules(commands_of("legacy"))
        assert WARNING not in "\n".join(agent.lines())


@pytest.mark.parametrize("with_iptables_mode", [False, True])
def test_cleanup_keeps_them_and_the_mark_chain_and_names_who_uses_it(
    node: tuple[Namespace, Folder], with_iptables_mode: bool
) -> None:
    namespace, _ = node
    before = rules_of_others(namespace)
    with namespace.inside():
        if with_iptables_mode:
            restore_iptables_mode("legacy")  # its restore replaces the nat table
            shell(namespace, OTHERS)
        completed = kubeproxy_py("cleanup")
    assert completed.returncode == 0, completed.stderr
    kept = [line for line in completed.stderr.splitlines() if "Leaving chain KUBE-MARK-MASQ in place" in line]
    assert len(kept) == 2
    for name in ("PREROUTING", "CNI-DN-5c33", "KUBE-HP-AAAABBBBCCCCDDDD"):
        assert all(name in line for line in kept)
    assert rules_of_others(namespace) == before
    for saved in (shell(namespace, "iptables-save -t nat"), shell(namespace, "ip6tables-save -t nat")):
        ours = [line for line in saved.splitlines() if "KUBE-" in line and "-A" not in line and "KUBE-HP" not in line]
        assert [line.split()[0] for line in ours if "CANARY" not in line] == [":KUBE-MARK-MASQ"]
        assert "-A KUBE-MARK-MASQ -j MARK --set-xmark 0x4000/0x4000" in saved
    assert shell(namespace, "ipset list -n") == ""


def test_cleanup_deletes_the_mark_chain_once_nobody_uses_it(node: tuple[Namespace, Folder]) -> None:
    namespace, _ = node
    with namespace.inside():
        kubeproxy_py("cleanup")
        shell(namespace, "for i in iptables ip6tables; do $i -t nat -F PREROUTING; $i -t nat -F CNI-DN-5c33;"
              "$i -t nat -F KUBE-HP-AAAABBBBCCCCDDDD; done")  # fmt: skip
        assert kubeproxy_py("cleanup").returncode == 0
    assert "KUBE-MARK-MASQ" not in shell(namespace, "iptables-save; ip6tables-save")
