"""UiServer: a page that shows the agent's state in a browser, /ui, and the documents that it reads.

Invariants:
- It listens on a loopback address only, and answers only requests whose Host is one: a page of another site, whose name
  was made to resolve to 127.0.0.1 (DNS rebinding), reads nothing.
- The browser runs and loads nothing but the page's own script and style, whose hashes its policy names.
- Nothing is changed by a request.
"""

import logging
import re
from base64 import b64encode
from functools import cache
from hashlib import sha256
from importlib.resources import files

from msgspec import Struct

from kubeproxy_py.logging_setup import values
from kubeproxy_py.net import SocketAddress, parse_ip, special_use
from kubeproxy_py.server.http import Handler, HttpServer
from kubeproxy_py.server.http_messages import NOT_FOUND, TEXT, Request, Response
from kubeproxy_py.server.listeners import RETRY_S, Listening, RetryingListeners

CLIENTS_MAX = 32
_PATHS = ("/", "/ui", "/ui/")
_DOCUMENTS = "/v1/"
_OWN_SITE = ("", "same-origin", "none")  # of Sec-Fetch-Site; "": not a browser, or an old one

log = logging.getLogger(__name__)


class Page(Struct, frozen=True, gc=False):
    """The page, with its headers."""

    body: bytes
    headers: tuple[tuple[str, str], ...]


@cache
def page() -> Page:
    """Return the page, with a policy that admits its own script and style only."""
    body = files(__package__).joinpath("index.html").read_bytes()
    policy = "; ".join(
        (
            "default-src 'none'",
            f"script-src {_hashes(body, b'script')}",
            f"style-src {_hashes(body, b'style')}",
            "connect-src 'self'",
            "img-src data:",
            "base-uri 'none'",
            "form-action 'none'",
            "frame-ancestors 'none'",
            "require-trusted-types-for 'script'",
            "trusted-types 'none'",
        )
    )
    headers = (
        ("Content-Type", "text/html; charset=utf-8"),
        ("Content-Security-Policy", policy),
        ("X-Content-Type-Options", "nosniff"),
        ("X-Frame-Options", "DENY"),
        ("Referrer-Policy", "no-referrer"),
        ("Cross-Origin-Opener-Policy", "same-origin"),
        ("Cross-Origin-Resource-Policy", "same-origin"),
        ("Cache-Control", "no-cache"),
    )
    return Page(body, headers)


def _hashes(body: bytes, element: bytes) -> str:
    """Return the sources of a policy that admit the contents of each inline *element* of *body*."""
    contents = re.findall(b"<%s>(.*?)</%s>" % (element, element), body, re.DOTALL)
    return " ".join(f"'sha256-{b64encode(sha256(content).digest()).decode()}'" for content in contents)


class UiPages:
    """Answers requests for the page, and, by *documents*, for what it reads below /v1/."""

    def __init__(self, documents: Handler) -> None:
        self._documents = documents

    def answer(self, request: Request) -> Response:
        """Answer *request* if it is meant for this server."""
        if not is_loopback_host(request.headers.get("host", "")):
            return _refusal("this page is answered at localhost only: see kubectl port-forward")
        if request.path.startswith(_DOCUMENTS):
            if request.headers.get("sec-fetch-site", "") not in _OWN_SITE:
                return _refusal("documents are for this page only")
            response = self._documents(request)
            return Response(response.status, response.body, (*response.headers, _SAME_ORIGIN))
        if request.path not in _PATHS:
            return NOT_FOUND
        if request.method not in ("GET", "HEAD"):
            return Response(405, b"only GET is answered\n", (("Content-Type", TEXT), ("Allow", "GET, HEAD")))
        return Response(200, page().body, page().headers)


_SAME_ORIGIN = ("Cross-Origin-Resource-Policy", "same-origin")


def _refusal(text: str) -> Response:
    return Response(403, f"{text}\n".encode(), (("Content-Type", TEXT), ("X-Content-Type-Options", "nosniff")))


def is_loopback_host(host: str) -> bool:
    """Return whether the Host header *host* names this machine: localhost, or a loopback address, with any port."""
    name = re.sub(r":[0-9]{0,5}$", "", host) if not host.endswith("]") else host
    if name.lower() == "localhost":
        return True
    try:
        return special_use(parse_ip(name.removeprefix("[").removesuffix("]"))) == "loopback"
    except ValueError:
        return False


class UiServer:
    """Serves the page at *address*, in a thread of its own."""

    def __init__(self, address: SocketAddress, documents: Handler) -> None:
        self._address = address
        self._pages = UiPages(documents)
        self._server = HttpServer("ui", clients_max=CLIENTS_MAX)
        self._listeners: RetryingListeners[SocketAddress] = RetryingListeners(self._server, self._log_start)

    def start(self) -> None:
        """Serve until the process ends; where the address cannot be bound, try again every few seconds."""
        address = self._address
        if error := self._listeners.open(address, Listening(address.address, address.port, self._pages.answer)):
            log.error(
                "Failed to serve the page of this agent, retrying; Services are not affected",
                extra=values(address=address, err=error, retry_s=RETRY_S),
            )
        else:
            self._log_start(address)
        self._server.start()

    @staticmethod
    def _log_start(address: SocketAddress) -> None:
        log.info("Serving the page of this agent", extra=values(url=f"http://{address}/ui"))
