"""The ClusterRole, tested with a real kube-apiserver with RBAC, where its programs are installed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import pytest

from kubeproxy_py.events.kube_events import KubeEvent, Regarding
from kubeproxy_py.events.poster import Poster
from kubeproxy_py.events.recorder import Recorder
from kubeproxy_py.model.events import Event, NodeUpserted, ServiceUpserted, SliceUpserted, Synced
from kubeproxy_py.sources.kubernetes.api_connection import ApiConnection
from kubeproxy_py.sources.kubernetes.source import KubeSource, connect
from tests.apiserver.client import Client
from tests.apiserver.objects import endpoint_slice, kubeconfig, node, service
from tests.apiserver.real import agent_client, binaries, real_server
from tests.deploy.manifests import BASE, Object, find, objects_of
from tests.e2e.agent_process import wait_until

TIMEOUT_S = 20.0
LATE = "10.1.0.6"
STARTING = KubeEvent("Normal", "Starting", "StartKubeProxy", Regarding("Service", "web", "default"))
FEEDS = {"services", "slices", "node"}
_ROLES = "/apis/rbac.authorization.k8s.io/v1"
_EVENTS = "/apis/events.k8s.io/v1/namespaces/default/events"


class Guarded(NamedTuple):
    """A server with RBAC; *unbound* is the status of the agent's request before its role was bound."""

    admin: Client
    agent: Client
    kubeconfig: str  # the agent's
    unbound: int


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    folder = binaries()
    if folder is None:
        pytest.skip("KUBEBUILDER_ASSETS names no folder with kube-apiserver and etcd: RBAC is not tested")
    directory = tmp_path_factory.mktemp("rbac")
    with real_server(folder, directory, "RBAC") as admin:
        agent = agent_client(admin)
        unbound, _ = agent.request_json("GET", "/api/v1/services")
        _bind_role(admin)
        # The authorizer receives roles by a watch of its own.
        wait_until(lambda: agent.request_json("GET", "/api/v1/services")[0] == 200, timeout_s=TIMEOUT_S)
        for document in (service("web"), endpoint_slice("web-1"), node("node-a")):
            admin.apply(document)
        yield Guarded(admin, agent, kubeconfig(directory, agent), unbound)


def _bind_role(admin: Client) -> None:
    """Create the shipped role and its binding."""
    shipped = objects_of(BASE)
    for kind, plural in (("ClusterRole", "clusterroles"), ("ClusterRoleBinding", "clusterrolebindings")):
        status, answer = admin.request_json("POST", f"{_ROLES}/{plural}", find(shipped, kind))
        assert status == 201, answer


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture
def received(guarded: Guarded) -> Iterator[list[Event]]:
    """Return the events of the agent's source, from its initial lists on; more are added while the test runs."""
    events: list[Event] = []
    source = KubeSource(guarded.kubeconfig, None, "node-a")
    source.start(lambda *more: events.extend(more))
    try:
        wait_until(lambda: _synced(events) == FEEDS, lambda: str(events), timeout_s=TIMEOUT_S)
        yield events
    finally:
        source.stop()


def _synced(events: list[Event]) -> set[str]:
    return {event.feed for event in events if isinstance(event, Synced)}


def test_agent_is_forbidden_without_the_binding(guarded: Guarded) -> None:
    assert guarded.unbound == 403


def test_role_is_sufficient_for_the_initial_lists(received: list[Event]) -> None:
    services = {event.service.name.name for event in received if isinstance(event, ServiceUpserted)}
    slices = {event.slice.service.name for event in received if isinstance(event, SliceUpserted)}
    nodes = {event.node.name for event in received if isinstance(event, NodeUpserted)}
    assert ("web" in services, "web" in slices, nodes) == (True, True, {"node-a"})


def _is_service(event: Event) -> bool:
    return isinstance(event, ServiceUpserted) and event.service.name.name == "late"


def _is_slice(event: Event) -> bool:
    return isinstance(event, SliceUpserted) and event.slice.endpoints[0].address == LATE


def _is_node(event: Event) -> bool:
    return isinstance(event, NodeUpserted)


@pytest.mark.parametrize(
    ("change", "is_expected"),
    [
        (service("late"), _is_service),
        (endpoint_slice("late-1", LATE), _is_slice),
        ({**node("node-a"), "metadata": {"name": "node-a", "labels": {"topology.kubernetes.io/zone": "b"}}}, _is_node),
    ],
    ids=["services", "endpointslices", "nodes"],
)
def test_role_is_sufficient_for_the_watches(
    guarded: Guarded, received: list[Event], change: Object, is_expected: Callable[[Event], bool]
) -> None:
    since = len(received)
    guarded.admin.apply(change)
    wait_until(lambda: any(map(is_expected, received[since:])), lambda: str(received[since:]), timeout_s=TIMEOUT_S)


def test_role_is_sufficient_for_an_event_that_becomes_a_series(guarded: Guarded) -> None:
    poster = Poster(ApiConnection(lambda: connect(guarded.kubeconfig, None)), Recorder("host-1"), lambda: 0.0)
    poster.start()
    try:
        for _ in range(2):
            poster.enqueue(STARTING)
        assert poster.flush(TIMEOUT_S)
    finally:
        poster.stop()
    _, events = guarded.admin.request_json("GET", _EVENTS)
    assert [event["series"]["count"] for event in events["items"] if event["reason"] == "Starting"] == [2]


@pytest.mark.parametrize("query", ["limit=1", "watch=1&timeoutSeconds=1"])
def test_role_is_sufficient_for_the_endpoints_of_old_servers(guarded: Guarded, query: str) -> None:
    with guarded.agent.open(guarded.agent.request("GET", f"/api/v1/endpoints?{query}")) as answer:
        assert answer.status == 200


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/api/v1/secrets"),
        ("GET", "/api/v1/namespaces/kube-system/secrets/any"),
        ("GET", "/api/v1/pods"),
        ("GET", "/api/v1/nodes/node-a"),
        ("DELETE", "/api/v1/namespaces/default/services/web"),
        ("DELETE", "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices/web-1"),
        ("GET", _EVENTS),
        ("GET", f"{_ROLES}/clusterroles"),
    ],
)
def test_requests_beyond_the_role_are_forbidden(guarded: Guarded, method: str, path: str) -> None:
    status, answer = guarded.agent.request_json(method, path)
    assert (status, answer["reason"]) == (403, "Forbidden")
