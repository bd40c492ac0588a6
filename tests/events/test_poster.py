"""Poster: what people are told arrives at the API server, and nothing that goes wrong there is felt elsewhere."""

import logging
import time
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from typing import Any

import pytest

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

Json = dict[str, Any]
WEB = health_check_port_failed(name("shop/web"), 30_000, "node-a", "address already in use")
PATIENCE_S = 20.0


def noting(number: int) -> KubeEvent:
    return KubeEvent("Warning", "Why", "Do", Regarding("Service", f"s-{number}", "shop"), f"note {number}")


@pytest.fixture(autouse=True)
def _short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(poster, "RETRY_S", 0.01)
    monkeypatch.setattr(poster, "PACE_S", 0.0)


@pytest.fixture
def make() -> Iterator[Callable[..., Poster]]:
    """Makes posters that run until the test is over."""
    made: list[Poster] = []

    def start(url: str, connecting: Callable[[], Connection] | None = None) -> Poster:
        access = ApiConnection(connecting or (lambda: connect(None, url)))
        made.append(Poster(access, Recorder("host-1"), lambda: 0.0))
        made[-1].start()
        return made[-1]

    yield start
    for each in made:
        each.stop()


@pytest.fixture
def posting(server: ApiServer, make: Callable[..., Poster]) -> Poster:
    return make(server.url)


def events(server: ApiServer) -> list[Json]:
    """All Events that the server has, in the order that they were made in."""
    _, found = server.store.snapshot("events")
    return sorted((each.parsed() for each in found), key=lambda body: str(body["eventTime"]))


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


def test_what_is_told_is_an_event_in_the_cluster(server: ApiServer, posting: Poster) -> None:
    posting.tell(started_event("node-a"))
    assert posting.flush(PATIENCE_S)
    (event,) = events(server)
    assert (event["reason"], event["metadata"]["namespace"]) == ("Starting", "default")


def test_kubectl_get_events_prints_what_people_are_told(server: ApiServer, posting: Poster) -> None:
    posting.tell(started_event("node-a"))
    posting.tell(external_ips_on_node(name("shop/web"), "node-a", ["192.0.2.1"]))
    for _ in range(3):
        posting.tell(WEB)
    assert posting.flush(PATIENCE_S)
    found = events(server)
    now = max(datetime.fromisoformat(event["eventTime"]) for event in found) + timedelta(seconds=62.5)
    unbound = (
        "externalIPs 192.0.2.1 are also on an interface of node node-a: they are not bound to kube-ipvs0, "
        "and the Service's ports are served there in the node's place"
    )
    failed = 'node node-a failed to start healthcheck "shop/web" on port 30000: address already in use'
    assert get_events(found, now).splitlines() == [
        "LAST SEEN   TYPE      REASON                            OBJECT        MESSAGE",
        "62s         Normal    Starting                          node/node-a   ",
        f"62s         Warning   ExternalIPOnNode                  service/web   {unbound}",
        f"62s         Warning   FailedToStartServiceHealthcheck   service/web   {failed}",
    ]


def test_what_is_told_again_is_a_series_of_one_event(server: ApiServer, posting: Poster) -> None:
    for _ in range(5):
        posting.tell(WEB)
    assert posting.flush(PATIENCE_S)
    (event,) = events(server)
    assert event["series"]["count"] == 2  # the rest is told when the series is over
    assert [line.partition(" ")[0] for line in server.writes] == ["POST", "PATCH"]


def test_a_series_whose_event_was_deleted_is_created_whole(server: ApiServer, posting: Poster) -> None:
    posting.tell(WEB)
    assert posting.flush(PATIENCE_S)
    (event,) = events(server)
    server.store.delete("events", ("shop", event["metadata"]["name"]))
    posting.tell(WEB)
    assert posting.flush(PATIENCE_S)
    (again,) = events(server)
    assert (again["series"]["count"], again["metadata"]["name"]) == (2, event["metadata"]["name"])


def test_the_end_of_a_series_is_told_without_another_notice(
    server: ApiServer, make: Callable[..., Poster], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kubeproxy_py.events.recorder.SERIES_NS", 300_000_000)
    running = make(server.url)
    for _ in range(7):
        running.tell(WEB)
    wait_until(lambda: bool(events(server)) and events(server)[0].get("series", {}).get("count") == 7)


def wait_until(holds: Callable[[], bool]) -> None:
    end_s = time.monotonic() + PATIENCE_S
    while not holds():
        assert time.monotonic() < end_s
        time.sleep(0.01)


# What goes wrong -------------------------------------------------------------------------------------------------


def test_a_role_without_events_is_one_warning(
    server: ApiServer, posting: Poster, caplog: pytest.LogCaptureFixture
) -> None:
    server.faults.forbidden = {("create", "events")}
    for number in range(5):
        posting.tell(noting(number))
    assert posting.flush(PATIENCE_S)
    (warning,) = warnings(caplog)
    assert "the role needs create and patch on events" in warning
    assert (len(server.writes), events(server)) == (5, [])  # each was tried once


def test_a_role_is_warned_of_once_though_some_events_pass(
    server: ApiServer, posting: Poster, caplog: pytest.LogCaptureFixture
) -> None:
    for number in range(4):
        server.faults.forbidden = {("create", "events")} if number % 2 else set()
        posting.tell(noting(number))
        assert posting.flush(PATIENCE_S)
    assert len(warnings(caplog)) == 1
    assert len(events(server)) == 2


def test_a_namespace_that_is_being_deleted_is_no_fault_of_the_role(
    server: ApiServer, posting: Poster, caplog: pytest.LogCaptureFixture
) -> None:
    server.faults.terminating = {"shop"}
    posting.tell(WEB)
    assert posting.flush(PATIENCE_S)
    assert (len(server.writes), warnings(caplog)) == (1, [])


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_server_that_is_busy_is_asked_again(server: ApiServer, posting: Poster, status: int) -> None:
    server.answer_next(status, times=3)
    posting.tell(WEB)
    assert posting.flush(PATIENCE_S)
    assert (len(events(server)), len(server.writes)) == (1, 4)


def test_the_server_says_how_long_to_wait(server: ApiServer, posting: Poster) -> None:
    server.answer_next(429, {"Retry-After": "1"})
    before_s = time.monotonic()
    posting.tell(WEB)
    assert posting.flush(PATIENCE_S)
    assert time.monotonic() - before_s >= 1


def test_a_server_that_never_recovers_is_asked_a_dozen_times(server: ApiServer, posting: Poster) -> None:
    server.answer_next(500, times=TRIES_MAX)
    posting.tell(WEB)
    posting.tell(noting(1))
    assert posting.flush(PATIENCE_S)
    assert [event["reason"] for event in events(server)] == ["Why"]


def test_a_server_that_is_away_is_one_warning_and_what_was_told_arrives_when_it_is_back(
    make: Callable[..., Poster], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(poster, "TRIES_MAX", 10_000)
    away = ApiServer()  # has its port, and is not yet started
    port = away.server_address[1]
    away.server_close()
    running = make(f"http://127.0.0.1:{port}")
    running.tell(WEB)
    wait_until(lambda: bool(warnings(caplog)))
    back = ApiServer(port).start()
    assert running.flush(PATIENCE_S)
    assert len(events(back)) == 1
    assert len(warnings(caplog)) == 1
    back.stop()


def test_an_event_that_was_made_but_whose_answer_was_lost_is_not_made_again(
    server: ApiServer, posting: Poster, caplog: pytest.LogCaptureFixture
) -> None:
    server.answer_next(409, reason="AlreadyExists")
    posting.tell(WEB)
    assert posting.flush(PATIENCE_S)
    assert (len(server.writes), warnings(caplog)) == (1, [])


def test_a_server_without_these_events_is_one_warning(
    server: ApiServer, posting: Poster, caplog: pytest.LogCaptureFixture
) -> None:
    server.faults.absent = {"events"}
    for number in range(3):
        posting.tell(noting(number))
    assert posting.flush(PATIENCE_S)
    (warning,) = warnings(caplog)
    assert "events.k8s.io/v1" in warning


def test_credentials_that_can_not_be_had_are_told_without_them(
    make: Callable[..., Poster], caplog: pytest.LogCaptureFixture
) -> None:
    def refuse() -> Connection:
        raise SourceError("exec gave no credentials", "run its command by hand")

    running = make("", refuse)
    running.tell(WEB)
    assert running.flush(PATIENCE_S)
    (warning,) = warnings(caplog)
    assert "exec gave no credentials" in warning


def test_a_rotated_token_is_read_anew(server: ApiServer, make: Callable[..., Poster]) -> None:
    server.faults.tokens = {"second"}
    tokens = iter(["Bearer first", "Bearer second"])

    def connecting() -> Connection:
        made, token = connect(None, server.url), next(tokens)
        made._authorization = lambda: token
        return made

    running = make("", connecting)
    running.tell(WEB)
    assert running.flush(PATIENCE_S)
    assert len(events(server)) == 1


def test_a_bug_does_not_end_the_thread(
    server: ApiServer, posting: Poster, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    take = posting._recorder.take
    monkeypatch.setattr(posting._recorder, "take", lambda _notice, _now_ns: 1 / 0)
    posting.tell(noting(1))
    wait_until(lambda: bool(warnings(caplog)))
    monkeypatch.setattr(posting._recorder, "take", take)
    posting.tell(noting(2))
    assert posting.flush(PATIENCE_S)
    assert [event["note"] for event in events(server)] == ["note 2"]


def test_telling_does_not_block_while_the_server_hangs_and_what_is_too_much_is_dropped(
    server: ApiServer, posting: Poster
) -> None:
    server.faults.delay_s = 3600.0
    before_s = time.monotonic()
    for number in range(3 * QUEUE_MAX):
        posting.tell(noting(number))
    assert not posting.flush(0.0)
    assert time.monotonic() - before_s < 5
    assert posting._queue.qsize() == QUEUE_MAX
    server.faults.delay_s = 0.0
    server.cut()
