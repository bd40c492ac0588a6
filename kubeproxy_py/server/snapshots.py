"""Snapshots: the agent's snapshots for threads of servers, at most one a second.

Invariants:
- However many clients ask, the loop makes at most one snapshot in PERIOD_S.
- A snapshot that nobody uses any more is dropped: at 10,000 Services it keeps 10 MB.
"""

import threading
from collections.abc import Callable
from time import monotonic

from msgspec.structs import replace

from kubeproxy_py.diagnose.snapshot import About, Snapshot

PERIOD_S = 1.0
WAIT_S = 5.0  # for the loop, which may be in the middle of a sync
KEEP_S = 5.0


class AgentBusyError(Exception):
    """The loop does not answer in time."""


class Snapshots:
    """Requests snapshots by *request*, and adds what *about* returns.  All methods may be called in any thread."""

    def __init__(
        self,
        request: Callable[[Callable[[Snapshot], None]], None],
        about: Callable[[], About],
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self._request = request
        self._about = about
        self._clock = clock
        self._changed = threading.Condition()  # protects what follows
        self._latest: Snapshot | None = None
        self._received_s = 0.0
        self._requested_s: float | None = None

    def get(self, timeout_s: float = WAIT_S) -> Snapshot:
        """Return a snapshot that is not older than PERIOD_S.  Raises AgentBusyError."""
        deadline_s = self._clock() + timeout_s
        with self._changed:
            while self._latest is None or self._clock() - self._received_s >= PERIOD_S:
                if self._requested_s is None:
                    self._requested_s = self._clock()
                    self._request(self._receive)
                    continue
                left_s = deadline_s - self._clock()
                if left_s <= 0 or not self._changed.wait(left_s):
                    self._requested_s = None  # the next one asks again: a request that met a bug is never answered
                    raise AgentBusyError(f"the agent's loop has not answered within {timeout_s:g} s; it is in a sync")
            return replace(self._latest, about=self._about())

    def drop_unused(self) -> None:
        """Drop the last snapshot if it is old; to be called now and then."""
        with self._changed:
            if self._latest is not None and self._clock() - self._received_s >= KEEP_S:
                self._latest = None

    def _receive(self, snapshot: Snapshot) -> None:
        """Store *snapshot*; called in the loop's thread, and quick."""
        with self._changed:
            self._latest, self._received_s, self._requested_s = snapshot, self._clock(), None
            self._changed.notify_all()
