"""Loop: the one thread that owns the Agent; other threads enqueue what they have for it.

Invariants:
- The queue is the only crossing between threads, and only this thread uses the Agent (law 6).
- Every failure is logged and retried; only the end of the process ends the loop.
- The loop reports at each cycle, and as often as requested while it waits, that it is alive, so a supervisor can
  distinguish this thread from one that hangs.
"""

import gc
import logging
from collections import deque
from collections.abc import Callable
from threading import Condition, Lock
from time import monotonic, time
from typing import Protocol

from msgspec import Struct

from kubeproxy_py.backoff import Backoff
from kubeproxy_py.config.load import LoadedConfig
from kubeproxy_py.diagnose.snapshot import Snapshot
from kubeproxy_py.kernel import LateResult, LateRows, LateSteps
from kubeproxy_py.kernel.errors import KernelError
from kubeproxy_py.logging_setup import level, values
from kubeproxy_py.model.events import AddressesChanged, Event, Synced
from kubeproxy_py.model.time import NEVER
from kubeproxy_py.reconcile.agent import Agent
from kubeproxy_py.reconcile.containment import contained
from kubeproxy_py.reconcile.report import Report, SyncReport, Trigger
from kubeproxy_py.reconcile.sync_log import SyncLog
from kubeproxy_py.reconcile.sync_status import SyncStatus
from kubeproxy_py.reconcile.wall_clock import WallClock

log = logging.getLogger(__name__)

DEFAULT_GC_THRESHOLD = (700, 10, 10)
"""Python's own thresholds for its garbage collector."""

RETRY = Backoff(first_s=1.0, longest_s=30.0)
"""After the kernel could not be read at all, or an internal error."""


class Reconfigured(Struct, frozen=True, gc=False):
    """Another configuration was loaded, and it is valid."""

    loaded: LoadedConfig


Message = Event | AddressesChanged | Reconfigured | LateResult
"""What other threads enqueue."""


class Observer(Protocol):
    """Observes the loop. All methods but ``on_pending_since`` are called in its thread and must be quick."""

    def on_pending_since(self, since_s: float | None) -> None:
        """Observe that work is pending since *since_s* of time.monotonic; None: no work is.  Called in any thread."""

    def on_event(self, event: Event) -> None:
        """Observe that the agent handled *event*."""

    def on_report(self, report: Report) -> None:
        """Observe what the agent did."""

    def on_cycle_end(self, status: SyncStatus) -> None:
        """Observe the status at the end of a cycle."""


class Loop:
    """Feeds one Agent. ``enqueue`` may be called from any thread, ``run`` from one.

    Args:
        agent: The owner of the sync.
        on_report: Is called with each report.
        on_configuration: Is called with another configuration, in the loop's thread.
        alive: Reports that this thread is alive, and returns in how many seconds it must be called again.
        observer: See Observer.
    """

    def __init__(
        self,
        agent: Agent,
        on_report: Callable[[Report], None] = lambda _report: None,
        on_configuration: Callable[[LoadedConfig, float], None] = lambda _loaded, _now_s: None,
        alive: Callable[[], float] = lambda: NEVER,
        observer: Observer | None = None,
    ) -> None:
        self._agent = agent
        self._on_report = on_report
        self._on_configuration = on_configuration
        self._alive = alive
        self._observer = observer
        # With a condition: queue.Queue adds 1.5 us per event of a burst and 2.4 us per event alone.
        self._queue: deque[tuple[float, tuple[Message, ...]]] = deque()
        self._received: deque[tuple[float, Message]] = deque()  # from the queue, not handled yet
        self._requests: deque[Callable[[Snapshot], None]] = deque()  # of other threads, for a snapshot
        self._sync_log = SyncLog(monotonic)
        self._wall_clock = WallClock(monotonic, time)
        self._enqueued = Condition(Lock())  # protects _queue, _requests and _pending_since_s
        self._pending_since_s: float | None = None

    def enqueue(self, *messages: Message) -> None:
        """Have the agent handle *messages* soon, in this order.  Called in any thread."""
        now_s = monotonic()
        with self._enqueued:
            self._queue.append((now_s, messages))
            self._enqueued.notify()
            if self._pending_since_s is None:
                self._set_pending_since(now_s)

    def request_snapshot(self, reply: Callable[[Snapshot], None]) -> None:
        """Have *reply* called with a snapshot of the agent's state, in the loop's thread.  Called in any thread.

        That is no work for the agent: it changes neither health nor metrics.
        """
        with self._enqueued:
            self._requests.append(reply)
            self._enqueued.notify()

    def run(self) -> None:
        """Run until the process ends."""
        try:
            self._run_cycles()
        finally:
            self._sync_log.flush()

    def _run_cycles(self) -> None:
        failures = 0
        while True:
            try:
                self.run_cycle()
            except KernelError as error:
                failures += 1
                retry_s = RETRY.delay_s(failures)
                # No traceback: this is an expected failure of the kernel, not a bug.
                error_values = values(err=str(error))
                log.error("Failed to read kernel state; retrying in %.0f s", retry_s, extra=error_values)  # noqa: TRY400
            # The one broad catch: a bug that one object triggers must not stop the node's other Services, as it would
            # if every restart met it again.  What is known of the kernel may be wrong now, so it is read again.
            except Exception:
                failures += 1
                retry_s = RETRY.delay_s(failures)
                log.exception("Internal error (please report); resyncing from scratch in %.0f s", retry_s)
                self._agent.invalidate()
            else:
                failures = 0
                continue
            self._sleep(retry_s)

    def run_cycle(self) -> None:
        """Wait until there is something to do, and do it.  Raises KernelError."""
        self._handle_messages(0.0 if self._queue else self._wait_s())
        for report in self._agent.run_due(monotonic()):
            self._publish(report)
        contained("log", self._sync_log.flush_due)
        self._answer_due()
        if self._observer:
            self._end_cycle(self._observer)

    def _wait_s(self) -> float | None:
        """Return how long there is nothing to do unless something is enqueued; None: for ever."""
        due_s = min(self._agent.due_s(), self._sync_log.due_s)
        wait_s = min(due_s - monotonic(), self._alive())
        return None if wait_s == NEVER else max(0.0, wait_s)

    def _publish(self, report: Report) -> None:
        contained("log", self._sync_log.record, report)
        contained("report", self._on_report, report)
        if self._observer:
            contained("metrics and health", self._observer.on_report, report)
        if isinstance(report, SyncReport) and report.trigger is Trigger.FIRST_SYNC:
            _freeze_memory()

    def _end_cycle(self, observer: Observer) -> None:
        """Publish the status; nothing is pending any more, unless the agent has work or waits for initial lists."""
        status = self._agent.status()
        contained("metrics and health", observer.on_cycle_end, status)
        with self._enqueued:
            if status.is_waiting or not status.has_work:
                self._set_pending_since(monotonic() if self._queue else None)

    def _set_pending_since(self, since_s: float | None) -> None:
        if since_s != self._pending_since_s and self._observer:
            self._observer.on_pending_since(since_s)
        self._pending_since_s = since_s

    def _sleep(self, duration_s: float) -> None:
        while duration_s > 0:
            part_s = min(duration_s, self._alive())
            self._pause(part_s)
            duration_s -= part_s

    def _pause(self, duration_s: float) -> None:
        """Wait for *duration_s*, and answer requests for snapshots meanwhile."""
        end_s = monotonic() + duration_s
        while (left_s := end_s - monotonic()) > 0:
            with self._enqueued:
                if not self._requests:
                    self._enqueued.wait(left_s)
            self._answer_due()

    def _handle_messages(self, timeout_s: float | None) -> None:
        """Handle what is in the queue; wait up to *timeout_s* for the first message (None: without limit)."""
        if not self._queue and not self._received:
            with self._enqueued:
                if not self._queue and not self._requests:
                    self._enqueued.wait(timeout_s)
        # Messages may be left of those that were enqueued together with one that triggered a bug.
        while self._received or self._queue:
            while self._received:
                self._handle(*self._received.popleft())
                if self._requests:  # the next message may take long, too
                    self._answer_due()
            if self._queue:  # no other thread removes from it
                self._receive(*self._queue.popleft())

    def _receive(self, at_s: float, messages: tuple[Message, ...]) -> None:
        self._received.extend((at_s, message) for message in messages)

    def _with_later(self, change: AddressesChanged) -> AddressesChanged:
        """Return *change* with those that came after it, which are no messages any more.

        A sync that adds 10,000 addresses overflows the monitor ten times a second, and what each of these messages has
        the agent read from the kernel would take 0.5 s.
        """
        while self._queue:
            self._receive(*self._queue.popleft())
        later = [message for _, message in self._received if isinstance(message, AddressesChanged)]
        if not later:
            return change
        self._received = deque(pair for pair in self._received if not isinstance(pair[1], AddressesChanged))
        changes = (change, *later)
        return AddressesChanged(
            any(each.other_interfaces for each in changes),
            any(each.device for each in changes),
            dict(item for each in changes for item in each.service_addresses.items()),
        )

    def _handle(self, at_s: float, message: Message) -> None:
        if isinstance(message, AddressesChanged):
            self._agent.handle_addresses_changed(self._with_later(message), at_s)
            return
        if isinstance(message, Reconfigured):
            self._on_configuration(message.loaded, at_s)
            return
        if isinstance(message, LateSteps | LateRows):
            self._agent.handle_late_result(message, at_s)
            return
        if isinstance(message, Synced):
            log.log(level(2), "Received initial list", extra=values(feed=message.feed))
        self._agent.handle_event(message, at_s)
        if self._observer:
            contained("metrics and health", self._observer.on_event, message)

    def _answer_due(self) -> None:
        if self._requests:
            contained("snapshot", self._answer_requests)

    def _answer_requests(self) -> None:
        """Answer the requests for a snapshot, all with the same one."""
        requests = [self._requests.popleft() for _ in range(len(self._requests))]
        snapshot = self._agent.snapshot(monotonic(), self._wall_clock.zero_s())
        for reply in requests:
            reply(snapshot)


def _freeze_memory() -> None:
    """Exclude what exists after the first sync from garbage collection, which took 4-25 ms at a time.

    From now on the collector runs as often as usual (see __main__.py).
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(*DEFAULT_GC_THRESHOLD)
