"""Failover: endpoints that do not answer get no new connections within seconds, and get some again when they answer.

Node B dies by its cable: packets to it are lost, as when a machine loses its power.  Kubernetes would withdraw its
endpoints after 40 s and more; here nothing withdraws them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

from lab.client import QueryError, query
from lab.network import BY_NAME, Cluster
from tests.e2e.agent_process import AgentProcess, wait_until
from tests.e2e.kernel_state import run, shell
from tests.e2e.manifests import Folder, Object, Port, service_with_slice
from tests.e2e.serving import serving_cluster

pytestmark = pytest.mark.kernel

VIP = "10.96.0.20"
PODS = ("pod-a1", "pod-a2", "pod-b1", "pod-b2")
WEB = Port(80, "TCP", 8080)
OPEN_PORT = Port(80, "TCP", 7777)  # no echo server listens there: the test itself does
CHECKED = {"health-check": "tcp", "health-check-interval": "1s", "health-check-threshold": "2"}
WITHIN_S = 30.0  # generous, for a busy machine


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with serving_cluster() as made:
        yield made


def objects(*pods: str, ports: tuple[Port, ...] = (WEB,), settings: Mapping[str, str] = CHECKED) -> list[Object]:
    web, web_slice = service_with_slice("web", VIP, pods, ports)
    web["metadata"]["annotations"] = {f"kubeproxy-py.io/{name}": value for name, value in settings.items()}
    return [web, web_slice]


@contextmanager
def agent(cluster: Cluster, path: Path, given: list[Object], *flags: str) -> Iterator[AgentProcess]:
    folder = Folder(path)
    folder.write("web", given)
    with AgentProcess(cluster.node_a, folder.path, *flags) as started:
        started.wait_synced()
        yield started
    run(cluster.node_a, "ipvsadm", "-C")


@contextmanager
def node_b_dead(cluster: Cluster) -> Iterator[None]:
    shell(cluster["router"], "ip link set to-node-b down")
    try:
        yield
    finally:
        shell(cluster["router"], "ip link set to-node-b up")


def weights(cluster: Cluster, protocol: str = "TCP", port: int = 80, target: int = 8080) -> dict[str, int]:
    """Return the weight of each pod behind VIP."""
    listed = run(cluster.node_a, "ipvsadm", "-Ln")
    behind = re.search(rf"^{protocol}  {re.escape(VIP)}:{port} .*\n((?:  -> .*\n?)*)", listed, re.MULTILINE)
    found = re.findall(rf"-> ([0-9.]+):{target}\s+Masq\s+(\d+)", behind[1] if behind else "")
    names = {BY_NAME[pod].ipv4: pod for pod in (*PODS, "pod-b3")}
    return {names[address]: int(weight) for address, weight in found}


def aside(cluster: Cluster, **server: int) -> set[str]:
    return {pod for pod, weight in weights(cluster, **server).items() if not weight}  # type: ignore[arg-type]


def answers(cluster: Cluster, count: int = 1, client: str = "outside") -> list[str]:
    """Return who answers *count* connections; "" for one without answer."""
    names = []
    for _ in range(count):
        try:
            names.append(query(cluster[client], "tcp", VIP, 80, timeout_s=0.5).name)
        except QueryError:
            names.append("")
    return names


def under_traffic(cluster: Cluster, condition: Callable[[], bool], client: str = "outside") -> None:
    """Wait until *condition*, while connections are made all the time."""

    def holds() -> bool:
        answers(cluster, client=client)
        return condition()

    wait_until(holds, lambda: f"weights are {weights(cluster)}", timeout_s=WITHIN_S)


def reached(cluster: Cluster, started: AgentProcess) -> None:
    """Wait until clients were answered by all pods, and the agent has had the time to notice it."""
    seen: set[str] = set()

    def all_answered() -> bool:
        seen.update(answers(cluster, 4))
        return len(seen) >= len(weights(cluster))

    wait_until(all_answered, timeout_s=WITHIN_S)
    wait_until(lambda: checks(cluster, started) > 0, lambda: "no connect was answered", timeout_s=WITHIN_S)


def checks(cluster: Cluster, _started: AgentProcess) -> int:
    """Return the number of connects of the agent that were answered."""
    page = shell(cluster.node_a, "curl -s http://127.0.0.1:10249/metrics || true")
    found = re.search(r'kubeproxy_ipvs_endpoint_checks_total\{result="answered"\} ([0-9.]+)', page)
    return int(float(found[1])) if found else 0


def test_endpoints_of_a_dead_node_get_no_connections_until_they_answer(cluster: Cluster, tmp_path: Path) -> None:
    with agent(cluster, tmp_path, objects(*PODS)) as started:
        under_traffic(cluster, lambda: "" not in answers(cluster, 4))
        with node_b_dead(cluster):
            under_traffic(cluster, lambda: aside(cluster) == {"pod-b1", "pod-b2"})
            assert set(answers(cluster, 20)) == {"pod-a1", "pod-a2"}
            started.wait_for("Set endpoints aside")
        under_traffic(cluster, lambda: not aside(cluster))
        assert set(answers(cluster, 20)) == set(PODS)
        started.wait_for("Endpoints get new connections again")
        assert not [line for line in started.lines() if "after drift" in line], "it does not fight with itself"
