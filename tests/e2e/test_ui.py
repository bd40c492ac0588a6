"""The page /ui of a running agent: reachable at loopback only, with the state that the agent has."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from http.client import HTTPConnection
from pathlib import Path

import pytest

from lab.client import query
from lab.namespace import Namespace
from lab.network import Cluster
from tests.e2e.agent_process import AgentProcess, wait_until
from tests.e2e.kernel_state import run
from tests.e2e.manifests import Folder, service, service_with_slice

pytestmark = pytest.mark.kernel

ADDRESS = ("127.0.0.1", 10247)
WEB = "10.96.0.10"


@pytest.fixture(scope="module")
def node(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Namespace]:
    """Yield the namespace of a running agent with a page."""
    folder = Folder(tmp_path_factory.mktemp("services"))
    folder.write("web", service_with_slice("web", WEB, ["pod-a1"]))
    folder.write("lone", [service("lone", "10.96.0.11")])
    with AgentProcess(cluster.node_a, folder.path, "--ui=127.0.0.1") as agent:
        agent.wait_for('"Serving the page of this agent" url="http://127.0.0.1:10247/ui"')
        agent.wait_synced()
        yield cluster.node_a


def get(node: Namespace, path: str, host: str = "localhost:10247") -> tuple[int, bytes]:
    with node.inside():
        connection = HTTPConnection(*ADDRESS, timeout=60)
        connection.connect()
    try:
        connection.request("GET", path, headers={"Host": host})
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


def test_page_and_the_state_that_it_reads_are_served(node: Namespace) -> None:
    status, body = get(node, "/ui")
    assert (status, body[:15]) == (200, b"<!doctype html>")
    state = json.loads(get(node, "/v1/status?realServers=false")[1])
    found = {one["name"]: one["virtualServers"][0] for one in state["services"]}
    assert (found["web"]["status"], found["lone"]["reason"]) == ("serving", "no EndpointSlice")
    assert json.loads(get(node, "/v1/explain?target=shop/lone")[1])["verdict"] == "wrong"


def test_traffic_of_a_service_is_counted(node: Namespace, cluster: Cluster) -> None:
    def count() -> int:
        (real,) = json.loads(get(node, "/v1/traffic?service=shop/web")[1])["realServers"]
        assert real["virtualServer"] == f"{WEB}:80/TCP"
        return int(real["counters"]["connections"])

    before = count()
    for _ in range(5):
        query(cluster["pod-a2"], "tcp", WEB, 80)
    wait_until(lambda: count() == before + 5, poll_s=0.3)  # the kernel changes counters every 2 s


def test_names_of_other_sites_are_refused(node: Namespace) -> None:
    assert [get(node, path, "evil.example")[0] for path in ("/ui", "/v1/status")] == [403, 403]


def test_no_other_address_of_the_node_answers(node: Namespace) -> None:
    lines = [line.split() for line in run(node, "cat", "/proc/net/tcp").split("\n")[1:] if line]
    listening = [line[1] for line in lines if line[3] == "0A" and line[1].endswith(f":{ADDRESS[1]:04X}")]
    assert listening == [f"0100007F:{ADDRESS[1]:04X}"]


def test_address_that_is_in_use_is_retried(namespace: Namespace, tmp_path: Path) -> None:
    run(namespace, "ip", "link", "set", "lo", "up")
    with namespace.inside():
        taken = socket.create_server(("127.0.0.9", 10247))
    with AgentProcess(namespace, tmp_path, "--ui=127.0.0.9:10247") as agent:
        agent.wait_for('"Failed to serve the page of this agent, retrying')
        agent.wait_synced()  # Services are served all the same
        taken.close()
        agent.wait_for('"Serving the page of this agent" url="http://127.0.0.9:10247/ui"')
