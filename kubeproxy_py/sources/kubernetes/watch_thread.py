"""WatchThread: the thread that lists and watches one resource over HTTP.

Invariants:
- ListWatch makes all decisions; this module only adds the connection, the clock and the thread.
- Every failure leads to a delay and another attempt; only ``stop`` ends the thread.
- Events are emitted in the order in which ListWatch returned them, also those of saved objects, which another thread
  asks for.
"""

import logging
import threading
import time
from collections.abc import Callable, Mapping
from functools import partial

from kubeproxy_py import threads
from kubeproxy_py.logging_setup import values
from kubeproxy_py.model.events import Event, Feed
from kubeproxy_py.model.problem import Problem
from kubeproxy_py.sources import EventHandler
from kubeproxy_py.sources.client_metrics import NULL_CLIENT_METRICS, ClientMetrics
from kubeproxy_py.sources.decode.objects import Value
from kubeproxy_py.sources.kubernetes.api_connection import ApiConnection
from kubeproxy_py.sources.kubernetes.client import Connection, Response
from kubeproxy_py.sources.kubernetes.listing import Doubt, Request
from kubeproxy_py.sources.kubernetes.open_watch import Answer, WatchActivity
from kubeproxy_py.sources.kubernetes.reflector import WATCH_TIMEOUT_S, ListWatch
from kubeproxy_py.sources.kubernetes.transport_errors import TooLargeError, TransportError
from kubeproxy_py.sources.object_cache import Identity

LIST_TIMEOUT_S = 60.0  # the API server gives up on a list after as long
ACCEPT_TIMEOUT_S = 30.0  # for the response to a watch, which the API server begins at once
_SILENCE_MAX_S = WATCH_TIMEOUT_S[1] + 60.0  # of a watch; the monitor notices sooner
_OK, _INTERNAL_SERVER_ERROR = 200, 500

log = logging.getLogger(__name__)


class WatchThread:
    """Lists and watches one resource until it is stopped.

    Args:
        list_watch: Decides which requests are sent and which events follow from the responses.
        api: The connection.
        emit: Receives the events, in this thread.
        metrics: Counts the requests.
        on_doubt: Called with each list that is not accepted before a second one confirms it.
    """

    def __init__(
        self,
        list_watch: ListWatch,
        api: ApiConnection,
        emit: EventHandler,
        metrics: ClientMetrics = NULL_CLIENT_METRICS,
        on_doubt: Callable[[Doubt], None] = lambda _doubt: None,
    ) -> None:
        self._list_watch = list_watch
        self.feed: Feed = list_watch.feed
        self._metrics = metrics
        self._api = api
        self._emit = emit
        self._reachability = api.reachability
        self._on_doubt = on_doubt
        self._stopping = threading.Event()
        self._lock = threading.Lock()  # of _response and _answer
        self._handling = threading.Lock()  # held while ListWatch returns events, and until they are emitted
        self._response: Response | None = None  # whose body is being read
        self._answer: Answer | None = None  # for which the monitor ended the watch
        self._last_activity_s = 0.0  # when the server last sent something, or was asked
        self._is_open = False  # a watch is
        self._is_watch = False  # _response is that to a watch
        self._list_again = ""  # why all objects are to be listed again
        self._reason = ""  # of the last list that was logged
        self._doubt: Doubt | None = None  # the last one reported
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Start the thread."""
        self._thread = threads.start(f"watch-{self.feed}", self._run, self._stopping)

    def stop(self) -> None:
        """Ask the thread to end; it does at once, unless it is waiting for the first byte of a response.

        The other threads that use the same server do not go on either.
        """
        self._reachability.stop()
        self.stop_alone()

    def stop_alone(self) -> None:
        """Ask the thread to end, while others go on; it does as after ``stop``, or when it would have tried again."""
        self._stopping.set()
        with self._lock:
            if self._response:
                self._response.abort()

    def join(self, timeout_s: float) -> None:
        """Wait until the thread has ended."""
        if self._thread:
            self._thread.join(timeout_s)

    def list_again(self, reason: str) -> None:
        """Have all objects listed again, as they are decoded otherwise from now on; may be called by any thread."""
        with self._lock:
            self._list_again = reason
            if self._response and self._is_watch:
                self._response.abort()

    # For the monitor; may be called by any thread

    @property
    def activity(self) -> WatchActivity | None:
        """The watch that is open, or None."""
        if not self._is_open:
            return None
        return WatchActivity(self._list_watch.resource, self._list_watch.version, self._last_activity_s)

    def heard(self) -> None:
        """Record that the server sent something for this watch, or confirmed that it has nothing to send."""
        self._last_activity_s = time.monotonic()
        self._metrics.data_received(self.feed)

    def asked(self) -> None:
        """Record that the server was probed about this watch without a conclusive answer."""
        self._last_activity_s = time.monotonic()

    def end(self, answer: Answer) -> None:
        """End the watch that is open, because of *answer*."""
        with self._lock:
            if self._response and self._is_open:
                self._answer = answer
                self._response.abort()

    # For saved objects; may be called by any thread

    @property
    def is_answered(self) -> bool:
        """Whether the server has sent a page of a list."""
        return self._list_watch.is_answered

    @property
    def is_current(self) -> bool:
        """Whether a complete list of the server was used."""
        return self._list_watch.is_current

    @property
    def is_synced(self) -> bool:
        """Whether the objects are complete: those of a list, or saved ones."""
        return self._list_watch.is_synced

    def restore(self, objects: Mapping[Identity, tuple[Value, ...]], saved_s: float) -> None:
        """Emit *objects*, which were saved at *saved_s*, unless a list of the server was used."""
        self._emit_all(lambda: self._list_watch.restore(objects, saved_s))

    def known_values(self) -> dict[Identity, tuple[Value, ...]]:
        """Return the values of each object, as they are now."""
        with self._handling:
            return self._list_watch.known_values()

    def rejected(self) -> tuple[Problem, ...]:
        """Return the problems of the objects whose last version is not used; any thread may call it."""
        return self._list_watch.rejected()

    # The thread

    def _run(self) -> None:
        request = self._list_watch.next_request()
        while self._reachability.wait_turn(request.wait_s) and not self._stopping.is_set():
            started_s = time.monotonic()
            self._perform(request)
            with self._lock:
                reason, self._list_again = self._list_again, ""
            if reason:
                self._list_watch.list_again(reason)
            request = self._list_watch.next_request()
            if request.after_outage:
                self._reachability.failed(started_s)
            if request.doubt and request.doubt is not self._doubt:
                self._metrics.list_doubted(self.feed)
                self._on_doubt(request.doubt)
            self._doubt = request.doubt

    def _perform(self, request: Request) -> None:
        """Send *request*, and handle the response or what went wrong."""
        try:
            self._send(request)
        except TooLargeError as error:
            self._emit_all(partial(self._list_watch.on_too_large, error.problem))
        except TransportError as error:
            cause = repr(error.__cause__)
            log.debug("Request failed", extra=values(feed=self.feed, problem=error.problem, cause=cause))
            is_unreachable = error.problem.field == "connection"
            handle = self._list_watch.on_no_answer if is_unreachable else self._list_watch.on_failure
            self._emit_all(partial(handle, error.problem))
        except Exception as error:  # the outermost level of the thread: its end would go unnoticed
            log.exception("Internal error in a watch (please report); retrying", extra=values(feed=self.feed))
            message = f"internal error {type(error).__name__}"
            problem = Problem("watch", "", message, "please report it, with the log")
            self._emit_all(partial(self._list_watch.on_failure, problem))

    def _emit_all(self, handle: Callable[[], list[Event]]) -> None:
        """Emit the events that *handle* returns."""
        with self._handling:
            if (events := handle()) and not self._stopping.is_set():
                self._emit(*events)

    def _send(self, request: Request) -> None:
        """Send *request* and pass the response to ListWatch.  Raises TransportError."""
        response = self._api.request(lambda connection: self._get(connection, request))
        with self._lock:
            self._response, self._answer, self._is_watch = response, None, request.is_watch
            is_void = request.is_watch and bool(self._list_again)
        try:
            if is_void or self._stopping.is_set():
                return
            if response.status < _INTERNAL_SERVER_ERROR:
                self._reachability.answered()
            if request.is_watch and response.status == _OK:
                response.set_read_timeout(_SILENCE_MAX_S)
                self._read_watch(response)
                return
            if response.status == _OK:
                self._read_list(response)
                return
            body = response.body()
            self._handle(lambda: self._list_watch.on_response(response.status, body, response.retry_after_s))
        finally:
            with self._lock:
                self._response = None
            response.close()

    def _get(self, connection: Connection, request: Request) -> Response:
        """Send *request*.  Raises TransportError."""
        self._metrics.request_delayed(connection.host, "GET", request.wait_s)
        if request.is_watch:
            self._metrics.watch_started(self.feed)
            self._reason = ""
        elif request.is_first_page:
            self._metrics.list_started(self.feed)
            if request.reason not in ("", self._reason):
                log.info("Listing again", extra=values(feed=self.feed, reason=request.reason))
            self._reason = request.reason
        if request.is_watch:
            return connection.get(request.target, ACCEPT_TIMEOUT_S)
        return connection.get(request.target, LIST_TIMEOUT_S, compressed=True)

    def _handle(self, handle: Callable[[], list[Event]]) -> None:
        """Emit the events that *handle* returns for something that the server sent."""
        with self._handling:
            started_s = time.perf_counter()
            events = handle()
            if self._list_watch.is_failing:
                self.asked()
            else:
                self.heard()
            if events and not self._stopping.is_set():
                self._metrics.objects_decoded(time.perf_counter() - started_s)
                self._emit(*events)

    def _read_list(self, response: Response) -> None:
        """Read a list, or a page of it, while it arrives.  Raises TransportError."""
        for part in response.parts():
            self._handle(partial(self._list_watch.on_list_part, part))
        self._handle(self._list_watch.on_list_end)

    def _read_watch(self, response: Response) -> None:
        """Read the lines of a watch until it ends or its connection breaks; the next watch resumes from there.

        Raises:
            TooLargeError: A line is larger than this agent reads.
        """
        started_s, broken = time.monotonic(), False
        self.heard()  # the server accepted the watch; an idle one may send nothing for minutes
        self._is_open = True
        try:
            for line in response.lines():
                if line:
                    self._handle(partial(self._list_watch.on_line, line))
                if not self._list_watch.is_watching:
                    return
        except TooLargeError:
            raise
        except TransportError as error:
            broken = True
            log.debug("Watch connection broke; resuming", extra=values(feed=self.feed, problem=error.problem))
        finally:
            self._is_open = False
        with self._lock:
            answer, self._answer = self._answer, None
        if answer:
            self._emit_all(partial(self._list_watch.on_mute, answer))
        else:
            self._list_watch.on_watch_end(time.monotonic() - started_s, broken=broken)
