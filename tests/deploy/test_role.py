"""The ClusterRole has exactly the rights that the agent uses."""

from __future__ import annotations

import queue
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from kubeproxy_py.events import poster
from kubeproxy_py.events.kube_events import started_event
from kubeproxy_py.events.poster import Poster
from kubeproxy_py.events.recorder import Recorder
from kubeproxy_py.model.events import Event, Synced
from kubeproxy_py.sources.kubernetes.api_connection import ApiConnection
from kubeproxy_py.sources.kubernetes.source import KubeSource, connect
from tests.deploy.role import GuardedServer, Right, required_right, shipped

TIMEOUT_S = 60.0


@pytest.fixture
def server() -> Iterator[GuardedServer]:
    server = GuardedServer()
    server.start()
    yield server
    server.stop()


@contextmanager
def synced_source(server: GuardedServer) -> Iterator[None]:
    """Run a source of *server* within the `with`, after its initial lists and the start of its watches."""
    received: queue.Queue[tuple[Event, ...]] = queue.Queue()
    source = KubeSource(None, server.url, "node-a")
    source.start(lambda *events: received.put(events))
    try:
        missing = {"services", "slices", "node"}
        while missing:
            missing -= {event.feed for event in received.get(timeout=TIMEOUT_S) if isinstance(event, Synced)}
        wait(lambda: sum(right.verb == "watch" for right in server.used) >= 3)
        yield
    finally:
        source.stop()


def wait(condition: Callable[[], bool]) -> None:
    from tests.e2e.agent_process import wait_until

    wait_until(condition, timeout_s=TIMEOUT_S)


def post_a_series(server: GuardedServer) -> None:
    """Post an Event twice, which creates it and then makes it a series."""
    posting = Poster(ApiConnection(lambda: connect(None, server.url)), Recorder("host-1"), lambda: 0.0)
    posting.start()
    for _ in range(2):
        posting.enqueue(started_event("node-a"))
    assert posting.flush(TIMEOUT_S)
    posting.stop()


def test_role_has_exactly_the_rights_that_the_agent_uses(
    server: GuardedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(poster, "PACE_S", 0.0)
    with synced_source(server):
        post_a_series(server)
    server.faults.missing_types = {"endpointslices"}
    with synced_source(server):
        pass
    assert server.used == shipped()


@pytest.mark.parametrize(
    ("method", "path", "right"),
    [
        ("GET", "/api/v1/services?limit=500", Right("list", "", "services")),
        ("GET", "/api/v1/nodes?watch=1", Right("watch", "", "nodes")),
        ("GET", "/api/v1/nodes/node-a", Right("get", "", "nodes")),
        ("POST", "/apis/events.k8s.io/v1/namespaces/shop/events", Right("create", "events.k8s.io", "events")),
        ("PATCH", "/apis/events.k8s.io/v1/namespaces/shop/events/e", Right("patch", "events.k8s.io", "events")),
        ("DELETE", "/apis/discovery.k8s.io/v1/namespaces/a/endpointslices/b",
         Right("delete", "discovery.k8s.io", "endpointslices")),
    ],
)  # fmt: skip
def test_required_right_of_a_request(method: str, path: str, right: Right) -> None:
    assert required_right(method, path) == right


def test_request_without_a_right_of_the_role_is_forbidden(server: GuardedServer) -> None:
    from tests.apiserver.client import Client

    status, answer = Client(server.url).request_json("DELETE", "/api/v1/nodes/node-a")
    assert (status, answer["reason"]) == (403, "Forbidden")
