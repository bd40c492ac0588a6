"""client.py and watch_thread.py: bounds, aborting, and secrets."""

import gzip
import logging
import socket
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import urllib3

from kubeproxy_py.model.events import Synced
from kubeproxy_py.model.problem import Problem
from kubeproxy_py.sources import SourceError
from kubeproxy_py.sources.kubernetes import client
from kubeproxy_py.sources.kubernetes.api_connection import ApiConnection
from kubeproxy_py.sources.kubernetes.client import Connection
from kubeproxy_py.sources.kubernetes.reflector import ListWatch
from kubeproxy_py.sources.kubernetes.resources import SERVICES
from kubeproxy_py.sources.kubernetes.transport_errors import TooLargeError, TransportError
from kubeproxy_py.sources.kubernetes.watch_thread import WatchThread
from tests.apiserver import ApiServer
from tests.apiserver.objects import service
from tests.sources.conftest import PATIENCE_S, EventLog


def connection(server: ApiServer, token: str = "") -> Connection:
    return Connection(server.url, urllib3.PoolManager(), lambda: token, "test")


def test_body_that_is_too_large_is_an_error(server: ApiServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "BODY_MAX_BYTES", 1 << 20)
    server.store.create_all(service(f"s-{number}", annotations={"x": "y" * 20_000}) for number in range(100))
    with pytest.raises(TransportError, match="is larger than 1 MiB"):
        connection(server).get(SERVICES.path, 5).body()


def test_body_that_expands_beyond_the_limit_is_an_error(server: ApiServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "BODY_MAX_BYTES", 1 << 20)
    server.store.create_all(service(f"s-{number}", annotations={"x": "y" * 20_000}) for number in range(100))
    response = connection(server).get(SERVICES.path, 5, compressed=True)
    sizes: list[int] = []
    with pytest.raises(TooLargeError, match="is larger than 1 MiB"):
        sizes.extend(len(part) for part in response.parts())
    response.close()
    assert server.compressed == deque([SERVICES.path])
    assert sum(sizes) <= 1 << 20


CUT_OFF = gzip.compress(b"x", mtime=0)[:-4]


@pytest.mark.parametrize(("head", "message"), [(b"", "is not valid gzip"), (CUT_OFF, "is cut off")])
def test_body_that_is_not_in_its_encoding_is_an_error(head: bytes, message: str) -> None:
    body = head or b"<html>"
    answer = b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)
    with answering(answer) as url, pytest.raises(TransportError, match=message) as raised:
        Connection(url, urllib3.PoolManager(), lambda: "", "test").get("/", 5).body()
    assert raised.value.problem.field == "body"  # not "connection": the server answers


@contextmanager
def answering(answer: bytes) -> Iterator[str]:
    """Yield the URL of a server that sends *answer* to one request."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def respond() -> None:
            accepted, _ = listener.accept()
            with accepted:
                accepted.recv(65536)
                accepted.sendall(answer)

        thread = threading.Thread(target=respond, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        thread.join(PATIENCE_S)


def test_line_that_is_too_long_is_an_error(server: ApiServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "LINE_MAX_BYTES", 1 << 20)
    server.apply(service("large", annotations={"x": "y" * (2 << 20)}))
    response = connection(server).get(f"{SERVICES.path}?watch=true", 5)
    with pytest.raises(TransportError, match="has a line larger than 1 MiB"):
        list(response.lines())
    response.close()


def test_response_can_be_aborted_from_another_thread(server: ApiServer) -> None:
    response = connection(server).get(f"{SERVICES.path}?watch=true", 120)
    threading.Timer(0.05, response.abort).start()
    before = time.monotonic()
    with pytest.raises(TransportError):
        list(response.lines())
    assert time.monotonic() - before < PATIENCE_S  # long before the read timeout
    response.close()
    response.abort()  # has no effect on a closed response


def test_unreachable_server_is_a_transport_error(server: ApiServer) -> None:
    server.stop()
    with pytest.raises(
        TransportError, match=r"connection: .*\(check that it is running and that its address is correct\)"
    ):
        connection(server).get(SERVICES.path, 5)


@pytest.mark.parametrize("token", ["Bearer a\nb", "Bearer \x7f", "Bearer ü"])
def test_token_that_a_header_cannot_have_is_rejected_and_not_shown(server: ApiServer, token: str) -> None:
    with pytest.raises(TransportError) as raised:
        connection(server, token).get(SERVICES.path, 5)
    assert raised.value.problem.field == "credentials"
    assert token.removeprefix("Bearer ") not in str(raised.value)


def test_watch_thread_survives_an_internal_error(
    server: ApiServer, event_log: EventLog, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL, "kubeproxy_py")

    class Failing(ListWatch):
        def on_list_end(self) -> Any:
            if not event_log.events:
                raise ZeroDivisionError
            return super().on_list_end()

    thread = WatchThread(Failing(SERVICES, lambda: 0.0), ApiConnection(lambda: connection(server)), event_log)
    thread.start()
    _, event = event_log.wait_for(lambda event: isinstance(event, Problem))
    event_log(event)
    event_log.wait_for(lambda event: event == Synced("services"))
    thread.stop()
    thread.join(PATIENCE_S)
    assert str(event) == "watch: internal error ZeroDivisionError (please report it, with the log)"


def test_connection_can_be_closed_while_another_thread_connects() -> None:
    connecting = threading.Event()
    done = threading.Event()

    def connect() -> Connection:
        connecting.set()
        done.wait(10 * PATIENCE_S)
        raise SourceError("never")

    api = ApiConnection(connect)

    def connect_again() -> None:
        with pytest.raises(SourceError, match="never"):
            api.current()

    thread = threading.Thread(target=connect_again, daemon=True)
    thread.start()
    assert connecting.wait(PATIENCE_S)
    before = time.monotonic()
    api.close()
    assert time.monotonic() - before < PATIENCE_S  # long before the connect ends
    assert thread.is_alive()  # closing did not wait for the connect
    done.set()
    thread.join(PATIENCE_S)
