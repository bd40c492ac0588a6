"""The agent with an API server: served traffic, closed connections, outages and restarts.

The API server is the stand-in (tests/apiserver) over TLS, in node A's namespace, with a kubeconfig like kubeadm's: a
certificate authority and a tokenFile.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from lab.network import Cluster
from tests.apiserver.certificates import Authority
from tests.e2e.agent_process import wait_until
from tests.e2e.control_plane import WEB, Agent, ControlPlane, responders, running_control_plane
from tests.e2e.manifests import endpoint_slice, service, service_with_slice
from tests.e2e.serving import cluster_fixture

pytestmark = pytest.mark.kernel


cluster = cluster_fixture


@pytest.fixture
def control_plane(cluster: Cluster, authority: Authority, tmp_path: Path) -> Iterator[ControlPlane]:
    with running_control_plane(cluster, authority, tmp_path) as running:
        running.apply(*service_with_slice("web", WEB, ["pod-a1", "pod-b1"]))
        yield running


@contextmanager
def synced_agent(cluster: Cluster, control_plane: ControlPlane) -> Iterator[Agent]:
    with Agent(cluster, control_plane) as agent:
        agent.wait_synced()
        yield agent


def test_objects_of_the_api_server_are_served(cluster: Cluster, control_plane: ControlPlane) -> None:
    with synced_agent(cluster, control_plane) as agent:
        assert responders(cluster) == {"pod-a1", "pod-b1"}
        with agent.syncing():
            control_plane.apply(endpoint_slice("web", ["pod-b2"]))
        assert responders(cluster) == {"pod-b2"}
        with agent.syncing():
            control_plane.apply(*service_with_slice("late", "10.96.80.2", ["pod-a1"]))
        wait_until(lambda: responders(cluster, "10.96.80.2") == {"pod-a1"})
        with agent.syncing():
            control_plane.server.store.delete("services", ("shop", "late"))
        # That sync may have been the one of the slice of `late`: its line comes up to a tenth of a second later.
        wait_until(lambda: responders(cluster, "10.96.80.2") == set())


def test_service_given_to_another_proxy_is_no_longer_served(cluster: Cluster, control_plane: ControlPlane) -> None:
    with synced_agent(cluster, control_plane) as agent:
        foreign = service("web", WEB)
        foreign["metadata"]["labels"]["service.kubernetes.io/service-proxy-name"] = "other"
        with agent.syncing():
            control_plane.apply(foreign)
        assert responders(cluster) == set()


def test_traffic_is_served_during_an_outage_of_the_api_server_and_changes_afterwards(
    cluster: Cluster, control_plane: ControlPlane
) -> None:
    with synced_agent(cluster, control_plane) as agent:
        control_plane.server.respond_next(503, times=2, kind="Status", reason="ServiceUnavailable", code=503)
        control_plane.server.close_connections()
        assert responders(cluster) == {"pod-a1", "pod-b1"}
        with agent.syncing():
            control_plane.apply(endpoint_slice("web", ["pod-b2"]))
        assert responders(cluster) == {"pod-b2"}


def test_compacted_history_leads_to_a_new_list(cluster: Cluster, control_plane: ControlPlane) -> None:
    with synced_agent(cluster, control_plane) as agent:
        control_plane.server.faults.delay_s = 0.3  # so that the change precedes the new watch
        control_plane.server.close_connections()
        with agent.syncing():
            control_plane.server.store.delete("services", ("shop", "web"))
            control_plane.apply(*service_with_slice("late", "10.96.80.2", ["pod-a1"]))
            control_plane.server.store.compact()
            control_plane.server.close_connections()
        control_plane.server.faults.delay_s = 0.0
        wait_until(lambda: responders(cluster, "10.96.80.2") == {"pod-a1"} and not responders(cluster))


def test_rotated_token_is_used_from_the_next_request(cluster: Cluster, control_plane: ControlPlane) -> None:
    with synced_agent(cluster, control_plane) as agent:
        control_plane.set_token("rotated-token")
        control_plane.server.close_connections()
        with agent.syncing():
            control_plane.apply(endpoint_slice("web", ["pod-b2"]))
        assert responders(cluster) == {"pod-b2"}
        assert not [line for line in agent.lines() if "rotated-token" in line or "first\\n" in line]


def test_restart_with_the_same_objects_changes_nothing(cluster: Cluster, control_plane: ControlPlane) -> None:
    with synced_agent(cluster, control_plane) as agent:
        status, _ = agent.stop(signal.SIGTERM)
        assert status == 0
    assert responders(cluster) == {"pod-a1", "pod-b1"}
    with Agent(cluster, control_plane) as restarted:
        assert "nothing to do" in restarted.wait_synced()


def test_invalid_object_is_named_and_the_others_are_served(cluster: Cluster, control_plane: ControlPlane) -> None:
    bad = service("bad", "10.96.80.3")
    bad["spec"]["ports"][0]["port"] = 70000
    control_plane.apply(bad)
    with synced_agent(cluster, control_plane) as agent:
        line = agent.wait_for("shop/bad")
        assert "spec.ports[0].port" in line
        assert responders(cluster) == {"pod-a1", "pod-b1"}


def test_kernel_is_unchanged_before_every_list_is_complete(cluster: Cluster, control_plane: ControlPlane) -> None:
    with synced_agent(cluster, control_plane):
        pass
    control_plane.server.respond_next(503, times=3, kind="Status", reason="ServiceUnavailable", code=503)
    with Agent(cluster, control_plane) as restarted:
        assert responders(cluster) == {"pod-a1", "pod-b1"}
        assert "nothing to do" in restarted.wait_synced()
    assert responders(cluster) == {"pod-a1", "pod-b1"}
