"""Transport and watcher: bounds, and what is never let through."""

import logging
import threading
import time
from typing import Any

import pytest
import urllib3

from kubeproxy_py.model.events import ObjectProblem, Synced
from kubeproxy_py.sources import SourceError
from kubeproxy_py.sources.kubernetes import client as transport
from kubeproxy_py.sources.kubernetes.api_connection import ApiConnection
from kubeproxy_py.sources.kubernetes.client import Connection, TransportError
from kubeproxy_py.sources.kubernetes.reflector import ListWatch
from kubeproxy_py.sources.kubernetes.resources import SERVICES
from kubeproxy_py.sources.kubernetes.watch_thread import WatchThread
from tests.apiserver import ApiServer
from tests.sources.conftest import Heard
from tests.sources.test_apiserver import service


def connection(server: ApiServer, token: str = "") -> Connection:
    return Connection(server.url, urllib3.PoolManager(), lambda: token, "test")


def test_a_body_that_is_too_large_is_given_up(server: ApiServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport, "BODY_MAX_BYTES", 1 << 20)
    server.store.create_all(service(f"s-{number}", annotations={"x": "y" * 20_000}) for number in range(100))
    with pytest.raises(TransportError, match="is larger than 1 MiB"):
        connection(server).get(SERVICES.path, 5).body()


def test_a_line_that_is_too_long_is_given_up(server: ApiServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport, "LINE_MAX_BYTES", 1 << 20)
    server.apply(service("large", annotations={"x": "y" * (2 << 20)}))
    answer = connection(server).get(f"{SERVICES.path}?watch=true", 5)
    with pytest.raises(TransportError, match="a line is larger than 1 MiB"):
        list(answer.lines())
    answer.close()


def test_an_answer_can_be_cut_off_from_another_thread(server: ApiServer) -> None:
    answer = connection(server).get(f"{SERVICES.path}?watch=true", 30)
    threading.Timer(0.05, answer.cut_off).start()
    before = time.monotonic()
    with pytest.raises(TransportError):
        list(answer.lines())
    assert time.monotonic() - before < 5
    answer.close()
    answer.cut_off()  # whenever it comes, it harms nothing


def test_a_server_that_breaks_off_a_list_is_a_transport_error(server: ApiServer) -> None:
    server.stop()
    with pytest.raises(TransportError, match=r"connection: .*\(is it up, and is its address right\?\)"):
        connection(server).get(SERVICES.path, 5)


@pytest.mark.parametrize("token", ["Bearer a\nb", "Bearer \x7f", "Bearer ü"])
def test_a_token_that_no_header_may_have_is_refused_and_not_told(server: ApiServer, token: str) -> None:
    with pytest.raises(TransportError) as raised:
        connection(server, token).get(SERVICES.path, 5)
    assert raised.value.problem.field == "credentials"
    assert token.removeprefix("Bearer ") not in str(raised.value)


def test_a_watch_survives_what_nobody_foresaw(
    server: ApiServer, heard: Heard, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL, "kubeproxy_py")

    class Startled(ListWatch):
        def answered(self, *answer: Any) -> Any:
            if not heard.events:
                raise ZeroDivisionError
            return super().answered(*answer)

    watcher = WatchThread(
        Startled(SERVICES, lambda: 0.0), ApiConnection(lambda: connection(server)), heard, 30, "services"
    )
    watcher.start()
    _, event = heard.wait_for(lambda event: isinstance(event, ObjectProblem))
    heard(event)
    heard.wait_for(lambda event: event == Synced("services"))
    watcher.stop()
    watcher.join(5)
    assert str(event) == "watch: (all): unforeseen ZeroDivisionError (please report it)"


def test_access_is_closed_while_it_is_being_made() -> None:
    hanging = threading.Event()
    done = threading.Event()

    def connect() -> Connection:
        hanging.set()
        done.wait(5)
        raise SourceError("never")

    access = ApiConnection(connect)

    def ask() -> None:
        with pytest.raises(SourceError, match="never"):
            access.connection()

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    hanging.wait(5)
    before = time.monotonic()
    access.close()
    assert time.monotonic() - before < 1
    done.set()
    thread.join(5)
