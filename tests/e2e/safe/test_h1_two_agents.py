"""Two agents in one network namespace: the second waits for the first to end, or ends itself and names the first."""

from __future__ import annotations

import re
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from kubeproxy_py.kernel.host.instance_lock import InstanceLock
from lab.namespace import new_namespace
from lab.network import Cluster
from tests.e2e.agent_process import AgentProcess, command_line, wait_until
from tests.e2e.kernel_state import differences, kernel_state, run
from tests.e2e.manifests import Folder, Port, service_with_slice
from tests.e2e.safe.patched_agent import patched_command_line
from tests.e2e.serving import cluster_fixture
from tests.e2e.traffic import Targets, Traffic

pytestmark = pytest.mark.kernel

WEB, DNS = "10.96.0.10", "10.96.0.53"
IMPATIENT = "import kubeproxy_py.commands.single_instance as single_instance; single_instance.HANDOVER_S = 0.5"
WAITS = "Another agent runs in this network namespace; waiting until it ends"


cluster = cluster_fixture


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Folder:
    folder = Folder(tmp_path_factory.mktemp("first"))
    folder.write("web", service_with_slice("web", WEB, ["pod-a1", "pod-b1"], [Port(80, "TCP", 8080, 30080)]))
    folder.write("dns", service_with_slice("dns", DNS, ["pod-b1"], [Port(53, "UDP", 8080)]))
    return folder


@pytest.fixture(scope="module")
def first(cluster: Cluster, folder: Folder) -> Iterator[AgentProcess]:
    """Yield an agent that has synced."""
    with AgentProcess(cluster.node_a, folder.path) as agent:
        agent.wait_synced()
        yield agent


def start_second(cluster: Cluster, folder: Path, *prefix: str) -> subprocess.Popen[str]:
    """Start a second agent for *folder*, which soon gives up waiting."""
    argv = [*prefix, *patched_command_line(IMPATIENT, folder, "run")]
    return subprocess.Popen(cluster.node_a.wrap(argv), stderr=subprocess.PIPE, text=True)


def test_a_second_agent_ends_with_1_and_names_the_first(cluster: Cluster, first: AgentProcess, tmp_path: Path) -> None:
    before, lines = kernel_state(cluster.node_a), len(first.lines())
    started = (
        start_second(cluster, tmp_path),  # without the first one's Services
        start_second(cluster, tmp_path, "unshare", "--pid", "--fork", "--mount-proc"),
    )
    logs = [process.communicate(timeout=60)[1].splitlines() for process in started]
    assert [process.returncode for process in started] == [1, 1]
    assert all(WAITS in "".join(log) for log in logs)
    assert f"another agent runs in this network namespace (pid {first.pid})" in logs[0][-1]
    assert "(pid not visible here: it runs in another container)" in logs[1][-1]
    assert differences(before, kernel_state(cluster.node_a)) == []
    assert not [line for line in first.lines()[lines:] if "Synced" in line]


def test_other_commands_run_beside_an_agent_and_cleanup_does_not(
    cluster: Cluster, folder: Folder, first: AgentProcess
) -> None:
    node = cluster.node_a
    before = kernel_state(node)
    assert run(node, *command_line(folder.path, "plan")).endswith("nothing to do\n")
    run(node, *command_line(folder.path, "run", "--init-only"))
    argv = node.wrap(command_line(folder.path, "cleanup"))
    completed = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
    assert completed.returncode == 1
    assert f"an agent runs in this network namespace (pid {first.pid})" in completed.stderr
    assert differences(before, kernel_state(node)) == []


def test_forced_cleanup_beside_an_agent_warns_deletes_and_the_agent_creates_everything_again(
    cluster: Cluster, folder: Folder, first: AgentProcess
) -> None:
    node = cluster.node_a
    before, lines = kernel_state(node), len(first.lines())
    argv = node.wrap(command_line(folder.path, "cleanup", "--force"))
    completed = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
    assert completed.returncode == 0, completed.stderr
    assert "warning: Deleting while an agent runs" in completed.stderr
    assert f"(agent: pid {first.pid})" in completed.stderr
    assert re.search(r"Cleaned up \(changes: [1-9]\d* deleted", completed.stderr)
    first.wait_for("drift in", since=lines)
    wait_until(lambda: differences(before, kernel_state(node)) == [], poll_s=1)


def test_a_successor_takes_over_without_a_gap(cluster: Cluster, folder: Folder, first: AgentProcess) -> None:
    targets = Targets(("192.168.3.10", 30080), (WEB, 80), (DNS, 53))
    with Traffic(cluster, targets) as traffic, AgentProcess(cluster.node_a, folder.path) as successor:
        assert f"pid {first.pid}" in successor.wait_for(WAITS)
        first.stop(signal.SIGKILL)
        assert "nothing to do" in successor.wait_synced()
    assert traffic.rounds > 0
    assert traffic.failures == []


def test_each_network_namespace_has_a_lock_of_its_own() -> None:
    with new_namespace("one") as one, new_namespace("two") as two:
        locks = {one: InstanceLock(), two: InstanceLock()}
        for namespace, lock in locks.items():
            with namespace.inside():
                assert lock.acquire()
                assert not InstanceLock().acquire()
        for lock in locks.values():
            lock.release()
