"""Watcher: the thread that carries out one ListWatch over HTTP.

Law: all that is decided is decided by ListWatch; here are only the connection, the clock and the end.  Whatever goes
wrong ends in a wait and another attempt; nothing ends the thread but ``stop``.
"""

import logging
import threading
import time
from collections.abc import Callable
from functools import partial

from kubeproxy_py.model.events import Event, Feed, ObjectProblem
from kubeproxy_py.sources import EventHandler
from kubeproxy_py.sources.client_metrics import NULL_CLIENT_METRICS, ClientMetrics
from kubeproxy_py.sources.kubernetes.api_connection import ApiConnection
from kubeproxy_py.sources.kubernetes.client import Answer, Connection, TransportError
from kubeproxy_py.sources.kubernetes.reflector import ListWatch, Request

LIST_TIMEOUT_S = 60.0  # the API server gives up on a list after as long

log = logging.getLogger(__name__)


class WatchThread:
    """Lists and watches one resource until it is stopped.

    A watch that says nothing for *silence_s*, not even a bookmark (of which there is one a minute), is taken for dead.
    """

    def __init__(
        self,
        listwatch: ListWatch,
        access: ApiConnection,
        emit: EventHandler,
        silence_s: float,
        feed: Feed,
        tally: ClientMetrics = NULL_CLIENT_METRICS,
    ) -> None:
        self._listwatch = listwatch
        self._feed = feed
        self._tally = tally
        self._access = access
        self._emit = emit
        self._silence_s = silence_s
        self._stopping = threading.Event()
        self._lock = threading.Lock()  # of _answer
        self._answer: Answer | None = None  # whose body is being read
        self._thread = threading.Thread(target=self._run, name=f"watch-{feed}", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Ask the thread to end; it does so at once, unless it waits for an answer's first byte."""
        self._stopping.set()
        with self._lock:
            if self._answer:
                self._answer.cut_off()

    def join(self, timeout_s: float) -> None:
        self._thread.join(timeout_s)

    def _run(self) -> None:
        request = self._listwatch.request()
        while not self._stopping.wait(request.wait_s):
            try:
                self._carry_out(request)
            except TransportError as error:
                self._tell_failure(error.problem)
            except Exception as error:  # the outermost line: a watch that ended for good would go unnoticed
                log.exception("Watching failed in an unforeseen way")
                self._tell_failure(
                    ObjectProblem("watch", "(all)", f"unforeseen {type(error).__name__}", "please report it")
                )
            request = self._listwatch.request()

    def _tell_failure(self, problem: ObjectProblem) -> None:
        if events := self._listwatch.failed(problem):
            self._emit(*events)

    def _carry_out(self, request: Request) -> None:
        """Ask, and tell ListWatch what came of it.  Raises TransportError."""
        answer = self._access.ask(lambda connection: self._get(connection, request))
        with self._lock:
            self._answer = answer
        try:
            if self._stopping.is_set():
                return
            if request.is_watch and answer.status == 200:
                self._follow(answer)
                return
            body = answer.body()
            self._tell(lambda: self._listwatch.answered(answer.status, body, answer.retry_after_s))
        finally:
            with self._lock:
                self._answer = None
            answer.close()

    def _get(self, connection: Connection, request: Request) -> Answer:
        """Raises TransportError."""
        self._tally.held_back(connection.host, "GET", request.wait_s)
        if request.is_watch or request.is_first_page:
            self._tally.began(self._feed, watch=request.is_watch)
        return connection.get(request.target, self._silence_s if request.is_watch else LIST_TIMEOUT_S)

    def _tell(self, decode: Callable[[], list[Event]]) -> None:
        """Tell what *decode* makes of something that the server said."""
        self._tally.heard(self._feed)
        began_s = time.perf_counter()
        events = decode()
        if events:
            self._tally.decoded(time.perf_counter() - began_s)
            self._emit(*events)

    def _follow(self, answer: Answer) -> None:
        """A watch's lines, until it ends.  A connection that breaks ends it too: the next watch takes up from there."""
        began_s = time.monotonic()
        try:
            for line in answer.lines():
                if line:
                    self._tell(partial(self._listwatch.line, line))
                if not self._listwatch.watching:
                    return
        except TransportError as error:
            log.debug("A watch broke off, it is resumed: %s", error)
        self._listwatch.ended(time.monotonic() - began_s)
