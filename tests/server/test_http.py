"""The HTTP server: what it says to good clients, and that bad ones cost others nothing."""

from __future__ import annotations

import http.client
import os
import resource
import socket
import time
from collections.abc import Iterator
from contextlib import suppress

import pytest

from kubeproxy_py.server import http as module
from kubeproxy_py.server.http import HttpServer
from kubeproxy_py.server.http_text import Request, Response

PATIENCE_S = 10.0
BIG = b"x" * (1 << 20)


def handle(request: Request) -> Response:
    if request.path == "/bug":
        raise RuntimeError("a bug")
    if request.path == "/big":
        return Response(200, BIG)
    return Response(200, f"{request.method} {request.path}?{request.query}".encode(), (("Content-Type", "text/x"),))


@pytest.fixture
def port() -> Iterator[int]:
    """The port of a server that answers by ``handle``."""
    server = HttpServer("test")
    listening = server.listen("127.0.0.1", 0, handle)
    number = listening.getsockname()[1]
    server.start()
    yield number
    server.do(lambda: server.close(listening))


def connect(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_S)


def ask(port: int, raw: bytes) -> bytes:
    """All that is answered to the bytes *raw* until the server closes."""
    with connect(port) as client:
        client.sendall(raw)
        return read_all(client)


def read_all(client: socket.socket) -> bytes:
    parts = []
    while part := client.recv(1 << 16):
        parts.append(part)
    return b"".join(parts)


def closed(client: socket.socket) -> bool:
    """Whether the server ends the connection; a reset is an end as well."""
    try:
        return client.recv(1) == b""
    except ConnectionResetError:
        return True


def test_an_answer_is_written_as_gos_server_writes_it(port: int) -> None:
    head, _, body = ask(port, b"GET /a%20b?c=d HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").partition(b"\r\n\r\n")
    assert body == b"GET /a b?c=d"
    status, kind, date, *rest = head.decode().split("\r\n")
    assert (status, kind) == ("HTTP/1.1 200 OK", "Content-Type: text/x")
    assert time.strptime(date, "Date: %a, %d %b %Y %H:%M:%S GMT")
    assert rest == ["Content-Length: 12", "Connection: close"]


def test_a_connection_serves_one_request_after_another(port: int) -> None:
    client = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE_S)
    for number in range(3):
        client.request("GET", f"/{number}")
        assert client.getresponse().read() == f"GET /{number}?".encode()
    client.close()


def test_requests_that_come_at_once_are_answered_in_order(port: int) -> None:
    one = b"GET /%d HTTP/1.1\r\nHost: x\r\n\r\n"
    raw = b"".join(one % number for number in range(400)) + b"GET /end HTTP/1.0\r\n\r\n"
    bodies = [part.split(b"\r\n\r\n")[1] for part in ask(port, raw).split(b"HTTP/1.")[1:]]
    assert bodies == [*(b"GET /%d?" % number for number in range(400)), b"GET /end?"]


def test_a_head_is_answered_without_a_body_and_with_its_length(port: int) -> None:
    head, _, body = ask(port, b"HEAD / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").partition(b"\r\n\r\n")
    assert (b"Content-Length: 7" in head, body) == (True, b"")


def test_an_old_client_is_answered_in_its_version_and_let_go(port: int) -> None:
    assert ask(port, b"GET / HTTP/1.0\r\n\r\n").startswith(b"HTTP/1.0 200 OK\r\n")


def test_a_request_with_a_body_is_answered_and_ends_the_connection(port: int) -> None:
    assert ask(port, b"POST /p HTTP/1.1\r\nHost: x\r\nContent-Length: 200000\r\n\r\n" + b"y" * 200000).endswith(
        b"POST /p?"
    )


@pytest.mark.parametrize(
    ("raw", "status"),
    [
        (b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n", 400),  # TLS
        (b"GET / HTTP/2.0\r\nHost: x\r\n\r\n", 400),
        (b"GET  / HTTP/1.1\r\nHost: x\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: x\r\nno colon\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: x\r\n folded: y\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: x\r\nA: " + b"y" * 70000, 431),
        (b"GET /bug HTTP/1.0\r\n\r\n", 500),
    ],
)
def test_what_is_no_request_is_refused_in_words(port: int, raw: bytes, status: int) -> None:
    assert ask(port, raw).split(b" ", 2)[1] == str(status).encode()


def test_hundreds_who_say_nothing_or_half_a_word_hold_up_nobody(port: int) -> None:
    idle = [connect(port) for _ in range(300)]
    for number, client in enumerate(idle):
        client.sendall(b"GET / HT"[: number % 9])
    began_s = time.monotonic()
    assert ask(port, b"GET / HTTP/1.0\r\n\r\n").endswith(b"GET /?")
    assert time.monotonic() - began_s < 5
    for client in idle:
        client.close()


def test_who_takes_longer_than_allowed_is_let_go(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "HEAD_TIMEOUT_S", 0.2)
    with connect(port) as silent, connect(port) as slow:
        slow.sendall(b"GET / HTTP/1.1\r\n")
        assert closed(silent)
        assert closed(slow)


def test_who_never_stops_sending_a_head_is_let_go_all_the_same(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "HEAD_TIMEOUT_S", 0.5)
    with connect(port) as client, pytest.raises(OSError, match=r"reset|pipe"):
        client.sendall(b"GET / HTTP/1.1\r\n")
        for _ in range(200):  # 10 s
            client.sendall(b"A: b\r\n")
            time.sleep(0.05)


def test_who_does_not_take_an_answer_is_let_go(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ANSWER_TIMEOUT_S", 0.2)
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.settimeout(PATIENCE_S)
        client.connect(("127.0.0.1", port))
        client.sendall(b"GET /big HTTP/1.1\r\nHost: x\r\n\r\n" * 20)
        time.sleep(2.5)
        with suppress(ConnectionResetError):
            assert len(read_all(client)) < 20 * len(BIG)


def test_answers_that_nobody_takes_have_a_bound_in_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "WAITING_MAX_BYTES", 3 * len(BIG))
    server = HttpServer("test")
    number = server.listen("127.0.0.1", 0, handle).getsockname()[1]
    server.start()
    greedy = []
    for _ in range(30):
        client = socket.socket()
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.connect(("127.0.0.1", number))
        client.sendall(b"GET /big HTTP/1.1\r\nHost: x\r\n\r\n")
        greedy.append(client)
    assert ask(number, b"GET / HTTP/1.0\r\n\r\n").endswith(b"GET /?")
    assert server._waiting_bytes <= 3 * len(BIG)
    for client in greedy:
        client.close()


def test_of_too_many_clients_the_one_that_was_silent_longest_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CLIENTS_MAX", 8)
    server = HttpServer("test")
    number = server.listen("127.0.0.1", 0, handle).getsockname()[1]
    server.start()
    first, *others = (connect(number) for _ in range(8))
    first.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    assert first.recv(1000)
    with connect(number):
        assert closed(others[0])
        first.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert first.recv(1000)
    for client in (first, *others):
        client.close()


def test_a_place_that_is_closed_lets_go_of_who_came_in_there() -> None:
    server = HttpServer("test")
    listening = server.listen("127.0.0.1", 0, handle)
    number = listening.getsockname()[1]
    server.start()
    with connect(number) as client:
        client.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert client.recv(1000)
        server.do(lambda: server.close(listening))
        assert closed(client)
    with pytest.raises(ConnectionRefusedError):
        connect(number)


def test_everywhere_means_both_families() -> None:
    server = HttpServer("test")
    number = server.listen("0.0.0.0", 0, handle, both_families=True).getsockname()[1]
    server.start()
    for address in ("127.0.0.1", "::1"):
        with socket.create_connection((address, number), timeout=PATIENCE_S) as client:
            client.sendall(b"GET / HTTP/1.0\r\n\r\n")
            assert read_all(client).endswith(b"GET /?")


def test_where_no_file_is_left_the_longest_silent_makes_room(monkeypatch: pytest.MonkeyPatch) -> None:
    server = HttpServer("test")
    number = server.listen("127.0.0.1", 0, handle).getsockname()[1]
    server.start()
    with connect(number) as silent, connect(number) as other:
        other.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert other.recv(1000)
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        newcomer = socket.socket()
        lowest_free = os.dup(newcomer.fileno())
        os.close(lowest_free)
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (lowest_free, hard))
            newcomer.connect(("127.0.0.1", number))
            newcomer.sendall(b"GET / HTTP/1.0\r\n\r\n")
            silent.settimeout(PATIENCE_S)
            assert closed(silent)
            assert read_all(newcomer).endswith(b"GET /?")
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            newcomer.close()
