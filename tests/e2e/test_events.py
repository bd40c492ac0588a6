"""Kubernetes Events by an agent on a real kernel: at the API server, and in the log."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from lab.client import query
from lab.network import BY_NAME, Cluster
from tests.apiserver.certificates import Authority
from tests.apiserver.client import Client
from tests.e2e.agent_process import AgentProcess, wait_until
from tests.e2e.control_plane import Agent, ControlPlane, responders, running_control_plane
from tests.e2e.kernel_state import shell
from tests.e2e.manifests import Folder, Object, Port, service_with_slice
from tests.e2e.serving import cluster_fixture
from tests.events.kubectl import get_events

pytestmark = pytest.mark.kernel

NODE_IP = BY_NAME["node-a"].ipv4
PORTS = (Port(8000),)
WARNING_LINE = r"W.*ExternalIPOnNode.*" + re.escape(NODE_IP)


cluster = cluster_fixture


@pytest.fixture
def control_plane(cluster: Cluster, authority: Authority, tmp_path: Path) -> Iterator[ControlPlane]:
    with running_control_plane(cluster, authority, tmp_path) as running:
        yield running


def service_on_node(name: str, number: int) -> list[Object]:
    """Return a Service with one pod, whose externalIP is an address of node A."""
    return service_with_slice(name, f"10.96.81.{number}", ["pod-b1"], PORTS, externalIPs=[NODE_IP])


@contextmanager
def synced_agent(cluster: Cluster, control_plane: ControlPlane) -> Iterator[Agent]:
    # The Services of an earlier test are not listed any more, for which a list would be doubted, with an Event.
    with Agent(cluster, control_plane, "--removal-confirm-percent=0") as agent:
        agent.wait_synced()
        yield agent


def list_events(cluster: Cluster, control_plane: ControlPlane, authority: Authority) -> list[Object]:
    """Return the Events of all namespaces, as clients of the API see them."""
    token = next(iter(control_plane.server.faults.tokens or ()))
    with cluster.node_a.inside():
        status, response = Client(control_plane.server.url, token, authority.file).request_json(
            "GET", "/apis/events.k8s.io/v1/events"
        )
    assert status == 200, response
    return sorted(response["items"], key=lambda event: str(event["eventTime"]))


def test_kubectl_shows_the_start_and_the_external_ip_that_is_not_bound(
    cluster: Cluster, control_plane: ControlPlane, authority: Authority
) -> None:
    control_plane.apply(*service_on_node("web", 1))
    with synced_agent(cluster, control_plane):
        wait_until(lambda: len(list_events(cluster, control_plane, authority)) == 2, poll_s=0.2)
        text = get_events(list_events(cluster, control_plane, authority))
        assert "kube-ipvs0" not in shell(cluster.node_a, f"ip -o addr show to {NODE_IP}")
        assert query(cluster["outside"], "tcp", NODE_IP, 8000).name == "pod-b1"
    assert re.fullmatch(
        r"LAST SEEN +TYPE +REASON +OBJECT +MESSAGE\n"
        r"\d+s +Normal +Starting +node/node-a +\n"
        r"\d+s +Warning +ExternalIPOnNode +service/web +externalIPs 192\.168\.3\.10 are also addresses of node "
        r"node-a: .*\n",
        text,
    )


def test_missing_role_for_events_is_logged_once_and_services_are_served(
    cluster: Cluster, control_plane: ControlPlane, authority: Authority
) -> None:
    control_plane.server.faults.forbidden = {("create", "events"), ("patch", "events")}
    control_plane.apply(*service_on_node("web", 1), *service_on_node("shop", 2))
    with synced_agent(cluster, control_plane) as agent:
        wait_until(lambda: len([line for line in control_plane.server.writes if line.startswith("POST")]) == 3)
        agent.wait_for("the role needs create and patch on events")
        assert query(cluster["pod-a1"], "tcp", "10.96.81.1", 8000).name == "pod-b1"
        assert len([line for line in agent.lines() if "Failed to post Kubernetes Events" in line]) == 1
    assert list_events(cluster, control_plane, authority) == []


def test_sync_does_not_wait_for_the_post_of_an_event(
    cluster: Cluster, control_plane: ControlPlane, authority: Authority
) -> None:
    with synced_agent(cluster, control_plane) as agent:
        wait_until(lambda: len(list_events(cluster, control_plane, authority)) == 1, poll_s=0.2)
        control_plane.server.faults.delay_s = 60.0  # of responses; open watches continue
        control_plane.apply(*service_on_node("web", 1))
        agent.wait_for(WARNING_LINE)
        control_plane.apply(*service_with_slice("late", "10.96.81.3", ["pod-b1"], PORTS))
        wait_until(lambda: responders(cluster, "10.96.81.3", count=1, port=8000) == {"pod-b1"})
        wait_until(lambda: len(control_plane.server.writes) == 2)


def test_events_are_logged_with_a_folder_of_manifests(cluster: Cluster, tmp_path: Path) -> None:
    Folder(tmp_path).write("web", service_on_node("web", 1))
    with AgentProcess(cluster.node_a, tmp_path) as agent:
        agent.wait_synced()
        assert "Service shop/web" in agent.wait_for(WARNING_LINE)


def test_every_line_of_a_json_log_is_a_record_at_any_verbosity(
    cluster: Cluster, control_plane: ControlPlane, authority: Authority
) -> None:
    control_plane.apply(*service_on_node("web", 1))
    with Agent(cluster, control_plane, "--logging-format=json", "-v10") as agent:
        agent.wait_for("ExternalIPOnNode")
        agent.wait_synced()  # the warning precedes the line of the sync
        records = [json.loads(line) for line in agent.lines()]
    assert all({"ts", "caller", "msg"} <= record.keys() for record in records)
    (synced,) = [record for record in records if "(first sync)" in record["msg"]]
    assert (synced["v"], type(synced["apply_ms"])) == (0, float)
