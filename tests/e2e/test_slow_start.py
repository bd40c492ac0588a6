"""Slow start: a new endpoint gets few connections at first, and its share after the time that its Service says."""

from __future__ import annotations

import re
import signal
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from lab.client import connect, query
from lab.network import BY_NAME, Cluster
from tests.e2e.agent_process import AgentProcess, wait_until
from tests.e2e.kernel_state import run
from tests.e2e.manifests import Folder, Object, service_with_slice
from tests.e2e.serving import serving_cluster

pytestmark = pytest.mark.kernel

VIP = "10.96.0.30"
LONG = {"scheduler": "wrr", "slow-start": "1h"}  # steps are minutes apart: a busy machine sees the first one
SHORT_S = 3
GROWING = {"scheduler": "wrr", "slow-start": "9s"}
SHORT = {"scheduler": "wrr", "slow-start": f"{SHORT_S}s"}
WITHIN_S = 60.0


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with serving_cluster() as made:
        yield made


def objects(*pods: str, settings: dict[str, str]) -> list[Object]:
    web, web_slice = service_with_slice("web", VIP, pods)
    web["metadata"]["annotations"] = {f"kubeproxy-py.io/{name}": value for name, value in settings.items()}
    return [web, web_slice]


@pytest.fixture
def folder(tmp_path: Path, cluster: Cluster) -> Iterator[Folder]:
    yield Folder(tmp_path)
    run(cluster.node_a, "ipvsadm", "-C")


def weights(cluster: Cluster) -> dict[str, int]:
    """Return the weight of each pod behind VIP."""
    listed = run(cluster.node_a, "ipvsadm", "-Ln")
    behind = re.search(rf"^TCP  {re.escape(VIP)}:80 .*\n((?:  -> .*\n?)*)", listed, re.MULTILINE)
    found = re.findall(r"-> ([0-9.]+):8080\s+Masq\s+(\d+)", behind[1] if behind else "")
    names = {machine.ipv4: name for name, machine in BY_NAME.items()}
    return {names[address]: int(weight) for address, weight in found}


def shares(cluster: Cluster, count: int) -> Counter[str]:
    return Counter(query(cluster["outside"], "tcp", VIP, 80, timeout_s=10.0).name for _ in range(count))


@contextmanager
def agent_with_old_pod(cluster: Cluster, folder: Folder) -> Iterator[AgentProcess]:
    """Yield an agent for which pod-a1 is no new endpoint any more."""
    folder.write("web", objects("pod-a1", settings=SHORT))
    with AgentProcess(cluster.node_a, folder.path) as agent:
        agent.wait_synced()
        time.sleep(SHORT_S + 0.1)  # by the clock, so a busy machine does not matter
        yield agent


def replace(agent: AgentProcess, folder: Folder, *pods: str, settings: dict[str, str]) -> None:
    with agent.syncing():
        folder.write("web", objects(*pods, settings=settings))


def test_new_endpoint_gets_a_tenth_of_the_connections_of_another(cluster: Cluster, folder: Folder) -> None:
    with agent_with_old_pod(cluster, folder) as agent:
        replace(agent, folder, "pod-a1", "pod-a2", settings=LONG)
        assert weights(cluster) == {"pod-a1": 10, "pod-a2": 1}
        assert shares(cluster, 44) == {"pod-a1": 40, "pod-a2": 4}


def test_weight_grows_to_its_whole_in_steps(cluster: Cluster, folder: Folder) -> None:
    seen: list[int] = []

    def is_whole() -> bool:
        weight = weights(cluster).get("pod-a2", 0)
        if weight not in seen[-1:]:
            seen.append(weight)
        return weight == 10

    with agent_with_old_pod(cluster, folder) as agent:
        replace(agent, folder, "pod-a1", "pod-a2", settings=GROWING)
        wait_until(is_whole, lambda: f"{seen}", timeout_s=WITHIN_S)
        assert (len(seen) > 2, seen == sorted(seen)) == (True, True), seen
        assert shares(cluster, 20) == {"pod-a1": 10, "pod-a2": 10}


def test_restart_goes_on_where_the_kernel_is(cluster: Cluster, folder: Folder) -> None:
    with agent_with_old_pod(cluster, folder) as agent:
        replace(agent, folder, "pod-a1", "pod-a2", settings=LONG)
        agent.stop(signal.SIGKILL)
    with AgentProcess(cluster.node_a, folder.path) as agent:
        agent.wait_synced()
        assert weights(cluster) == {"pod-a1": 10, "pod-a2": 1}
        folder.write("web", objects("pod-a1", "pod-a2", settings=SHORT))  # changes no row at once
        wait_until(lambda: weights(cluster) == {"pod-a1": 10, "pod-a2": 10}, timeout_s=WITHIN_S)


def test_service_whose_endpoints_are_all_new_is_not_slowed(cluster: Cluster, folder: Folder) -> None:
    folder.write("web", objects("pod-a1", "pod-a2", settings=LONG))
    with AgentProcess(cluster.node_a, folder.path) as agent:
        agent.wait_synced()
        assert weights(cluster) == {"pod-a1": 10, "pod-a2": 10}


def test_endpoint_that_returns_while_it_drains_starts_again(cluster: Cluster, folder: Folder) -> None:
    with agent_with_old_pod(cluster, folder) as agent, connect(cluster["outside"], "tcp", VIP, 80) as client:
        assert client.recv(100), "pod-a1 has a connection, so it drains"
        replace(agent, folder, "pod-a2", settings=LONG)
        assert weights(cluster) == {"pod-a1": 0, "pod-a2": 10}
        replace(agent, folder, "pod-a1", "pod-a2", settings=LONG)
        # Both are new; pod-a1 by a moment more.
        assert weights(cluster) == {"pod-a1": 10, "pod-a2": 10}


def test_scheduler_without_weights_is_named(cluster: Cluster, folder: Folder) -> None:
    folder.write("web", objects("pod-a1", "pod-a2", settings={"scheduler": "rr", "slow-start": "1h"}))
    with AgentProcess(cluster.node_a, folder.path) as agent:
        agent.wait_for("has no effect with scheduler rr")
        agent.wait_synced()
        assert weights(cluster) == {"pod-a1": 1, "pod-a2": 1}
