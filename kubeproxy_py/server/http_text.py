"""Requests and answers of HTTP/1.1 as text: bytes to values and back.

Law: pure.  What is not plainly a request is refused; header names are compared without case; an answer's headers stand
in the order in which Go's net/http writes them: the handler's by name, then Date and Content-Length.

Source: RFC 9110, RFC 9112; the words of refusals are net/http's.
"""

import re
import time
from http import HTTPStatus
from urllib.parse import unquote

from msgspec import Struct

TEXT = "text/plain; charset=utf-8"

_REQUEST_LINE = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]{1,32}) ([\x21-\x7e]{1,8192}) HTTP/1\.([01])")
_HEADER = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([^\x00-\x08\x0a-\x1f\x7f]*?)[ \t]*")


class Request(Struct, frozen=True, gc=False):
    """``headers`` by name in small letters; of one that came twice the last."""

    method: str
    path: str
    query: str = ""
    headers: dict[str, str] = {}
    version: int = 1  # the minor one: HTTP/1.1 or HTTP/1.0

    @property
    def has_body(self) -> bool:
        """Whether bytes follow that we don't read."""
        return "transfer-encoding" in self.headers or self.headers.get("content-length", "0") != "0"

    @property
    def closes(self) -> bool:
        """Whether the connection is of no use after the answer."""
        words = self.headers.get("connection", "").lower()
        return self.has_body or "close" in words or (self.version == 0 and "keep-alive" not in words)


class Response(Struct, frozen=True, gc=False):
    """``headers`` in the order in which they are written, without Date and Content-Length."""

    status: int
    body: bytes
    headers: tuple[tuple[str, str], ...] = (("Content-Type", TEXT),)


class BadRequestError(Exception):
    """What came is no request; ``answer`` says so."""

    def __init__(self, status: int, words: str) -> None:
        super().__init__(words)
        self.answer = Response(status, f"{status} {words}".encode())


NOT_FOUND = Response(404, b"404 page not found\n", (("Content-Type", TEXT), ("X-Content-Type-Options", "nosniff")))


def parse_head(head: bytes) -> Request:
    """The request whose *head* this is, without the empty line.  Raises BadRequestError."""
    first, *lines = head.lstrip(b"\r\n").split(b"\r\n")
    asked = _REQUEST_LINE.fullmatch(first)
    if not asked:
        raise BadRequestError(400, "Bad Request")
    headers: dict[str, str] = {}
    for line in lines:
        header = _HEADER.fullmatch(line)
        if not header:
            raise BadRequestError(400, "Bad Request")
        headers[header[1].decode("ascii").lower()] = header[2].decode("latin-1")
    if asked[3] == b"1" and "host" not in headers:
        raise BadRequestError(400, "Bad Request: missing required Host header")
    path, _, query = asked[2].decode("ascii").partition("?")
    return Request(asked[1].decode("ascii"), unquote(_without_host(path)), query, headers, int(asked[3]))


def _without_host(target: str) -> str:
    """The path of a target in absolute form, as proxies are sent."""
    return "/" + target.split("/", 3)[3] if re.match("https?://[^/]+/", target) else target


def response_bytes(response: Response, request: Request | None, now_s: float) -> bytes:
    """*response* to *request* (None: to what was none), at *now_s* since 1970."""
    version = request.version if request else 1
    kept = request is not None and not request.closes
    lines = [
        f"HTTP/1.{version} {response.status} {_reason(response.status)}",
        *(f"{name}: {value}" for name, value in response.headers),
        f"Date: {time.strftime('%a, %d %b %Y %H:%M:%S GMT', time.gmtime(now_s))}",
        f"Content-Length: {len(response.body)}",
        *(() if kept and version else (f"Connection: {'keep-alive' if kept else 'close'}",)),
    ]
    head = "\r\n".join((*lines, "", "")).encode("latin-1")
    return head if request and request.method == "HEAD" else head + response.body


def _reason(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "Unknown"
