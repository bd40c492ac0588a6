"""Answers of the API server that are no list, and lists that lack everything, under traffic.

`{}` from something between the node and the API server must not remove a virtual server, neither from an agent that
runs nor at a start; an empty list is accepted only after a second one.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from lab.client import QueryError, query
from lab.network import Cluster
from tests.apiserver.certificates import Authority
from tests.e2e.agent_process import wait_until
from tests.e2e.control_plane import Agent, ControlPlane, running_control_plane
from tests.e2e.kernel_state import run
from tests.e2e.manifests import service_with_slice
from tests.e2e.serving import cluster_fixture

pytestmark = pytest.mark.kernel

WEB = "10.96.82.1"
LISTS = ("services", "endpointslices", "nodes")
DOUBTED = "nothing is removed before a second list confirms it"


cluster = cluster_fixture


@pytest.fixture
def control_plane(cluster: Cluster, authority: Authority, tmp_path: Path) -> Iterator[ControlPlane]:
    with running_control_plane(cluster, authority, tmp_path) as running:
        running.apply(*service_with_slice("web", WEB, ["pod-a1", "pod-b1"]))
        yield running


@contextmanager
def requests_of_a_pod(cluster: Cluster) -> Iterator[list[str]]:
    """Have a pod connect to the Service over and over; yield the failures."""
    failures: list[str] = []
    ended = threading.Event()

    def connect() -> None:
        while not ended.wait(0.02):
            try:
                query(cluster["pod-a2"], "tcp", WEB, 80, 20.0)
            except (QueryError, OSError) as error:
                failures.append(repr(error))

    thread = threading.Thread(target=connect, daemon=True)
    thread.start()
    yield failures
    ended.set()
    thread.join(10)


def have_lists_read_again(control_plane: ControlPlane) -> None:
    """Expire the versions of all watches and end them."""
    control_plane.server.store.version += 1
    control_plane.server.store.compact()
    control_plane.server.close_connections()


def have_web_served(cluster: Cluster, control_plane: ControlPlane) -> None:
    """Have a predecessor serve the Service, unless an earlier test did."""
    if WEB not in virtual_servers(cluster):
        with Agent(cluster, control_plane) as agent:
            agent.wait_synced()


def virtual_servers(cluster: Cluster) -> str:
    return run(cluster.node_a, "ipvsadm", "-Sn")


def test_empty_object_instead_of_a_list_removes_nothing_under_traffic(
    cluster: Cluster, control_plane: ControlPlane
) -> None:
    with Agent(cluster, control_plane) as agent:
        agent.wait_synced()
        before = virtual_servers(cluster)
        assert WEB in before
        with requests_of_a_pod(cluster) as failures:
            control_plane.server.faults.raw_lists = dict.fromkeys(LISTS, b"{}")
            have_lists_read_again(control_plane)
            for path in LISTS:
                agent.wait_for(f"/{path}: list: the response is not a .*List: it has no kind")
            assert virtual_servers(cluster) == before
            control_plane.server.faults.raw_lists = {}
            control_plane.apply(*service_with_slice("late", "10.96.82.2", ["pod-a1"]))
            wait_until(lambda: "10.96.82.2:" in virtual_servers(cluster))
        assert failures == []


def test_empty_object_instead_of_the_first_list_removes_nothing(cluster: Cluster, control_plane: ControlPlane) -> None:
    have_web_served(cluster, control_plane)
    before = virtual_servers(cluster)
    control_plane.server.faults.raw_lists = dict.fromkeys(LISTS, b'{"status":"ok"}')
    with Agent(cluster, control_plane) as restarted, requests_of_a_pod(cluster) as failures:
        for path in LISTS:
            restarted.wait_for(f"/{path}: list: the response is not a .*List: it has no kind")
        assert virtual_servers(cluster) == before
        control_plane.server.faults.raw_lists = {}
        restarted.wait_synced()
        assert WEB in virtual_servers(cluster)
    assert failures == []


def test_empty_first_list_is_accepted_after_a_second_one(cluster: Cluster, control_plane: ControlPlane) -> None:
    have_web_served(cluster, control_plane)
    meta = {"resourceVersion": "500"}
    empty = json.dumps({"kind": "ServiceList", "apiVersion": "v1", "metadata": meta, "items": []}).encode()
    control_plane.server.store.version = 500
    control_plane.server.faults.raw_lists = {"services": empty}
    with Agent(cluster, control_plane) as restarted:
        restarted.wait_for(DOUBTED)
        assert WEB in virtual_servers(cluster)
        wait_until(lambda: any("ListDoubted" in write for write in event_reasons(control_plane)))
        restarted.wait_for("confirmed by a second list")
        restarted.wait_synced()
        assert WEB not in virtual_servers(cluster)


def event_reasons(control_plane: ControlPlane) -> list[str]:
    _, events = control_plane.server.store.snapshot("events")
    return [event.parsed()["reason"] for event in events]
