"""What changes in the cluster changes in the kernel: these rows, all of them, and no other; packets follow at once."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from lab.ask import AskError, ask
from lab.namespace import Namespace
from lab.network import Cluster
from tests.e2e.agent_process import EVENT, AgentProcess
from tests.e2e.changes_table import AFFINITY_ON, BASE, CHANGES, CLUSTER, Change, Files, Front, base_with, web
from tests.e2e.in_process_agent import AgentInside, processes_started
from tests.e2e.kernel_state import counters
from tests.e2e.manifests import Folder, Port, backed
from tests.e2e.serving import serving_cluster

pytestmark = pytest.mark.kernel

ALL_CHANGES = (*CHANGES, AFFINITY_ON)
FELT_CHANGES = tuple(change for change in CHANGES if change.steps)


def put(folder: Folder, files: Files) -> None:
    for stem, objects in files.items():
        folder.put(stem, objects)


# What the plan says: the agent within this process, on a kernel without traffic (connections would keep real servers)


@pytest.fixture(scope="module")
def inside(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[AgentInside, Folder]]:
    folder = Folder(tmp_path_factory.mktemp("manifests"))
    put(folder, BASE)
    with Cluster(ipv4_forward=True) as cluster, cluster.node_a.inside():
        agent = AgentInside(folder.path)
        agent.take_in()
        yield agent, folder
        agent.close()


@pytest.fixture
def at_base(inside: tuple[AgentInside, Folder]) -> Iterator[tuple[AgentInside, Folder]]:
    """The agent and its folder, with the kernel as BASE asks; afterwards so again."""
    agent, folder = inside
    yield agent, folder
    put(folder, base_with({}))
    agent.take_in()
    agent.let_drain()


@pytest.mark.parametrize("change", ALL_CHANGES, ids=str)
def test_a_change_is_worth_exactly_its_steps(at_base: tuple[AgentInside, Folder], change: Change) -> None:
    agent, folder = at_base
    put(folder, change.files)
    steps, drained = agent.take_in(), agent.let_drain()
    assert (sorted(steps), sorted(drained)) == (sorted(change.steps), sorted(change.drained))


@pytest.mark.parametrize("change", ALL_CHANGES, ids=str)
def test_after_a_change_the_kernel_has_what_is_desired(at_base: tuple[AgentInside, Folder], change: Change) -> None:
    agent, folder = at_base
    put(folder, change.files)
    agent.take_in()
    agent.let_drain()
    kernel, desired = agent.kernel_rows(), agent.desired_rows()
    assert {key for key in {*kernel, *desired} if kernel.get(key) != desired.get(key)} == set()


def test_these_changes_start_no_process(at_base: tuple[AgentInside, Folder]) -> None:
    agent, folder = at_base
    before = processes_started()
    for change in ALL_CHANGES:
        put(folder, base_with(change.files))
        agent.take_in()
        agent.let_drain()
    assert processes_started() == before


def test_only_a_set_that_gets_its_first_entry_changes_a_chain_by_one_restore(
    at_base: tuple[AgentInside, Folder],
) -> None:
    agent, folder = at_base
    before = len(processes_started())
    folder.put("new", backed("new", "10.96.0.77", ["pod-b3"], [Port(80, "SCTP", 8080, 30077)]))
    chains = [step for step in agent.take_in() if "Chain" in step]
    assert (chains, len(processes_started()) - before) == (["update Chain IPv4 nat KUBE-NODE-PORT to 2 rules"], 1)


def test_a_real_server_that_comes_back_gets_weight_1_in_place(at_base: tuple[AgentInside, Folder]) -> None:
    agent, folder = at_base
    put(folder, {"web": web(("pod-a1",))})
    agent.take_in()
    put(folder, BASE)
    assert sorted(agent.take_in()) == [
        "update RealServer 10.96.0.10:80/TCP -> 10.244.2.5:8080 to weight 1",
        "update RealServer 192.168.3.10:30080/TCP -> 10.244.2.5:8080 to weight 1",
    ]


# What packets and counters say: the agent as a process


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with serving_cluster() as built:
        yield built


@pytest.fixture(scope="module")
def running(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[AgentProcess, Folder]]:
    folder = Folder(tmp_path_factory.mktemp("manifests"))
    put(folder, BASE)
    with AgentProcess(cluster.node_a, folder.path) as agent:
        agent.wait_synced()
        yield agent, folder


def change_to(running: tuple[AgentProcess, Folder], files: Files) -> None:
    """Have the folder say *files*, and the kernel follow."""
    agent, folder = running
    with agent.syncing(EVENT):
        put(folder, files)


def who_answers(client: Namespace, front: Front) -> set[str]:
    """Who answers six requests, which are enough to meet up to three pods in turn; nobody if it is refused."""
    try:
        return {ask(client, *front, timeout_s=2.0).name for _ in range(6)}
    except AskError:
        return set()


@pytest.mark.parametrize("change", FELT_CHANGES, ids=str)
def test_packets_follow_a_change(cluster: Cluster, running: tuple[AgentProcess, Folder], change: Change) -> None:
    change_to(running, change.files)
    answers = {front: who_answers(cluster["outside"], front) for front in change.answers}
    change_to(running, {stem: BASE.get(stem, []) for stem in change.files})
    assert answers == change.answers


def test_session_affinity_can_be_switched_on(cluster: Cluster, running: tuple[AgentProcess, Folder]) -> None:
    change_to(running, AFFINITY_ON.files)
    answers = who_answers(cluster["node-b"], CLUSTER)
    change_to(running, {"web": BASE["web"]})
    assert len(answers) == 1


def test_counters_of_other_services_and_of_rules_are_not_reset(
    cluster: Cluster, running: tuple[AgentProcess, Folder]
) -> None:
    for front in (("tcp", "10.96.0.20", 80), ("tcp", "192.168.3.10", 30090)):
        assert len(who_answers(cluster["outside"], front)) == 2
    counted = {what: count for what, count in counters(cluster.node_a).items() if is_of_others(what) and count}
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
    """Whether a counter is of a rule or of the Service `other`."""
    return what.startswith("IPv") or "10.96.0.20:80" in what or ":30090" in what
