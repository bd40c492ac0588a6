"""The loop: what other threads say goes through one queue to the Agent.

Law: the queue is the only crossing between threads, and only this thread touches the Agent.  Whatever goes wrong
below is logged and tried again; nothing but the end of the process ends the loop.  It says at each turn that it is
alive, and as often as it is asked to while it waits; so a supervisor knows this thread from one that hangs.
"""

import gc
import logging
import queue
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from threading import Lock
from time import monotonic, sleep
from typing import Protocol

from msgspec import Struct

from kubeproxy_py.config.load import LoadedConfig
from kubeproxy_py.kernel.errors import KernelError
from kubeproxy_py.logging_setup import level
from kubeproxy_py.model.events import AddressesChanged, Event, Synced
from kubeproxy_py.model.time import NEVER
from kubeproxy_py.reconcile.reconciler import FIRST_SYNC, Reconciler
from kubeproxy_py.reconcile.report import SyncReport
from kubeproxy_py.reconcile.sync_log import SyncLog
from kubeproxy_py.reconcile.sync_status import SyncStatus

log = logging.getLogger(__name__)

USUAL_THRESHOLD = (700, 10, 10)
"""Python's own, for its collector of garbage."""

FIRST_RETRY_S, LONGEST_RETRY_S = 1.0, 30.0
"""After the kernel could not be asked at all, or something went wrong that nobody foresaw."""


class Reconfigured(Struct, frozen=True, gc=False):
    """There is another configuration, and it is valid."""

    loaded: LoadedConfig


Told = Event | AddressesChanged | Reconfigured


class Observer(Protocol):
    """Who watches the loop; all but ``asked`` is called in its thread, and must be quick."""

    def on_pending_since(self, since_s: float | None) -> None:
        """Something was told at *since_s* of time.monotonic that is not dealt with; None: all is.  Any thread."""

    def on_event(self, event: Event) -> None:
        """The agent knows *event*."""

    def on_report(self, report: SyncReport) -> None:
        """The agent did something."""

    def on_cycle_end(self, standing: SyncStatus) -> None:
        """A turn is over."""


class Loop:
    """Feeds one Agent.  ``tell`` may be called from any thread; ``run`` from one."""

    def __init__(
        self,
        agent: Reconciler,
        on_report: Callable[[SyncReport], None] = lambda _report: None,
        on_configuration: Callable[[LoadedConfig], None] = lambda _loaded: None,
        alive: Callable[[], float] = lambda: NEVER,
        observer: Observer | None = None,
    ) -> None:
        self._agent = agent
        self._on_report = on_report
        self._on_configuration = on_configuration
        self._alive = alive  # says so, and in how many seconds it wants to be called again
        self._observer = observer
        self._queue: queue.SimpleQueue[tuple[float, tuple[Told, ...]]] = queue.SimpleQueue()
        self._taken: deque[tuple[float, Told]] = deque()  # from the queue, and not yet known to the agent
        self._syncs = SyncLog(monotonic)
        self._lock = Lock()  # of _asked_s
        self._asked_s: float | None = None  # since when something waits that was told

    def enqueue(self, *told: Told) -> None:
        """Have the agent know *told* soon, in this order."""
        now_s = monotonic()
        with self._lock:
            self._queue.put((now_s, told))
            if self._asked_s is None:
                self._note_asked(now_s)

    def run(self) -> None:
        """Serve until the process ends."""
        try:
            self._serve()
        finally:
            self._syncs.flush()

    def _serve(self) -> None:
        retry_s = FIRST_RETRY_S
        while True:
            try:
                self.turn()
                retry_s = FIRST_RETRY_S
                continue
            except KernelError as error:
                log.error(f"can't ask the kernel, trying again in {retry_s:.0f} s: {error}")
            # The one broad catch: a bug that one object brings out must not take the node's Services with it, as it
            # would if every restart met it again.  What we believe may be wrong then, so it is read anew.
            except Exception:
                log.exception(f"a bug: please report it; starting anew in {retry_s:.0f} s")
                self._agent.invalidate()
            self._rest(retry_s)
            retry_s = min(2 * retry_s, LONGEST_RETRY_S)

    def turn(self) -> None:
        """Wait until there is something to do, and do it.  Raises KernelError."""
        due_s = min(self._agent.due_s(), self._syncs.due_s)
        wait_s = min(due_s - monotonic(), self._alive()) if self._queue.empty() else 0.0
        self._take_all(None if wait_s == NEVER else max(0.0, wait_s))
        for report in self._agent.step():
            self._syncs.record(report)
            self._on_report(report)
            if self._observer:
                self._observer.on_report(report)
            if report.why == FIRST_SYNC:
                _settle_memory()
        self._syncs.flush_due()
        if self._observer:
            self._end_turn(self._observer)

    def _end_turn(self, observer: Observer) -> None:
        """Tell how things stand; what was told is dealt with, unless the agent has work that waits."""
        standing = self._agent.status()
        observer.on_cycle_end(standing)
        with self._lock:
            if standing.is_waiting or not standing.has_work:
                self._note_asked(None if self._queue.empty() else monotonic())

    def _note_asked(self, since_s: float | None) -> None:
        if since_s != self._asked_s and self._observer:
            self._observer.on_pending_since(since_s)
        self._asked_s = since_s

    def _rest(self, rest_s: float) -> None:
        while rest_s > 0:
            nap_s = min(rest_s, self._alive())
            sleep(nap_s)
            rest_s -= nap_s

    def _take_all(self, timeout_s: float | None) -> None:
        """Take what is in the queue; wait for the first up to *timeout_s* (None: for ever)."""
        if self._queue.empty() and not self._taken:
            with suppress(queue.Empty):
                self._put_down(*self._queue.get(timeout=timeout_s))
        # There may be something left of what was told together with something that brought out a bug.
        while self._taken or not self._queue.empty():
            while self._taken:
                self._take(*self._taken.popleft())
            if not self._queue.empty():  # no other thread takes from it; asking by a timeout reads the clock twice
                self._put_down(*self._queue.get_nowait())

    def _put_down(self, at_s: float, told: tuple[Told, ...]) -> None:
        self._taken.extend((at_s, each) for each in told)

    def _take(self, at_s: float, told: Told) -> None:
        if isinstance(told, AddressesChanged):
            self._agent.addresses_changed(told)
            return
        if isinstance(told, Reconfigured):
            self._on_configuration(told.loaded)
            return
        if isinstance(told, Synced):
            log.log(level(2), f"first list of the feed {told.feed} is whole")
        self._agent.handle_event(told, at_s)
        if self._observer:
            self._observer.on_event(told)


def _settle_memory() -> None:
    """What is known by now stays: have the garbage collector look at it no more, which took 4-25 ms at a time.

    It is as busy as usual from now on (see __main__.py).
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(*USUAL_THRESHOLD)
