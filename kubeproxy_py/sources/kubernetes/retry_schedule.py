"""RetrySchedule: when the next request of a watch is sent, after each kind of answer; and which problem was reported.

Pure arithmetic: it neither waits nor reads a clock.
"""

from collections.abc import Callable

from kubeproxy_py.backoff import Backoff
from kubeproxy_py.model.problem import Problem

BACKOFF = Backoff(0.8, 30.0, jitter=1.0)  # client-go, tools/cache, NewReflector: 800 ms, 30 s, factor 2, jitter 1
RELIST_JITTER_S = 2.0  # what makes one node list again often makes all of them: a compaction, a Service that changed
RESUME_JITTER_S = 0.5  # a server that ends breaks the connections of all nodes at the same moment
CONFIRM_S = (3.0, 5.0)  # random within it: after a doubted list, until the list that confirms it
# A server that has just started knows no roles yet, and refuses everybody (403).
REFUSED = Backoff(0.5, 4.0, jitter=0.5)
REFUSED_MAX_S = 10.0  # a 403 that lasts longer is reported
RETRY_AFTER_MAX_S = 300.0
_RETRY_AFTER_JITTER = 0.5  # a busy server asks all nodes for the same delay


class RetrySchedule:
    """The delay before the next request of one watch.

    Attributes:
        wait_s: The delay.
        is_failing: Whether the last request failed.
        after_outage: The server did not answer: the delay is that of all watches together (Reachability).
    """

    def __init__(self, random: Callable[[], float]) -> None:
        self._random = random
        self._failures = 0  # consecutive ones
        self._expiries = 0  # versions that were of no use since the last line of a watch
        self._refusals = 0  # consecutive 403s that were not reported
        self._refused_s = 0.0  # spent waiting for them to pass
        self._reported: Problem | None = None  # reported, and not resolved since
        self.wait_s = 0.0
        self.after_outage = False
        self.is_failing = False

    def at_once(self) -> None:
        """Send the next request now."""
        self._wait(0.0)
        self.is_failing = False

    def after_failure(self) -> None:
        """Wait longer after each failure in succession."""
        self._failures += 1
        self.is_failing = True
        self._wait(BACKOFF.delay_s(self._failures, self._random()))

    def after_no_answer(self) -> None:
        """Wait until the server answers again, as all watches do together."""
        self.is_failing = True
        self.wait_s, self.after_outage = 0.0, True

    def after_refusal(self) -> bool:
        """Wait a little after a 403; return False if it has lasted so long that it must be reported."""
        if self._refused_s >= REFUSED_MAX_S:
            return False
        self._refusals += 1
        self.is_failing = True
        self._wait(REFUSED.delay_s(self._refusals, self._random()))
        self._refused_s += self.wait_s
        return True

    def after_expiry(self, *, of_watch: bool) -> None:
        """Wait after a version expired: at first only so that not all nodes list at the same moment, then longer."""
        if self._expiries:
            self.after_failure()
        else:
            self._wait(self._random() * RELIST_JITTER_S if of_watch else 0.0)
        self._expiries += 1

    def after_broken_watch(self) -> None:
        """Resume a watch whose connection broke: soon, but not all nodes at the same moment."""
        self._wait(self._random() * RESUME_JITTER_S)
        self.is_failing = False

    def spread(self) -> None:
        """Wait a little, so that not all nodes list at the same moment; longer, if the last request failed."""
        if not self.is_failing:
            self._wait(self._random() * RELIST_JITTER_S)

    def before_confirmation(self) -> None:
        """Wait between a doubted list and the one that confirms it."""
        shortest_s, longest_s = CONFIRM_S
        self._wait(shortest_s + self._random() * (longest_s - shortest_s))

    def at_least(self, wait_s: float) -> None:
        """Wait no less than *wait_s*, which the server asked for, and up to half as long again."""
        asked = Backoff(wait_s, RETRY_AFTER_MAX_S, jitter=_RETRY_AFTER_JITTER)
        self.wait_s = min(max(self.wait_s, asked.delay_s(1, self._random())), RETRY_AFTER_MAX_S)

    def listed(self) -> None:
        """Record that a list succeeded; the watch after it may still fail."""
        self._refusals, self._refused_s = 0, 0.0
        self._reported, self.is_failing = None, False

    def watched(self, *, line: bool) -> None:
        """Record that a watch lasted, or sent a *line*."""
        self.listed()
        self._failures = 0
        if line:
            self._expiries = 0

    def is_news(self, problem: Problem) -> bool:
        """Return whether *problem* differs from the last one reported, and record that it was."""
        is_news, self._reported = problem != self._reported, problem
        return is_news

    def _wait(self, wait_s: float) -> None:
        self.wait_s, self.after_outage = wait_s, False
