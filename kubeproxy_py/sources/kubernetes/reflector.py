"""ListWatch: the list-and-watch protocol of the Kubernetes API, without any I/O.

Law: it is told what the server answered, and answers with events and the next request; it neither reads a clock nor
opens a connection.  What it has told is at each moment the cluster's state as of some resource version, and only
moves on; whatever fails on the way, it takes up where it was, or lists anew and tells the difference.

    LIST  page by page  ->  WATCH from the list's version  ->  lines, bookmarks  ->  the watch ends: WATCH again
      ^                                                           |
      +---------------- 410 Gone: the version is too old ---------+

Source: kubernetes.io/docs/reference/using-api/api-concepts, "Efficient detection of changes".
"""

from collections.abc import Callable
from enum import Enum, auto
from urllib.parse import urlencode

import msgspec
from msgspec import Raw, Struct

from kubeproxy_py.backoff import Backoff
from kubeproxy_py.model.events import Event, ObjectProblem, Synced
from kubeproxy_py.sources.decode.errors import UNREADABLE
from kubeproxy_py.sources.decode.objects import Decoded, decode
from kubeproxy_py.sources.decode.schema import ListMetaWire, ListWire, StatusWire, WatchWire
from kubeproxy_py.sources.kubernetes.resources import Resource
from kubeproxy_py.sources.object_cache import Identity, ObjectCache

PAGE_LIMIT = 500  # objects: a page is then some 2 MB, and stalls no thread for more than some 10 ms
WATCH_TIMEOUT_S = (300, 600)  # random within, as client-go has it, so that watches don't all end at once
SHORT_WATCH_S = 1.0  # a watch that ends sooner, with nothing said, is a failure: else we would ask without pause
RETRY_AFTER_MAX_S = 300.0


class Request(Struct, frozen=True, gc=False):
    """What to ask next: GET *target*, a path with a query, after *wait_s*."""

    target: str
    is_watch: bool
    wait_s: float = 0.0
    is_first_page: bool = False  # of a list


class _Phase(Enum):
    LIST = auto()
    WATCH = auto()


_HINTS = {
    400: "the server does not know what we ask for",
    401: "the credentials are missing, wrong or expired",
    403: "the role needs list and watch on services, endpointslices and nodes",
    404: "is this a Kubernetes API server?",
    429: "the server is busy; we wait as it says",
}
_LIST = msgspec.json.Decoder(ListWire)
_WATCH = msgspec.json.Decoder(WatchWire)
_STATUS = msgspec.json.Decoder(StatusWire)


class ListWatch:
    """One resource's list and watch.

    Ask ``request()`` what to do; tell ``answered`` what came of a list, or of a watch that was refused; tell each
    line of a watch to ``line`` while ``watching`` stays true; tell ``ended`` when a watch's body is over, and
    ``failed`` when there was no answer at all.
    """

    def __init__(self, resource: Resource, random: Callable[[], float]) -> None:
        """*random* gives numbers from 0 to below 1."""
        self._preferred = resource
        self._resource = resource
        self._random = random
        self._backoff = Backoff(random)
        self._told = ObjectCache()
        self._synced = False
        self._complaint: ObjectProblem | None = None  # told, and not mended since
        self._wait_s = 0.0
        self._watch_over = False  # the watch that goes on said something after which it is of no use
        self._expiries = 0  # 410s since the last word of a watch
        self._lines = 0  # of this watch
        self._start_list()

    # What to ask -------------------------------------------------------------------------------------------------

    def request(self) -> Request:
        """The next request; asking twice gives the same, but for a watch's random timeout."""
        self._watch_over = False
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
    def watching(self) -> bool:
        """Whether a watch goes on; false once it said that it can't: close it then."""
        return self._phase is _Phase.WATCH and not self._watch_over

    # What came of it ---------------------------------------------------------------------------------------------

    def answered(self, status: int, body: bytes, retry_after_s: float | None = None) -> list[Event]:
        """A whole answer: a page of a list, or an error with the HTTP *status*."""
        self._wait_s = 0.0
        if status == 200 and self._phase is _Phase.LIST:
            return self._take_page(body)
        return self._refused(status, body, retry_after_s)

    def line(self, line: bytes) -> list[Event]:
        """One line of a watch's body, without its end."""
        try:
            wire = _WATCH.decode(line)
        except (msgspec.ValidationError, *UNREADABLE):
            return self._fail(
                ObjectProblem(self._where(), "watch", "a line is no watch event", "is there a proxy between?")
            )
        if wire.type == "ERROR":
            return self._take_error(wire.object)
        self._lines += 1
        self._expiries = 0
        self._backoff.succeeded()
        self._complaint = None
        return self._take_change(wire)

    def ended(self, lasted_s: float) -> None:
        """A watch's body is over, after *lasted_s*: as it should be, or because the connection broke."""
        if not self.watching:
            return
        self._wait_s = 0.0
        if lasted_s < SHORT_WATCH_S and not self._lines:
            self._wait_s = self._backoff.failed()
        else:
            self._backoff.succeeded()
        if self._resource is not self._preferred:
            self._start_list()  # perhaps the server has the preferred one by now

    def failed(self, problem: ObjectProblem) -> list[Event]:
        """There was no answer; *problem* says why.  It is told once, until something succeeds."""
        return self._fail(problem)

    # Lists -------------------------------------------------------------------------------------------------------

    def _start_list(self, resource: Resource | None = None, *, paged: bool = True) -> None:
        self._resource = resource or self._preferred
        self._phase = _Phase.LIST
        self._paged = paged
        self._continue = ""
        self._version = ""
        self._listed: set[Identity] = set()

    def _take_page(self, body: bytes) -> list[Event]:
        try:
            page = _LIST.decode(body)
        except (msgspec.ValidationError, *UNREADABLE):
            return self._fail(
                ObjectProblem(self._where(), "list", "the answer is no list", "is there a proxy between?")
            )
        self._complaint = None
        events: list[Event] = []
        for item in page.items or ():
            events.extend(self._take_object(decode(self._resource.kind, item)))
        meta = page.metadata or ListMetaWire()
        self._continue = meta.continue_
        return events if meta.continue_ else [*events, *self._end_list(meta.resource_version)]

    def _end_list(self, version: str) -> list[Event]:
        events: list[Event] = [*self._told.tell_only(self._listed)]
        self._listed = set()
        self._version = version
        self._phase = _Phase.WATCH
        if not self._synced:
            self._synced = True
            events.append(Synced(self._resource.feed))
        return events

    # Watches -----------------------------------------------------------------------------------------------------

    def _take_change(self, wire: WatchWire) -> list[Event]:
        found = decode(self._resource.kind, wire.object)
        self._version = found.resource_version or self._version
        if wire.type in ("ADDED", "MODIFIED"):
            return self._take_object(found)
        if wire.type == "DELETED" and found.name:
            return [*self._told.tell((found.kind, found.name), ())]
        return []  # BOOKMARK, or a type that is not yet known

    def _take_object(self, found: Decoded) -> list[Event]:
        """A broken object is there all the same: what it last said well stays."""
        if found.name is None:
            return [*found.problems]
        identity: Identity = (found.kind, found.name)
        if self._phase is _Phase.LIST:
            self._listed.add(identity)
        changes = [] if found.broken else self._told.tell(identity, found.values, found.triggered_s)
        return [*found.problems, *changes]

    def _take_error(self, body: Raw) -> list[Event]:
        """The watch ends with an error; what it did not tell is lost, but for 429, which comes before all else."""
        status = _status(bytes(body)).code
        if status not in (410, 429):
            self._start_list()
        return self._refused(status, bytes(body), None)

    # Errors ------------------------------------------------------------------------------------------------------

    def _refused(self, status: int, body: bytes, retry_after_s: float | None) -> list[Event]:
        """The server said no.  What can be asked for in another way is; all else is waited for."""
        if status == 410:
            return self._expired()
        if status == 404 and self._phase is _Phase.LIST and self._resource.instead:
            self._start_list(self._resource.instead, paged=self._paged)
            return []
        if status == 400 and self._resource.field_selector and self._resource.kind == "Service":
            self._preferred = msgspec.structs.replace(self._resource, field_selector="")
            self._start_list()
            return []
        if self._phase is _Phase.WATCH and 400 <= status < 500 and status not in (401, 403, 429):
            self._start_list()  # it does not like the version, perhaps
        message = _status(body).message or "(no message)"
        events = self._fail(ObjectProblem(self._where(), f"HTTP {status}", message[:500], _HINTS.get(status, "")))
        if retry_after_s is not None:
            self._wait_s = min(max(self._wait_s, retry_after_s), RETRY_AFTER_MAX_S)
        return events

    def _expired(self) -> list[Event]:
        """410 Gone: the continuation, or the version, is older than what the server remembers."""
        self._watch_over = True
        self._wait_s = self._backoff.failed() if self._expiries else 0.0
        self._expiries += 1
        self._start_list(self._resource, paged=self._phase is _Phase.WATCH)
        return []

    def _fail(self, problem: ObjectProblem) -> list[Event]:
        self._watch_over = True
        self._wait_s = self._backoff.failed()
        if self._phase is _Phase.LIST:
            self._start_list(paged=self._paged)
        if problem == self._complaint:
            return []
        self._complaint = problem
        return [problem]

    def _where(self) -> str:
        return f"Kubernetes API {self._resource.path}"


def _status(body: bytes) -> StatusWire:
    try:
        return _STATUS.decode(body)
    except (msgspec.ValidationError, *UNREADABLE):
        return StatusWire()
