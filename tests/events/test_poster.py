"""Poster: Events are posted to the API server, and failures there affect nothing else."""

import logging
import time
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from typing import Any

import pytest

from kubeproxy_py.backoff import Backoff
from kubeproxy_py.events import poster
from kubeproxy_py.events.kube_events import (
    KubeEvent,
    Regarding,
    external_ips_on_node,
    health_check_port_failed,
    started_event,
)
from kubeproxy_py.events.poster import QUEUE_MAX, TRIES_MAX, Poster
from kubeproxy_py.events.recorder import Recorder
from kubeproxy_py.sources import SourceError
from kubeproxy_py.sources.kubernetes.api_connection import ApiConnection
from kubeproxy_py.sources.kubernetes.client import Connection
from kubeproxy_py.sources.kubernetes.source import connect
from tests.apiserver import ApiServer
from tests.builders import name
from tests.events.kubectl import get_events
from tests.free_ports import port_of, reserve_port

Json = dict[str, Any]
PORT_FAILED = health_check_port_failed(name("shop/web"), 30_000, "node-a", "address already in use")
PATIENCE_S = 60.0  # how long tests wait for what must happen; generous, for a busy machine


def numbered_event(number: int) -> KubeEvent:
    return KubeEvent("Warning", "Why", "Do", Regarding("Service", f"s-{number}", "shop"), f"note {number}")


@pytest.fixture(autouse=True)
def _short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(poster, "RETRY", Backoff(0.01, 0.01))
    monkeypatch.setattr(poster, "INTERNAL_ERROR_DELAY_S", 0.01)
    monkeypatch.setattr(poster, "PACE_S", 0.0)


@pytest.fixture
def make_poster() -> Iterator[Callable[..., Poster]]:
    """Start posters that are stopped after the test."""
    posters: list[Poster] = []

    def start(url: str, reconnect: Callable[[], Connection] | None = None) -> Poster:
        api = ApiConnection(reconnect or (lambda: connect(None, url)))
        posters.append(Poster(api, Recorder("host-1"), lambda: 0.0))
        posters[-1].start()
        return posters[-1]

    yield start
    for item in posters:
        item.stop()


@pytest.fixture
def running_poster(server: ApiServer, make_poster: Callable[..., Poster]) -> Poster:
    return make_poster(server.url)


def events(server: ApiServer) -> list[Json]:
    """Return all Events of the server by the time of their creation."""
    _, items = server.store.snapshot("events")
    return sorted((item.parsed() for item in items), key=lambda body: str(body["eventTime"]))


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return the message and the structured error of each warning."""
    records = [record for record in caplog.records if record.levelno >= logging.WARNING]
    return [f"{record.getMessage()} {record.__dict__.get('values', {}).get('err', '')}" for record in records]


def test_enqueued_event_is_created_in_the_cluster(server: ApiServer, running_poster: Poster) -> None:
    running_poster.enqueue(started_event("node-a"))
    assert running_poster.flush(PATIENCE_S)
    (event,) = events(server)
    assert (event["reason"], event["metadata"]["namespace"]) == ("Starting", "default")


def test_kubectl_get_events_shows_the_events(server: ApiServer, running_poster: Poster) -> None:
    running_poster.enqueue(started_event("node-a"))
    running_poster.enqueue(external_ips_on_node(name("shop/web"), "node-a", ["192.0.2.1"]))
    for _ in range(3):
        running_poster.enqueue(PORT_FAILED)
    assert running_poster.flush(PATIENCE_S)
    listed = events(server)
    now = max(datetime.fromisoformat(event["eventTime"]) for event in listed) + timedelta(seconds=62.5)
    unbound = (
        "externalIPs 192.0.2.1 are also addresses of node node-a: they are not bound to kube-ipvs0, and traffic to "
        "them on the Service's ports reaches the Service instead of processes of the node (use another "
        "address, or a port at which no process of the node listens)"
    )
    failed = 'node node-a failed to start healthcheck "shop/web" on port 30000: address already in use'
    assert get_events(listed, now).splitlines() == [
        "LAST SEEN   TYPE      REASON                            OBJECT        MESSAGE",
        "62s         Normal    Starting                          node/node-a   ",
        f"62s         Warning   ExternalIPOnNode                  service/web   {unbound}",
        f"62s         Warning   FailedToStartServiceHealthcheck   service/web   {failed}",
    ]


def test_repeated_event_is_a_series_of_one_event(server: ApiServer, running_poster: Poster) -> None:
    for _ in range(5):
        running_poster.enqueue(PORT_FAILED)
    assert running_poster.flush(PATIENCE_S)
    (event,) = events(server)
    assert event["series"]["count"] == 2  # the final count is written when the series ends
    assert [line.partition(" ")[0] for line in server.writes] == ["POST", "PATCH"]


def test_series_whose_event_was_deleted_is_created_again(server: ApiServer, running_poster: Poster) -> None:
    running_poster.enqueue(PORT_FAILED)
    assert running_poster.flush(PATIENCE_S)
    (event,) = events(server)
    server.store.delete("events", ("shop", event["metadata"]["name"]))
    running_poster.enqueue(PORT_FAILED)
    assert running_poster.flush(PATIENCE_S)
    (again,) = events(server)
    assert (again["series"]["count"], again["metadata"]["name"]) == (2, event["metadata"]["name"])


def test_end_of_a_series_is_written_without_another_event(
    server: ApiServer, make_poster: Callable[..., Poster], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kubeproxy_py.events.recorder.SERIES_NS", 1_000_000_000)
    running_poster = make_poster(server.url)
    for _ in range(7):
        running_poster.enqueue(PORT_FAILED)
    wait_until(lambda: bool(events(server)) and events(server)[0].get("series", {}).get("count") == 7)


def wait_until(condition: Callable[[], bool]) -> None:
    end_s = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < end_s
        time.sleep(0.01)


# Failures


def test_role_without_events_is_one_warning(
    server: ApiServer, running_poster: Poster, caplog: pytest.LogCaptureFixture
) -> None:
    server.faults.forbidden = {("create", "events")}
    for number in range(5):
        running_poster.enqueue(numbered_event(number))
    assert running_poster.flush(PATIENCE_S)
    (warning,) = warnings(caplog)
    assert "the role needs create and patch on events" in warning
    assert (len(server.writes), events(server)) == (5, [])  # each was sent once


def test_role_is_warned_of_once_although_some_events_succeed(
    server: ApiServer, running_poster: Poster, caplog: pytest.LogCaptureFixture
) -> None:
    for number in range(4):
        server.faults.forbidden = {("create", "events")} if number % 2 else set()
        running_poster.enqueue(numbered_event(number))
        assert running_poster.flush(PATIENCE_S)
    assert len(warnings(caplog)) == 1
    assert len(events(server)) == 2


def test_terminating_namespace_is_not_reported_as_a_missing_role(
    server: ApiServer, running_poster: Poster, caplog: pytest.LogCaptureFixture
) -> None:
    server.faults.terminating_namespaces = {"shop"}
    running_poster.enqueue(PORT_FAILED)
    assert running_poster.flush(PATIENCE_S)
    assert (len(server.writes), warnings(caplog)) == (1, [])


@pytest.mark.parametrize("status", [429, 500, 503])
def test_busy_server_is_retried(server: ApiServer, running_poster: Poster, status: int) -> None:
    server.respond_next(status, times=3)
    running_poster.enqueue(PORT_FAILED)
    assert running_poster.flush(PATIENCE_S)
    assert (len(events(server)), len(server.writes)) == (1, 4)


def test_retry_after_is_honoured(server: ApiServer, running_poster: Poster) -> None:
    server.respond_next(429, {"Retry-After": "1"})
    before_s = time.monotonic()
    running_poster.enqueue(PORT_FAILED)
    assert running_poster.flush(PATIENCE_S)
    assert time.monotonic() - before_s >= 1


def test_event_is_dropped_after_a_dozen_attempts(server: ApiServer, running_poster: Poster) -> None:
    server.respond_next(500, times=TRIES_MAX)
    running_poster.enqueue(PORT_FAILED)
    running_poster.enqueue(numbered_event(1))
    assert running_poster.flush(PATIENCE_S)
    assert [event["reason"] for event in events(server)] == ["Why"]


def test_unreachable_server_is_one_warning_and_events_are_posted_when_it_returns(
    make_poster: Callable[..., Poster], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(poster, "TRIES_MAX", 10_000)
    with reserve_port() as reserved:
        running_poster = make_poster(f"http://127.0.0.1:{port_of(reserved)}")
        running_poster.enqueue(PORT_FAILED)
        wait_until(lambda: bool(warnings(caplog)))
        started_server = ApiServer(port_of(reserved)).start()
        assert running_poster.flush(PATIENCE_S)
        assert len(events(started_server)) == 1
        assert len(warnings(caplog)) == 1
        started_server.stop()


def test_created_event_whose_response_was_lost_is_not_created_again(
    server: ApiServer, running_poster: Poster, caplog: pytest.LogCaptureFixture
) -> None:
    server.respond_next(409, reason="AlreadyExists")
    running_poster.enqueue(PORT_FAILED)
    assert running_poster.flush(PATIENCE_S)
    assert (len(server.writes), warnings(caplog)) == (1, [])


def test_server_without_events_v1_is_one_warning(
    server: ApiServer, running_poster: Poster, caplog: pytest.LogCaptureFixture
) -> None:
    server.faults.missing_types = {"events"}
    for number in range(3):
        running_poster.enqueue(numbered_event(number))
    assert running_poster.flush(PATIENCE_S)
    (warning,) = warnings(caplog)
    assert "events.k8s.io/v1" in warning


def test_unavailable_credentials_are_a_warning(
    make_poster: Callable[..., Poster], caplog: pytest.LogCaptureFixture
) -> None:
    def refuse() -> Connection:
        raise SourceError("exec returned no credentials", "run its command by hand")

    running_poster = make_poster("", refuse)
    running_poster.enqueue(PORT_FAILED)
    assert running_poster.flush(PATIENCE_S)
    (warning,) = warnings(caplog)
    assert "exec returned no credentials" in warning


def test_rotated_token_is_read_again(server: ApiServer, make_poster: Callable[..., Poster]) -> None:
    server.faults.tokens = {"second"}
    tokens = iter(["Bearer first", "Bearer second"])

    def reconnect() -> Connection:
        posters, token = connect(None, server.url), next(tokens)
        posters._authorization = lambda: token
        return posters

    running_poster = make_poster("", reconnect)
    running_poster.enqueue(PORT_FAILED)
    assert running_poster.flush(PATIENCE_S)
    assert len(events(server)) == 1


def test_internal_error_does_not_end_the_thread(
    server: ApiServer, running_poster: Poster, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = running_poster._recorder.record
    monkeypatch.setattr(running_poster._recorder, "record", lambda _notice, _now_ns: 1 / 0)
    running_poster.enqueue(numbered_event(1))
    wait_until(lambda: bool(warnings(caplog)))
    monkeypatch.setattr(running_poster._recorder, "record", record)
    running_poster.enqueue(numbered_event(2))
    assert running_poster.flush(PATIENCE_S)
    assert [event["note"] for event in events(server)] == ["note 2"]


def test_enqueue_does_not_block_while_the_server_hangs_and_drops_what_exceeds_the_queue(
    server: ApiServer, running_poster: Poster
) -> None:
    server.faults.delay_s = 3600.0
    before_s = time.monotonic()
    running_poster.enqueue(numbered_event(0))
    wait_until(lambda: bool(server.writes))  # this one is not in the queue any more
    for number in range(1, 3 * QUEUE_MAX):
        running_poster.enqueue(numbered_event(number))
    assert not running_poster.flush(0.0)
    assert time.monotonic() - before_s < PATIENCE_S  # a request would hang for an hour
    assert running_poster._queue.qsize() == QUEUE_MAX
    server.faults.delay_s = 0.0
    server.close_connections()
