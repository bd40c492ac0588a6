"""Hosts that can't match on IPVS: the Services are served, with all rules but those that need it."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from lab.namespace import Namespace, new_namespace
from tests.e2e.agent_process import AgentProcess, command
from tests.e2e.kernel_state import shell
from tests.e2e.manifests import Folder, backed
from tests.e2e.test_start import no_module_can_be_loaded

pytestmark = pytest.mark.kernel

ADDRESS = "203.0.113.9"
RULE = f"-A KUBE-IPVS-OUT-FILTER -s {ADDRESS}/32 -m ipvs --vproto 6 --vaddr {ADDRESS} --vport 80 -j DROP"
SERVED = f"-A -t {ADDRESS}:80"
GUARDED = "--match-set KUBE-LOAD-BALANCER-SOURCE-CIDR dst,dst,src -j RETURN"
NO_MATCH = "the kernel has no match for IPVS"


@pytest.fixture
def namespace() -> Iterator[Namespace]:
    made = new_namespace("no-match")
    yield made
    made.close()


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    made = Folder(tmp_path)
    ranges: dict[str, Any] = {"type": "LoadBalancer", "loadBalancerSourceRanges": ["192.0.2.0/24"]}
    objects = backed("web", "10.96.0.10", ["pod-a1"], **ranges)
    objects[0]["status"] = {"loadBalancer": {"ingress": [{"ip": ADDRESS}]}}
    made.put("all", objects)
    return made


@contextmanager
def without_the_module() -> Iterator[None]:
    """The kernel has no xt_ipvs, and nobody can load it; all other modules that rules need are there."""
    subprocess.run(["rmmod", "xt_ipvs"], check=True)
    with no_module_can_be_loaded():
        yield


@contextmanager
def without_the_library() -> Iterator[None]:
    """iptables does not know the match."""
    (library,) = Path("/usr/lib").glob("*/xtables/libxt_ipvs.so")
    subprocess.run(["mount", "--bind", "/dev/null", library], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", library], check=True)


def rules(namespace: Namespace) -> str:
    return shell(namespace, "iptables-save -t filter")


def once(namespace: Namespace, folder: Folder, verb: str) -> str:
    """What a verb says that ends by itself."""
    done = subprocess.run(namespace.wrap(command(folder.path, verb)), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stderr


def test_without_the_module_one_warning_is_told_and_all_other_rules_stand(namespace: Namespace, folder: Folder) -> None:
    with AgentProcess(namespace, folder.path) as agent:
        agent.wait_synced()
        assert RULE in rules(namespace)
        assert NO_MATCH not in "\n".join(agent.lines())
    once(namespace, folder, "cleanup")
    with without_the_module():
        with AgentProcess(namespace, folder.path) as agent:
            assert " 0 pending" in agent.wait_synced()
            told = [line for line in agent.lines() if NO_MATCH in line]
            assert len(told) == 1
            assert re.match(r"W.*modprobe xt_ipvs", told[0])
        assert RULE not in rules(namespace)
        assert GUARDED in rules(namespace)
        assert SERVED in shell(namespace, "ipvsadm -Sn")
        assert NO_MATCH in once(namespace, folder, "status")
    with AgentProcess(namespace, folder.path) as agent:
        agent.wait_synced()
        assert RULE in rules(namespace)


def test_an_iptables_that_does_not_know_the_match_costs_that_chain_alone(namespace: Namespace, folder: Folder) -> None:
    with without_the_library(), AgentProcess(namespace, folder.path) as agent:
        agent.wait_synced()
        failed = agent.wait_for("KUBE-IPVS-OUT-FILTER")
        assert "Couldn't load match `ipvs'" in failed
        assert GUARDED in rules(namespace)
        assert SERVED in shell(namespace, "ipvsadm -Sn")
