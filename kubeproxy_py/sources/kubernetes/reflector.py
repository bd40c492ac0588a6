"""ListWatch: the list-and-watch protocol of the Kubernetes API, without I/O.

It receives what the server answered, and returns events and the next request; it neither reads a clock nor opens a
connection.

    LIST from the cache  ->  WATCH from the list's version  ->  lines, bookmarks  ->  the watch ends: WATCH again
      ^                                                           |
      +---- the version is too old (410), or went back -----------+

Invariants:
- The events emitted so far always add up to the cluster's state as of one resource version, which only increases,
  unless the server itself went back (it was restored from a backup).  So a relist is not older than what is known; a
  server that cannot say so is asked for the most recent state (client-go, relistResourceVersion).
- After any failure the watch resumes where it was, or a new list emits the difference.
- Nothing is deleted when in doubt: what is not the list or event that was asked for is an error and changes nothing,
  and a list that would remove much is accepted after a second one confirms it.

Source: kubernetes.io/docs/reference/using-api/api-concepts, "Efficient detection of changes".
"""

from collections.abc import Callable, Mapping
from http import HTTPStatus

import msgspec
from msgspec import Raw

from kubeproxy_py.model.events import Event, Feed, Synced
from kubeproxy_py.model.problem import Problem
from kubeproxy_py.sources.decode.errors import FieldError, quoted
from kubeproxy_py.sources.decode.objects import Decoded, Kind, Value, decode
from kubeproxy_py.sources.decode.schema import WatchWire
from kubeproxy_py.sources.kubernetes import answers
from kubeproxy_py.sources.kubernetes.known_objects import KnownObjects
from kubeproxy_py.sources.kubernetes.listing import PAGE_LIMIT, Doubt, Listing, Request, smaller_limit, target_of
from kubeproxy_py.sources.kubernetes.open_watch import Answer, Verdict
from kubeproxy_py.sources.kubernetes.page_reader import PageReader
from kubeproxy_py.sources.kubernetes.removal_guard import Decision, RemovalGuard
from kubeproxy_py.sources.kubernetes.resources import Resource
from kubeproxy_py.sources.kubernetes.retry_schedule import RetrySchedule
from kubeproxy_py.sources.kubernetes.versions import goes_back
from kubeproxy_py.sources.object_cache import Identity

WATCH_TIMEOUT_S = (300, 600)  # random within it, as client-go, so that watches do not all end at once
SHORT_WATCH_S = 1.0  # a watch that ends sooner, without data, is a failure; else we would send requests without pause
_RESTORED = "was it restored from a backup, or does the address lead to another cluster?"
_FROZEN = "the server has changes that the open watch did not send; watching again"
_DOUBTED = "nothing is removed before a second list confirms it; --removal-confirm-percent sets the share"


Decode = Callable[[Kind, Raw], Decoded]
"""Decodes an object of a kind."""


def decode_of_api(kind: Kind, body: Raw) -> Decoded:
    """Decode an object as an API server sends it."""
    return decode(kind, body, origin="API")


class ListWatch:
    """The list and watch of one resource.

    Send ``next_request()``.  Pass each part of a list's body to ``on_list_part``, and call ``on_list_end`` when it has
    ended.  Pass each line of a watch to ``on_line`` while ``is_watching`` is true, and call ``on_watch_end`` when its
    body has ended.  Pass the response of a rejected request to ``on_response``.  The other methods are for what goes
    wrong.

    Args:
        resource: What to list and watch.
        random: Returns numbers from 0 to below 1.
        guard: Decides whether a list is accepted; None: every list is.
        decode: Decodes the objects.

    Attributes:
        resource: The resource that is requested now.
        version: Up to which the events are complete; "" before the first list.
        is_current: A complete list of the server was used.
        is_answered: The server has sent a page of a list.
    """

    def __init__(
        self,
        resource: Resource,
        random: Callable[[], float],
        guard: RemovalGuard | None = None,
        decode: Decode = decode_of_api,
    ) -> None:
        self._preferred = resource
        self._decode = decode
        self._random = random
        self._guard = guard or RemovalGuard()
        self._schedule = RetrySchedule(random)
        self._objects = KnownObjects()
        self._synced = False  # the objects are complete: those of a list, or saved ones
        self.is_current = False
        self.is_answered = False
        self._watch_ended = False  # the current watch sent something after which it is of no use
        self._lines = 0  # of the current watch
        self._limit = 0  # of lists; 0: none, until one answer is too large
        self._needs_latest = False  # the next list must be the most recent state, whatever is known
        self.resource = resource
        self.version = ""
        self._listing: Listing | None = self._new_listing()  # None: watching
        self._reader: PageReader | None = None  # of the response to a list, from its first part on

    @property
    def feed(self) -> Feed:
        """The feed of the resource."""
        return self._preferred.feed

    # Saved objects

    def restore(self, objects: Mapping[Identity, tuple[Value, ...]], saved_s: float) -> list[Event]:
        """Return the events of *objects*, which were saved at *saved_s*, in place of a list that does not come.

        The first list of the server is then a relist: its events are the differences, and it may be doubted.
        """
        if self._synced:
            return []
        self._synced = True
        if self._listing:
            self._listing.ask_for_latest()  # the server's cache may be older than what was saved
        restored = [event for name, values in objects.items() for event in self._objects.restore(name, values)]
        return [*restored, Synced(self.feed, saved_s)]

    @property
    def is_synced(self) -> bool:
        """Whether the objects are complete: those of a list, or saved ones."""
        return self._synced

    def known_values(self) -> dict[Identity, tuple[Value, ...]]:
        """Return the values of each object, as they are now."""
        return self._objects.all_values()

    def rejected(self) -> tuple[Problem, ...]:
        """Return the problems of the objects whose last version is not used; any thread may call it."""
        return self._objects.rejected()

    # Requests

    def next_request(self) -> Request:
        """Return the next request; a repeated call returns the same, except for a watch's random timeout."""
        self._watch_ended = False
        self._lines = 0
        self._reader = None
        listing = self._listing
        is_first_page = listing is not None and not listing.continuation
        return Request(
            target_of(self.resource, listing.query() if listing else self._watch_query()),
            is_watch=listing is None,
            wait_s=self._schedule.wait_s,
            after_outage=self._schedule.after_outage,
            is_first_page=is_first_page,
            reason=listing.reason if listing and is_first_page else "",
            doubt=listing.doubt if listing and is_first_page else None,
        )

    def _watch_query(self) -> dict[str, str]:
        shortest_s, longest_s = WATCH_TIMEOUT_S
        timeout_s = shortest_s + int(self._random() * (longest_s - shortest_s))
        version = {"resourceVersion": self.version}
        return {"watch": "true", "allowWatchBookmarks": "true", "timeoutSeconds": str(timeout_s), **version}

    @property
    def is_watching(self) -> bool:
        """Whether the watch continues; once false, its response must be closed."""
        return self._listing is None and not self._watch_ended

    @property
    def is_failing(self) -> bool:
        """Whether the last response was an error, or not what was asked for."""
        return self._schedule.is_failing

    # Responses

    def on_response(self, status: int, body: bytes | bytearray, retry_after_s: float | None = None) -> list[Event]:
        """Handle a complete response: a page of a list, or an error with the HTTP *status*."""
        if status == HTTPStatus.OK and self._listing:
            return [*self.on_list_part(body), *self.on_list_end()]
        self._schedule.at_once()
        if self._use_another_request(status, body):
            return []
        events = self._fail(answers.problem_of(self._where(), status, body), status)
        if retry_after_s is not None:
            self._schedule.at_least(retry_after_s)
        return events

    def on_list_part(self, part: bytes | bytearray) -> list[Event]:
        """Handle the next part of the body of a list, or of a page of it."""
        listing, reader = self._listing, self._page_reader()
        return self._add_items(listing, reader.add(part)) if listing else []

    def on_list_end(self) -> list[Event]:
        """Handle the end of the body of a list, or of a page of it."""
        listing, reader, self._reader = self._listing, self._page_reader(), None
        if listing is None:
            return []
        try:
            page = reader.end()
        except FieldError as error:
            return self._fail(error.to_problem(self._where()))
        self.is_answered = True
        events = self._add_items(listing, page.items)
        listing.continuation = page.continuation
        return events if page.continuation else [*events, *self._end_list(listing, page.version)]

    def on_line(self, line: bytes) -> list[Event]:
        """Handle one line of a watch's body, without its end."""
        try:
            wire = answers.read_line(line)
        except FieldError as error:
            return self._fail(error.to_problem(self._where()))
        return self._handle_watch_error(wire.object) if wire.type == "ERROR" else self._handle_change(wire)

    def on_watch_end(self, lasted_s: float, *, broken: bool = False) -> None:
        """Handle the end of a watch's body after *lasted_s*: regular, or because the connection is *broken*."""
        if not self.is_watching:
            return
        if broken:
            self._schedule.after_broken_watch()
        else:
            self._schedule.at_once()
        if lasted_s < SHORT_WATCH_S and not self._lines:
            self._schedule.after_failure()
        else:
            self._schedule.watched(line=False)
        if self.resource is not self._preferred:
            self._start_list("asking again for the preferred API")  # the server may have been upgraded

    def on_mute(self, answer: Answer) -> list[Event]:
        """Handle that the watch was ended for what the server answered when it was asked about it."""
        if not self.is_watching:
            return []
        self._schedule.at_once()
        if answer.verdict is Verdict.RESTORED:
            return self._relist_restored(f"the server no longer knows the resource version {self.version}")
        if answer.problem:
            return self.on_no_answer(answer.problem)
        self._watch_ended = True
        return [Problem(self._where(), "watch", _FROZEN, answers.PROXY_HINT, is_warning=True)]

    def on_no_answer(self, problem: Problem) -> list[Event]:
        """Handle that there was no response; *problem* is reported once, until something succeeds."""
        return self._fail(problem, is_answer=False)

    def on_failure(self, problem: Problem) -> list[Event]:
        """Handle that no request could be sent; *problem* is reported once, until something succeeds."""
        return self._fail(problem)

    def on_too_large(self, problem: Problem) -> list[Event]:
        """Handle that a page of a list, or a line of a watch, is larger than this agent reads."""
        listing, reason = self._listing, f"the response {problem.message}"
        if listing is None:
            self._start_list(reason)  # which may have the object, since a page may be larger than a line
            return self._fail(problem)
        if listing.limit == 1:
            return self._fail(problem)
        if not listing.limit and self._limit:  # all was asked for because pages expired
            self._schedule.after_failure()
        else:
            self._schedule.at_once()
        self._limit = smaller_limit(listing.limit) if listing.limit else self._limit or PAGE_LIMIT
        self._start_list(f"{reason}; asking for pages of {self._limit} objects", self.resource)
        return []

    # Lists

    def spread(self) -> None:
        """Wait a little before the first list, because all nodes begin with it at the same moment."""
        self._schedule.spread()

    def list_again(self, reason: str) -> None:
        """List all objects again with the next request, because they are decoded otherwise from now on.

        The difference to what is known is emitted.
        """
        if self._listing:
            self._listing.restart()
        else:
            self._start_list(reason, self.resource)
            self._schedule.spread()

    def _start_list(
        self, reason: str, resource: Resource | None = None, *, paged: bool = True, doubt: Doubt | None = None
    ) -> None:
        self._watch_ended = True
        self.resource = resource or self._preferred
        self._listing = self._new_listing(reason, doubt, paged=paged)

    def _new_listing(self, reason: str = "", doubt: Doubt | None = None, *, paged: bool = True) -> Listing:
        limit = self._limit if paged else 0
        if self._needs_latest:
            return Listing(self.resource, reason, doubt, limit)
        # The server's cache may be older than what a predecessor programmed, so it is right for an empty kernel only.
        from_cache = not (self.version or self._synced or self._guard.serves or limit)
        return Listing(self.resource, reason, doubt, limit, from_cache, not_older_than=self.version)

    def _page_reader(self) -> PageReader:
        """Return the reader of the current response."""
        if self._reader is None:
            self._schedule.at_once()
            self._reader = PageReader(self.resource.kind)
        return self._reader

    def _add_items(self, listing: Listing, items: list[Raw]) -> list[Event]:
        """Add *items* to *listing*; return their events, if it is the first list."""
        self.is_answered = self.is_answered or bool(items)
        for item in items:
            listing.add(self._decode(self.resource.kind, item), self._objects)
        return [] if self._synced else listing.use_changed(self._objects)

    def _end_list(self, listing: Listing, version: str) -> list[Event]:
        """Return the events of a complete list, if it is accepted."""
        if listing.unnamed:
            listing.ask_for_latest()  # not that cache again
            message = f"{len(listing.unnamed)} of its items cannot be named: {listing.unnamed[0]}"
            problem = Problem(self._where(), "list", message, answers.PROXY_HINT)
            return [*listing.use_changed(self._objects), *self._fail(problem)]
        if goes_back(version, self.version):
            return self._go_back(version)
        removal, decision = self._examine(listing)
        if decision is Decision.HOLD:
            self._schedule.before_confirmation()
            self._needs_latest = True
            self._start_list(removal, self.resource, doubt=Doubt(removal))
            return [Problem(self._where(), "list", removal, _DOUBTED, is_warning=True)]
        events = [*listing.use_changed(self._objects), *self._objects.retain_only(listing.listed)]
        if decision is Decision.CONFIRMED:
            events.append(Problem(self._where(), "list", f"confirmed by a second list: {removal}", is_warning=True))
        self.version, self._listing, self._needs_latest = version, None, False
        self._schedule.listed()
        if not self.is_current:
            self._synced = self.is_current = True
            events.append(Synced(self.resource.feed))
        return events

    def _examine(self, listing: Listing) -> tuple[str, Decision]:
        """Return what *listing* would remove, in words, and whether to accept it."""
        if not self._synced:
            return self._guard.examine_first(self._objects.values(listing.listed))
        return self._guard.examine(self._objects.missing(listing.listed), len(self._objects), self.resource.kind)

    # Watches

    def _handle_change(self, wire: WatchWire) -> list[Event]:
        decoded = self._decode(self.resource.kind, wire.object)
        version, name = decoded.resource_version, decoded.name
        if not version or (name is None and (wire.type != "BOOKMARK" or decoded.of_another_kind)):
            what = f"names no {self.resource.kind}" if version else "has no metadata.resourceVersion"
            message = f"an event of type {quoted(wire.type)} {what}"
            self._start_list(message)
            return self._fail(Problem(self._where(), "watch", message, answers.PROXY_HINT))
        if goes_back(version, self.version):
            return self._go_back(version)
        self.version = version
        self._lines += 1
        self._schedule.watched(line=True)
        if wire.type in ("ADDED", "MODIFIED") and name:
            return self._objects.use((decoded.kind, name), decoded)
        if wire.type == "DELETED" and name:
            return self._objects.delete((decoded.kind, name))
        return []  # BOOKMARK, or a type that is not yet known

    def _go_back(self, version: str) -> list[Event]:
        """List again, since the server does not have the state that the events add up to."""
        before, self.version = self.version, version  # with which the version of the next list is compared
        return self._relist_restored(f"the resource version went back from {before} to {version}")

    def _relist_restored(self, message: str) -> list[Event]:
        self._schedule.after_expiry(of_watch=True)
        self._needs_latest = True
        self._start_list(message, self.resource)
        return [Problem(self._where(), "resourceVersion", f"{message}; listing again", _RESTORED, is_warning=True)]

    def _handle_watch_error(self, body: Raw) -> list[Event]:
        """Handle an error that ends the watch; changes may be lost, except with 429, which comes before any change."""
        raw = bytes(body)
        status = answers.read_status(raw).code
        if not status:
            message = "the watch ended with an error that is no Status"
            self._start_list(message)
            return self._fail(Problem(self._where(), "watch", message, answers.PROXY_HINT))
        if status not in (HTTPStatus.GONE, HTTPStatus.TOO_MANY_REQUESTS):
            self._start_list(f"the watch ended with HTTP {status}")
        self._schedule.at_once()
        if self._use_another_request(status, raw):
            return []
        return self._fail(answers.problem_of(self._where(), status, raw))

    # Errors

    def _use_another_request(self, status: int, body: bytes | bytearray) -> bool:
        """Choose another request after a response with *status*; return False if there is none."""
        listing, resource = self._listing, self.resource
        if status == HTTPStatus.GONE:
            self._schedule.after_expiry(of_watch=listing is None)
            self._needs_latest = self._needs_latest or listing is not None
            which = "list took longer than the server keeps it" if listing else f"version {self.version} is too old"
            self._start_list(f"410: the {which}", resource, paged=listing is None)
        elif status == HTTPStatus.NOT_FOUND and listing and resource.fallback:
            self._start_list("", resource.fallback)
        elif status == HTTPStatus.BAD_REQUEST and resource.field_selector and resource.kind == "Service":
            self._preferred = msgspec.structs.replace(resource, field_selector="")
            self._start_list("")
        elif (not listing or listing.not_older_than) and answers.is_version_too_new(status, body):
            if not listing:
                self._schedule.after_expiry(of_watch=True)
            self._needs_latest = True
            self._start_list(f"the server does not know the version {self.version}", resource)
        else:
            return False
        return True

    def _fail(self, problem: Problem, status: int = 0, *, is_answer: bool = True) -> list[Event]:
        """Schedule another attempt after an error, with an HTTP *status* or without, or after no answer at all.

        Returns *problem*, unless it was the last one reported, or is of a kind that often passes.
        """
        self._watch_ended = True
        if (listing := self._listing) and self.resource is not self._preferred:
            self._start_list(listing.reason)
        elif listing:
            if listing.not_older_than and answers.may_be_the_version(status):
                listing.ask_for_latest()
            listing.restart()
        elif answers.may_be_the_version(status):
            self._needs_latest = True
            self._start_list(f"the watch was rejected with HTTP {status}")
        if status == HTTPStatus.FORBIDDEN and self._schedule.after_refusal():
            return []
        if status >= HTTPStatus.INTERNAL_SERVER_ERROR or not is_answer:
            self._schedule.after_no_answer()
        else:
            self._schedule.after_failure()
        return [problem] if self._schedule.is_news(problem) else []

    def _where(self) -> str:
        return f"Kubernetes API {self.resource.path}"
