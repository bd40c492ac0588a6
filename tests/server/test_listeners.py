"""RetryingListeners: a port in use is retried until it is free, and no longer once it is closed."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable

import pytest

from kubeproxy_py.server import listeners as module
from kubeproxy_py.server.http import HttpServer
from kubeproxy_py.server.http_messages import Request, Response
from kubeproxy_py.server.listeners import Listening, RetryingListeners


class FakeServer(HttpServer):
    """A server whose periodic calls are made by the test."""

    def __init__(self) -> None:
        super().__init__("test")
        self.periodic_calls: list[Callable[[], None]] = []

    def call_periodically(self, call: Callable[[], None]) -> None:
        self.periodic_calls.append(call)


class Harness:
    """Listeners of a server, one of whose ports another process uses."""

    def __init__(self) -> None:
        self.now_s = 100.0
        self.server = FakeServer()
        self.recovered: list[str] = []
        self.listeners: RetryingListeners[str] = RetryingListeners(
            self.server, self.recovered.append, lambda: self.now_s
        )
        self.other = socket.create_server(("127.0.0.1", 0))
        self.port = self.other.getsockname()[1]

    def open(self) -> str:
        return self.listeners.open("web", Listening("127.0.0.1", self.port, lambda _request: Response(200, b"ok")))

    def retry_after(self, seconds: float) -> None:
        self.now_s += seconds
        for call in self.server.periodic_calls:
            call()


@pytest.fixture
def harness() -> Harness:
    return Harness()


def is_listening(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


def test_port_in_use_is_opened_once_it_is_free(harness: Harness) -> None:
    assert harness.open() == "Address already in use"
    assert harness.listeners.keys == {"web"}
    harness.retry_after(module.RETRY_S)
    assert harness.recovered == []
    harness.other.close()
    harness.retry_after(module.RETRY_S - 0.1)
    assert not is_listening(harness.port), "too early"
    harness.retry_after(0.1)
    assert harness.recovered == ["web"]
    assert is_listening(harness.port)
    harness.retry_after(module.RETRY_S)
    assert harness.recovered == ["web"]


def test_closed_listener_is_not_retried(harness: Harness) -> None:
    harness.open()
    harness.listeners.close("web")
    harness.other.close()
    harness.retry_after(module.RETRY_S)
    assert harness.listeners.keys == set()
    assert not is_listening(harness.port)


def test_closed_listener_stops_listening(harness: Harness) -> None:
    harness.other.close()
    assert harness.open() == ""
    assert is_listening(harness.port)
    harness.listeners.close("web")
    assert not is_listening(harness.port)


def test_running_server_retries_about_once_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "RETRY_S", 0.0)
    server = HttpServer("test")
    listeners: RetryingListeners[str] = RetryingListeners(server)
    other = socket.create_server(("127.0.0.1", 0))
    port = other.getsockname()[1]

    def answer(_request: Request) -> Response:
        return Response(200, b"ok")

    assert listeners.open("web", Listening("127.0.0.1", port, answer))
    server.start()
    other.close()
    deadline_s = time.monotonic() + 60
    while not is_listening(port):
        assert time.monotonic() < deadline_s, "not retried"
        time.sleep(0.1)
