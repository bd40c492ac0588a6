"""HTTP/1.1 messages: parse the head of a request, and write a response as Go's net/http writes it.

h11 parses the head.  It cannot write the response: it answers every client as HTTP/1.1 and closes every HTTP/1.0
connection, while net/http repeats the client's version and supports keep-alive for both.

Source: RFC 9110, RFC 9112; net/http, server.go, for the texts of error responses.
"""

import re
import time
from http import HTTPStatus
from typing import TYPE_CHECKING
from urllib.parse import unquote

from msgspec import Struct

if TYPE_CHECKING:
    import h11

TEXT = "text/plain; charset=utf-8"

_UNSAFE = re.compile(rb"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]|\r(?!\n)|(?<!\r)\n|\n[ \t]")
"""A control character, a line that does not end with CR LF, or a folded header line."""

_ABSOLUTE_FORM = re.compile("https?://[^/]+/")
_MINOR_VERSIONS = {b"1.0": 0, b"1.1": 1}


class Request(Struct, frozen=True, gc=False):
    """The head of a request."""

    method: str
    path: str  # percent-decoded
    query: str = ""
    headers: dict[str, str] = {}  # by name in lower case; if a name occurs twice, its last value
    version: int = 1  # the minor version: HTTP/1.1 or HTTP/1.0
    has_body: bool = False  # a body follows, which is not read

    @property
    def closes(self) -> bool:
        """Whether the connection must be closed after the response."""
        connection = self.headers.get("connection", "").lower()
        return self.has_body or "close" in connection or (self.version == 0 and "keep-alive" not in connection)


class Response(Struct, frozen=True, gc=False):
    """A response; ``headers`` in the order in which they are written, without Date and Content-Length."""

    status: int
    body: bytes
    headers: tuple[tuple[str, str], ...] = (("Content-Type", TEXT),)


class BadRequestError(Exception):
    """The received bytes are not a valid request; ``response`` rejects them."""

    def __init__(self, status: int = 400, detail: str = "") -> None:
        super().__init__(status, detail)
        self.response = _error_response(status, detail)


def _error_response(status: int, detail: str = "") -> Response:
    return Response(status, f"{status} {HTTPStatus(status).phrase}{detail}".encode())


HEAD_TOO_LARGE = _error_response(431)
NOT_FOUND = Response(404, b"404 page not found\n", (("Content-Type", TEXT), ("X-Content-Type-Options", "nosniff")))


def parse_head(head: bytes) -> Request:
    """Parse the *head* of a request: all bytes before the empty line.  Raises BadRequestError."""
    import h11  # by the first request: 30 ms that the first sync does not wait for

    head = head.lstrip(b"\r\n")
    # h11 accepts most of these.  A proxy in front of this server may read such a head as a different request.
    if _UNSAFE.search(head):
        raise BadRequestError
    parser = h11.Connection(h11.SERVER)
    parser.receive_data(head + b"\r\n\r\n")
    try:
        event = parser.next_event()
        has_body = not isinstance(parser.next_event(), h11.EndOfMessage)
    except h11.RemoteProtocolError as error:
        raise _rejection(error) from error
    if not isinstance(event, h11.Request) or event.http_version not in _MINOR_VERSIONS:
        raise BadRequestError
    path, _, query = event.target.decode("ascii").partition("?")
    headers = {name.decode("ascii"): value.decode("latin-1") for name, value in event.headers}
    version = _MINOR_VERSIONS[event.http_version]
    return Request(event.method.decode("ascii"), unquote(_without_host(path)), query, headers, version, has_body)


def _rejection(error: "h11.RemoteProtocolError") -> BadRequestError:
    no_host = str(error).startswith("Missing mandatory Host")
    return BadRequestError(error.error_status_hint, ": missing required Host header" if no_host else "")


def _without_host(target: str) -> str:
    """Return the path of a *target* in absolute form, which clients send to proxies."""
    return "/" + target.split("/", 3)[3] if _ABSOLUTE_FORM.match(target) else target


def encode_response(response: Response, request: Request | None, now_s: float) -> bytes:
    """Return the bytes of *response*.

    The headers have net/http's order: the handler's, then Date, Content-Length and, where the version's default does
    not apply, Connection.

    Args:
        response: What to send; its body is omitted for HEAD.
        request: What it answers; None if that was not a valid request.
        now_s: The time for the Date header, in seconds since 1970.
    """
    version = request.version if request else 1
    keeps_open = request is not None and not request.closes
    lines = [
        f"HTTP/1.{version} {response.status} {_reason(response.status)}",
        *(f"{name}: {value}" for name, value in response.headers),
        f"Date: {time.strftime('%a, %d %b %Y %H:%M:%S GMT', time.gmtime(now_s))}",
        f"Content-Length: {len(response.body)}",
        *(() if keeps_open and version else (f"Connection: {'keep-alive' if keeps_open else 'close'}",)),
    ]
    head = "\r\n".join((*lines, "", "")).encode("latin-1")
    return head if request and request.method == "HEAD" else head + response.body


def _reason(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "Unknown"
