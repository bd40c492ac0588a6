"""After each change of the changes table, `trace` says who answers, and packets agree."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from lab.client import QueryError
from lab.network import Cluster
from tests.e2e.agent_process import AgentProcess
from tests.e2e.changes_table import BASE, CHANGES, Change, Files
from tests.e2e.client_requests import Request, send_request
from tests.e2e.manifests import Folder
from tests.e2e.serving import cluster_fixture
from tests.e2e.tracing import MODES, asked, expected_programs, tracings

pytestmark = pytest.mark.kernel

cluster = cluster_fixture


@pytest.fixture(scope="module")
def running(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[AgentProcess, Folder]]:
    folder = Folder(tmp_path_factory.mktemp("manifests"))
    for stem, objects in BASE.items():
        folder.write(stem, objects)
    with AgentProcess(cluster.node_a, folder.path) as agent:
        agent.wait_synced()
        yield agent, folder


def change_to(running: tuple[AgentProcess, Folder], files: Files) -> None:
    agent, folder = running
    with agent.syncing():
        for stem, objects in files.items():
            folder.write(stem, objects)


@pytest.mark.parametrize("change", [change for change in CHANGES if change.steps], ids=str)
def test_trace_follows_a_change(cluster: Cluster, running: tuple[AgentProcess, Folder], change: Change) -> None:
    change_to(running, change.files)
    problems = [
        problem
        for (protocol, address, port), pods in change.answers.items()
        for problem in problems_of(cluster, running[1], Request("outside", protocol, address, port), pods)
    ]
    change_to(running, {stem: BASE.get(stem, []) for stem in change.files})
    assert problems == []


def problems_of(cluster: Cluster, folder: Folder, request: Request, pods: set[str]) -> list[str]:
    with tracings(cluster, folder.path) as made:
        traced = {mode: made[mode].trace(asked(request)) for mode in MODES}
    answering = answers(cluster, request)
    problems = [] if answering == pods else [f"{answering} answer, not {pods}"]
    for mode, trace in traced.items():
        if trace.exit_status != (0 if pods else 2):
            problems.append(f"{mode}: {request}: {trace.outcomes}")
        elif pods and (named := {program.name for program in expected_programs(trace)}) != pods:
            problems.append(f"{mode}: {request}: {named}, not {pods}")
    return problems


def answers(cluster: Cluster, request: Request) -> set[str]:
    """Return the pods that answer six requests, enough for two rounds of rr over three pods; empty if rejected."""
    try:
        return {send_request(cluster, request).name for _ in range(6)}
    except QueryError:
        return set()
