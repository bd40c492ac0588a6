"""WatchMonitor: the thread that asks the API server about watches that are silent (probe.py), and ends dead ones.

Invariants:
- A healthy watch is never ended, however long its resource is idle.
- A server that hangs, and a connection that is dead on one side, are noticed within 45 s.
"""

import logging
import threading
import time
from collections.abc import Sequence

from kubeproxy_py import threads
from kubeproxy_py.logging_setup import level, values
from kubeproxy_py.sources.kubernetes.api_connection import ApiConnection
from kubeproxy_py.sources.kubernetes.open_watch import PROBE_TIMEOUT_S, Answer, Verdict, WatchActivity
from kubeproxy_py.sources.kubernetes.probe import probe
from kubeproxy_py.sources.kubernetes.watch_thread import WatchThread

_GRACE_S = 2.0  # a change may reach the probe sooner than the watch

log = logging.getLogger(__name__)


class WatchMonitor:
    """Looks after *watches*.

    Args:
        api: The connection, of which each probe uses a socket of its own.
        watches: The watches.
        probe_after_s: How long a watch is silent before the server is asked, and between two questions.
    """

    def __init__(self, api: ApiConnection, watches: Sequence[WatchThread], probe_after_s: float) -> None:
        self._api = api
        self._watches = watches
        self._probe_after_s = probe_after_s
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Start the thread."""
        self._thread = threads.start("watch-monitor", self._run, self._stopping)

    def stop(self) -> None:
        """Ask the thread to end; it does after the probe that it may be waiting for."""
        self._stopping.set()

    def join(self, timeout_s: float) -> None:
        """Wait until the thread has ended."""
        if self._thread:
            self._thread.join(timeout_s)

    def _run(self) -> None:
        wait_s = self._probe_after_s
        while not self._stopping.wait(wait_s):
            wait_s = self._look()

    def _look(self) -> float:
        """Ask about each watch that is silent; return when to look again, in s."""
        for watch in self._watches:
            activity = watch.activity
            if activity and activity.is_silent(time.monotonic(), self._probe_after_s) and not self._stopping.is_set():
                self._probe(watch, activity)
        now_s = time.monotonic()
        ages_s = [now_s - watch.activity.last_activity_s for watch in self._watches if watch.activity]
        longest_s = min(max(ages_s, default=0.0), self._probe_after_s)
        return max(self._probe_after_s - longest_s, self._probe_after_s / 20)

    def _probe(self, watch: WatchThread, activity: WatchActivity) -> None:
        answer = probe(self._api, activity, PROBE_TIMEOUT_S)
        log.log(level(2), "Probed a silent watch", extra=values(feed=watch.feed, result=answer.verdict.name.lower()))
        if answer.verdict is Verdict.UNREACHABLE:
            # One unanswered probe means that the server is unreachable for all watches: to ask for each takes too long.
            for each in self._watches:
                self._end_if_silent(each, answer)
        elif answer.verdict is Verdict.IDLE:
            watch.heard()
        elif answer.verdict is Verdict.UNKNOWN:
            watch.asked()
        elif answer.verdict is Verdict.RESTORED or not self._is_heard_soon(watch, activity):
            watch.end(answer)

    def _end_if_silent(self, watch: WatchThread, answer: Answer) -> None:
        activity = watch.activity
        if activity and activity.is_silent(time.monotonic(), self._probe_after_s):
            watch.end(answer)

    def _is_heard_soon(self, watch: WatchThread, activity: WatchActivity) -> bool:
        """Return whether the watch itself sends what the probe was sent."""
        self._stopping.wait(min(_GRACE_S, self._probe_after_s))
        now = watch.activity
        return now is None or now.version != activity.version
