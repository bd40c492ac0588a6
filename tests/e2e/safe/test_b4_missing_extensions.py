"""Kernels without one of the matches and targets that rules use: only what needs it changes, and it is named."""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Iterator

import pytest

from kubeproxy_py.model.extensions import EXTENSIONS
from kubeproxy_py.net import FAMILIES
from lab.client import NoAnswer, QueryError, Unreachable, query
from lab.network import Cluster
from tests.e2e.agent_process import AgentProcess, command_line
from tests.e2e.kernel_state import run, shell
from tests.e2e.manifests import Folder, Port, endpoint_slice, service
from tests.e2e.safe.modules import without_modules

pytestmark = pytest.mark.kernel

PODS = ("pod-a1", "pod-b1")
CLUSTER_IPS = ("10.96.0.10", "fd00:10:96::10")
EXTERNAL_IPS = ("203.0.113.9", "2001:db8::9")
PORTS = [Port(80, "TCP", 8080, 30080)]
REQUESTS = [
    *(("outside", address, 80) for address in EXTERNAL_IPS),
    *(("outside", address, 30080) for address in ("192.168.3.10", "fd00:3::10")),
    *(("pod-a2", address, 80) for address in ("203.0.113.9", "10.96.0.10")),
    ("node-a", "10.96.0.10", 80),
]
Answers = dict[tuple[str, str, int], Counter[tuple[str, str]]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Folder:
    folder = Folder(tmp_path_factory.mktemp("manifests"))
    web = service("web", CLUSTER_IPS, PORTS, externalIPs=list(EXTERNAL_IPS))
    folder.write("all", [web, *(endpoint_slice("web", PODS, PORTS, version=version) for version in (4, 6))])
    return folder


def answers(cluster: Cluster) -> Answers:
    """Return who answers each request, and the source address that it sees."""
    return {
        request: Counter(
            (answer.name, answer.peer_address)
            for _ in PODS
            for answer in [query(cluster[request[0]], "tcp", request[1], request[2])]
        )
        for request in REQUESTS
    }


def rejection(cluster: Cluster, address: str) -> type[QueryError]:
    """Return how a connection to a port of no Service fails, which must not be an answer of the node itself."""
    try:
        query(cluster["pod-a2"], "tcp", address, 81, timeout_s=0.3)
    except QueryError as error:
        return type(error)
    raise AssertionError(f"{address}:81 is answered")


@pytest.fixture(autouse=True)
def _clean_node(cluster: Cluster, folder: Folder) -> Iterator[None]:
    """Delete what an agent left, so that modules can be unloaded."""
    yield
    clean(cluster, folder)


def clean(cluster: Cluster, folder: Folder) -> None:
    run(cluster.node_a, *command_line(folder.path, "cleanup"))


@pytest.fixture(scope="module")
def complete(cluster: Cluster, folder: Folder) -> Iterator[Answers]:
    """Yield the answers on a kernel that lacks nothing."""
    with AgentProcess(cluster.node_a, folder.path) as agent:
        agent.wait_synced()
        found = answers(cluster)
        assert {rejection(cluster, address) for address in CLUSTER_IPS} == {Unreachable}
    clean(cluster, folder)
    yield found


@pytest.mark.parametrize("names", [("physdev",), ("addrtype", "REJECT", "comment")], ids=" ".join)
def test_without_what_rules_can_do_without_packets_are_treated_as_with_it(
    cluster: Cluster, folder: Folder, complete: Answers, names: tuple[str, ...]
) -> None:
    modules = {EXTENSIONS[name].module_for(family) for family in FAMILIES for name in names}
    with without_modules(*modules), AgentProcess(cluster.node_a, folder.path) as agent:
        assert " 0 pending" in agent.wait_synced()
        assert answers(cluster) == complete
        expected = NoAnswer if "REJECT" in names else Unreachable
        assert {rejection(cluster, address) for address in CLUSTER_IPS} == {expected}
        warned = [re.search(r"^W.*is missing.*modprobe (\w+)", line) for line in agent.lines()]
        assert sorted(match[1] for match in warned if match) == sorted(modules)  # one line each
        assert "Failed to apply" not in "\n".join(agent.lines())
        assert not re.search(rf"-[mj] ({'|'.join(names)})\b", shell(cluster.node_a, "iptables-save; ip6tables-save"))


def test_a_target_that_one_family_lacks_changes_that_family_only(cluster: Cluster, folder: Folder) -> None:
    with without_modules("ip6t_REJECT"), AgentProcess(cluster.node_a, folder.path) as agent:
        agent.wait_synced()
        assert [rejection(cluster, address) for address in CLUSTER_IPS] == [Unreachable, NoAnswer]
        (warning,) = [line for line in agent.lines() if "is missing" in line]
        assert "ip6t_REJECT is missing for IPv6" in warning


@pytest.mark.parametrize("name", ["set", "MASQUERADE"])
def test_what_rules_cannot_do_without_is_named_and_programmed_when_it_comes(
    cluster: Cluster, folder: Folder, complete: Answers, name: str
) -> None:
    module = {"MASQUERADE": "xt_MASQUERADE"}.get(name, f"xt_{name}")
    kind = "target" if name.isupper() else "match"
    with without_modules(module) as load_by_hand:
        before_s = time.monotonic()
        with AgentProcess(cluster.node_a, folder.path) as agent:
            agent.wait_synced()
            assert time.monotonic() - before_s < 45  # 67 to 90 s when each rule was found by halving
            agent.wait_for(rf"^W.*is missing.*, without which Services.*modprobe \w+_{name}; no restart")
            agent.wait_for(rf"^E.*the kernel has no {kind} {name} \(modprobe \w+_{name}\)")
            assert "Unknown error" not in "\n".join(agent.lines())
            since = len(agent.lines())
            load_by_hand(module)
            agent.wait_for(r"Synced.* 0 pending", since)
            assert answers(cluster) == complete
