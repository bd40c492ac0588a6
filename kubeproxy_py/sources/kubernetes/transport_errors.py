"""TransportError: there was no complete response, as a Problem in the operator's words.

Invariants:
- No text contains a header, since one of them is the token.
"""

import ssl
from collections.abc import Iterator
from http.client import BadStatusLine, HTTPException, RemoteDisconnected

from kubeproxy_py.model.problem import Problem
from kubeproxy_py.sources.kubernetes.imports import import_urllib3

import_urllib3()

from urllib3.exceptions import (  # noqa: E402
    ConnectTimeoutError,
    IncompleteRead,
    InvalidChunkLength,
    NameResolutionError,
    NewConnectionError,
    ProtocolError,
    ReadTimeoutError,
)

CONNECT_TIMEOUT_S = 10.0


class TransportError(Exception):
    """There was no response, or it was incomplete; ``problem`` says why."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(str(problem))
        self.problem = problem


class TooLargeError(TransportError):
    """A response, or a line of it, is larger than this agent reads."""


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
_HANGING_HINT = "check that the server, and what is between it and this node, is not stuck"
_TLS_CLOSED = (ssl.SSLEOFError, ssl.SSLZeroReturnError)
_ERROR_TEXTS: tuple[tuple[type[BaseException] | tuple[type[BaseException], ...], str], ...] = (
    (_TLS_CLOSED, "the server closed it"),
    (RemoteDisconnected, "the server closed it without a response"),
    (IncompleteRead, "it was closed in the middle of a response"),
    (InvalidChunkLength, "it was closed in the middle of a response"),
    (BadStatusLine, "the response is not HTTP"),
    (HTTPException, "the response is not valid HTTP"),
    (ProtocolError, "it was closed in the middle of a response"),
)
"""What an exception of the HTTP libraries means; the first one that fits."""
_UNKNOWN_TEXT = "the request failed"  # the log has the exception at -v4


def problem_of_error(server: str, error: Exception) -> Problem:
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
        return Problem(server, "connection", "it is open, but nothing was received in time", _HANGING_HINT)
    return Problem(server, "connection", _error_text(error), _UNREACHABLE_HINT)


def _tls_error_text(error: BaseException) -> str:
    """Return the text of the TLS error that caused *error*, if there is one."""
    for cause in _causes(error):
        if isinstance(cause, ssl.SSLCertVerificationError):
            return f"certificate verify failed: {cause.verify_message}"
        if isinstance(cause, ssl.SSLError) and not isinstance(cause, _TLS_CLOSED):
            return (cause.reason or cause.strerror or "failed").lower().replace("_", " ")
    return ""


def _error_text(error: BaseException) -> str:
    """Return what happened: the text of the operating system, or what the exception of a library means."""
    causes = list(_causes(error))
    for cause in causes:
        if isinstance(cause, OSError) and cause.strerror and not isinstance(cause, _TLS_CLOSED):
            return f"{cause.strerror}{f': {cause.filename}' if cause.filename else ''}"
    return next((text for kind, text in _ERROR_TEXTS for cause in causes if isinstance(cause, kind)), _UNKNOWN_TEXT)


def _causes(error: object) -> Iterator[BaseException]:
    """Yield *error* and the errors within it, which urllib3 keeps as arguments or as causes."""
    queue: list[object] = [error]
    for item in queue:
        if isinstance(item, BaseException):
            yield item
            inner = (*item.args, item.__cause__, item.__context__)
            queue.extend(other for other in inner if other not in queue)
