"""One HTTP server: requests, answers, and what went wrong, as values.

Law: nothing here retries, redirects or waits without end; an answer can be cut off from another thread; and no
message that leaves here holds a header, since one of them is the token.
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

from kubeproxy_py.model.events import ObjectProblem
from kubeproxy_py.sources import SourceError
from kubeproxy_py.sources.client_metrics import NULL_CLIENT_METRICS, ClientMetrics

CONNECT_TIMEOUT_S = 10.0
BODY_MAX_BYTES = 1 << 30  # 100,000 slices with their managedFields, if a server refuses to send pages
LINE_MAX_BYTES = 16 << 20  # ten times what etcd takes for one object
_CHUNK_BYTES = 1 << 16

KEEPALIVE = [
    # A peer that went without a word is noticed after 30 + 3 x 10 s.
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 30),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 10),
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3),
]


class TransportError(Exception):
    """There was no answer, or not all of it."""

    def __init__(self, problem: ObjectProblem) -> None:
        super().__init__(str(problem))
        self.problem = problem


class Answer:
    """An HTTP answer whose body is yet to come."""

    def __init__(self, server: str, response: Any, on_body: Callable[[int], None] = lambda _size_bytes: None) -> None:
        self._server = server
        self._on_body = on_body
        self._response = response
        self._lock = threading.Lock()
        self.status: int = response.status

    @property
    def retry_after_s(self) -> float | None:
        """The Retry-After header, if it is a number of seconds (Kubernetes sends no dates)."""
        text = self._response.headers.get("Retry-After", "")
        return float(text) if text.isascii() and text.isdigit() else None

    def body(self) -> bytes:
        """All of the body.  Raises TransportError."""
        parts: list[bytes] = []
        size_bytes = 0
        for part in self._chunks():
            parts.append(part)
            size_bytes += len(part)
            if size_bytes > BODY_MAX_BYTES:
                raise TransportError(ObjectProblem(self._server, "body", f"is larger than {BODY_MAX_BYTES >> 20} MiB"))
        self._on_body(size_bytes)
        return b"".join(parts)

    def lines(self) -> Iterator[bytes]:
        """Each line of the body as it comes.  Raises TransportError."""
        rest = b""
        for part in self._chunks():
            *lines, rest = (rest + part).split(b"\n")
            yield from lines
            if len(rest) > LINE_MAX_BYTES:
                raise TransportError(
                    ObjectProblem(self._server, "body", f"a line is larger than {LINE_MAX_BYTES >> 20} MiB")
                )
        if rest:
            yield rest

    def _chunks(self) -> Iterator[bytes]:
        try:
            yield from self._response.stream(_CHUNK_BYTES, decode_content=False)
        except (HTTPError, OSError, ValueError) as error:  # ValueError: it was closed meanwhile
            raise TransportError(_problem(self._server, error)) from None

    def cut_off(self) -> None:
        """End the body now, for whoever reads it in another thread; nothing, if it is over."""
        with self._lock, suppress(OSError, ValueError, AttributeError):  # how a closed response has no fileno
            # On a duplicate: shutting down an SSLSocket pulls its state away under the reader.
            twin = socket.socket(fileno=os.dup(self._response.fileno()))
            with twin:
                twin.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Close the connection, unless the body was read to its end: then it may be used again."""
        with self._lock:
            self._response.close()


class Connection:
    """An HTTP server that is asked with credentials.

    *authorization* gives the header's value for each request ("" for none), and may read files to do so.
    """

    def __init__(
        self,
        server: str,
        pool: urllib3.PoolManager,
        authorization: Callable[[], str],
        agent: str,
        tally: ClientMetrics = NULL_CLIENT_METRICS,
    ) -> None:
        self._server = server
        self._pool = pool
        self._authorization = authorization
        self._agent = agent
        self._tally = tally

    @property
    def host(self) -> str:
        """``host:port`` of the server."""
        return self._server.partition("://")[2].partition("/")[0]

    def get(self, target: str, read_timeout_s: float) -> Answer:
        """The answer to GET *target*, a path with a query; *read_timeout_s* is the longest silence in it.

        Raises TransportError.
        """
        return self._request("GET", target, read_timeout_s)

    def send(self, method: str, target: str, body: bytes, content_type: str, read_timeout_s: float) -> Answer:
        """The answer to *method* on *target* with this *body*.  Raises TransportError."""
        return self._request(method, target, read_timeout_s, body, {"Content-Type": content_type})

    def _request(
        self,
        method: str,
        target: str,
        read_timeout_s: float,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        began_s, code = time.monotonic(), "<error>"
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
        except SourceError as error:
            raise TransportError(ObjectProblem(self._server, "credentials", error.message, error.hint)) from None
        except (HTTPError, OSError) as error:
            raise TransportError(_problem(self._server, error)) from None
        finally:
            self._tally.requested(self.host, method, code, time.monotonic() - began_s, len(body or b""))
        return Answer(self._server, response, lambda size_bytes: self._tally.received(self.host, method, size_bytes))

    def _headers(self) -> Mapping[str, str]:
        """Raises SourceError if the credentials can't be had, or can't be sent."""
        headers = {"Accept": "application/json", "User-Agent": self._agent}
        value = self._authorization().strip()  # token files end in a newline
        if not value:
            return headers
        if not value.isascii() or not value.isprintable():
            raise SourceError("the token has characters that no header may have", "is it the right file?")
        return {**headers, "Authorization": value}

    def close(self) -> None:
        self._pool.clear()


_TLS_HINTS = (
    ("Hostname mismatch", "set server, or tls-server-name, to a name that its certificate has"),
    ("IP address mismatch", "set server, or tls-server-name, to a name that its certificate has"),
    ("expired", "renew it, or set the clock"),
    ("not yet valid", "set the clock"),
    ("verify failed", "certificate-authority must be the CA that signed the server's certificate"),
    ("alert", "the server does not accept our client certificate"),
    ("wrong version number", "the server speaks no TLS on this port: http instead of https?"),
)
_REACH_HINT = "is it up, and is its address right?"


def _problem(server: str, error: Exception) -> ObjectProblem:
    """What *error* means to the operator."""
    cause = _tls_cause(error)
    if cause:
        hint = next((hint for words, hint in _TLS_HINTS if words in cause), "")
        return ObjectProblem(server, "TLS", cause, hint)
    if isinstance(error, NameResolutionError):
        return ObjectProblem(server, "connection", "its name has no address", "is DNS up, and the name right?")
    if isinstance(error, ConnectTimeoutError) and not isinstance(error, NewConnectionError):
        return ObjectProblem(server, "connection", f"no answer within {CONNECT_TIMEOUT_S:g} s", _REACH_HINT)
    if isinstance(error, ReadTimeoutError):
        return ObjectProblem(server, "connection", "went silent")
    return ObjectProblem(server, "connection", _reason(error), _REACH_HINT)


def _tls_cause(error: BaseException | None) -> str:
    """The words of the TLS error that is at the bottom of *error*, if there is one."""
    for found in _causes(error):
        if isinstance(found, ssl.SSLCertVerificationError):
            return f"certificate verify failed: {found.verify_message}"
        if isinstance(found, ssl.SSLError):
            return (found.reason or found.strerror or "failed").lower().replace("_", " ")
    return ""


def _reason(error: BaseException) -> str:
    """The words of the system's error that is at the bottom of *error*, if there is one."""
    for found in _causes(error):
        if isinstance(found, OSError) and found.strerror:
            return f"{found.strerror}{f': {found.filename}' if found.filename else ''}"
    return type(error).__name__


def _causes(error: object) -> Iterator[BaseException]:
    """*error* and the errors within it: urllib3 keeps them as arguments, or as causes."""
    seen: list[object] = [error]
    for found in seen:
        if isinstance(found, BaseException):
            yield found
            inner = (*found.args, found.__cause__, found.__context__)
            seen.extend(other for other in inner if other not in seen)
