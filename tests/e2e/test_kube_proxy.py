"""The real kube-proxy on a node where this agent ran: the way back from exact policies, and a take-over under traffic.

KUBE_PROXY_BIN and KUBEBUILDER_ASSETS name the programs, which `make real-kubernetes` builds.  The API server is the
real one, too.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import pytest

from bench import peers
from bench.inside import beside, takeover
from lab.client import query
from lab.namespace import Namespace
from lab.network import BY_NAME, NODE_NAME, Cluster
from tests.apiserver.client import Client
from tests.apiserver.real import real_server
from tests.e2e.agent_process import FLAGS as DUAL_STACK_FLAGS
from tests.e2e.agent_process import SYNCED, AgentProcess, wait_until
from tests.e2e.kernel_state import State, differences, kernel_state, run
from tests.e2e.manifests import NAMESPACE, Object, Port, endpoint_slice, service, service_with_slice
from tests.e2e.serving import serving_cluster
from tests.e2e.traffic import Targets, Traffic

pytestmark = [
    pytest.mark.kernel,
    pytest.mark.timeout(600),  # kube-apiserver takes up to a minute and a half to start in user-mode-linux
    pytest.mark.skipif(
        not peers.is_set(), reason="KUBE_PROXY_BIN names no kube-proxy (make real-kubernetes): it is not tested"
    ),
]

FLAGS = (*DUAL_STACK_FLAGS, "--cluster-cidr", "10.244.0.0/16")  # kube-proxy 1.20 takes one family alone
PATIENCE_S = 240.0  # until kube-proxy has started, or followed a change; it starts tens of programs for that
SETTLED_S = 15.0
PORTS = [Port(80, "TCP", 8080, 30080), Port(80, "UDP", 8080, 30080)]
CHANGING, NEAR, FAR = "10.96.7.1", "10.96.7.2", "10.96.7.3"
NEAR_EXTERNAL, FAR_EXTERNAL = "203.0.113.2", "203.0.113.3"
SAME_ROWS_SINCE = 36  # of Kubernetes 1.
OBJECTS: tuple[Object, ...] = (
    {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}},
    {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": NODE_NAME},
        "spec": {"podCIDR": "10.244.1.0/24", "podCIDRs": ["10.244.1.0/24"]},
        "status": {"addresses": [{"type": "InternalIP", "address": BY_NAME[NODE_NAME].ipv4}]},
    },
    *service_with_slice("changing", CHANGING, ["pod-a1"]),
    service("near", NEAR, PORTS, externalIPs=[NEAR_EXTERNAL], externalTrafficPolicy="Local"),
    endpoint_slice("near", ["pod-a1", "pod-b1"], PORTS),
    service("far", FAR, [Port()], externalIPs=[FAR_EXTERNAL], externalTrafficPolicy="Local", type="LoadBalancer"),
    endpoint_slice("far", ["pod-b1", "pod-b2"]),
)
# The pods that answer each client at each address.  A client inside reaches, at an external address with the policy
# Local, all of them with exact policies and those of this node with kube-proxy's.
ANSWERS = {
    ("pod-a2", NEAR): {"pod-a1", "pod-b1"},
    ("outside", NEAR_EXTERNAL): {"pod-a1"},
    ("pod-a2", FAR): {"pod-b1", "pod-b2"},
}
INSIDE = ("pod-a2", NEAR_EXTERNAL)
EXACT, USUAL = {"pod-a1", "pod-b1"}, {"pod-a1"}


class Agent(AgentProcess):
    """An agent with the API server of *kubeconfig*."""

    def __init__(self, namespace: Namespace, kubeconfig: Path, *flags: str) -> None:
        super().__init__(namespace, Path("/nowhere"))
        source = ("--kubeconfig", str(kubeconfig))
        self._argv = [sys.executable, "-m", "kubeproxy_py", "run", *source, *FLAGS, *flags]


class Node:
    """Node A with its API server."""

    def __init__(self, cluster: Cluster, client: Client) -> None:
        self.cluster = cluster
        self._client = client
        self._changed = ["pod-b1", "pod-a1"]

    def follow_change(self) -> None:
        """Replace the endpoint of the Service that changes, and wait until the kernel has the new one alone."""
        pod = self._changed[0]
        self._changed.reverse()
        self._client.apply(endpoint_slice("changing", [pod]))
        wait_until(lambda: f"-a -t {CHANGING}:80 -r {BY_NAME[pod].ipv4}:8080" in self.servers(), timeout_s=PATIENCE_S)

    def wait_settled(self) -> None:
        """Wait until kube-proxy, which changes IPVS first and iptables last, has changed nothing for a while."""
        before: State = {}
        while (now := kernel_state(self.cluster.node_a)) != before:
            before = now
            time.sleep(SETTLED_S)

    def servers(self) -> str:
        return run(self.cluster.node_a, "ipvsadm", "-Sn")

    def answering(self, client: str, address: str) -> set[str]:
        return {query(self.cluster[client], "tcp", address, 80, 10.0).name for _ in range(4)}

    def answers(self) -> dict[tuple[str, str], set[str]]:
        return {asked: self.answering(*asked) for asked in (*ANSWERS, INSIDE)}

    def extras(self) -> list[str]:
        """Return the lines of the kernel state that only exact policies have."""
        return [
            line
            for lines in kernel_state(self.cluster.node_a).values()
            for line in lines
            if "KUBE-PY" in line or "KUBE-6-PY" in line or " -f " in f"{line} "
        ]


class WayBack(NamedTuple):
    """What was seen when kube-proxy followed an agent with exact policies that was killed."""

    answers: dict[str, dict[tuple[str, str], set[str]]]
    extras: dict[str, list[str]]
    states: dict[str, State]
    failures: list[str]


@pytest.fixture(scope="module")
def way_back(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WayBack]:
    kube_proxy, assets = peers.programs()
    folder = tmp_path_factory.mktemp("kube-proxy")
    with serving_cluster() as cluster, ExitStack() as stack:
        stack.enter_context(cluster.node_a.inside())
        client = stack.enter_context(real_server(assets, tmp_path_factory.mktemp("api")))
        for document in OBJECTS:
            client.apply(document)
        kubeconfig = beside.kubeconfig(folder, client)
        node, seen = Node(cluster, client), WayBack({}, {}, {}, [])

        def look(name: str) -> None:
            seen.answers[name], seen.extras[name] = node.answers(), node.extras()
            seen.states[name] = kernel_state(cluster.node_a)

        with Agent(cluster.node_a, kubeconfig, "--policies=exact") as agent:
            # The API server, which has just started, shares the CPU.
            wait_until(lambda: any(SYNCED in line for line in agent.lines()), timeout_s=PATIENCE_S)
            node.follow_change()
            traffic = stack.enter_context(
                Traffic(cluster, Targets((BY_NAME[NODE_NAME].ipv4, 30080), (NEAR, 80), (NEAR, 80)))
            )
            look("agent")
            agent.stop(signal.SIGKILL)
        words = [str(kube_proxy), f"--kubeconfig={kubeconfig}", "--proxy-mode=ipvs", *FLAGS]
        with beside.running(words, cluster.node_a, folder / "log"):
            node.follow_change()
            node.wait_settled()
            look("kube-proxy")
            run(cluster.node_a, sys.executable, "-m", "kubeproxy_py", "cleanup", "--extras")
            look("cleaned up")
            node.follow_change()
            look("later")
        seen.failures.extend(traffic.failures)
        yield seen


def test_kube_proxy_serves_as_usual_beside_what_exact_policies_left(way_back: WayBack) -> None:
    assert way_back.answers["kube-proxy"] == {**ANSWERS, INSIDE: EXACT}


def test_kube_proxy_leaves_virtual_servers_by_mark_and_what_leads_to_them(way_back: WayBack) -> None:
    assert any("skbmark" in line for line in way_back.extras["agent"])
    assert way_back.extras["kube-proxy"] == way_back.extras["agent"]


def test_cleanup_of_extras_deletes_just_those_while_kube_proxy_runs(way_back: WayBack) -> None:
    assert way_back.extras["cleaned up"] == []
    kept = {
        part: tuple(line for line in lines if line not in way_back.extras["kube-proxy"])
        for part, lines in way_back.states["kube-proxy"].items()
    }
    assert differences(kept, way_back.states["cleaned up"]) == []


def test_kube_proxy_goes_on_serving_after_it(way_back: WayBack) -> None:
    assert way_back.answers["cleaned up"] == {**ANSWERS, INSIDE: USUAL}
    assert way_back.answers["later"] == way_back.answers["cleaned up"]


def test_no_request_fails_from_the_agent_to_the_end(way_back: WayBack) -> None:
    assert way_back.failures == []


def test_nodes_are_taken_over_in_both_directions_without_a_failed_connection() -> None:
    figures = takeover.measure(20, 1)
    assert set(figures) == {"kube-proxy to kubeproxy-py", "kubeproxy-py to kube-proxy"}
    for seen in figures.values():
        assert seen["connections"] > 100
        assert (seen["failed"], seen["long_broken"]) == (0, 0)
    if _minor(peers.kube_proxy()) >= SAME_ROWS_SINCE:
        assert figures["kube-proxy to kubeproxy-py"]["changed"] == 0


def _minor(kube_proxy: Path) -> int:
    """Return N of Kubernetes 1.N."""
    printed = subprocess.run([str(kube_proxy), "--version"], capture_output=True, text=True, check=True).stdout
    return int(printed.split(".")[1])
