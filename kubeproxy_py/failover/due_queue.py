"""DueQueue: endpoints by the time at which each is due.

Invariants:
- A call costs the logarithm of their number: when a third of all nodes fails, ten thousands are due at once.
"""

import heapq

from kubeproxy_py.model.flows import Destination
from kubeproxy_py.model.time import NEVER

_SLACK = 64  # outdated entries of the heap that are kept


class DueQueue:
    """The endpoints that are due at some time; times are seconds of the caller's clock."""

    def __init__(self) -> None:
        self._due: dict[Destination, float] = {}
        self._heap: list[tuple[float, Destination]] = []  # with outdated entries

    def __contains__(self, place: Destination) -> bool:
        return place in self._due

    def add(self, place: Destination, due_s: float) -> None:
        """Have *place* be due at *due_s*, instead of when it was."""
        self._due[place] = due_s
        heapq.heappush(self._heap, (due_s, place))
        if len(self._heap) > 2 * len(self._due) + _SLACK:
            self._heap = [(at_s, one) for one, at_s in self._due.items()]
            heapq.heapify(self._heap)

    def discard(self, place: Destination) -> None:
        """Have *place* not be due, if it is."""
        self._due.pop(place, None)

    def next_s(self) -> float:
        """Return when the next one is due."""
        while self._heap and self._due.get(self._heap[0][1]) != self._heap[0][0]:
            heapq.heappop(self._heap)
        return self._heap[0][0] if self._heap else NEVER

    def pop(self) -> Destination:
        """Remove and return the next one, whose time ``next_s`` has just returned."""
        _, place = heapq.heappop(self._heap)
        del self._due[place]
        return place
