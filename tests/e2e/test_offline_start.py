"""A node that boots while its API server does not answer: saved objects are served, and replaced when it does."""

from __future__ import annotations

import json
import re
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from msgspec.structs import replace

from kubeproxy_py.sources.saved.content import Saved, decode, encode
from kubeproxy_py.sources.saved.folder import NAME
from lab.client import query
from lab.network import NODE_NAME, Cluster
from lab.pristine import reset_host_state
from tests.apiserver import ApiServer
from tests.apiserver.certificates import Authority
from tests.e2e.agent_process import EVENT, AgentProcess, wait_until
from tests.e2e.control_plane import WEB, Agent, ControlPlane, responders, running_control_plane
from tests.e2e.handing_on import NODES, Served, node, write
from tests.e2e.kernel_state import differences, kernel_state, run
from tests.e2e.manifests import Folder, endpoint_slice, service_with_slice
from tests.e2e.probing import scrape
from tests.e2e.serving import cluster_fixture
from tests.metrics.recorded import samples

pytestmark = pytest.mark.kernel

DNS = "10.96.80.53"
SERVING_SAVED = "API server does not answer; serving objects that were saved"

cluster = cluster_fixture


@pytest.fixture
def control_plane(cluster: Cluster, authority: Authority, tmp_path: Path) -> Iterator[ControlPlane]:
    with running_control_plane(cluster, authority, tmp_path) as running:
        running.apply(*service_with_slice("web", WEB, ["pod-a1", "pod-b1"]))
        running.apply(*service_with_slice("dns", DNS, ["pod-a1"]))
        yield running
        running.server.stop()


@pytest.fixture
def state_file(tmp_path: Path) -> Path:
    return tmp_path / "state" / NAME


def flag(state_file: Path) -> str:
    return f"--state-dir={state_file.parent}"


def start_server_again(cluster: Cluster, authority: Authority, control_plane: ControlPlane) -> None:
    before = control_plane.server
    with cluster.node_a.inside():
        server = ApiServer(before.server_address[1], tls=authority.server_context())
    server.store, server.faults = before.store, before.faults
    control_plane.server = server.start()


@pytest.fixture
def saved(cluster: Cluster, control_plane: ControlPlane, state_file: Path) -> ControlPlane:
    """A cluster whose API server has stopped, and whose agent was killed after it saved the objects."""
    with Agent(cluster, control_plane, flag(state_file)) as agent:
        agent.wait_synced()
        wait_until(state_file.exists)
        control_plane.server.stop()
        agent.stop(signal.SIGKILL)
    return control_plane


@pytest.fixture
def booted(cluster: Cluster, saved: ControlPlane) -> ControlPlane:
    """The same, after the node lost what was in its kernel."""
    with cluster.node_a.inside():
        reset_host_state()
    assert responders(cluster, count=1) == set()
    return saved


def status(cluster: Cluster, control_plane: ControlPlane, state_file: Path) -> str:
    source = ("--kubeconfig", str(control_plane.kubeconfig), "--hostname-override", NODE_NAME)
    return run(cluster.node_a, sys.executable, "-m", "kubeproxy_py", "status", *source, flag(state_file))


def is_serving_saved(cluster: Cluster) -> bool:
    return sum(samples(scrape(cluster.node_a), "kubeproxy_ipvs_serving_saved_objects").values()) == 1


def event_reasons(control_plane: ControlPlane) -> list[str]:
    stored = control_plane.server.store.snapshot("events")[1]
    return [json.loads(event.body)["reason"] for event in stored]


def test_node_that_boots_without_its_api_server_serves_what_was_saved_and_then_only_what_differs_changes(
    cluster: Cluster, authority: Authority, booted: ControlPlane, state_file: Path
) -> None:
    with Agent(cluster, booted, flag(state_file)) as agent:
        agent.wait_synced()
        assert agent.wait_for(SERVING_SAVED)
        assert responders(cluster) == {"pod-a1", "pod-b1"}
        assert responders(cluster, DNS) == {"pod-a1"}
        printed = status(cluster, booted, state_file)
        assert "STALE: the API server does not answer" in printed
        assert "shop/web" in printed
        assert is_serving_saved(cluster)
        assert "ServedSavedObjects" not in event_reasons(booted)

        booted.apply(endpoint_slice("web", ["pod-a1", "pod-b2"]))
        since = len(agent.lines())
        start_server_again(cluster, authority, booted)
        assert "1 added, 1 draining;" in agent.wait_for(EVENT, since)
        agent.wait_for("API server answered; its objects have replaced the saved ones", since)
        assert responders(cluster) == {"pod-a1", "pod-b2"}
        assert not is_serving_saved(cluster)
        assert "STALE" not in status(cluster, booted, state_file)
        wait_until(lambda: "ServedSavedObjects" in event_reasons(booted))
        assert len([line for line in agent.lines()[since:] if re.search(EVENT, line)]) == 1


def test_node_that_boots_without_its_api_server_hands_on_to_the_nodes_that_were_saved(
    cluster: Cluster, authority: Authority, control_plane: ControlPlane, state_file: Path, tmp_path: Path
) -> None:
    far, exact = Served("far", 1, ("pod-b1",), "tunnel"), "--policies=exact"
    control_plane.apply(*far.objects(), *map(node, NODES))
    (tmp_path / "node-b").mkdir()
    folder = Folder(tmp_path / "node-b")
    write(folder, far)
    with AgentProcess(cluster["node-b"], folder.path, exact, "--hostname-override", "node-b") as there:
        there.wait_synced()
        with Agent(cluster, control_plane, flag(state_file), exact) as agent:
            agent.wait_synced()
            wait_until(lambda: "node-b" in names_saved(state_file))
            control_plane.server.stop()
            agent.stop(signal.SIGKILL)
        with cluster.node_a.inside():
            reset_host_state()
        with Agent(cluster, control_plane, flag(state_file), exact) as agent:
            agent.wait_synced()
            assert agent.wait_for(SERVING_SAVED)
            assert query(cluster["outside"], "tcp", far.vip(4), 80, 20.0).name == "pod-b1"
            assert "Tunnel" in run(cluster.node_a, "ipvsadm", "-Ln")

            since = len(agent.lines())
            start_server_again(cluster, authority, control_plane)
            agent.wait_for("API server answered; its objects have replaced the saved ones", since)
            assert query(cluster["outside"], "tcp", far.vip(4), 80, 20.0).name == "pod-b1"
            assert not [line for line in agent.lines()[since:] if re.search(EVENT, line)], "what was handed on changed"


def names_saved(state_file: Path) -> set[str]:
    return {name.name for _, name in decode(state_file.read_bytes()).objects} if state_file.exists() else set()


def test_agent_that_is_killed_before_the_api_server_answers_serves_saved_objects_again(
    cluster: Cluster, booted: ControlPlane, state_file: Path
) -> None:
    with Agent(cluster, booted, flag(state_file)) as agent:
        agent.wait_synced()
        agent.stop(signal.SIGKILL)
    run(cluster.node_a, "ip", "address", "del", f"{WEB}/32", "dev", "kube-ipvs0")  # as if it had not come so far
    with Agent(cluster, booted, flag(state_file)) as agent:
        assert "1 added;" in agent.wait_synced()
        assert responders(cluster) == {"pod-a1", "pod-b1"}


def test_kernel_that_serves_services_is_newer_than_what_was_saved(
    cluster: Cluster, authority: Authority, saved: ControlPlane, state_file: Path
) -> None:
    before = kernel_state(cluster.node_a)
    assert responders(cluster) == {"pod-a1", "pod-b1"}
    with Agent(cluster, saved, flag(state_file)) as agent:
        agent.wait_for("Saved objects not used: the kernel serves Services already")
        assert differences(before, kernel_state(cluster.node_a)) == []
        start_server_again(cluster, authority, saved)
        assert "nothing to do" in agent.wait_synced()
    assert responders(cluster) == {"pod-a1", "pod-b1"}


def make_foreign(content: bytes) -> bytes:
    saved = decode(content)
    return encode(Saved(replace(saved.origin, cluster=("ca of another cluster",)), saved.objects))


def damage(content: bytes) -> bytes:
    return content[: len(content) // 2]


@pytest.mark.parametrize(("spoil", "cause"), [(make_foreign, "is of another cluster"), (damage, "is damaged")])
def test_file_that_cannot_be_used_is_set_aside_and_the_api_server_is_waited_for(
    cluster: Cluster,
    authority: Authority,
    booted: ControlPlane,
    state_file: Path,
    spoil: Callable[[bytes], bytes],
    cause: str,
) -> None:
    state_file.write_bytes(spoil(state_file.read_bytes()))
    with Agent(cluster, booted, flag(state_file)) as agent:
        assert cause in agent.wait_for("Saved objects cannot be used; waiting for the API server")
        assert [path.name.partition(".bad-")[0] for path in state_file.parent.iterdir()] == [NAME]
        assert not state_file.exists()
        assert responders(cluster, count=1) == set()
        start_server_again(cluster, authority, booted)
        agent.wait_synced()
        assert responders(cluster) == {"pod-a1", "pod-b1"}
        wait_until(state_file.exists)
