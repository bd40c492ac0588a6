"""ListWatch: the list-and-watch protocol of the Kubernetes API, without I/O.

It receives what the server answered, and returns events and the next request; it neither reads a clock nor opens a
connection.

    LIST  page by page  ->  WATCH from the list's version  ->  lines, bookmarks  ->  the watch ends: WATCH again
      ^                                                           |
      +---------------- 410 Gone: the version is too old ---------+

Invariants:
- The events emitted so far always add up to the cluster's state as of one resource version, which only increases.
- After any failure the watch resumes where it was, or a new list emits the difference.

Source: kubernetes.io/docs/reference/using-api/api-concepts, "Efficient detection of changes".
"""

from collections.abc import Callable
from enum import Enum, auto
from http import HTTPStatus
from urllib.parse import urlencode

import msgspec
from msgspec import Raw, Struct

from kubeproxy_py.backoff import Backoff
from kubeproxy_py.model.events import Event, Feed, Synced
from kubeproxy_py.model.problem import Problem
from kubeproxy_py.sources.decode.errors import UNREADABLE
from kubeproxy_py.sources.decode.objects import Decoded, decode
from kubeproxy_py.sources.decode.schema import ListMetaWire, ListWire, StatusWire, WatchWire
from kubeproxy_py.sources.kubernetes.resources import Resource
from kubeproxy_py.sources.object_cache import Identity, ObjectCache

PAGE_LIMIT = 500  # objects: a page is then some 2 MB, and stalls no thread for more than some 10 ms
WATCH_TIMEOUT_S = (300, 600)  # random within it, as client-go, so that watches do not all end at once
SHORT_WATCH_S = 1.0  # a watch that ends sooner, without data, is a failure; else we would send requests without pause
RETRY_AFTER_MAX_S = 300.0
BACKOFF = Backoff(0.8, 30.0, jitter=1.0)  # client-go, tools/cache, NewReflector: 800 ms, 30 s, factor 2, jitter 1
_MESSAGE_MAX = 500  # characters of the server's message in a Problem


class Request(Struct, frozen=True, gc=False):
    """The next request: GET *target*, a path with a query, after *wait_s*."""

    target: str
    is_watch: bool
    wait_s: float = 0.0
    is_first_page: bool = False  # of a list


class _Phase(Enum):
    LIST = auto()
    WATCH = auto()


_HINTS: dict[int, str] = {
    HTTPStatus.BAD_REQUEST: "the server does not support this request",
    HTTPStatus.UNAUTHORIZED: "the credentials are missing, wrong or expired",
    HTTPStatus.FORBIDDEN: "the role needs list and watch on services, endpointslices and nodes",
    HTTPStatus.NOT_FOUND: "is this a Kubernetes API server?",
    HTTPStatus.TOO_MANY_REQUESTS: "the server is busy; retrying after the delay that it asks for",
}
_PROXY_HINT = "check for an HTTP proxy between this node and the API server"
_LIST = msgspec.json.Decoder(ListWire)
_WATCH = msgspec.json.Decoder(WatchWire)
_STATUS = msgspec.json.Decoder(StatusWire)


class ListWatch:
    """The list and watch of one resource.

    Send ``next_request()``.  Pass the response of a list, or of a rejected watch, to ``on_response``.  Pass each line
    of a watch to ``on_line`` while ``is_watching`` is true, and call ``on_watch_end`` when its body has ended.  Call
    ``on_failure`` when there was no response at all.

    Args:
        resource: What to list and watch.
        random: Returns numbers from 0 to below 1.
    """

    def __init__(self, resource: Resource, random: Callable[[], float]) -> None:
        self._preferred = resource
        self._resource = resource
        self._random = random
        self._failures = 0  # consecutive ones
        self._objects = ObjectCache()
        self._synced = False
        self._reported: Problem | None = None  # reported, and not resolved since
        self._wait_s = 0.0
        self._watch_ended = False  # the current watch sent something after which it is of no use
        self._expiries = 0  # 410s since the last line of a watch
        self._lines = 0  # of the current watch
        self._start_list()

    @property
    def feed(self) -> Feed:
        """The feed of the resource."""
        return self._preferred.feed

    # Requests

    def next_request(self) -> Request:
        """Return the next request; a repeated call returns the same, except for a watch's random timeout."""
        self._watch_ended = False
        self._lines = 0
        selectors = {"labelSelector": self._resource.label_selector, "fieldSelector": self._resource.field_selector}
        query = self._watch_query() if self._phase is _Phase.WATCH else self._list_query()
        query |= {key: selector for key, selector in selectors.items() if selector}
        is_watch = self._phase is _Phase.WATCH
        target = f"{self._resource.path}?{urlencode(query)}"
        return Request(target, is_watch, self._wait_s, is_first_page=not is_watch and not self._continue)

    def _list_query(self) -> dict[str, str]:
        query = {"limit": str(PAGE_LIMIT)} if self._paged else {}
        return {**query, "continue": self._continue} if self._continue else query

    def _watch_query(self) -> dict[str, str]:
        shortest_s, longest_s = WATCH_TIMEOUT_S
        timeout_s = shortest_s + int(self._random() * (longest_s - shortest_s))
        version = {"resourceVersion": self._version}
        return {"watch": "true", "allowWatchBookmarks": "true", "timeoutSeconds": str(timeout_s), **version}

    @property
    def is_watching(self) -> bool:
        """Whether the watch continues; once false, its response must be closed."""
        return self._phase is _Phase.WATCH and not self._watch_ended

    # Responses

    def on_response(self, status: int, body: bytes, retry_after_s: float | None = None) -> list[Event]:
        """Handle a complete response: a page of a list, or an error with the HTTP *status*."""
        self._wait_s = 0.0
        if status == HTTPStatus.OK and self._phase is _Phase.LIST:
            return self._handle_page(body)
        return self._handle_error(status, body, retry_after_s)

    def on_line(self, line: bytes) -> list[Event]:
        """Handle one line of a watch's body, without its end."""
        try:
            wire = _WATCH.decode(line)
        except (msgspec.ValidationError, *UNREADABLE):
            return self._fail(Problem(self._where(), "watch", "a line is not a watch event", _PROXY_HINT))
        if wire.type == "ERROR":
            return self._handle_watch_error(wire.object)
        self._lines += 1
        self._expiries = 0
        self._failures = 0
        self._reported = None
        return self._handle_change(wire)

    def on_watch_end(self, lasted_s: float) -> None:
        """Handle the end of a watch's body after *lasted_s*: regular, or because the connection broke."""
        if not self.is_watching:
            return
        self._wait_s = 0.0
        if lasted_s < SHORT_WATCH_S and not self._lines:
            self._wait_s = self._count_failure()
        else:
            self._failures = 0
        if self._resource is not self._preferred:
            self._start_list()  # the server may have been upgraded and have the preferred resource

    def on_failure(self, problem: Problem) -> list[Event]:
        """Handle that there was no response; *problem* is reported once, until something succeeds."""
        return self._fail(problem)

    # Lists

    def _start_list(self, resource: Resource | None = None, *, paged: bool = True) -> None:
        self._resource = resource or self._preferred
        self._phase = _Phase.LIST
        self._paged = paged
        self._continue = ""
        self._version = ""
        self._listed: set[Identity] = set()

    def _handle_page(self, body: bytes) -> list[Event]:
        try:
            page = _LIST.decode(body)
        except (msgspec.ValidationError, *UNREADABLE):
            return self._fail(Problem(self._where(), "list", "the response is not a list", _PROXY_HINT))
        self._reported = None
        events: list[Event] = []
        for item in page.items or ():
            events.extend(self._handle_object(decode(self._resource.kind, item)))
        meta = page.metadata or ListMetaWire()
        self._continue = meta.continue_
        return events if meta.continue_ else [*events, *self._end_list(meta.resource_version)]

    def _end_list(self, version: str) -> list[Event]:
        events: list[Event] = [*self._objects.retain_only(self._listed)]
        self._listed = set()
        self._version = version
        self._phase = _Phase.WATCH
        if not self._synced:
            self._synced = True
            events.append(Synced(self._resource.feed))
        return events

    # Watches

    def _handle_change(self, wire: WatchWire) -> list[Event]:
        decoded = decode(self._resource.kind, wire.object)
        self._version = decoded.resource_version or self._version
        if wire.type in ("ADDED", "MODIFIED"):
            return self._handle_object(decoded)
        if wire.type == "DELETED" and decoded.name:
            return [*self._objects.update((decoded.kind, decoded.name), ())]
        return []  # BOOKMARK, or a type that is not yet known

    def _handle_object(self, decoded: Decoded) -> list[Event]:
        """Return the events of an object; an invalid one keeps its last valid version."""
        if decoded.name is None:
            return [*decoded.problems]
        identity: Identity = (decoded.kind, decoded.name)
        if self._phase is _Phase.LIST:
            self._listed.add(identity)
        changes = [] if decoded.broken else self._objects.update(identity, decoded.values, decoded.triggered_s)
        return [*decoded.problems, *changes]

    def _handle_watch_error(self, body: Raw) -> list[Event]:
        """Handle an error that ends the watch; changes may be lost, except with 429, which comes before any change."""
        status = _decode_status(bytes(body)).code
        if status not in (HTTPStatus.GONE, HTTPStatus.TOO_MANY_REQUESTS):
            self._start_list()
        return self._handle_error(status, bytes(body), None)

    # Errors

    def _handle_error(self, status: int, body: bytes, retry_after_s: float | None) -> list[Event]:
        """Use another request where there is one; else report the error and wait."""
        if status == HTTPStatus.GONE:
            return self._handle_expired()
        if status == HTTPStatus.NOT_FOUND and self._phase is _Phase.LIST and self._resource.fallback:
            self._start_list(self._resource.fallback, paged=self._paged)
            return []
        if status == HTTPStatus.BAD_REQUEST and self._resource.field_selector and self._resource.kind == "Service":
            self._preferred = msgspec.structs.replace(self._resource, field_selector="")
            self._start_list()
            return []
        if self._phase is _Phase.WATCH and _may_be_the_version(status):
            self._start_list()
        message = _decode_status(body).message or "(no message)"
        problem = Problem(self._where(), f"HTTP {status}", message[:_MESSAGE_MAX], _HINTS.get(status, ""))
        events = self._fail(problem)
        if retry_after_s is not None:
            self._wait_s = min(max(self._wait_s, retry_after_s), RETRY_AFTER_MAX_S)
        return events

    def _handle_expired(self) -> list[Event]:
        """Handle 410 Gone: the server no longer has the continuation or the version; list again."""
        self._watch_ended = True
        self._wait_s = self._count_failure() if self._expiries else 0.0
        self._expiries += 1
        self._start_list(self._resource, paged=self._phase is _Phase.WATCH)
        return []

    def _fail(self, problem: Problem) -> list[Event]:
        """Schedule another attempt; return *problem* unless it was the last one reported."""
        self._watch_ended = True
        self._wait_s = self._count_failure()
        if self._phase is _Phase.LIST:
            self._start_list(paged=self._paged)
        if problem == self._reported:
            return []
        self._reported = problem
        return [problem]

    def _count_failure(self) -> float:
        """Count one more failure; return the delay before the next request, in s."""
        self._failures += 1
        return BACKOFF.delay_s(self._failures, self._random())

    def _where(self) -> str:
        return f"Kubernetes API {self._resource.path}"


def _may_be_the_version(status: int) -> bool:
    """Return whether a watch rejected with *status* may succeed with the version of a new list."""
    is_client_error = HTTPStatus.BAD_REQUEST <= status < HTTPStatus.INTERNAL_SERVER_ERROR
    other_reasons = (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN, HTTPStatus.TOO_MANY_REQUESTS)
    return is_client_error and status not in other_reasons


def _decode_status(body: bytes) -> StatusWire:
    """Return the Status object in *body*, or an empty one."""
    try:
        return _STATUS.decode(body)
    except (msgspec.ValidationError, *UNREADABLE):
        return StatusWire()
