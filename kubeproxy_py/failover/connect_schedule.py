"""When which endpoint is connected to.

Invariants:
- At most BUDGET_PER_S connects begin in a second on average, and BURST at once, however many endpoints there are; more
  of them are checked less often.
- An endpoint that failed is checked again before those that are only due, but never two times at once.
- Connects of many nodes to one endpoint are spread: each pause is up to a quarter shorter or longer, at random, and the
  first check comes at a random moment.
"""

from collections.abc import Callable, Mapping

from kubeproxy_py.failover.due_queue import DueQueue
from kubeproxy_py.model.flows import Destination
from kubeproxy_py.model.time import NEVER

BUDGET_PER_S = 50.0
BURST = 20.0
_JITTER = 0.25
_WHOLE = 1 - 1e-6  # a token, whatever is lost by rounding


class ConnectSchedule:
    """The endpoints to connect to; all times are seconds of the caller's clock.

    *random* returns a number from 0 to 1.
    """

    def __init__(self, random: Callable[[], float]) -> None:
        self._random = random
        self._intervals: dict[Destination, float] = {}
        self._due = DueQueue()
        self._urgent = DueQueue()  # those that come before all others
        self._tokens = BURST
        self._tokens_s = -NEVER  # when they were counted

    def __len__(self) -> int:
        return len(self._intervals)

    def __contains__(self, place: Destination) -> bool:
        return place in self._intervals

    def replace(self, intervals: Mapping[Destination, float], now_s: float) -> None:
        """Connect to the endpoints of *intervals*, each as often, and to no others."""
        for place in self._intervals.keys() - intervals.keys():
            self._due.discard(place)
            self._urgent.discard(place)
        new = intervals.keys() - self._intervals.keys()
        self._intervals = dict(intervals)
        for place in sorted(new):
            self._due.add(place, now_s + self._intervals[place] * self._random())

    def postpone(self, place: Destination, now_s: float, interval_s: float | None = None) -> None:
        """Connect to *place*, whose connect has ended, an interval after *now_s*: its own, if none is given."""
        if place in self._intervals:
            self._urgent.discard(place)
            spread = 1 - _JITTER + 2 * _JITTER * self._random()
            self._due.add(place, now_s + (self._intervals[place] if interval_s is None else interval_s) * spread)

    def postpone_idle(self, place: Destination, now_s: float, interval_s: float | None = None) -> None:
        """Do as ``postpone``, unless *place* is being connected to, or is urgent."""
        if place in self._due:
            self.postpone(place, now_s, interval_s)

    def hasten(self, place: Destination, at_s: float) -> None:
        """Connect to *place* at *at_s*, before those that are only due, unless it is being connected to."""
        if place in self._due and place not in self._urgent:
            self._due.discard(place)
            self._urgent.add(place, at_s)

    def retry(self, place: Destination, at_s: float) -> None:
        """Connect to *place*, which was connected to, again at *at_s*, before those that are only due."""
        if place in self._intervals:
            self._due.discard(place)
            self._urgent.add(place, at_s)

    def due_s(self, now_s: float) -> float:
        """Return when ``pop_due`` has something to return."""
        next_s = min(self._due.next_s(), self._urgent.next_s())
        return next_s if self._refill(now_s) >= _WHOLE else max(next_s, now_s + (1 - self._tokens) / BUDGET_PER_S)

    def pop_due(self, now_s: float) -> list[Destination]:
        """Return the endpoints to connect to now; each is due again when ``postpone`` or ``retry`` says so."""
        self._refill(now_s)
        places: list[Destination] = []
        for queue in (self._urgent, self._due):
            while self._tokens >= _WHOLE and queue.next_s() <= now_s:
                places.append(queue.pop())
                self._tokens -= 1
        return places

    def _refill(self, now_s: float) -> float:
        if now_s > self._tokens_s:
            gained = (now_s - self._tokens_s) * BUDGET_PER_S
            self._tokens, self._tokens_s = min(BURST, self._tokens + gained), now_s
        return self._tokens
