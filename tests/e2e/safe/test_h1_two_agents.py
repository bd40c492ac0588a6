"""Two agents in one network namespace: the second waits for the first to end, or ends itself and names the first."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab.namespace import Namespace, new_namespace
from lab.network import Cluster
from tests.e2e.agent_process import AgentProcess, command_line, wait_until
from tests.e2e.kernel_state import differences, kernel_state, run
from tests.e2e.manifests import Folder, Port, service_with_slice
from tests.e2e.safe.patched_agent import PatchedAgent, patched_command_line
from tests.e2e.serving import serving_cluster
from tests.e2e.traffic import Targets, Traffic

pytestmark = pytest.mark.kernel

WEB, DNS = "10.96.0.10", "10.96.0.53"
IMPATIENT = "import kubeproxy_py.commands.single_instance as single_instance; single_instance.HANDOVER_S = 0.5"
WAITS = "Another agent runs in this network namespace; waiting until it ends"


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with serving_cluster() as created:
        yield created


def folder_with(path: Path, *names: str) -> Folder:
    path.mkdir()
    folder = Folder(path)
    objects = {
        "web": service_with_slice("web", WEB, ["pod-a1", "pod-b1"], [Port(80, "TCP", 8080, 30080)]),
        "dns": service_with_slice("dns", DNS, ["pod-b1"], [Port(53, "UDP", 8080)]),
    }
    for name in names:
        folder.write(name, objects[name])
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return folder_with(tmp_path / "first", "web", "dns")


def run_second(cluster: Cluster, folder: Folder, *prefix: str) -> subprocess.CompletedProcess[str]:
    """Run a second agent with other inputs until it ends by itself."""
    argv = [*prefix, *patched_command_line(IMPATIENT, folder.path, "run")]
    return subprocess.run(cluster.node_a.wrap(argv), capture_output=True, text=True, timeout=60, check=False)


def test_the_second_agent_ends_with_1_and_names_the_first(cluster: Cluster, folder: Folder, tmp_path: Path) -> None:
    other = folder_with(tmp_path / "second", "web")
    with AgentProcess(cluster.node_a, folder.path) as first:
        first.wait_synced()
        before, lines = kernel_state(cluster.node_a), len(first.lines())
        completed = run_second(cluster, other)
        assert completed.returncode == 1
        assert WAITS in completed.stderr
        last = completed.stderr.splitlines()[-1]
        assert f"another agent runs in this network namespace (pid {first.pid})" in last
        assert differences(before, kernel_state(cluster.node_a)) == []
        assert not [line for line in first.lines()[lines:] if "Synced" in line]


def test_the_pid_of_an_agent_in_another_pid_namespace_is_said_to_be_invisible(cluster: Cluster, folder: Folder) -> None:
    with AgentProcess(cluster.node_a, folder.path) as first:
        first.wait_synced()
        completed = run_second(cluster, folder, "unshare", "--pid", "--fork", "--mount-proc")
        assert completed.returncode == 1
        assert "pid not visible here: it runs in another container" in completed.stderr.splitlines()[-1]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_successor_takes_over_without_a_gap(cluster: Cluster, folder: Folder, number: signal.Signals) -> None:
    targets = Targets(("192.168.3.10", 30080), (WEB, 80), (DNS, 53))
    with AgentProcess(cluster.node_a, folder.path) as old:
        old.wait_synced()
        with Traffic(cluster, targets) as traffic, AgentProcess(cluster.node_a, folder.path) as new:
            line = new.wait_for(WAITS)
            assert f"pid {old.pid}" in line
            old.stop(number)
            assert "nothing to do" in new.wait_synced()
    assert traffic.rounds > 0
    assert traffic.failures == []


def test_an_ended_agent_holds_nothing(cluster: Cluster, folder: Folder) -> None:
    for _ in range(2):
        with AgentProcess(cluster.node_a, folder.path) as agent:
            agent.wait_synced()
            agent.stop(signal.SIGKILL)
            assert WAITS not in "\n".join(agent.lines())


def test_other_commands_run_beside_an_agent_and_cleanup_does_not(cluster: Cluster, folder: Folder) -> None:
    node = cluster.node_a
    with AgentProcess(node, folder.path) as agent:
        agent.wait_synced()
        before = kernel_state(node)
        assert run(node, *command_line(folder.path, "plan")).endswith("nothing to do\n")
        assert WEB in run(node, *command_line(folder.path, "status"))
        run(node, *command_line(folder.path, "run", "--init-only"))
        for words in (("cleanup",), ("run", "--cleanup")):
            argv = node.wrap(command_line(folder.path, *words))
            completed = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
            assert completed.returncode == 1
            assert f"an agent runs in this network namespace (pid {agent.pid})" in completed.stderr
        assert differences(before, kernel_state(node)) == []
    run(node, *command_line(folder.path, "cleanup"))
    assert WEB not in run(node, "ipvsadm", "-Sn")


def test_agents_of_two_network_namespaces_run_beside_each_other(cluster: Cluster, folder: Folder) -> None:
    other: Namespace = new_namespace("second-node")
    try:
        with AgentProcess(cluster.node_a, folder.path) as one, AgentProcess(other, folder.path) as two:
            one.wait_synced()
            two.wait_synced()
    finally:
        other.close()


def test_an_agent_that_gives_up_succeeds_once_the_other_has_ended(cluster: Cluster, folder: Folder) -> None:
    with AgentProcess(cluster.node_a, folder.path) as first:
        first.wait_synced()
        with PatchedAgent(cluster.node_a, folder.path, IMPATIENT) as second:
            wait_until(lambda: not second.is_running())
    with PatchedAgent(cluster.node_a, folder.path, IMPATIENT) as second:
        assert "nothing to do" in second.wait_synced()
