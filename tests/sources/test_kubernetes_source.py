"""KubeSource: lists, watches, connections and credentials, against the stand-in and a real API server."""

import base64
import json
import logging
import re
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kubeproxy_py.backoff import Backoff
from kubeproxy_py.model.events import (
    Event,
    NodeUpserted,
    PeerDeleted,
    PeersRefused,
    PeerUpserted,
    ServiceDeleted,
    ServiceUpserted,
    SliceDeleted,
    SliceUpserted,
    Synced,
)
from kubeproxy_py.model.peers import NO_NEEDS, PeerNeeds
from kubeproxy_py.model.problem import Problem
from kubeproxy_py.sources import FEEDS, SourceError
from kubeproxy_py.sources.client_metrics import ClientMetrics
from kubeproxy_py.sources.initial_snapshot import read_initial_snapshot
from kubeproxy_py.sources.kubernetes import client, reachability, retry_schedule, source, watch_monitor, watch_thread
from kubeproxy_py.sources.kubernetes.client import SOCKET_OPTIONS
from kubeproxy_py.sources.kubernetes.listing import Doubt
from kubeproxy_py.sources.kubernetes.open_watch import PROBE_AFTER_S, PROBE_TIMEOUT_S
from kubeproxy_py.sources.kubernetes.source import KubeSource
from tests.apiserver import ApiServer
from tests.apiserver.certificates import Authority
from tests.apiserver.client import Client
from tests.apiserver.objects import Json, endpoint_slice, kubeconfig, node, service
from tests.sources.conftest import PATIENCE_S, EventLog, wait_until
from tests.unreadable import UNREADABLE, as_nobody, make_unreadable

SECRET = "s3cr3t-token"
PROBE = re.compile("timeoutSeconds=1(&|$)")


def is_service(name: str) -> Any:
    return lambda event: isinstance(event, ServiceUpserted) and event.service.name.name == name


def ignore_events(*_events: Event) -> None: ...


def is_problem(text: str) -> Any:
    return lambda event: isinstance(event, Problem) and text in str(event)


@pytest.fixture(autouse=True)
def _short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retry_schedule, "BACKOFF", Backoff(0.02, 30.0, jitter=1.0))
    monkeypatch.setattr(retry_schedule, "RELIST_JITTER_S", 0.02)
    monkeypatch.setattr(retry_schedule, "RESUME_JITTER_S", 0.02)
    monkeypatch.setattr(retry_schedule, "CONFIRM_S", (0.3, 0.3))
    monkeypatch.setattr(reachability, "DELAY", Backoff(0.02, 0.2))


@pytest.fixture
def start_source(event_log: EventLog) -> Iterator[Any]:
    """Start sources that emit to *event_log* and are stopped after the test."""
    sources: list[KubeSource] = []

    def start(path: str | None = None, master: str | None = None, **options: Any) -> KubeSource:
        source = KubeSource(path, master, "node-a", **options)
        sources.append(source)
        source.start(event_log)
        return source

    yield start
    for started in sources:
        started.stop()


@pytest.fixture
def synced_server(server: ApiServer, start_source: Any, event_log: EventLog) -> ApiServer:
    """The stand-in server, with a source that has synced with it."""
    server.faults.bookmark_period_s = 0.05
    server.apply(service("first"))
    server.apply(service("stays"))  # else a list without "first" would lack all that is known, and be doubted
    start_source(master=server.url)
    event_log.wait_for_synced(*FEEDS)
    return server


def watch_count(server: ApiServer, resource: str = "") -> int:
    """Return how many watches of *resource* were requested."""
    watches = [request for request in list(server.requests) if "watch=" in request and not PROBE.search(request)]
    return sum(resource in request for request in watches)


def list_count(server: ApiServer) -> int:
    """Return how many lists were requested."""
    return sum("watch=" not in request for request in list(server.requests)) - probe_count(server)


def probe_count(server: ApiServer) -> int:
    """Return how often the server was asked about silent watches."""
    return sum("limit=1&" in request and "NotOlderThan" in request for request in list(server.requests))


# Against both servers


def test_initial_objects_are_emitted_before_synced_and_changes_after(
    cluster: Client, tmp_path: Path, start_source: Any, event_log: EventLog
) -> None:
    cluster.apply(node("node-a"))
    cluster.apply(node("node-b"))
    there = service("there")
    cluster.apply(there)
    start_source(kubeconfig(tmp_path, cluster))
    event_log.wait_for_synced(*FEEDS)
    emitted = [event for _, event in event_log.events]
    assert [event.node.name for event in emitted if isinstance(event, NodeUpserted)] == ["node-a"]
    names = [
        event.service.name.name
        for event in emitted[: emitted.index(Synced("services"))]
        if isinstance(event, ServiceUpserted)
    ]
    assert "there" in names

    cluster.apply(service("comes"))
    event_log.wait_for(is_service("comes"))
    cluster.apply(endpoint_slice("comes-1"))
    event_log.wait_for(lambda event: isinstance(event, SliceUpserted) and event.slice.service.name == "web")
    cluster.delete(there)
    event_log.wait_for(lambda event: isinstance(event, ServiceDeleted) and event.name.name == "there")
    cluster.delete(endpoint_slice("comes-1"))
    event_log.wait_for(lambda event: isinstance(event, SliceDeleted))


def test_service_given_to_another_proxy_is_deleted(
    cluster: Client, tmp_path: Path, start_source: Any, event_log: EventLog
) -> None:
    body = service("changes")
    cluster.apply(body)
    start_source(kubeconfig(tmp_path, cluster))
    event_log.wait_for(is_service("changes"))
    labels = {"service.kubernetes.io/service-proxy-name": "other"}
    cluster.apply({**body, "metadata": {**body["metadata"], "labels": labels}})
    event_log.wait_for(lambda event: isinstance(event, ServiceDeleted) and event.name.name == "changes")


def test_initial_snapshot_is_complete(cluster: Client, tmp_path: Path) -> None:
    cluster.apply(service("collected"))
    events = read_initial_snapshot(KubeSource(kubeconfig(tmp_path, cluster), None, "node-a"), timeout_s=PATIENCE_S)
    assert any(is_service("collected")(event) for event in events)
    assert sum(isinstance(event, Synced) for event in events) == 3


def test_list_longer_than_a_page_is_complete(server: ApiServer) -> None:
    server.store.create_all(service(f"s-{number}") for number in range(1201))
    events = read_initial_snapshot(KubeSource(None, server.url, "node-a"), timeout_s=PATIENCE_S)
    assert sum(isinstance(event, ServiceUpserted) for event in events) == 1201
    assert sum("continue=" in request for request in server.requests) == 0  # the server's cache has no pages
    assert [path.partition("?")[0] for path in server.compressed] == ["/api/v1/services"]  # the others are small


def test_relist_is_from_the_servers_cache(synced_server: ApiServer, event_log: EventLog) -> None:
    version = synced_server.store.version
    with synced_server.store.changed:  # no watch sees the next change
        synced_server.store.create("services", service("second"))
        synced_server.store.compact()
    event_log.wait_for(is_service("second"))
    wanted = f"/api/v1/services?resourceVersion={version}&resourceVersionMatch=NotOlderThan"
    assert any(request.startswith(wanted) for request in synced_server.requests)


def test_list_that_is_too_large_is_read_by_pages(server: ApiServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "BODY_MAX_BYTES", 200_000)
    server.store.create_all(service(f"s-{number}") for number in range(1201))
    events = read_initial_snapshot(KubeSource(None, server.url, "node-a"), timeout_s=PATIENCE_S)
    assert sum(isinstance(event, ServiceUpserted) for event in events) == 1201
    assert sum("continue=" in request for request in server.requests) == 2
    assert not any(isinstance(event, Problem) for event in events)


# Connections


def test_change_is_emitted_within_50_ms_without_a_new_request(synced_server: ApiServer, event_log: EventLog) -> None:
    wait_until(lambda: watch_count(synced_server) == 3)
    requests = len(synced_server.requests)
    latencies_s: list[float] = []
    while min(latencies_s, default=1.0) >= 0.05 and len(latencies_s) < 50:  # a busy machine delays some
        name = f"s-{len(latencies_s)}"
        before = time.monotonic()
        synced_server.apply(service(name))
        latencies_s.append(event_log.wait_for(is_service(name))[0] - before)
    assert min(latencies_s) < 0.05, latencies_s
    assert len(synced_server.requests) == requests


def test_closed_connection_is_resumed_without_a_new_list(synced_server: ApiServer, event_log: EventLog) -> None:
    lists = list_count(synced_server)
    synced_server.close_connections()
    synced_server.apply(service("after"))
    event_log.wait_for(is_service("after"))
    assert list_count(synced_server) == lists


def test_compacted_history_leads_to_a_new_list(synced_server: ApiServer, event_log: EventLog) -> None:
    with synced_server.store.changed:  # no watch sees the next changes
        synced_server.store.delete("services", ("default", "first"))
        synced_server.store.create("services", service("second"))
        synced_server.store.compact()
    event_log.wait_for(is_service("second"))
    event_log.wait_for(lambda event: isinstance(event, ServiceDeleted) and event.name.name == "first")
    assert not any(isinstance(event, Problem) for _, event in event_log.events)


def test_watch_resumes_after_a_restart_of_the_server(synced_server: ApiServer, event_log: EventLog) -> None:
    port = synced_server.server_address[1]
    store = synced_server.store
    synced_server.stop()
    event_log.wait_for(is_problem("connection"))
    store.create("services", service("meanwhile"))
    again = ApiServer(port)
    again.store = store
    again.start()
    try:
        event_log.wait_for(is_service("meanwhile"))
    finally:
        again.stop()


class HeardFeeds(ClientMetrics):
    """Records when the server last sent something for each feed, and which lists were doubted."""

    def __init__(self) -> None:
        self.last_activity_s: dict[str, float] = {}
        self.doubted: list[str] = []

    def data_received(self, feed: str) -> None:
        self.last_activity_s[feed] = time.monotonic()

    def list_doubted(self, feed: str) -> None:
        self.doubted.append(feed)


@pytest.fixture
def silent_server(
    server: ApiServer, start_source: Any, event_log: EventLog, monkeypatch: pytest.MonkeyPatch
) -> ApiServer:
    """The stand-in server without bookmarks; a source that has synced asks it after 0.3 s of silence."""
    monkeypatch.setattr(source, "PROBE_AFTER_S", 0.3)
    server.faults.bookmark_period_s = None
    server.apply(service("first"))
    server.apply(node("node-a"))
    start_source(master=server.url)
    event_log.wait_for_synced(*FEEDS)
    wait_until(lambda: watch_count(server) == 3)
    return server


def test_idle_watch_is_asked_about_and_never_ended(
    server: ApiServer, start_source: Any, event_log: EventLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(source, "PROBE_AFTER_S", 0.1)
    server.faults.bookmark_period_s = None
    metrics = HeardFeeds()
    start_source(master=server.url, metrics=metrics)
    event_log.wait_for_synced(*FEEDS)
    wait_until(lambda: watch_count(server) == 3)
    accepted_s = time.monotonic()
    wait_until(lambda: min(metrics.last_activity_s.values()) > accepted_s)  # the answer counts as heard
    assert watch_count(server) == 3
    assert not any(isinstance(event, Problem) for _, event in event_log.events)
    server.apply(service("later"))
    event_log.wait_for(is_service("later"))


def test_watch_that_does_not_send_the_servers_changes_is_replaced(
    silent_server: ApiServer, event_log: EventLog
) -> None:
    silent_server.freeze_watches()
    silent_server.apply(service("unsent"))
    event_log.wait_for(is_problem("the server has changes that the open watch did not send"))
    event_log.wait_for(is_service("unsent"))


def test_server_that_hangs_is_noticed_and_watches_go_on_when_it_answers(
    silent_server: ApiServer, event_log: EventLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch_monitor, "PROBE_TIMEOUT_S", 2.0)
    silent_server.faults.dead = True
    event_log.wait_for(is_problem("it is open, but nothing was received in time"))
    silent_server.apply(service("meanwhile"))
    silent_server.faults.dead = False
    event_log.wait_for(is_service("meanwhile"))


def test_restored_server_is_noticed_by_a_silent_watch(silent_server: ApiServer, event_log: EventLog) -> None:
    backup = silent_server.store.backup()
    silent_server.apply(service("lost"))
    event_log.wait_for(is_service("lost"))
    silent_server.store.restore(backup)
    event_log.wait_for(is_problem("the server no longer knows the resource version"))
    event_log.wait_for(lambda event: isinstance(event, ServiceDeleted) and event.name.name == "lost")
    silent_server.apply(service("new"))
    event_log.wait_for(is_service("new"))


def test_restored_server_is_noticed_by_a_new_watch(silent_server: ApiServer, event_log: EventLog) -> None:
    backup = silent_server.store.backup()
    silent_server.apply(service("lost"))
    event_log.wait_for(is_service("lost"))
    silent_server.store.restore(backup)
    silent_server.close_connections()
    event_log.wait_for(lambda event: isinstance(event, ServiceDeleted) and event.name.name == "lost")


def test_watches_go_on_together_when_the_server_answers_again(
    server: ApiServer, start_source: Any, event_log: EventLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    long_s = 10 * PATIENCE_S
    monkeypatch.setattr(reachability, "DELAY", Backoff(long_s, long_s))
    monkeypatch.setattr(reachability, "ATTEMPT_MAX_S", long_s)
    shared = start_source(master=server.url).api.reachability
    event_log.wait_for_synced(*FEEDS)
    port, store = server.server_address[1], server.store
    server.stop()
    event_log.wait_for(is_problem("connection"))
    wait_until(lambda: shared.is_failing)
    again = ApiServer(port)
    again.store = store
    again.start()
    try:
        with shared._changed:  # the delay has passed: one of them tries
            shared._due_s = 0.0
            shared._changed.notify_all()
        wait_until(lambda: watch_count(again) == 3)  # the others at once, not after a delay of their own
    finally:
        again.stop()


NOT_LISTS = {
    "empty object": b"{}",
    "health page": b'{"status":"ok"}',
    "Status": b'{"kind":"Status","apiVersion":"v1","status":"Success","code":200}',
    "PodList": b'{"kind":"PodList","apiVersion":"v1","metadata":{"resourceVersion":"900"},"items":[]}',
    "no version": b'{"kind":"%sList","apiVersion":"v1","metadata":{},"items":[]}',
    "null item": b'{"kind":"%sList","apiVersion":"v1","metadata":{"resourceVersion":"900"},"items":[null]}',
    "empty item": b'{"kind":"%sList","apiVersion":"v1","metadata":{"resourceVersion":"900"},"items":[{}]}',
}
KINDS = {"services": b"Service", "endpointslices": b"EndpointSlice", "nodes": b"Node"}


@pytest.mark.parametrize("answer", NOT_LISTS)
def test_answer_that_is_not_the_list_removes_nothing(
    server: ApiServer, start_source: Any, event_log: EventLog, answer: str
) -> None:
    server.apply(service("first"))
    server.apply(endpoint_slice("first-1"))
    server.apply(node("node-a"))
    start_source(master=server.url)
    event_log.wait_for_synced(*FEEDS)
    server.faults.raw_lists = {plural: NOT_LISTS[answer].replace(b"%s", kind) for plural, kind in KINDS.items()}
    server.store.version += 1
    server.store.compact()
    server.close_connections()
    for path in ("/services", "/endpointslices", "/nodes"):
        wait_until(lambda path=path: any(is_problem(f"{path}: list: ")(event) for _, event in event_log.events))  # type: ignore[misc]
    server.faults.raw_lists = {}
    server.apply(service("after"))
    event_log.wait_for(is_service("after"))
    assert not any(isinstance(event, ServiceDeleted | SliceDeleted) for _, event in event_log.events)


def empty_list(kind: str, version: int) -> bytes:
    meta = {"resourceVersion": str(version)}
    return json.dumps({"kind": f"{kind}List", "apiVersion": "v1", "metadata": meta, "items": []}).encode()


def relist_with(server: ApiServer, raw: bytes) -> None:
    """Have the source list Services again, which the server answers with *raw*."""
    server.faults.raw_lists = {"services": raw}
    server.store.version += 1
    server.store.compact()
    server.close_connections()


def test_empty_list_is_accepted_after_a_second_one(server: ApiServer, start_source: Any, event_log: EventLog) -> None:
    doubts: list[Doubt] = []
    metrics = HeardFeeds()
    server.apply(service("first"))
    start_source(master=server.url, metrics=metrics, caution=source.Caution(on_doubt=doubts.append))
    event_log.wait_for_synced(*FEEDS)
    relist_with(server, empty_list("Service", 500))
    doubted_s, _ = event_log.wait_for(is_problem("1 of 1 known Service objects are missing"))
    removed_s, _ = event_log.wait_for(lambda event: isinstance(event, ServiceDeleted))
    assert removed_s - doubted_s >= 0.3
    event_log.wait_for(is_problem("confirmed by a second list"))
    assert [doubt.message for doubt in doubts] == ["1 of 1 known Service objects are missing"]
    assert metrics.doubted == ["services"]


def test_empty_list_that_a_second_one_contradicts_removes_nothing(
    server: ApiServer, start_source: Any, event_log: EventLog
) -> None:
    server.apply(service("first"))
    start_source(master=server.url)
    event_log.wait_for_synced(*FEEDS)
    relist_with(server, empty_list("Service", 500))
    event_log.wait_for(is_problem("1 of 1 known Service objects are missing"))
    server.faults.raw_lists = {}
    server.store.version = 600
    server.apply(service("after"))
    event_log.wait_for(is_service("after"))
    assert not any(isinstance(event, ServiceDeleted) for _, event in event_log.events)


def test_empty_first_list_is_doubted_where_the_kernel_serves_services(
    server: ApiServer, start_source: Any, event_log: EventLog
) -> None:
    start_source(master=server.url, caution=source.Caution(served=frozenset({"10.96.0.1"})))
    event_log.wait_for_synced(*FEEDS)
    event_log.wait_for(is_problem("1 of 1 Service addresses of this node would no longer be served"))


def test_passing_403_is_not_reported(server: ApiServer, start_source: Any, event_log: EventLog) -> None:
    server.faults.forbidden = {(verb, plural) for verb in ("list", "watch") for plural in KINDS}
    start_source(master=server.url)
    wait_until(lambda: len(server.requests) >= 6)
    server.faults.forbidden = set()
    event_log.wait_for_synced(*FEEDS)
    assert not any(isinstance(event, Problem) for _, event in event_log.events)


def test_list_is_logged_with_its_reason(
    synced_server: ApiServer, event_log: EventLog, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "kubeproxy_py")
    relist_with(synced_server, b"<html>")
    event_log.wait_for(is_problem("the response is not a list"))
    assert any(
        record.getMessage() == "Listing again" and "410: the version" in str(record.__dict__)
        for record in caplog.records
    )


def test_hanging_server_is_noticed_within_45_s() -> None:
    """`python -m bench.outages` measures it on a process that is stopped by SIGSTOP."""
    idle_probes_s = 2 * 1.0  # of the other watches, each a watch of one second
    assert PROBE_AFTER_S + idle_probes_s + PROBE_TIMEOUT_S < 45
    options = {(level, option): value for level, option, value in SOCKET_OPTIONS}
    tcp = socket.IPPROTO_TCP
    probes_s = options[tcp, socket.TCP_KEEPINTVL] * options[tcp, socket.TCP_KEEPCNT]
    assert options[tcp, socket.TCP_KEEPIDLE] + probes_s < 45
    assert options[tcp, socket.TCP_USER_TIMEOUT] < 45_000


def test_socket_options_are_those_of_the_connection(server: ApiServer) -> None:
    connection = source.connect(None, server.url)
    response = connection.get("/api/v1/services?watch=true", 5.0)
    used = response._response.connection.sock
    assert [used.getsockopt(level, option) for level, option, _ in SOCKET_OPTIONS] == [
        value for _, _, value in SOCKET_OPTIONS
    ]
    response.close()


def test_accepted_watch_may_be_silent_for_longer_than_it_takes_to_accept_one(
    server: ApiServer, start_source: Any, event_log: EventLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch_thread, "ACCEPT_TIMEOUT_S", 0.3)
    server.faults.bookmark_period_s = None
    start_source(master=server.url)
    event_log.wait_for_synced(*FEEDS)
    wait_until(lambda: watch_count(server) >= 3)

    def is_over() -> bool:  # a busy machine may not accept each of them in time
        before = watch_count(server)
        time.sleep(0.8)
        return watch_count(server) == before

    wait_until(is_over)


@pytest.mark.parametrize("gzip", [False, True])
def test_lists_that_never_end_take_a_bounded_memory_that_is_returned(server: ApiServer, gzip: bool) -> None:
    server.faults.endless_lists = True
    server.faults.no_gzip = not gzip
    command = [sys.executable, "-m", "tests.sources.memory_of_lists", server.url]
    printed = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout
    before_mib, largest_mib, after_mib = map(float, printed.split())
    assert largest_mib - before_mib < 130  # pieces of three lists that reach 64 MiB each
    assert after_mib - before_mib < 30
    limits = {limit for limit in ("500", "62", "7", "1") if any(f"limit={limit}&" in path for path in server.requests)}
    assert limits == {"500", "62", "7", "1"}


def test_bookmarks_keep_a_quiet_watch_up_to_date(
    server: ApiServer, start_source: Any, event_log: EventLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(source, "PROBE_AFTER_S", 3.0)
    server.faults.bookmark_period_s = 0.05
    server.faults.progress_notices = True
    started = start_source(master=server.url)
    event_log.wait_for_synced(*FEEDS)
    wait_until(lambda: watch_count(server) == 3)  # a bookmark needs a version after that of the watch
    server.apply(service("moves-the-version"))
    event_log.wait_for(is_service("moves-the-version"))
    version = server.store.version
    time.sleep(4.0)  # longer than a silent watch is left alone, with bookmarks 60 times in that
    wait_until(lambda: {thread.activity and thread.activity.version for thread in started._threads} == {str(version)})
    assert (watch_count(server), probe_count(server)) == (3, 0)
    server.close_connections()
    server.apply(service("after"))
    event_log.wait_for(is_service("after"))
    resumed = [request for request in server.requests if "watch=" in request][3:]
    assert all(f"resourceVersion={version}" in request for request in resumed[:3])


def test_slow_server_is_waited_for(server: ApiServer) -> None:
    server.faults.delay_s = 0.3
    server.apply(service("slow"))
    events = read_initial_snapshot(KubeSource(None, server.url, "node-a"), timeout_s=PATIENCE_S)
    assert any(is_service("slow")(event) for event in events)


def test_retry_after_of_a_busy_server_is_honoured(server: ApiServer, start_source: Any, event_log: EventLog) -> None:
    server.respond_next(429, {"Retry-After": "1"}, times=3, reason="TooManyRequests", message="busy")
    before = time.monotonic()
    start_source(master=server.url)
    event_log.wait_for(is_problem("HTTP 429: busy"))
    event_log.wait_for_synced("services")
    assert time.monotonic() - before >= 1


def test_list_completes_although_continuations_expire(server: ApiServer) -> None:
    server.faults.pages_from_cache = True
    server.store.create_all(service(f"s-{number}") for number in range(1201))
    server.faults.expire_after_pages = 1
    events = read_initial_snapshot(KubeSource(None, server.url, "node-a"), timeout_s=PATIENCE_S)
    assert len({event.service.name for event in events if isinstance(event, ServiceUpserted)}) == 1201


def test_old_server_is_read_by_endpoints_and_without_field_selector(server: ApiServer) -> None:
    server.faults.missing_types = {"endpointslices"}
    server.faults.unsupported_field_selectors = frozenset({"spec.clusterIP"})
    server.apply(service("web"))
    subsets = [{"addresses": [{"ip": "10.1.0.5"}], "ports": [{"port": 8080}]}]
    meta = {"name": "web", "namespace": "default"}
    server.apply({"apiVersion": "v1", "kind": "Endpoints", "metadata": meta, "subsets": subsets})
    events = read_initial_snapshot(KubeSource(None, server.url, "node-a"), timeout_s=PATIENCE_S)
    assert any(is_service("web")(event) for event in events)
    assert any(isinstance(event, SliceUpserted) and event.slice.service.name == "web" for event in events)
    assert not any(isinstance(event, Problem) for event in events)


def test_stop_ends_the_threads_and_nothing_is_emitted_after_it(
    server: ApiServer, start_source: Any, event_log: EventLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(source, "_JOIN_TIMEOUT_S", PATIENCE_S)
    started = start_source(master=server.url)
    event_log.wait_for_synced("node")
    wait_until(lambda: watch_count(server) == 3)
    started.stop()
    assert not [thread for thread in started._threads if thread._thread and thread._thread.is_alive()]
    event_log.events.clear()
    server.apply(service("late"))
    time.sleep(0.1)
    assert event_log.events == []


def test_initial_snapshot_timeout_names_the_missing_feeds_and_the_cause(
    server: ApiServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retry_schedule, "REFUSED_MAX_S", 0.0)  # the first one is reported
    server.respond_next(403, times=1000, reason="Forbidden", message="services is forbidden")
    with pytest.raises(SourceError, match=r"initial list of node, services, slices not received within 3 s .*HTTP 403"):
        read_initial_snapshot(KubeSource(None, server.url, "node-a"), timeout_s=3)


# Credentials


def events_through(path: str, server: ApiServer, name: str) -> list[Event]:
    server.apply(service(name))
    events = read_initial_snapshot(KubeSource(path, None, "node-a"), timeout_s=PATIENCE_S)
    assert any(is_service(name)(event) for event in events)
    return events


@pytest.fixture
def secured(authority: Authority) -> Iterator[ApiServer]:
    """The stand-in server with TLS, which accepts only the token SECRET."""
    server = ApiServer(tls=authority.server_context()).start()
    server.faults.tokens = {SECRET}
    yield server
    server.stop()


def with_ca(authority: Authority) -> Json:
    return {"certificate-authority": str(authority.file)}


def test_token_file_may_end_in_a_newline(secured: ApiServer, authority: Authority, tmp_path: Path) -> None:
    (tmp_path / "token").write_text(f"{SECRET}\n")
    path = kubeconfig(tmp_path, secured, {"tokenFile": "token"}, with_ca(authority))
    events_through(path, secured, "web")


def test_token_file_is_read_at_each_request(
    secured: ApiServer, authority: Authority, tmp_path: Path, start_source: Any, event_log: EventLog
) -> None:
    (tmp_path / "token").write_text(SECRET)
    start_source(kubeconfig(tmp_path, secured, {"tokenFile": "token"}, with_ca(authority)))
    event_log.wait_for_synced(*FEEDS)
    wait_until(lambda: watch_count(secured) == 3)  # no other request reads the file while it is written
    (tmp_path / "token").write_text("rotated\n")
    secured.faults.tokens = {"rotated"}
    secured.close_connections()
    secured.apply(service("rotated"))
    event_log.wait_for(is_service("rotated"))
    assert not any(isinstance(event, Problem) for _, event in event_log.events)


def test_kubeconfig_is_read_again_after_a_401(
    secured: ApiServer, authority: Authority, tmp_path: Path, start_source: Any, event_log: EventLog
) -> None:
    start_source(kubeconfig(tmp_path, secured, {"token": SECRET}, with_ca(authority)))
    event_log.wait_for_synced("services")
    kubeconfig(tmp_path, secured, {"token": "rotated"}, with_ca(authority))
    secured.faults.tokens = {"rotated"}
    secured.close_connections()
    secured.apply(service("rotated"))
    event_log.wait_for(is_service("rotated"))


def exec_plugin(directory: Path, token: str) -> Json:
    """Write an exec plugin that counts its calls; return the user entry for it."""
    program = directory / "plugin"
    status = {"token": token}
    answer = {"apiVersion": "client.authentication.k8s.io/v1", "kind": "ExecCredential", "status": status}
    program.write_text(
        f"#!{sys.executable}\nimport os\n"
        f"open({str(directory / 'calls')!r}, 'a').write(os.environ['MARK'])\nprint({json.dumps(answer)!r})\n"
    )
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    return {
        "exec": {
            "apiVersion": "client.authentication.k8s.io/v1",
            "command": str(program),
            "args": ["--cluster=x"],
            "env": [{"name": "MARK", "value": "."}],
            "interactiveMode": "Never",
        }
    }


def test_exec_plugin_is_run_at_start_and_after_a_401(
    secured: ApiServer, authority: Authority, tmp_path: Path, start_source: Any, event_log: EventLog
) -> None:
    start_source(kubeconfig(tmp_path, secured, exec_plugin(tmp_path, SECRET), with_ca(authority)))
    event_log.wait_for_synced("services")
    assert (tmp_path / "calls").read_text() == "."
    exec_plugin(tmp_path, "rotated")
    secured.faults.tokens = {"rotated"}
    secured.close_connections()
    secured.apply(service("rotated"))
    event_log.wait_for(is_service("rotated"))


def test_failing_exec_plugin_is_an_error_with_a_hint(secured: ApiServer, authority: Authority, tmp_path: Path) -> None:
    user = exec_plugin(tmp_path, SECRET)
    (tmp_path / "plugin").write_text("#!/bin/sh\nexit 1\n")
    source = KubeSource(kubeconfig(tmp_path, secured, user, with_ca(authority)), None, "node-a")
    with pytest.raises(SourceError, match=r"exec returned no credentials \(run its command by hand\)"):
        source.start(ignore_events)


def test_client_certificate_is_sent(authority: Authority, tmp_path: Path) -> None:
    server = ApiServer(tls=authority.server_context(client_certificates=True)).start()
    certificate, key = authority.issue("client")
    user = {"client-certificate": str(certificate), "client-key": str(key)}
    try:
        events_through(kubeconfig(tmp_path, server, user, with_ca(authority)), server, "web")
    finally:
        server.stop()


def test_certificates_may_be_inline_in_the_kubeconfig(authority: Authority, tmp_path: Path) -> None:
    def inline(path: Path) -> str:
        return base64.b64encode(path.read_bytes()).decode()

    server = ApiServer(tls=authority.server_context(client_certificates=True)).start()
    certificate, key = authority.issue("inline")
    user = {"client-certificate-data": inline(certificate), "client-key-data": inline(key)}
    ca = {"certificate-authority-data": inline(authority.file)}
    try:
        events_through(kubeconfig(tmp_path, server, user, ca), server, "web")
    finally:
        server.stop()


def test_missing_client_certificate_is_a_problem_with_a_hint(
    authority: Authority, tmp_path: Path, start_source: Any, event_log: EventLog
) -> None:
    server = ApiServer(tls=authority.server_context(client_certificates=True)).start()
    start_source(kubeconfig(tmp_path, server, {}, with_ca(authority)))
    try:
        event_log.wait_for(is_problem("TLS: tlsv13 alert certificate required (the server does not accept our client"))
    finally:
        server.stop()


def test_wrong_ca_is_a_problem_with_a_hint(
    secured: ApiServer, tmp_path: Path, start_source: Any, event_log: EventLog
) -> None:
    other = Authority(tmp_path / "other", "other-ca")
    start_source(kubeconfig(tmp_path, secured, {"token": SECRET}, with_ca(other)))
    _, event = event_log.wait_for(lambda event: isinstance(event, Problem))
    assert str(event) == (
        f"{secured.url}: TLS: certificate verify failed: unable to get local issuer certificate "
        "(certificate-authority must be the CA that signed the server's certificate)"
    )


def test_corrected_ca_is_used(
    secured: ApiServer, authority: Authority, tmp_path: Path, start_source: Any, event_log: EventLog
) -> None:
    other = Authority(tmp_path / "other", "other-ca")
    start_source(kubeconfig(tmp_path, secured, {"token": SECRET}, with_ca(other)))
    event_log.wait_for(is_problem("TLS"))
    kubeconfig(tmp_path, secured, {"token": SECRET}, with_ca(authority))
    event_log.wait_for_synced("services")


def test_certificate_of_another_address_is_a_problem_with_a_hint(
    authority: Authority, tmp_path: Path, start_source: Any, event_log: EventLog
) -> None:
    server = ApiServer(tls=authority.server_context(address="192.0.2.1")).start()
    start_source(kubeconfig(tmp_path, server, {"token": SECRET}, with_ca(authority)))
    try:
        event_log.wait_for(is_problem("set server, or tls-server-name, to a name in the server's certificate"))
    finally:
        server.stop()


def test_tls_server_name_and_insecure_skip_verify_are_honoured(authority: Authority, tmp_path: Path) -> None:
    server = ApiServer(tls=authority.server_context(address="192.0.2.1")).start()
    try:
        named = {**with_ca(authority), "tls-server-name": "localhost"}
        events_through(kubeconfig(tmp_path, server, {}, named), server, "named")
        events_through(kubeconfig(tmp_path, server, {}, {"insecure-skip-tls-verify": True}), server, "insecure")
    finally:
        server.stop()


def test_service_account_is_used_in_a_pod_and_its_token_rotates(
    secured: ApiServer,
    authority: Authority,
    tmp_path: Path,
    start_source: Any,
    event_log: EventLog,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from kubernetes.config import incluster_config

    (tmp_path / "token").write_text(f"{SECRET}\n")
    monkeypatch.setattr(incluster_config, "SERVICE_TOKEN_FILENAME", str(tmp_path / "token"))
    monkeypatch.setattr(incluster_config, "SERVICE_CERT_FILENAME", str(authority.file))
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "127.0.0.1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", str(secured.server_address[1]))
    start_source()
    event_log.wait_for_synced("services")
    (tmp_path / "token").write_text("rotated\n")
    secured.faults.tokens = {"rotated"}
    secured.close_connections()
    secured.apply(service("rotated"))
    event_log.wait_for(is_service("rotated"))


def test_missing_configuration_outside_of_a_pod_is_an_error() -> None:
    with pytest.raises(SourceError, match=r"not in a pod with a service account.*set --kubeconfig or --manifests"):
        KubeSource(None, None, "node-a").start(ignore_events)


def test_master_overrides_the_kubeconfigs_server(server: ApiServer, tmp_path: Path) -> None:
    path = kubeconfig(tmp_path, Client("http://127.0.0.1:9"))
    server.apply(service("web"))
    for master in (server.url, server.url.removeprefix("http://")):
        events = read_initial_snapshot(KubeSource(path, master, "node-a"), timeout_s=PATIENCE_S)
        assert any(is_service("web")(event) for event in events)


INVALID_KUBECONFIGS: list[tuple[str, str]] = [
    ("", r"expected object, got null"),
    ("a: b: c", r"line 1: invalid YAML"),
    ("[]", r"expected object, got array"),
    ("{}", r"current-context is missing"),
    ("current-context: x", r"current-context is 'x', which is not in contexts"),
    ("{current-context: x, contexts: [{name: x, context: {cluster: c}}]}", r"the context's cluster is 'c', which"),
    ("{current-context: x, contexts: [{name: x}]}", r"contexts\[0\]"),
    (f"a: &a [{'x, ' * 999}]\nb: [{'*a, ' * 999}]", r"line 2: invalid YAML: more than 200000 values"),
    ("[" * 50_000, r"line 1: invalid YAML: nested deeper than 100 levels"),
]


@pytest.mark.parametrize(("text", "message"), INVALID_KUBECONFIGS)
def test_invalid_kubeconfig_is_an_error_that_names_the_field(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "kubeconfig"
    path.write_text(text)
    with pytest.raises(SourceError, match=message):
        KubeSource(str(path), None, "node-a").start(ignore_events)


FILE_FIELDS = ["certificate-authority", "client-certificate", "client-key", "tokenFile"]


def kubeconfig_with_file(folder: Path, server: ApiServer, field: str, file: str) -> str:
    """Write a kubeconfig whose *field* names *file*, and return its path."""
    part = {field: file}
    in_cluster = field == "certificate-authority"
    return kubeconfig(folder, server, {} if in_cluster else part, part if in_cluster else {})


@pytest.mark.parametrize("field", FILE_FIELDS)
def test_missing_file_of_a_kubeconfig_is_an_error(server: ApiServer, tmp_path: Path, field: str) -> None:
    path = kubeconfig_with_file(tmp_path, server, field, "/none")
    with pytest.raises(SourceError, match=f"{field}: /none: No such file or directory .*mounted"):
        KubeSource(path, None, "node-a").start(ignore_events)


@pytest.mark.parametrize("field", FILE_FIELDS)
@pytest.mark.parametrize(("kind", "message"), UNREADABLE.items())
def test_file_of_a_kubeconfig_that_cannot_be_read_is_an_error_with_a_hint(
    server: ApiServer, tmp_path: Path, field: str, kind: str, message: str
) -> None:
    path = kubeconfig_with_file(tmp_path, server, field, str(make_unreadable(tmp_path, kind)))
    with as_nobody(tmp_path), pytest.raises(SourceError, match=rf"{field}: .*: {message}"):
        KubeSource(path, None, "node-a").start(ignore_events)


@pytest.mark.parametrize(
    ("field", "message"), [*((name, "is not PEM") for name in FILE_FIELDS[:3]), ("tokenFile", "has char")]
)
def test_file_of_a_kubeconfig_with_other_content_is_an_error_without_the_content(
    server: ApiServer, tmp_path: Path, field: str, message: str
) -> None:
    (tmp_path / "file").write_bytes(b"\xff\xfe" + SECRET.encode())
    path = kubeconfig_with_file(tmp_path, server, field, "file")
    with pytest.raises(SourceError, match=rf"{field}: file: {message}") as raised:
        KubeSource(path, None, "node-a").start(ignore_events)
    assert SECRET not in str(raised.value)


@pytest.mark.parametrize(("kind", "message"), UNREADABLE.items())
def test_kubeconfig_that_cannot_be_read_is_an_error_with_a_hint(tmp_path: Path, kind: str, message: str) -> None:
    path = make_unreadable(tmp_path, kind)
    with as_nobody(tmp_path), pytest.raises(SourceError, match=rf"kubeconfig .*: {message}"):
        KubeSource(str(path), None, "node-a").start(ignore_events)


def test_missing_kubeconfig_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="No such file or directory"):
        KubeSource(str(tmp_path / "none"), None, "node-a").start(ignore_events)


INVALID_USERS: list[Json] = [
    {"token": f"{SECRET}\nx"},
    {"token": f"{SECRET}ü"},
    {"token": SECRET, "exec": {"command": "x"}},
    {"token": [SECRET]},
    {"token": SECRET, "auth-provider": {"config": {"x": "y"}}},
    {"token": SECRET, "client-certificate-data": "!", "client-key-data": SECRET},
]


@pytest.mark.parametrize("user", INVALID_USERS, ids=["newline", "umlaut", "exec", "list", "provider", "certificate"])
def test_no_secret_is_emitted_or_logged(
    secured: ApiServer,
    authority: Authority,
    tmp_path: Path,
    event_log: EventLog,
    caplog: pytest.LogCaptureFixture,
    user: Json,
) -> None:
    caplog.set_level(logging.DEBUG)
    secured.faults.tokens = set()
    source = KubeSource(kubeconfig(tmp_path, secured, user, with_ca(authority)), None, "node-a")
    try:
        source.start(event_log)
        event_log.wait_for(lambda event: isinstance(event, Problem))
        source.stop()
        text = str(event_log.events)
    except SourceError as error:
        text = str(error)
    assert text
    assert SECRET not in text + caplog.text


IMPORTED = """
import sys
from kubeproxy_py.sources import SourceError
from kubeproxy_py.sources.kubernetes.source import connect
try:
    connect(sys.argv[1] or None, "http://127.0.0.1:1")
except SourceError as error:  # the auth-provider has no issuer
    assert "auth-provider" in open(sys.argv[1]).read(), error
print(*sys.modules)
"""
NOT_NEEDED = {"kubernetes.client.models", "kubernetes.dynamic", "kubernetes.watch", "requests", "oauthlib", "pydantic"}


def imported_with(kubeconfig: str) -> set[str]:
    argv = [sys.executable, "-c", IMPORTED, kubeconfig]
    return set(subprocess.run(argv, capture_output=True, text=True, check=True).stdout.split())


def test_models_and_what_only_a_kubeconfig_needs_are_not_imported_without_one() -> None:
    imported = imported_with("")
    assert "kubernetes.client.rest" in imported
    assert imported.isdisjoint(NOT_NEEDED | {"kubernetes.config.kube_config"})


def test_openid_connect_is_imported_only_for_a_kubeconfig_with_an_auth_provider(
    server: ApiServer, tmp_path: Path
) -> None:
    imported = imported_with(kubeconfig(tmp_path, server, {"token": SECRET}))
    assert "kubernetes.config.kube_config" in imported
    assert imported.isdisjoint(NOT_NEEDED)
    with_provider = {"token": SECRET, "auth-provider": {"name": "oidc", "config": {}}}
    assert {"requests", "oauthlib"} <= imported_with(kubeconfig(tmp_path, server, with_provider))


def test_settings_of_a_service_are_read_by_lists_and_watches(
    cluster: Client, tmp_path: Path, start_source: Any, event_log: EventLog
) -> None:
    cluster.apply(node("node-a"))
    cluster.apply(service("listed", annotations={"kubeproxy-py.io/scheduler": "wlc", "note": "kept"}))
    start_source(kubeconfig(tmp_path, cluster))
    _, listed = event_log.wait_for(is_service("listed"))
    wait_until(lambda: Synced("services") in [event for _, event in event_log.events])
    cluster.apply(service("watched", annotations={"kubeproxy-py.io/max-connections": "many"}))
    _, watched = event_log.wait_for(is_service("watched"))
    assert isinstance(listed, ServiceUpserted)
    assert isinstance(watched, ServiceUpserted)
    assert listed.service.settings.scheduler == "wlc"
    (problem,) = watched.service.settings.problems
    assert (problem.annotation, problem.value) == ("kubeproxy-py.io/max-connections", "many")


# Peers

ADDRESSES = PeerNeeds(addresses=True)


def of_peers(event_log: EventLog) -> list[PeerUpserted | PeerDeleted]:
    return [event for _, event in event_log.events if isinstance(event, PeerUpserted | PeerDeleted)]


def test_all_nodes_are_watched_while_they_are_wanted(server: ApiServer, start_source: Any, event_log: EventLog) -> None:
    for name in ("node-a", "node-b"):
        server.apply(node(name))
    started = start_source(master=server.url)
    event_log.wait_for_synced(*FEEDS)
    assert not of_peers(event_log)
    started.watch_peers(ADDRESSES)
    event_log.wait_for_synced("peers")
    assert {event.name for event in of_peers(event_log)} == {"node-a", "node-b"}
    server.apply(node("node-c"))
    wait_until(lambda: any(event.name == "node-c" for event in of_peers(event_log)))
    before = len(event_log.events)
    started.watch_peers(NO_NEEDS)
    ended = {event.name for _, event in event_log.events[before:] if isinstance(event, PeerDeleted)}
    assert ended == {"node-a", "node-b", "node-c"}
    started.watch_peers(ADDRESSES)
    wait_until(lambda: sum(isinstance(event, PeerUpserted) for event in of_peers(event_log)) == 6)


def labelled(name: str, labels: dict[str, str], **parts: Any) -> dict[str, Any]:
    body = node(name)
    return {**body, "metadata": {**body["metadata"], "labels": labels}, **parts}


def labels_needed(*keys: str) -> PeerNeeds:
    return PeerNeeds(labels=frozenset(keys))


def lists_of_nodes(server: ApiServer) -> list[str]:
    """The requests for a list of all Nodes."""
    return [
        path
        for path in server.requests
        if path.startswith("/api/v1/nodes?") and not re.search("fieldSelector|watch=", path)
    ]


def test_labels_that_are_needed_are_read_of_all_nodes_and_others_cause_no_event(
    server: ApiServer, start_source: Any, event_log: EventLog
) -> None:
    for name in ("node-a", "node-b"):
        server.apply(labelled(name, {"pool": "large", "other": "x"}))
    started = start_source(master=server.url)
    event_log.wait_for_synced(*FEEDS)
    assert not lists_of_nodes(server)
    started.watch_peers(labels_needed("pool", "disk"))
    event_log.wait_for_synced("peers")
    assert of_peers(event_log) == [PeerUpserted(name, (), ("pool=large",)) for name in ("node-a", "node-b")]
    heartbeat = {"conditions": [{"type": "Ready", "lastHeartbeatTime": "2026-11-29T20:00:00Z"}]}
    server.apply(labelled("node-b", {"pool": "large", "other": "y"}))
    server.apply(labelled("node-b", {"pool": "large", "topology.kubernetes.io/zone": "z"}, status=heartbeat))
    server.apply(labelled("node-b", {"pool": "large"}, spec={"podCIDR": "10.244.7.0/24"}))
    server.apply(labelled("node-b", {"disk": "ssd"}))
    wait_until(lambda: PeerUpserted("node-b", (), ("disk=ssd",)) in of_peers(event_log))
    assert len(of_peers(event_log)) == 3, "only what is needed is an event"


def test_other_labels_that_are_needed_are_listed_and_what_is_known_stays(
    server: ApiServer, start_source: Any, event_log: EventLog
) -> None:
    for name in ("node-a", "node-b"):
        server.apply(labelled(name, {"pool": "large", **({"disk": "ssd"} if name == "node-b" else {})}))
    started = start_source(master=server.url)
    event_log.wait_for_synced(*FEEDS)
    started.watch_peers(labels_needed("pool"))
    event_log.wait_for_synced("peers")
    started.watch_peers(labels_needed("pool", "disk"))
    wait_until(lambda: len(of_peers(event_log)) == 3)
    assert of_peers(event_log)[2] == PeerUpserted("node-b", (), ("disk=ssd", "pool=large"))
    listed = len(lists_of_nodes(server))
    started.watch_peers(PeerNeeds(addresses=True, labels=frozenset({"disk"})))
    server.apply(labelled("node-a", {"disk": "hdd", "pool": "large"}))
    wait_until(lambda: PeerUpserted("node-a", (), ("disk=hdd",)) in of_peers(event_log))
    assert len(lists_of_nodes(server)) == listed == 2, "nothing new was needed"
    started.watch_peers(NO_NEEDS)
    assert of_peers(event_log)[-2:] == [PeerDeleted("node-a"), PeerDeleted("node-b")]


def test_nodes_that_a_service_makes_necessary_are_listed_at_a_random_moment_and_at_start_at_once(
    server: ApiServer, start_source: Any, event_log: EventLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retry_schedule, "RELIST_JITTER_S", 1e6)
    server.apply(labelled("node-b", {"pool": "large"}))
    started = start_source(master=server.url)
    event_log.wait_for_synced(*FEEDS)
    started.watch_peers(labels_needed("pool"))
    time.sleep(1.0)
    assert not lists_of_nodes(server), "some node lists them in this second, but not this one"
    started.watch_peers(NO_NEEDS)
    started.watch_peers(labels_needed("pool"), at_once=True)
    event_log.wait_for_synced("peers")
    assert len(lists_of_nodes(server)) == 1


def test_labels_needed_at_any_moment_are_read_in_the_end(
    server: ApiServer, start_source: Any, event_log: EventLog
) -> None:
    """Needs change while a list is read, before a watch is open, and while it is."""
    for number in range(20):
        server.apply(labelled(f"node-{number}", {f"key-{each}": "x" for each in range(10)}))
    started = start_source(master=server.url)
    event_log.wait_for_synced(*FEEDS)
    for number in range(10):
        started.watch_peers(labels_needed(*(f"key-{each}" for each in range(number + 1))))
        time.sleep(0.001 * number**2)
    last = tuple(f"key-{each}=x" for each in range(10))
    wait_until(lambda: {event.name for event in of_peers(event_log) if event_labels(event) == last} == NODES_20)
    assert not any(isinstance(event, PeerDeleted) for event in of_peers(event_log))


NODES_20 = {f"node-{number}" for number in range(20)}


def event_labels(event: PeerUpserted | PeerDeleted) -> tuple[str, ...]:
    return event.labels if isinstance(event, PeerUpserted) else ()


def test_node_that_cannot_be_decoded_does_not_stop_the_others(
    server: ApiServer, start_source: Any, event_log: EventLog
) -> None:
    server.apply(labelled("node-b", {"pool": "large"}, status={"addresses": 5}))
    server.apply(labelled("node-c", {"pool": "large"}))
    started = start_source(master=server.url)
    event_log.wait_for_synced(*FEEDS)
    started.watch_peers(labels_needed("pool"))
    event_log.wait_for_synced("peers")
    assert of_peers(event_log) == [PeerUpserted("node-c", (), ("pool=large",))]


def test_nodes_that_the_server_refuses_are_an_event_until_it_lists_them(
    server: ApiServer, start_source: Any, event_log: EventLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retry_schedule, "REFUSED_MAX_S", 0.1)
    server.apply(labelled("node-b", {"pool": "large"}))
    started = start_source(master=server.url)
    event_log.wait_for_synced(*FEEDS)
    server.faults.named_only = {"nodes"}
    started.watch_peers(labels_needed("pool"))
    message = 'nodes is forbidden: User "test" cannot list resource "nodes"'
    event_log.wait_for(lambda event: event == PeersRefused(message))
    event_log.wait_for(lambda event: isinstance(event, Problem) and event.message == message)
    server.faults.named_only = set()
    event_log.wait_for(lambda event: event == PeersRefused(""))
    event_log.wait_for(lambda event: event == PeerUpserted("node-b", (), ("pool=large",)))


def test_command_goes_on_without_nodes_that_the_server_refuses(
    server: ApiServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retry_schedule, "REFUSED_MAX_S", 0.1)
    server.apply(labelled("node-b", {"pool": "large"}))
    server.apply(service("web", annotations={"kubeproxy-py.io/weights": "pool=large:3"}))

    def read() -> list[Any]:
        return read_initial_snapshot(KubeSource(None, server.url, "node-a"), timeout_s=PATIENCE_S)

    assert PeerUpserted("node-b", (), ("pool=large",)) in read()
    server.faults.named_only = {"nodes"}
    assert any(isinstance(event, PeersRefused) and event.reason for event in read())
