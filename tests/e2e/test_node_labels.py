"""Weights by labels of nodes, with Nodes from an API server: while labels change, at restarts, refused, and saved."""

from __future__ import annotations

import re
import signal
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from kubeproxy_py.sources.saved.folder import NAME
from lab.client import QueryError, query
from lab.network import Cluster
from lab.pristine import reset_host_state
from tests.apiserver import ApiServer
from tests.apiserver.certificates import Authority
from tests.e2e.agent_process import EVENT, wait_until
from tests.e2e.control_plane import WEB, Agent, ControlPlane, responders, running_control_plane
from tests.e2e.handing_on import node
from tests.e2e.kernel_state import run
from tests.e2e.manifests import Object, service_with_slice
from tests.e2e.serving import cluster_fixture

pytestmark = pytest.mark.kernel

WEIGHTS = "kubeproxy-py.io/weights"
PODS = ["pod-a1", "pod-b1"]
REFUSED = re.compile(r"Service shop/web: SettingIgnored.*weights by label need all Nodes, which the API server refuses")

cluster = cluster_fixture


@pytest.fixture
def control_plane(cluster: Cluster, authority: Authority, tmp_path: Path) -> Iterator[ControlPlane]:
    """An API server with shop/web, whose endpoints on nodes of the large pool get three times as much."""
    web, endpoints = service_with_slice("web", WEB, PODS)
    web["metadata"]["annotations"] = {WEIGHTS: "example.com/pool=large:3, others=1"}
    with cluster.node_a.inside():
        reset_host_state()
    with running_control_plane(cluster, authority, tmp_path) as running:
        running.apply(web, endpoints, labelled("node-a", "old"), labelled("node-b", "large"))
        yield running


def labelled(name: str, pool: str, **labels: str) -> Object:
    body = node(name)
    return {**body, "metadata": {**body["metadata"], "labels": {"example.com/pool": pool, **labels}}}


def weights(cluster: Cluster) -> list[int]:
    """The weights of the real servers of shop/web, in order of their addresses."""
    listed = re.search(rf"^TCP  {WEB}:80 .*\n((?:  -> .*\n?)*)", run(cluster.node_a, "ipvsadm", "-Ln"), re.MULTILINE)
    return [int(words[3]) for words in sorted(line.split() for line in listed[1].splitlines())] if listed else []


def answers(cluster: Cluster, count: int = 40) -> Counter[str]:
    return Counter(query(cluster["outside"], "tcp", WEB, 80, 20.0).name for _ in range(count))


@contextmanager
def repeated(action: Callable[[], None], pause_s: float = 0.0) -> Iterator[None]:
    """Do *action* all the time in a thread, within the `with`, with pauses."""
    ended = threading.Event()

    def repeat() -> None:
        while not ended.wait(pause_s):
            action()

    thread = threading.Thread(target=repeat)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


@contextmanager
def repeated_requests(cluster: Cluster) -> Iterator[list[str]]:
    """Begin connections all the time, within the `with`; yield who answers each, or what fails."""
    found = list[str]()

    def ask() -> None:
        try:
            found.append(query(cluster["outside"], "tcp", WEB, 80, 20.0).name)
        except QueryError as error:
            found.append(str(error))

    with repeated(ask):
        yield found


@contextmanager
def observed_weights(cluster: Cluster) -> Iterator[set[tuple[int, ...]]]:
    """Read the weights all the time, within the `with`; yield all that were seen."""
    seen = set[tuple[int, ...]]()
    with repeated(lambda: seen.add(tuple(weights(cluster))), pause_s=0.02):
        yield seen


def test_label_that_changes_while_connections_are_made_changes_what_new_ones_get(
    cluster: Cluster, control_plane: ControlPlane
) -> None:
    with Agent(cluster, control_plane) as agent:
        agent.wait_synced()
        assert answers(cluster) == {"pod-a1": 10, "pod-b1": 30}
        with repeated_requests(cluster) as found:
            wait_until(lambda: len(found) > 8)
            with agent.syncing():
                control_plane.apply(labelled("node-b", "old"))
            with agent.syncing():
                control_plane.apply(labelled("node-a", "large"))
            begun = len(found)
            wait_until(lambda: len(found) > begun + 8)
        assert set(found) == set(PODS), "a connection failed"
        assert answers(cluster) == {"pod-a1": 30, "pod-b1": 10}
        synced = len([line for line in agent.lines() if re.search(EVENT, line)])
        for number in range(5):
            heartbeat = {"conditions": [{"type": "Ready", "status": "True", "message": str(number)}]}
            control_plane.apply({**labelled("node-b", "old", other=str(number)), "status": heartbeat})
        with agent.syncing():
            control_plane.apply(labelled("node-b", "large"))
        assert answers(cluster) == {"pod-a1": 20, "pod-b1": 20}
        assert len([line for line in agent.lines() if re.search(EVENT, line)]) == synced + 1


@pytest.mark.parametrize("is_slow", [False, True])
def test_restart_never_changes_weights_also_where_nodes_are_listed_late(
    cluster: Cluster, control_plane: ControlPlane, is_slow: bool
) -> None:
    with Agent(cluster, control_plane) as agent:
        agent.wait_synced()
        assert weights(cluster) == [1, 3]
        agent.stop(signal.SIGKILL)
    if is_slow:  # the server refuses for a while, as one that has just started, and the first sync does not wait for it
        control_plane.server.faults.named_only = {"nodes"}
    with observed_weights(cluster) as seen, Agent(cluster, control_plane) as agent:
        assert "nothing to do" in agent.wait_synced() or is_slow
        if is_slow:
            since = len(agent.lines())
            control_plane.apply(*service_with_slice("early", "10.96.80.8", PODS[:1]))
            agent.wait_for(EVENT, since)
            assert weights(cluster) == [1, 3], "a Service that comes meanwhile is served"
            requested = len(control_plane.server.requests)
            control_plane.server.faults.named_only = set()
            wait_until(lambda: any(map(is_watch_of_nodes, list(control_plane.server.requests)[requested:])))
            since = len(agent.lines())
            control_plane.apply(*service_with_slice("late", "10.96.80.9", PODS[:1]))
            agent.wait_for(EVENT, since)
        assert answers(cluster) == {"pod-a1": 10, "pod-b1": 30}
        with agent.syncing():
            control_plane.apply(labelled("node-b", "old"))
    assert seen <= {(1, 3), (1, 1)}, "the last is after the label changed"


def is_watch_of_nodes(path: str) -> bool:
    """Return whether *path* is that of a watch of all Nodes, which follows their list."""
    return path.startswith("/api/v1/nodes?") and "watch=" in path and "fieldSelector" not in path


def test_nodes_are_not_read_for_weights_that_are_ignored(cluster: Cluster, control_plane: ControlPlane) -> None:
    web, _ = service_with_slice("web", WEB, PODS)
    weighed = {WEIGHTS: "example.com/pool=large:3, others=1"}

    def apply(annotations: dict[str, str]) -> None:
        control_plane.apply({**web, "metadata": {**web["metadata"], "annotations": annotations}})

    apply({**weighed, "kubeproxy-py.io/scheduler": "rr"})
    with Agent(cluster, control_plane) as agent:
        agent.wait_for("SettingIgnored.*weights=.*has no effect with scheduler rr")
        agent.wait_synced()
        control_plane.apply(*service_with_slice("other", "10.96.80.9", PODS[:1]))
        wait_until(lambda: responders(cluster, "10.96.80.9") == {"pod-a1"})
        assert not any(map(is_watch_of_nodes, control_plane.server.requests))
        apply(weighed)
        wait_until(lambda: weights(cluster) == [1, 3])
        assert any(map(is_watch_of_nodes, control_plane.server.requests))
        apply({**weighed, "kubeproxy-py.io/scheduler": "rr"})
        wait_until(lambda: weights(cluster) == [1, 1])


def test_server_that_refuses_nodes_is_named_and_all_is_served_until_it_lists_them(
    cluster: Cluster, control_plane: ControlPlane
) -> None:
    control_plane.server.faults.named_only = {"nodes"}
    with Agent(cluster, control_plane) as agent:
        agent.wait_synced()
        assert answers(cluster) == {"pod-a1": 20, "pod-b1": 20}
        line = agent.wait_for(REFUSED.pattern)
        assert "let the role list and watch nodes, all of them" in line
        control_plane.apply(*service_with_slice("other", "10.96.80.9", PODS[:1]))
        wait_until(lambda: responders(cluster, "10.96.80.9") == {"pod-a1"})
        control_plane.server.faults.named_only = set()
        wait_until(lambda: 3 in weights(cluster))
        assert answers(cluster) == {"pod-a1": 10, "pod-b1": 30}


def test_node_that_boots_without_its_api_server_has_the_weights_of_the_labels_that_were_saved(
    cluster: Cluster, authority: Authority, control_plane: ControlPlane, tmp_path: Path
) -> None:
    state = tmp_path / "state" / NAME
    flag = f"--state-dir={state.parent}"
    control_plane.apply(labelled("node-a", "large"))
    with Agent(cluster, control_plane, flag) as agent:
        agent.wait_synced()
        wait_until(state.exists)
        agent.wait_for('"Saved objects"')
        control_plane.server.stop()
        agent.stop(signal.SIGKILL)
    with cluster.node_a.inside():
        reset_host_state()
    with observed_weights(cluster) as seen, Agent(cluster, control_plane, flag) as agent:
        agent.wait_synced()
        assert weights(cluster) == [3, 3]
        since = len(agent.lines())
        with cluster.node_a.inside():
            again = ApiServer(control_plane.server.server_address[1], tls=authority.server_context())
        again.store, again.faults = control_plane.server.store, control_plane.server.faults
        control_plane.server = again.start()
        agent.wait_for("API server answered; its objects have replaced the saved ones", since)
        assert not [line for line in agent.lines()[since:] if re.search(EVENT, line)]
    assert seen - {(), (3,)} == {(3, 3)}, "weights changed after they were set"
    again.stop()
