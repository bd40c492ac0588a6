"""Poster: the thread that brings notices to the API server, as Events.

Law: telling never blocks: what a full queue can't hold is dropped.  The thread holds on to a write while the server
can't be reached, two minutes at most, and drops what the server refuses; each way to fail is told once, until a write
succeeds (for good, if it is a matter of our role).

Source: client-go, tools/events/event_broadcaster.go (1,000 in the queue, 12 tries, 10 s between).
"""

import logging
import queue
import threading
from collections.abc import Callable
from time import time_ns
from typing import Protocol

from msgspec import Struct

from kubeproxy_py.events.kube_events import EventWrite, KubeEvent
from kubeproxy_py.model.events import ObjectProblem
from kubeproxy_py.sources.kubernetes.api_connection import ApiConnection
from kubeproxy_py.sources.kubernetes.client import Answer, TransportError

QUEUE_MAX = 1000
TRIES_MAX = 12
RETRY_S, RETRY_MAX_S = 10.0, 60.0
PACE_S = 0.2  # between two writes: kube-proxy's clients ask five times a second at most, too
ANSWER_TIMEOUT_S = 30.0
_LOOK_S = 60.0  # the longest wait, for the clock that notices go by may be set
_NS_PER_S = 10**9
_JSON, _MERGE_PATCH = "application/json", "application/merge-patch+json"
_FORBIDDEN = 403
_HINTS = {
    _FORBIDDEN: "the role needs create and patch on events of events.k8s.io",
    404: "servers before 1.19 have no events.k8s.io/v1",
}

log = logging.getLogger(__name__)


class Recorder(Protocol):
    """Decides what to write.  Times are in ns since 1970."""

    due_ns: int

    def take(self, notice: KubeEvent, now_ns: int) -> list[EventWrite]: ...

    def turn(self, now_ns: int) -> list[EventWrite]: ...


class _Pending(Struct, frozen=True, gc=False):
    """A notice and when it was told; or no notice, but someone who waits for those before it."""

    at_ns: int
    notice: KubeEvent | None = None
    done: threading.Event | None = None


class Poster:
    """Posts what *recorder* makes of notices.  *random* gives numbers from 0 to below 1."""

    def __init__(self, access: ApiConnection, recorder: Recorder, random: Callable[[], float]) -> None:
        self._access = access
        self._recorder = recorder
        self._random = random
        self._queue: queue.Queue[_Pending] = queue.Queue(QUEUE_MAX)
        self._stopping = threading.Event()
        self._complaints: set[str] = set()  # ways to fail that were told
        self._thread = threading.Thread(target=self._run, name="events", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def tell(self, notice: KubeEvent) -> None:
        """Have *notice* posted soon, or dropped; may be called from any thread."""
        self._put(_Pending(time_ns(), notice))

    def flush(self, timeout_s: float) -> bool:
        """Wait until all that was told is posted or dropped; whether it was within *timeout_s*."""
        done = threading.Event()
        return self._put(_Pending(time_ns(), done=done)) and done.wait(timeout_s)

    def stop(self) -> None:
        """End the thread, after the request that it is at."""
        self._stopping.set()
        self._put(_Pending(time_ns()))
        self._thread.join(ANSWER_TIMEOUT_S)

    def _put(self, told: _Pending) -> bool:
        try:
            self._queue.put_nowait(told)
        except queue.Full:
            log.debug("too many events wait to be posted: one is dropped")
            return False
        return True

    # In the thread

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                self._turn()
            except Exception:  # the outermost line: a thread that ended would go unnoticed
                log.exception("posting an event failed in an unforeseen way: please report it")
                self._stopping.wait(RETRY_S)

    def _turn(self) -> None:
        wait_s = (self._recorder.due_ns - time_ns()) / _NS_PER_S
        try:
            told = self._queue.get(timeout=min(max(0.0, wait_s), _LOOK_S))
        except queue.Empty:
            self._write(self._recorder.turn(time_ns()))
            return
        if told.notice:
            self._write(self._recorder.take(told.notice, told.at_ns))
        if told.done:
            told.done.set()

    def _write(self, writes: list[EventWrite]) -> None:
        for write in writes:
            wait_s: float | None = 0.0
            for _ in range(TRIES_MAX):
                wait_s = self._try(write)
                if self._stopping.wait(PACE_S if wait_s is None else wait_s):
                    return
                if wait_s is None:
                    break

    def _try(self, write: EventWrite) -> float | None:
        """How long to wait before another attempt; None: it is done, or never will be."""
        try:
            status, body, retry_after_s = self._send(write)
        except TransportError as error:
            self._complain("connection", str(error.problem))
            return self._jittered(RETRY_S)
        if status < 300 or (status == 409 and not write.patch):  # it was made, and the answer lost
            self._complaints &= {str(_FORBIDDEN)}
            return None
        if status == _FORBIDDEN and b'"NamespaceTerminating"' in body:  # a cause in the Status's details
            return None
        problem = ObjectProblem("Kubernetes API events", f"HTTP {status}", "refused", _HINTS.get(status, ""))
        self._complain(str(status), str(problem))
        if status != 429 and status < 500:
            return None
        return self._jittered(RETRY_S) if retry_after_s is None else min(retry_after_s, RETRY_MAX_S)

    def _send(self, write: EventWrite) -> tuple[int, bytes, float | None]:
        """Status, body, and the time that the server wants us to wait.  Raises TransportError."""
        events = f"/apis/events.k8s.io/v1/namespaces/{write.namespace}/events"
        if write.patch:
            found = self._ask("PATCH", f"{events}/{write.name}", write.patch, _MERGE_PATCH)
            if found[0] != 404:
                return found
        return self._ask("POST", events, write.whole, _JSON)

    def _ask(self, method: str, target: str, body: bytes, content_type: str) -> tuple[int, bytes, float | None]:
        answer: Answer = self._access.ask(
            lambda connection: connection.send(method, target, body, content_type, ANSWER_TIMEOUT_S)
        )
        try:
            return answer.status, answer.body(), answer.retry_after_s
        finally:
            answer.close()

    def _complain(self, way: str, text: str) -> None:
        if way not in self._complaints:
            self._complaints.add(way)
            log.warning(f"events are not posted, which harms nothing else: {text}")

    def _jittered(self, seconds: float) -> float:
        """Longer by up to a quarter, so that thousands of nodes don't come back at once."""
        return seconds * (1 + self._random() / 4)
