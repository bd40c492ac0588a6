"""A change in the cluster causes exactly its kernel steps and no others, and packets follow it at once."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from lab.client import QueryError, query
from lab.namespace import Namespace
from lab.network import Cluster
from tests.e2e.agent_process import AgentProcess, wait_until
from tests.e2e.changes_table import AFFINITY_ON, BASE, CHANGES, CLUSTER, Change, Files, Front, base_with, web
from tests.e2e.in_process_agent import InProcessAgent, processes_started
from tests.e2e.kernel_state import counters
from tests.e2e.manifests import Folder, Port, service_with_slice
from tests.e2e.serving import cluster_fixture

pytestmark = pytest.mark.kernel

ALL_CHANGES = (*CHANGES, AFFINITY_ON)
ASKED = 6
FELT_CHANGES = tuple(change for change in CHANGES if change.steps)


def write(folder: Folder, files: Files) -> None:
    for stem, objects in files.items():
        folder.write(stem, objects)


# The steps of the plan: the agent in this process, on a kernel without traffic (connections would delay deletions)


@pytest.fixture(scope="module")
def inside(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[InProcessAgent, Folder]]:
    folder = Folder(tmp_path_factory.mktemp("manifests"))
    write(folder, BASE)
    with Cluster(ipv4_forward=True) as cluster, cluster.node_a.inside():
        agent = InProcessAgent(folder.path)
        agent.sync_folder()
        yield agent, folder
        agent.close()


@pytest.fixture
def at_base(inside: tuple[InProcessAgent, Folder]) -> Iterator[tuple[InProcessAgent, Folder]]:
    """Yield the agent and its folder, with the kernel state of BASE, and restore that state afterwards."""
    agent, folder = inside
    yield agent, folder
    write(folder, base_with({}))
    agent.sync_folder()
    agent.run_drain_check()


@pytest.mark.parametrize("change", ALL_CHANGES, ids=str)
def test_change_causes_exactly_its_steps(at_base: tuple[InProcessAgent, Folder], change: Change) -> None:
    agent, folder = at_base
    write(folder, change.files)
    steps, drained = agent.sync_folder(), agent.run_drain_check()
    assert (sorted(steps), sorted(drained)) == (sorted(change.steps), sorted(change.drained))


@pytest.mark.parametrize("change", ALL_CHANGES, ids=str)
def test_kernel_rows_equal_desired_rows_after_a_change(at_base: tuple[InProcessAgent, Folder], change: Change) -> None:
    agent, folder = at_base
    write(folder, change.files)
    agent.sync_folder()
    agent.run_drain_check()
    kernel, desired = agent.kernel_rows(), agent.desired_rows()
    assert {key for key in {*kernel, *desired} if kernel.get(key) != desired.get(key)} == set()


def test_changes_start_no_process(at_base: tuple[InProcessAgent, Folder]) -> None:
    agent, folder = at_base
    before = processes_started()
    for change in ALL_CHANGES:
        write(folder, base_with(change.files))
        agent.sync_folder()
        agent.run_drain_check()
    assert processes_started() == before


def test_first_entry_of_a_set_updates_its_chain_by_one_restore(
    at_base: tuple[InProcessAgent, Folder],
) -> None:
    agent, folder = at_base
    before = len(processes_started())
    folder.write("new", service_with_slice("new", "10.96.0.77", ["pod-b3"], [Port(80, "SCTP", 8080, 30077)]))
    chains = [step for step in agent.sync_folder() if "Chain" in step]
    assert (chains, len(processes_started()) - before) == (["update Chain IPv4 nat KUBE-NODE-PORT to 2 rules"], 1)


def test_draining_real_server_desired_again_gets_weight_1_in_place(at_base: tuple[InProcessAgent, Folder]) -> None:
    agent, folder = at_base
    write(folder, {"web": web(("pod-a1",))})
    agent.sync_folder()
    write(folder, BASE)
    assert sorted(agent.sync_folder()) == [
        "update RealServer 10.96.0.10:80/TCP -> 10.244.2.5:8080 to weight 1",
        "update RealServer 192.168.3.10:30080/TCP -> 10.244.2.5:8080 to weight 1",
    ]


# Packets and counters: the agent as a process


cluster = cluster_fixture


@pytest.fixture(scope="module")
def running(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[AgentProcess, Folder]]:
    folder = Folder(tmp_path_factory.mktemp("manifests"))
    write(folder, BASE)
    with AgentProcess(cluster.node_a, folder.path) as agent:
        agent.wait_synced()
        yield agent, folder


def change_to(running: tuple[AgentProcess, Folder], files: Files) -> None:
    """Write *files* and wait for the agent's sync."""
    agent, folder = running
    with agent.syncing():
        write(folder, files)


def answering_pods(client: Namespace, front: Front) -> set[str]:
    """Return the pods that answer ASKED requests, enough for two rounds of rr over three pods; empty if rejected."""
    try:
        return {query(client, *front).name for _ in range(ASKED)}
    except QueryError:
        return set()


@pytest.mark.parametrize("change", FELT_CHANGES, ids=str)
def test_packets_follow_a_change_at_once(
    cluster: Cluster, running: tuple[AgentProcess, Folder], change: Change
) -> None:
    change_to(running, change.files)
    answers = {front: answering_pods(cluster["outside"], front) for front in change.answers}
    change_to(running, {stem: BASE.get(stem, []) for stem in change.files})
    assert answers == change.answers


def test_session_affinity_can_be_enabled(cluster: Cluster, running: tuple[AgentProcess, Folder]) -> None:
    change_to(running, AFFINITY_ON.files)
    answers = answering_pods(cluster["node-b"], CLUSTER)
    change_to(running, {"web": BASE["web"]})
    assert len(answers) == 1


def test_changes_do_not_reset_counters_of_other_services_and_of_rules(
    cluster: Cluster, running: tuple[AgentProcess, Folder]
) -> None:
    for front in (("tcp", "10.96.0.20", 80), ("tcp", "192.168.3.10", 30090)):
        assert len(answering_pods(cluster["outside"], front)) == 2

    def counted_now() -> dict[str, int]:
        return {what: count for what, count in counters(cluster.node_a).items() if is_of_others(what) and count}

    def connections() -> int:
        """Return how many are counted of the Service `other`, each by a virtual and by a real server."""
        return sum(count for what, count in counted_now().items() if what.startswith("TCP"))

    wait_until(lambda: connections() == 2 * 2 * ASKED)  # the kernel sums counters up every two seconds
    counted = counted_now()
    for change in FELT_CHANGES:
        change_to(running, change.files)
        change_to(running, {stem: BASE.get(stem, []) for stem in change.files})
    after = counters(cluster.node_a)
    assert [what for what, count in counted.items() if after.get(what, 0) < count] == []
    assert {what: after[what] for what in counted if what.startswith("TCP")} == {
        what: count for what, count in counted.items() if what.startswith("TCP")
    }
    assert len(counted) >= 10, "with fewer counters at work this proves little"


def is_of_others(what: str) -> bool:
    """Return whether a counter belongs to a rule or to the Service `other`."""
    return what.startswith("IPv") or "10.96.0.20:80" in what or ":30090" in what
