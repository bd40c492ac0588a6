"""The ClusterRole is what the agent asks for: all of it, and nothing else."""

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
from tests.deploy.role import GuardedServer, Right, asked_for, shipped

PATIENCE_S = 20.0


@pytest.fixture
def server() -> Iterator[GuardedServer]:
    made = GuardedServer()
    made.start()
    yield made
    made.stop()


@contextmanager
def synced_source(server: GuardedServer) -> Iterator[None]:
    """A source of *server* that has told every first list, and watches."""
    told: queue.Queue[tuple[Event, ...]] = queue.Queue()
    source = KubeSource(None, server.url, "node-a")
    source.start(lambda *events: told.put(events))
    try:
        awaited = {"services", "slices", "node"}
        while awaited:
            awaited -= {event.feed for event in told.get(timeout=PATIENCE_S) if isinstance(event, Synced)}
        wait(lambda: sum(right.verb == "watch" for right in server.used) >= 3)
        yield
    finally:
        source.stop()


def wait(holds: Callable[[], bool]) -> None:
    from tests.e2e.agent_process import wait_until

    wait_until(holds, within_s=PATIENCE_S)


def post_a_series(server: GuardedServer) -> None:
    """Have an Event made, and then made a series of."""
    posting = Poster(ApiConnection(lambda: connect(None, server.url)), Recorder("host-1"), lambda: 0.0)
    posting.start()
    for _ in range(2):
        posting.tell(started_event("node-a"))
    assert posting.flush(PATIENCE_S)
    posting.stop()


def test_what_the_agent_asks_for_is_the_role(server: GuardedServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(poster, "PACE_S", 0.0)
    with synced_source(server):
        post_a_series(server)
    server.faults.absent = {"endpointslices"}
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
def test_requests_are_taken_for_what_they_are(method: str, path: str, right: Right) -> None:
    assert asked_for(method, path) == right


def test_a_right_that_the_role_does_not_give_is_refused(server: GuardedServer) -> None:
    from tests.apiserver.client import Client

    status, answer = Client(server.url).ask("DELETE", "/api/v1/nodes/node-a")
    assert (status, answer["reason"]) == (403, "Forbidden")
