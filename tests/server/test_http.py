"""HttpServer: answers valid requests as Go does, rejects invalid ones, and limits what each client can cost."""

from __future__ import annotations

import http.client
import os
import resource
import select
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import suppress

import pytest

from kubeproxy_py import threads
from kubeproxy_py.server import http as module
from kubeproxy_py.server import http_messages
from kubeproxy_py.server.http import HttpServer
from kubeproxy_py.server.http_messages import Request, Response

PATIENCE_S = 60.0
BIG = b"x" * (1 << 20)


def handle(request: Request) -> Response:
    if request.path == "/bug":
        raise RuntimeError("a bug")
    if request.path == "/big":
        return Response(200, BIG)
    return Response(200, f"{request.method} {request.path}?{request.query}".encode(), (("Content-Type", "text/x"),))


@pytest.fixture
def port() -> Iterator[int]:
    """Return the port of a running server that answers with `handle`."""
    server = HttpServer("test")
    listener = server.listen("127.0.0.1", 0, handle)
    number = listener.getsockname()[1]
    server.start()
    yield number
    server.call_soon_threadsafe(lambda: server.close(listener))


def connect(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_S)


def exchange(port: int, raw: bytes) -> bytes:
    """Send *raw* and return all bytes that the server answers until it closes the connection."""
    with connect(port) as client:
        client.sendall(raw)
        return read_all(client)


def read_all(client: socket.socket) -> bytes:
    chunks = []
    while chunk := client.recv(1 << 16):
        chunks.append(chunk)
    return b"".join(chunks)


def is_closed(client: socket.socket) -> bool:
    """Return whether the server closed or reset the connection."""
    try:
        return client.recv(1) == b""
    except ConnectionResetError:
        return True


def test_response_has_the_header_order_of_go(port: int) -> None:
    head, _, body = exchange(port, b"GET /a%20b?c=d HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").partition(
        b"\r\n\r\n"
    )
    assert body == b"GET /a b?c=d"
    status, content_type, date, *framing = head.decode().split("\r\n")
    assert (status, content_type) == ("HTTP/1.1 200 OK", "Content-Type: text/x")
    assert time.strptime(date, "Date: %a, %d %b %Y %H:%M:%S GMT")
    assert framing == ["Content-Length: 12", "Connection: close"]


def test_connection_is_reused_for_several_requests(port: int) -> None:
    client = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE_S)
    for number in range(3):
        client.request("GET", f"/{number}")
        assert client.getresponse().read() == f"GET /{number}?".encode()
    client.close()


def test_pipelined_requests_are_answered_in_order(port: int) -> None:
    request = b"GET /%d HTTP/1.1\r\nHost: x\r\n\r\n"
    raw = b"".join(request % number for number in range(400)) + b"GET /end HTTP/1.0\r\n\r\n"
    bodies = [response.split(b"\r\n\r\n")[1] for response in exchange(port, raw).split(b"HTTP/1.")[1:]]
    assert bodies == [*(b"GET /%d?" % number for number in range(400)), b"GET /end?"]


def test_head_request_gets_the_length_but_no_body(port: int) -> None:
    head, _, body = exchange(port, b"HEAD / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").partition(b"\r\n\r\n")
    assert (b"Content-Length: 7" in head, body) == (True, b"")


def test_http_1_0_client_gets_its_version_and_the_connection_is_closed(port: int) -> None:
    assert exchange(port, b"GET / HTTP/1.0\r\n\r\n").startswith(b"HTTP/1.0 200 OK\r\n")


def test_request_with_a_body_is_answered_and_the_connection_is_closed(port: int) -> None:
    assert exchange(port, b"POST /p HTTP/1.1\r\nHost: x\r\nContent-Length: 200000\r\n\r\n" + b"y" * 200000).endswith(
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
def test_invalid_request_is_rejected_with_status(port: int, raw: bytes, status: int) -> None:
    assert exchange(port, raw).split(b" ", 2)[1] == str(status).encode()


def test_hundreds_of_silent_or_partial_clients_do_not_delay_a_request(
    port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "HEAD_TIMEOUT_S", 10 * PATIENCE_S)
    idle = [connect(port) for _ in range(300)]
    for number, client in enumerate(idle):
        client.sendall(b"GET / HT"[: number % 9])
    began_s = time.monotonic()
    assert exchange(port, b"GET / HTTP/1.0\r\n\r\n").endswith(b"GET /?")
    assert time.monotonic() - began_s < PATIENCE_S
    for client in idle:
        client.close()


def test_client_without_a_complete_head_is_disconnected_after_the_timeout(
    port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "HEAD_TIMEOUT_S", 0.2)
    with connect(port) as silent, connect(port) as slow:
        slow.sendall(b"GET / HTTP/1.1\r\n")
        assert is_closed(silent)
        assert is_closed(slow)


def test_client_that_sends_its_head_slowly_is_disconnected_after_the_timeout(
    port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "HEAD_TIMEOUT_S", 0.5)
    with connect(port) as client, pytest.raises(OSError, match=r"reset|pipe"):
        client.sendall(b"GET / HTTP/1.1\r\n")
        end_s = time.monotonic() + PATIENCE_S
        while time.monotonic() < end_s:
            client.sendall(b"A: b\r\n")
            time.sleep(0.05)


def test_client_that_does_not_read_its_response_is_disconnected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ANSWER_TIMEOUT_S", 0.2)
    disconnected = threading.Event()

    class Observed(HttpServer):
        def _disconnect(self, client: module._Client) -> None:
            super()._disconnect(client)
            disconnected.set()

    server = Observed("test")
    port = server.listen("127.0.0.1", 0, handle).getsockname()[1]
    server.start()
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.settimeout(PATIENCE_S)
        client.connect(("127.0.0.1", port))
        client.sendall(b"GET /big HTTP/1.1\r\nHost: x\r\n\r\n" * 20)
        assert disconnected.wait(PATIENCE_S)
        with suppress(ConnectionResetError):
            assert len(read_all(client)) < 20 * len(BIG)


def test_unread_responses_are_limited_in_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "UNSENT_MAX_BYTES", 3 * len(BIG))
    server = HttpServer("test")
    number = server.listen("127.0.0.1", 0, handle).getsockname()[1]
    server.start()
    not_reading = []
    for _ in range(30):
        client = socket.socket()
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.connect(("127.0.0.1", number))
        client.sendall(b"GET /big HTTP/1.1\r\nHost: x\r\n\r\n")
        not_reading.append(client)
    assert exchange(number, b"GET / HTTP/1.0\r\n\r\n").endswith(b"GET /?")
    assert server._unsent_bytes <= 3 * len(BIG)
    for client in not_reading:
        client.close()


def test_with_too_many_clients_the_longest_silent_is_disconnected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CLIENTS_MAX", 8)
    server = HttpServer("test")
    number = server.listen("127.0.0.1", 0, handle).getsockname()[1]
    server.start()
    first, *others = (connect(number) for _ in range(8))
    first.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    assert first.recv(1000)
    with connect(number):
        assert is_closed(others[0])
        first.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert first.recv(1000)
    for client in (first, *others):
        client.close()


def test_closing_a_listener_disconnects_its_clients() -> None:
    server = HttpServer("test")
    listener = server.listen("127.0.0.1", 0, handle)
    number = listener.getsockname()[1]
    server.start()
    with connect(number) as client:
        client.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert client.recv(1000)
        server.call_soon_threadsafe(lambda: server.close(listener))
        assert is_closed(client)
    with pytest.raises(ConnectionRefusedError):
        connect(number)


def test_unspecified_address_means_both_families() -> None:
    server = HttpServer("test")
    number = server.listen("0.0.0.0", 0, handle, both_families=True).getsockname()[1]
    server.start()
    for address in ("127.0.0.1", "::1"):
        with socket.create_connection((address, number), timeout=PATIENCE_S) as client:
            client.sendall(b"GET / HTTP/1.0\r\n\r\n")
            assert read_all(client).endswith(b"GET /?")


def test_without_free_file_descriptors_the_longest_silent_client_is_disconnected(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    server = HttpServer("test")
    number = server.listen("127.0.0.1", 0, handle).getsockname()[1]
    server.start()
    with connect(number) as silent, connect(number) as other:
        other.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert other.recv(1000)
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        newcomers = [socket.socket() for _ in range(20)]
        lowest_free = os.dup(silent.fileno())
        os.close(lowest_free)
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (lowest_free, hard))
            for newcomer in newcomers:  # the first gets a file of the silent client, or one that another thread closed
                newcomer.settimeout(PATIENCE_S)
                newcomer.connect(("127.0.0.1", number))
                newcomer.sendall(b"GET / HTTP/1.0\r\n\r\n")
                assert read_all(newcomer).endswith(b"GET /?")
                if select.select([silent], [], [], 0)[0]:
                    break
            assert is_closed(silent)
            assert not select.select([other], [], [], 0)[0]
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            for newcomer in newcomers:
                newcomer.close()


def test_a_client_that_brings_out_a_bug_is_disconnected_and_others_are_answered(
    port: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    parse = http_messages.parse_head

    def fail_for_one(head: bytes) -> Request:
        if b"/parser-bug" in head:
            raise RuntimeError("a bug")
        return parse(head)

    monkeypatch.setattr(module, "parse_head", fail_for_one)
    for _ in range(threads.FAILURES_MAX + 2):  # failures of clients are not failures of the thread
        assert exchange(port, b"GET /parser-bug HTTP/1.1\r\nHost: x\r\n\r\n") == b""
    assert b"200" in exchange(port, b"GET /x HTTP/1.0\r\n\r\n")
    assert "Internal error in the HTTP server" in caplog.text


def test_calls_that_fail_do_not_stop_the_server(port: int, caplog: pytest.LogCaptureFixture) -> None:
    server = HttpServer("failing")
    listener = server.listen("127.0.0.1", 0, handle)
    server.call_periodically(lambda: 1 / 0)  # type: ignore[arg-type]
    server.call_soon_threadsafe(lambda: 1 / 0)  # type: ignore[arg-type]
    server.start()
    assert b"200" in exchange(listener.getsockname()[1], b"GET /x HTTP/1.0\r\n\r\n")
    assert "Internal error in the HTTP server" in caplog.text
    server._periodic.clear()
