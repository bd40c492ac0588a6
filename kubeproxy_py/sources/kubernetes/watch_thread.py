"""WatchThread: the thread that lists and watches one resource over HTTP.

Invariants:
- ListWatch makes all decisions; this module only adds the connection, the clock and the thread.
- Every failure leads to a delay and another attempt; only ``stop`` ends the thread.
"""

import logging
import threading
import time
from collections.abc import Callable
from functools import partial

from kubeproxy_py import threads
from kubeproxy_py.logging_setup import values
from kubeproxy_py.model.events import Event
from kubeproxy_py.model.problem import Problem
from kubeproxy_py.sources import EventHandler
from kubeproxy_py.sources.client_metrics import NULL_CLIENT_METRICS, ClientMetrics
from kubeproxy_py.sources.kubernetes.api_connection import ApiConnection
from kubeproxy_py.sources.kubernetes.client import Connection, Response, TransportError
from kubeproxy_py.sources.kubernetes.reflector import ListWatch, Request

LIST_TIMEOUT_S = 60.0  # the API server gives up on a list after as long
_OK = 200

log = logging.getLogger(__name__)


class WatchThread:
    """Lists and watches one resource until it is stopped.

    Args:
        list_watch: Decides which requests are sent and which events follow from the responses.
        api: The connection.
        emit: Receives the events, in this thread.
        silence_s: A watch that receives nothing for so long, not even a bookmark (the server sends one a minute), is
            considered dead.
        metrics: Counts the requests.
    """

    def __init__(
        self,
        list_watch: ListWatch,
        api: ApiConnection,
        emit: EventHandler,
        silence_s: float,
        metrics: ClientMetrics = NULL_CLIENT_METRICS,
    ) -> None:
        self._list_watch = list_watch
        self._feed = list_watch.feed
        self._metrics = metrics
        self._api = api
        self._emit = emit
        self._silence_s = silence_s
        self._stopping = threading.Event()
        self._lock = threading.Lock()  # of _response
        self._response: Response | None = None  # whose body is being read
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Start the thread."""
        self._thread = threads.start(f"watch-{self._feed}", self._run, self._stopping)

    def stop(self) -> None:
        """Ask the thread to end; it does at once, unless it is waiting for the first byte of a response."""
        self._stopping.set()
        with self._lock:
            if self._response:
                self._response.abort()

    def join(self, timeout_s: float) -> None:
        """Wait until the thread has ended."""
        if self._thread:
            self._thread.join(timeout_s)

    def _run(self) -> None:
        request = self._list_watch.next_request()
        while not self._stopping.wait(request.wait_s):
            try:
                self._send(request)
            except TransportError as error:
                cause = repr(error.__cause__)
                log.debug("Request failed", extra=values(feed=self._feed, problem=error.problem, cause=cause))
                self._emit_failure(error.problem)
            except Exception as error:  # of one request; the next ones may succeed, and kernel state stays until then
                log.exception("Internal error in a watch (please report); retrying", extra=values(feed=self._feed))
                problem = Problem(
                    "watch", "", f"internal error {type(error).__name__}", "please report it, with the log"
                )
                self._emit_failure(problem)
            request = self._list_watch.next_request()

    def _emit_failure(self, problem: Problem) -> None:
        if events := self._list_watch.on_failure(problem):
            self._emit(*events)

    def _send(self, request: Request) -> None:
        """Send *request* and pass the response to ListWatch.  Raises TransportError."""
        response = self._api.request(lambda connection: self._get(connection, request))
        with self._lock:
            self._response = response
        try:
            if self._stopping.is_set():
                return
            if request.is_watch and response.status == _OK:
                self._read_watch(response)
                return
            body = response.body()
            self._decode(lambda: self._list_watch.on_response(response.status, body, response.retry_after_s))
        finally:
            with self._lock:
                self._response = None
            response.close()

    def _get(self, connection: Connection, request: Request) -> Response:
        """Send *request*.  Raises TransportError."""
        self._metrics.request_delayed(connection.host, "GET", request.wait_s)
        if request.is_watch:
            self._metrics.watch_started(self._feed)
        elif request.is_first_page:
            self._metrics.list_started(self._feed)
        return connection.get(request.target, self._silence_s if request.is_watch else LIST_TIMEOUT_S)

    def _decode(self, decode: Callable[[], list[Event]]) -> None:
        """Emit the events that *decode* returns for something that the server sent."""
        self._metrics.data_received(self._feed)
        started_s = time.perf_counter()
        events = decode()
        if events:
            self._metrics.objects_decoded(time.perf_counter() - started_s)
            self._emit(*events)

    def _read_watch(self, response: Response) -> None:
        """Read the lines of a watch until it ends or its connection breaks; the next watch resumes from there."""
        started_s = time.monotonic()
        try:
            for line in response.lines():
                if line:
                    self._decode(partial(self._list_watch.on_line, line))
                if not self._list_watch.is_watching:
                    return
        except TransportError as error:
            log.debug("Watch connection broke; resuming", extra=values(feed=self._feed, problem=error.problem))
        self._list_watch.on_watch_end(time.monotonic() - started_s)
