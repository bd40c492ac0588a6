"""HTTP client for one server: requests, responses, and failures as Problems.

Invariants:
- Nothing here retries, redirects or waits without a limit; a response can be aborted from another thread.
- No error text contains a header, since one of them is the token.
"""

import os
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from typing import Any

import urllib3
from urllib3.exceptions import ConnectTimeoutError, HTTPError, NameResolutionError, NewConnectionError, ReadTimeoutError

from kubeproxy_py.model.problem import Problem
from kubeproxy_py.sources import SourceError
from kubeproxy_py.sources.client_metrics import NULL_CLIENT_METRICS, ClientMetrics

CONNECT_TIMEOUT_S = 10.0
BODY_MAX_BYTES = 1 << 30  # 100,000 slices with their managedFields, if a server refuses to send pages
LINE_MAX_BYTES = 16 << 20  # ten times the largest object that etcd accepts
_CHUNK_BYTES = 1 << 16

KEEPALIVE = [
    # A peer that disappeared is noticed after 30 + 3 x 10 s.
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 30),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 10),
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3),
]
"""Socket options of a connection."""


class TransportError(Exception):
    """There was no response, or it was incomplete; ``problem`` says why."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(str(problem))
        self.problem = problem


class Response:
    """An HTTP response whose body has not been read yet.

    Args:
        server: The URL of the server, for Problems.
        response: urllib3's response.
        on_body_read: Called with the size in bytes after a complete body was read.
    """

    def __init__(
        self, server: str, response: Any, on_body_read: Callable[[int], None] = lambda _size_bytes: None
    ) -> None:
        self._server = server
        self._on_body_read = on_body_read
        self._response = response
        self._lock = threading.Lock()
        self.status: int = response.status

    @property
    def retry_after_s(self) -> float | None:
        """The Retry-After header if it is a number of seconds (Kubernetes sends no dates)."""
        text = self._response.headers.get("Retry-After", "")
        return float(text) if text.isascii() and text.isdigit() else None

    def body(self) -> bytes:
        """Read and return the complete body.  Raises TransportError."""
        parts: list[bytes] = []
        size_bytes = 0
        for part in self._chunks():
            parts.append(part)
            size_bytes += len(part)
            if size_bytes > BODY_MAX_BYTES:
                raise TransportError(Problem(self._server, "body", f"is larger than {BODY_MAX_BYTES >> 20} MiB"))
        self._on_body_read(size_bytes)
        return b"".join(parts)

    def lines(self) -> Iterator[bytes]:
        """Yield each line of the body as it arrives.  Raises TransportError."""
        incomplete = b""
        for part in self._chunks():
            *lines, incomplete = (incomplete + part).split(b"\n")
            yield from lines
            if len(incomplete) > LINE_MAX_BYTES:
                message = f"a line is larger than {LINE_MAX_BYTES >> 20} MiB"
                raise TransportError(Problem(self._server, "body", message))
        if incomplete:
            yield incomplete

    def _chunks(self) -> Iterator[bytes]:
        try:
            yield from self._response.stream(_CHUNK_BYTES, decode_content=False)
        except (HTTPError, OSError, ValueError) as error:  # ValueError: it was closed meanwhile
            raise TransportError(_problem(self._server, error)) from error

    def abort(self) -> None:
        """End the body now for the thread that reads it; has no effect once the body has ended."""
        with self._lock, suppress(OSError, ValueError, AttributeError):  # AttributeError: a closed response's fileno
            # On a duplicate: shutting down an SSLSocket removes its state while the reader uses it.
            duplicate = socket.socket(fileno=os.dup(self._response.fileno()))
            with duplicate:
                duplicate.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Close the connection, or return it to the pool if the body was read to its end."""
        with self._lock:
            self._response.close()


class Connection:
    """An HTTP server and the credentials for it.

    Args:
        server: URL of the server.
        pool: urllib3's connection pool.
        authorization: Returns the value of the Authorization header for each request ("": none); may read files.
        user_agent: The User-Agent header.
        metrics: Counts the requests.
        on_connected: Called with a socket of each request that got a response.
    """

    def __init__(  # noqa: PLR0913 - the composition root of a request
        self,
        server: str,
        pool: urllib3.PoolManager,
        authorization: Callable[[], str],
        user_agent: str,
        metrics: ClientMetrics = NULL_CLIENT_METRICS,
        *,
        on_connected: Callable[[socket.socket], None] = lambda _socket: None,
    ) -> None:
        self._server = server
        self._pool = pool
        self._authorization = authorization
        self._user_agent = user_agent
        self._metrics = metrics
        self._on_connected = on_connected

    @property
    def url(self) -> str:
        """The URL of the server."""
        return self._server

    @property
    def host(self) -> str:
        """``host:port`` of the server."""
        return self._server.partition("://")[2].partition("/")[0]

    def get(self, target: str, read_timeout_s: float) -> Response:
        """Send GET for *target*, a path with a query; *read_timeout_s* is the longest silence in the response.

        Raises:
            TransportError: There was no response.
        """
        return self._request("GET", target, read_timeout_s)

    def send(self, method: str, target: str, body: bytes, content_type: str, read_timeout_s: float) -> Response:
        """Send *method* for *target* with *body*.  Raises TransportError."""
        return self._request(method, target, read_timeout_s, body, {"Content-Type": content_type})

    def _request(
        self,
        method: str,
        target: str,
        read_timeout_s: float,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Response:
        started_s, code = time.monotonic(), "<error>"
        try:
            response = self._pool.request(
                method,
                self._server + target,
                body=body,
                headers={**self._headers(), **(headers or {})},
                timeout=urllib3.Timeout(connect=CONNECT_TIMEOUT_S, read=read_timeout_s),
                retries=False,
                preload_content=False,
            )
            code = str(response.status)
            _call_with_socket(self._on_connected, response)
        except SourceError as error:
            raise TransportError(Problem(self._server, "credentials", error.message, error.hint)) from error
        except (HTTPError, OSError) as error:
            raise TransportError(_problem(self._server, error)) from error
        finally:
            took_s = time.monotonic() - started_s
            self._metrics.request_finished(self.host, method, code, took_s, len(body or b""))
        return Response(
            self._server, response, lambda size_bytes: self._metrics.response_read(self.host, method, size_bytes)
        )

    def _headers(self) -> Mapping[str, str]:
        """Return the headers of every request.  Raises SourceError if the credentials cannot be read or sent."""
        headers = {"Accept": "application/json", "User-Agent": self._user_agent}
        value = self._authorization().strip()  # token files end in a newline
        if not value:
            return headers
        if not value.isascii() or not value.isprintable():
            raise SourceError("the token has characters that an HTTP header cannot have", "check the token file")
        return {**headers, "Authorization": value}

    def close(self) -> None:
        """Close all idle connections."""
        self._pool.clear()


def _call_with_socket(on_connected: Callable[[socket.socket], None], response: Any) -> None:
    """Call *on_connected* with a duplicate of the socket of *response*, unless that is closed already."""
    with suppress(OSError, ValueError, AttributeError):  # as in Response.abort
        duplicate = socket.socket(fileno=os.dup(response.fileno()))
        with duplicate:
            on_connected(duplicate)


_TLS_HINTS = (
    ("Hostname mismatch", "set server, or tls-server-name, to a name in the server's certificate"),
    ("IP address mismatch", "set server, or tls-server-name, to a name in the server's certificate"),
    ("expired", "renew it, or set the clock"),
    ("not yet valid", "set the clock"),
    ("verify failed", "certificate-authority must be the CA that signed the server's certificate"),
    ("alert", "the server does not accept our client certificate"),
    ("wrong version number", "the server does not use TLS on this port; use http instead of https?"),
)
_UNREACHABLE_HINT = "check that it is running and that its address is correct"


def _problem(server: str, error: Exception) -> Problem:
    """Return the Problem that *error* is for the operator."""
    tls_error = _tls_error_text(error)
    if tls_error:
        hint = next((hint for words, hint in _TLS_HINTS if words in tls_error), "")
        return Problem(server, "TLS", tls_error, hint)
    if isinstance(error, NameResolutionError):
        return Problem(server, "connection", "its name cannot be resolved", "check DNS and the name")
    if isinstance(error, ConnectTimeoutError) and not isinstance(error, NewConnectionError):
        return Problem(server, "connection", f"no answer within {CONNECT_TIMEOUT_S:g} s", _UNREACHABLE_HINT)
    if isinstance(error, ReadTimeoutError):
        return Problem(server, "connection", "timed out waiting for data")
    return Problem(server, "connection", _os_error_text(error), _UNREACHABLE_HINT)


def _tls_error_text(error: BaseException) -> str:
    """Return the text of the TLS error that caused *error*, if there is one."""
    for cause in _causes(error):
        if isinstance(cause, ssl.SSLCertVerificationError):
            return f"certificate verify failed: {cause.verify_message}"
        if isinstance(cause, ssl.SSLError):
            return (cause.reason or cause.strerror or "failed").lower().replace("_", " ")
    return ""


def _os_error_text(error: BaseException) -> str:
    """Return the text of the operating system's error that caused *error*, or the name of its type."""
    for cause in _causes(error):
        if isinstance(cause, OSError) and cause.strerror:
            return f"{cause.strerror}{f': {cause.filename}' if cause.filename else ''}"
    return type(error).__name__


def _causes(error: object) -> Iterator[BaseException]:
    """Yield *error* and the errors within it, which urllib3 keeps as arguments or as causes."""
    queue: list[object] = [error]
    for item in queue:
        if isinstance(item, BaseException):
            yield item
            inner = (*item.args, item.__cause__, item.__context__)
            queue.extend(other for other in inner if other not in queue)
