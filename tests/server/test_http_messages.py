"""HTTP messages: which request heads are accepted, and when a connection stays open."""

from __future__ import annotations

import pytest

from kubeproxy_py.server.http_messages import BadRequestError, Request, Response, encode_response, parse_head

NOW_S = 1_735_725_600.0  # 2025-01-01T10:00:00Z


def rejection(head: bytes) -> Response:
    with pytest.raises(BadRequestError) as raised:
        parse_head(head)
    return raised.value.response


def test_head_is_parsed_into_path_query_and_lower_case_headers() -> None:
    head = b"GET /metrics%2Fslis?a=b&c HTTP/1.1\r\nHost: x\r\nACCEPT:  text/plain \r\nX-A: 1\r\nx-a: 2"
    headers = {"host": "x", "accept": "text/plain", "x-a": "2"}
    assert parse_head(head) == Request("GET", "/metrics/slis", "a=b&c", headers)


def test_empty_lines_before_the_request_line_are_ignored() -> None:
    assert parse_head(b"\r\n\r\nGET / HTTP/1.0") == Request("GET", "/", version=0)


@pytest.mark.parametrize("target", ["http://node:10256/livez", "https://node/livez", "/livez"])
def test_host_of_an_absolute_target_is_omitted(target: str) -> None:
    assert parse_head(f"GET {target} HTTP/1.1\r\nHost: node".encode()).path == "/livez"


def test_missing_host_is_rejected_with_the_text_of_go() -> None:
    response = rejection(b"GET / HTTP/1.1\r\nAccept: x")
    assert (response.status, response.body) == (400, b"400 Bad Request: missing required Host header")


@pytest.mark.parametrize(
    "head",
    [
        b"",
        b"GET / HTTP/1.1\r\nHost: x\r\nHost: y",
        b"GET / HTTP/1.1\nHost: x",
        b"GET / HTTP/1.1\r\nHost: x\nA: b",
        b"GET / HTTP/1.1\r\nHost: x\r\n\tfolded",
        b"GET / HTTP/1.1\r\nHost: x\r\nA : b",
        b"GET / HTTP/1.1\r\nHost: x\r\nA: \x00",
        b"GET / HTTP/1.1\r\nHost: x\r\nA: b\x7f",
        b"GET / HTTP/1.1\r\nHost: x\r\nA: b\rc",
        b"GET / HTTP/3.0\r\nHost: x",
        b"GET / HTTP/0.9",
        b"GET /\xc3\xbc HTTP/1.1\r\nHost: x",
    ],
)
def test_malformed_head_is_a_bad_request(head: bytes) -> None:
    response = rejection(head)
    assert (response.status, response.body) == (400, b"400 Bad Request")


@pytest.mark.parametrize(
    ("framing", "has_body"),
    [
        (b"Content-Length: 0", False),
        (b"Content-Length: 1", True),
        (b"Transfer-Encoding: chunked", True),
        (b"Content-Length: 0\r\nTransfer-Encoding: chunked", True),
    ],
)
def test_connection_is_closed_after_a_request_with_a_body(framing: bytes, has_body: bool) -> None:
    # Its bytes are not read: on an open connection they would be taken for the next request (request smuggling).
    request = parse_head(b"POST / HTTP/1.1\r\nHost: x\r\nConnection: keep-alive\r\n" + framing)
    assert (request.has_body, request.closes) == (has_body, has_body)


@pytest.mark.parametrize(
    ("framing", "status"),
    [
        (b"Content-Length: 1\r\nContent-Length: 2", 400),
        (b"Content-Length: -1", 400),
        (b"Transfer-Encoding: identity", 501),
        (b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked", 501),
    ],
)
def test_ambiguous_body_length_is_rejected(framing: bytes, status: int) -> None:
    assert rejection(b"POST / HTTP/1.1\r\nHost: x\r\n" + framing).status == status


@pytest.mark.parametrize(
    ("version", "connection", "expected"),
    [
        (1, "", b""),
        (1, "close", b"Connection: close\r\n"),
        (0, "", b"Connection: close\r\n"),
        (0, "keep-alive", b"Connection: keep-alive\r\n"),
    ],
)
def test_response_states_the_version_and_whether_the_connection_stays_open(
    version: int, connection: str, expected: bytes
) -> None:
    request = Request("GET", "/", headers={"connection": connection}, version=version)
    response = Response(200, b"ok", (("Content-Type", "a/b"), ("X-A", "1")))
    head = b"HTTP/1.%d 200 OK\r\nContent-Type: a/b\r\nX-A: 1\r\nDate: Wed, 01 Jan 2025 10:00:00 GMT\r\n" % version
    assert encode_response(response, request, NOW_S) == head + b"Content-Length: 2\r\n" + expected + b"\r\nok"
