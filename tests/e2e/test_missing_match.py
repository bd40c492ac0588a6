"""Hosts without the iptables match ipvs: Services are served, with all rules except those that need it."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from lab.namespace import Namespace
from lab.pristine import unload_modules
from tests.e2e.agent_process import AgentProcess, command_line
from tests.e2e.kernel_state import shell
from tests.e2e.manifests import Folder, service_with_slice
from tests.e2e.module_loading import without_iptables_extension, without_module_loading

pytestmark = pytest.mark.kernel

ADDRESS = "203.0.113.9"
RULE = f"-A KUBE-IPVS-OUT-FILTER -s {ADDRESS}/32 -m ipvs --vproto 6 --vaddr {ADDRESS} --vport 80 -j DROP"
SERVED = f"-A -t {ADDRESS}:80"
GUARDED = "--match-set KUBE-LOAD-BALANCER-SOURCE-CIDR dst,dst,src -j RETURN"
NO_MATCH = "the kernel module xt_ipvs is missing"


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    manifests = Folder(tmp_path)
    ranges: dict[str, Any] = {"type": "LoadBalancer", "loadBalancerSourceRanges": ["192.0.2.0/24"]}
    objects = service_with_slice("web", "10.96.0.10", ["pod-a1"], **ranges)
    objects[0]["status"] = {"loadBalancer": {"ingress": [{"ip": ADDRESS}]}}
    manifests.write("all", objects)
    return manifests


@contextmanager
def without_xt_ipvs() -> Iterator[None]:
    """Unload xt_ipvs and prevent module loading; all other modules that rules need are loaded."""
    unload_modules("xt_ipvs")
    with without_module_loading():
        yield


def rules(namespace: Namespace) -> str:
    return shell(namespace, "iptables-save -t filter")


def run_command(namespace: Namespace, folder: Folder, command: str) -> str:
    """Run a command that ends by itself and return its log."""
    completed = subprocess.run(
        namespace.wrap(command_line(folder.path, command)), capture_output=True, text=True, check=False
    )
    assert completed.returncode == 0, completed.stderr
    return completed.stderr


def test_without_xt_ipvs_one_warning_is_logged_and_all_other_rules_are_programmed(
    namespace: Namespace, folder: Folder
) -> None:
    with AgentProcess(namespace, folder.path) as agent:
        agent.wait_synced()
        assert RULE in rules(namespace)
        assert NO_MATCH not in "\n".join(agent.lines())
    run_command(namespace, folder, "cleanup")
    with without_xt_ipvs():
        with AgentProcess(namespace, folder.path) as agent:
            assert " 0 pending" in agent.wait_synced()
            warnings = [line for line in agent.lines() if NO_MATCH in line]
            assert len(warnings) == 1
            assert re.match(r"W.*modprobe xt_ipvs", warnings[0])
        assert RULE not in rules(namespace)
        assert GUARDED in rules(namespace)
        assert SERVED in shell(namespace, "ipvsadm -Sn")
        assert NO_MATCH in run_command(namespace, folder, "status")
    with AgentProcess(namespace, folder.path) as agent:
        agent.wait_synced()
        assert RULE in rules(namespace)


def test_an_iptables_without_the_ipvs_match_fails_only_the_chain_that_uses_it_and_what_that_closes(
    namespace: Namespace, folder: Folder
) -> None:
    with without_iptables_extension("ipvs"), AgentProcess(namespace, folder.path) as agent:
        agent.wait_synced()
        failure = agent.wait_for("Failed to apply a row.*KUBE-IPVS-OUT-FILTER")
        assert "Couldn't load match `ipvs'" in failure
        assert GUARDED in rules(namespace)
        assert SERVED not in shell(namespace, "ipvsadm -Sn"), "its source ranges would not apply to this node"
        bound = shell(namespace, "ip -o address show dev kube-ipvs0")
        assert "10.96.0.10/32" in bound
        assert ADDRESS not in bound
