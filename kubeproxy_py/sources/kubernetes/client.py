"""HTTP client for one server: requests, responses, and failures as Problems.

Invariants:
- Nothing here retries, redirects or waits without a limit; a response can be aborted from another thread.
- No error text contains a header, since one of them is the token.
"""

import os
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from email.utils import parsedate_to_datetime
from typing import Any

from kubeproxy_py.model.problem import Problem
from kubeproxy_py.sources import SourceError
from kubeproxy_py.sources.client_metrics import NULL_CLIENT_METRICS, ClientMetrics
from kubeproxy_py.sources.kubernetes import content_encoding
from kubeproxy_py.sources.kubernetes.answers import PROXY_HINT
from kubeproxy_py.sources.kubernetes.imports import import_urllib3
from kubeproxy_py.sources.kubernetes.transport_errors import (
    CONNECT_TIMEOUT_S,
    TooLargeError,
    TransportError,
    problem_of_error,
)

import_urllib3()

import urllib3  # noqa: E402
from urllib3.exceptions import HTTPError  # noqa: E402

BODY_MAX_BYTES = 64 << 20  # decompressed; three lists at once, and the agent, fit into the DaemonSet's 512 MiB
LINE_MAX_BYTES = 16 << 20  # ten times the largest object that etcd accepts
_CHUNK_BYTES = 1 << 16

SOCKET_OPTIONS = [
    # A peer that disappeared is noticed after 15 + 3 x 5 s; with data on the way, after 30 s too.
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 15),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 5),
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3),
    (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 30_000),
]
"""Socket options of a connection."""


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

    @property
    def date_s(self) -> float | None:
        """The server's clock, in seconds since 1970, by the Date header; None if there is none."""
        try:
            return parsedate_to_datetime(self._response.headers.get("Date", "")).timestamp()
        except (ValueError, OverflowError):
            return None

    def body(self) -> bytearray:
        """Read and return the complete body, decompressed.

        It is one buffer that grows: many small ones would stay with the process after they were freed.

        Raises:
            TransportError: See parts.
        """
        body = bytearray()
        for part in self.parts():
            body += part
        return body

    def parts(self) -> Iterator[bytes]:
        """Yield the body, decompressed, in parts as it arrives.

        Raises:
            TransportError: It is incomplete or damaged, or, as TooLargeError, larger than BODY_MAX_BYTES.
        """
        size_bytes = 0
        for part in self._chunks():
            size_bytes += len(part)
            if size_bytes > BODY_MAX_BYTES:
                message = f"is larger than {BODY_MAX_BYTES >> 20} MiB"
                raise TooLargeError(Problem(self._server, "body", message))
            yield part
        self._on_body_read(size_bytes)

    def lines(self) -> Iterator[bytes]:
        """Yield each line of the body as it arrives.

        Raises:
            TransportError: The connection broke, or, as TooLargeError, a line is larger than LINE_MAX_BYTES.
        """
        incomplete = bytearray()
        for part in self._chunks():
            first, *others = part.split(b"\n")
            incomplete += first
            for line in others:
                yield bytes(incomplete)
                incomplete = bytearray(line)
            if len(incomplete) > LINE_MAX_BYTES:
                message = f"has a line larger than {LINE_MAX_BYTES >> 20} MiB"
                raise TooLargeError(Problem(self._server, "body", message))
        if incomplete:
            yield bytes(incomplete)

    def set_read_timeout(self, timeout_s: float) -> None:
        """Change the longest silence in the rest of the response; has no effect if the server closes it afterwards."""
        connection = self._response.connection
        if connection is not None and connection.sock is not None:
            connection.sock.settimeout(timeout_s)

    def _chunks(self) -> Iterator[bytes]:
        encoding = self._response.headers.get("Content-Encoding", "")
        try:
            chunks = self._response.stream(_CHUNK_BYTES, decode_content=False)
            yield from content_encoding.decode_content(encoding, chunks)
        except content_encoding.EncodingError as error:
            raise TransportError(Problem(self._server, "body", str(error), PROXY_HINT)) from error
        except (HTTPError, OSError, ValueError) as error:  # ValueError: it was closed meanwhile
            raise TransportError(problem_of_error(self._server, error)) from error

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
        cluster: The IDs of the server's cluster; see cluster_ids.
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
        cluster: tuple[str, ...] = (),
    ) -> None:
        self.cluster = cluster
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

    def get(self, target: str, read_timeout_s: float, *, compressed: bool = False) -> Response:
        """Send GET for *target*, a path with a query; *read_timeout_s* is the longest silence in the response.

        The server may compress the response if *compressed*.

        Raises:
            TransportError: There was no response.
        """
        headers = {"Accept-Encoding": content_encoding.ACCEPTED} if compressed else None
        return self._request("GET", target, read_timeout_s, headers=headers)

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
            raise TransportError(problem_of_error(self._server, error)) from error
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
