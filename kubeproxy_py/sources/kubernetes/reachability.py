"""Reachability: what all watches of one API server know together of whether it answers.

While it does not answer, one watch at a time tries, at most some 5 s after the last try.  As soon as one is answered,
the others follow.  With a delay for each watch, each would wait up to 30 s.
"""

import threading
import time
from collections.abc import Callable
from random import random as random_number

from kubeproxy_py.backoff import Backoff

DELAY = Backoff(0.5, 4.0)
_JITTER = (0.5, 1.25)  # share of the delay, random within it, so that not all nodes try at the same moment
ATTEMPT_MAX_S = 5.0  # an attempt that takes longer (SYNs that are dropped) does not keep another watch from trying


class Reachability:
    """May be used by any thread."""

    def __init__(
        self, clock: Callable[[], float] = time.monotonic, random: Callable[[], float] = random_number
    ) -> None:
        self._clock = clock
        self._random = random
        self._changed = threading.Condition()
        self._failures = 0  # consecutive; 0: the server answers
        self._failed_s = 0.0  # when the last attempt failed
        self._due_s = 0.0  # when the next attempt may begin, while the server does not answer
        self._stopped = False

    def wait_turn(self, wait_s: float) -> bool:
        """Wait for *wait_s*, and then until a request makes sense; return False if that is never."""
        with self._changed:
            end_s = self._clock() + wait_s
            while not self._stopped:
                now_s = self._clock()
                due_s = max(end_s, self._due_s) if self._failures else end_s
                if now_s >= due_s:
                    if self._failures:
                        self._due_s = now_s + ATTEMPT_MAX_S  # of another watch, unless this attempt ends before
                    return True
                self._changed.wait(due_s - now_s)
            return False

    @property
    def is_failing(self) -> bool:
        """Whether the last request was not answered."""
        return self._failures > 0

    def answered(self) -> None:
        """Record that the server answers."""
        with self._changed:
            if self._failures:
                self._failures = 0
                self._changed.notify_all()

    def failed(self, started_s: float) -> None:
        """Record that a request, which was sent at *started_s*, was not answered.

        Attempts that were on the way at the same time are one failure.
        """
        with self._changed:
            if self._failures and started_s < self._failed_s:
                return
            self._failures += 1
            self._failed_s = self._clock()
            shortest, longest = _JITTER
            delay_s = DELAY.delay_s(self._failures) * (shortest + self._random() * (longest - shortest))
            self._due_s = self._failed_s + delay_s
            self._changed.notify_all()

    def stop(self) -> None:
        """End all waiting."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()
