"""Poster: the thread that posts Kubernetes Events to the API server.

Invariants:
- Enqueuing never blocks: an Event that does not fit into the queue is dropped.
- A write is tried for two minutes at most while the server is unreachable or busy; a rejected one is dropped.
- Each kind of failure is logged once, until a write succeeds (for good, if the role lacks the permission).

Source: client-go, tools/events/event_broadcaster.go (1,000 in the queue, 12 tries, 10 s between).
"""

import logging
import queue
import threading
from collections.abc import Callable, Iterable
from time import time_ns

from msgspec import Struct

from kubeproxy_py import threads
from kubeproxy_py.backoff import Backoff
from kubeproxy_py.events.kube_events import EventWrite, KubeEvent
from kubeproxy_py.events.recorder import Recorder
from kubeproxy_py.logging_setup import values
from kubeproxy_py.model.problem import Problem
from kubeproxy_py.sources.kubernetes.api_connection import ApiConnection
from kubeproxy_py.sources.kubernetes.client import Response
from kubeproxy_py.sources.kubernetes.transport_errors import TransportError

QUEUE_MAX = 1000
TRIES_MAX = 12
RETRY = Backoff(10.0, 12.5, factor=1.0, jitter=0.25)
RETRY_AFTER_MAX_S = 60.0  # of the server's Retry-After
PACE_S = 0.2  # between two writes; kube-proxy's clients send five requests a second at most, too
RESPONSE_TIMEOUT_S = 30.0
INTERNAL_ERROR_DELAY_S = 10.0
_WAIT_MAX_S = 60.0  # the longest sleep: Events are due by the wall clock, which may be set meanwhile
_NS_PER_S = 10**9
_JSON, _MERGE_PATCH = "application/json", "application/merge-patch+json"
_SUCCESS_END = 300  # HTTP status codes below it are successes
_FORBIDDEN, _NOT_FOUND, _CONFLICT, _TOO_MANY_REQUESTS, _SERVER_ERROR = 403, 404, 409, 429, 500
_HINTS = {
    _FORBIDDEN: "the role needs create and patch on events of events.k8s.io",
    _NOT_FOUND: "servers before 1.19 have no events.k8s.io/v1",
}

log = logging.getLogger(__name__)


class _Queued(Struct, frozen=True, gc=False):
    """An Event and when it was published; without an Event, a mark that wakes the thread or a flush."""

    at_ns: int  # since 1970
    event: KubeEvent | None = None
    flushed: threading.Event | None = None  # set when everything before it was posted or dropped


class Poster:
    """Posts the writes that *recorder* derives from Events.

    Args:
        api: The connection to the API server.
        recorder: Decides which Events are written.
        random: Returns numbers from 0 to below 1.
    """

    def __init__(self, api: ApiConnection, recorder: Recorder, random: Callable[[], float]) -> None:
        self._api = api
        self._recorder = recorder
        self._random = random
        self._queue: queue.Queue[_Queued] = queue.Queue(QUEUE_MAX)
        self._stopping = threading.Event()
        self._logged: set[str] = set()  # kinds of failure that were logged: HTTP status or "connection"
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Start the thread."""
        self._thread = threads.start("events", self._run, self._stopping)

    def enqueue(self, event: KubeEvent) -> None:
        """Have *event* posted soon; any thread."""
        self._put(_Queued(time_ns(), event))

    def flush(self, timeout_s: float) -> bool:
        """Wait until all enqueued Events are posted or dropped; return whether they were within *timeout_s*."""
        flushed = threading.Event()
        return self._put(_Queued(time_ns(), flushed=flushed)) and flushed.wait(timeout_s)

    def stop(self) -> None:
        """End the thread after its current request."""
        self._stopping.set()
        self._put(_Queued(time_ns()))
        if self._thread:
            self._thread.join(RESPONSE_TIMEOUT_S)

    def _put(self, queued: _Queued) -> bool:
        try:
            self._queue.put_nowait(queued)
        except queue.Full:
            log.debug("Event queue full; dropped a Kubernetes Event")
            return False
        return True

    # In the thread

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                self._post_next()
            except Exception:  # of one Event, which is dropped
                log.exception("Internal error while posting a Kubernetes Event (please report); dropped it")
                self._stopping.wait(INTERNAL_ERROR_DELAY_S)

    def _post_next(self) -> None:
        """Wait for an Event, or until a series is due, and write what follows from it."""
        wait_s = (self._recorder.due_ns - time_ns()) / _NS_PER_S
        try:
            queued = self._queue.get(timeout=min(max(0.0, wait_s), _WAIT_MAX_S))
        except queue.Empty:
            self._write_all(self._recorder.due_writes(time_ns()))
            return
        if queued.event:
            self._write_all(self._recorder.record(queued.event, queued.at_ns))
        if queued.flushed:
            queued.flushed.set()

    def _write_all(self, writes: Iterable[EventWrite]) -> None:
        for write in writes:
            for _ in range(TRIES_MAX):
                retry_s = self._try(write)
                if self._stopping.wait(PACE_S if retry_s is None else retry_s):
                    return
                if retry_s is None:
                    break

    def _try(self, write: EventWrite) -> float | None:
        """Send *write*; return the delay before the next attempt, or None if it succeeded or can never succeed."""
        try:
            status, body, retry_after_s = self._send(write)
        except TransportError as error:
            self._log_failure("connection", error.problem, error.__cause__)
            return RETRY.delay_s(1, self._random())
        # A conflict on create: it was created by an earlier attempt whose response was lost.
        if status < _SUCCESS_END or (status == _CONFLICT and not write.patch):
            self._logged &= {str(_FORBIDDEN)}
            return None
        if status == _FORBIDDEN and b'"NamespaceTerminating"' in body:  # a cause in the Status's details
            return None
        problem = Problem("Kubernetes API events", f"HTTP {status}", "rejected", _HINTS.get(status, ""))
        self._log_failure(str(status), problem)
        if status != _TOO_MANY_REQUESTS and status < _SERVER_ERROR:
            return None
        return RETRY.delay_s(1, self._random()) if retry_after_s is None else min(retry_after_s, RETRY_AFTER_MAX_S)

    def _send(self, write: EventWrite) -> tuple[int, bytes, float | None]:
        """Patch or create the Event.

        Returns:
            HTTP status, body, and the delay in s that the server asks for (None: it does not).

        Raises:
            TransportError: There was no complete response.
        """
        events = f"/apis/events.k8s.io/v1/namespaces/{write.namespace}/events"
        if write.patch:
            result = self._request("PATCH", f"{events}/{write.name}", write.patch, _MERGE_PATCH)
            if result[0] != _NOT_FOUND:
                return result
        return self._request("POST", events, write.body, _JSON)

    def _request(self, method: str, target: str, body: bytes, content_type: str) -> tuple[int, bytes, float | None]:
        response: Response = self._api.request(
            lambda connection: connection.send(method, target, body, content_type, RESPONSE_TIMEOUT_S)
        )
        try:
            return response.status, bytes(response.body()), response.retry_after_s
        finally:
            response.close()

    def _log_failure(self, kind: str, problem: Problem, cause: BaseException | None = None) -> None:
        log.debug("Kubernetes Event not posted", extra=values(problem=problem, cause=repr(cause)))
        if kind not in self._logged:
            self._logged.add(kind)
            log.warning("Failed to post Kubernetes Events; proxying is not affected", extra=values(err=str(problem)))
