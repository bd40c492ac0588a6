"""Draining: a TCP real server that left has weight 0 and stays while it has connections.

Law: which real servers drain is read off the rows (weight 0 and not wanted), so the list survives a restart; plan.py
puts them there, this module lets them go: when they have no connections left, or when their deadline is over.
Connections are counted only while something drains, the less often the longer it takes, and in turns, so that an event
need not wait until thousands are counted.
"""

from collections.abc import Callable, Collection, Iterable, Mapping

from kubeproxy_py.model.rows import DRAINING, Connections, Key, RealServer, Rows, Spec, VirtualServer
from kubeproxy_py.plan.pending import NEVER
from kubeproxy_py.plan.steps import Plan, Step

FIRST_CHECK_S = 1.0
"""How long after a real server began to drain its connections are first counted."""

LONGEST_WAIT_S = 60.0
"""Counting again waits twice as long each time, up to this: upstream counts once a minute."""

COUNTED_AT_ONCE = 40
"""Virtual servers, whose connections are counted in one turn: with ten real servers each some 4 ms."""

DeadlineOf = Callable[[RealServer], float]
"""The longest that a real server may drain, in seconds; 0: as long as it has connections."""


def is_draining(key: Key, spec: Spec, desired: Rows) -> bool:
    """Whether a row of the kernel is a real server on its way out."""
    return spec == DRAINING and isinstance(key, RealServer) and key not in desired and drains(key, desired)


def drains(key: RealServer, desired: Rows) -> bool:
    """Whether *key*, no longer wanted, is to go by weight 0.

    TCP alone; UDP and SCTP real servers go at once, and so do those of a virtual server that goes, as upstream.
    """
    return key.virtual_server.protocol == "TCP" and key.virtual_server in desired


def plan_drained(draining: Iterable[RealServer], connections: Mapping[RealServer, Connections]) -> Plan:
    """Delete those of *draining* that have no connections left; one that was not counted stays."""
    idle = (key for key in draining if key in connections and not connections[key].total)
    return Plan(tuple(Step("delete", key, None, DRAINING) for key in idle))


class Draining:
    """The real servers that drain, since when, and when they are to be looked at next.

    All times are seconds of the caller's clock.
    """

    def __init__(self, deadline_of: DeadlineOf = lambda _key: 0.0) -> None:
        self.due_s = NEVER
        self._deadline_of = deadline_of
        self._ends_s: dict[VirtualServer, dict[RealServer, float]] = {}  # of those that drain, by virtual server
        self._count = 0  # of them
        self._first_end_s = NEVER  # no end is earlier; perhaps of one that is gone
        self._count_s = NEVER  # when connections are counted next
        self._wait_s = FIRST_CHECK_S
        self._uncounted: list[VirtualServer] = []  # in the count that is under way

    def __len__(self) -> int:
        return self._count

    def note(self, key: Key, rows: Rows, desired: Rows, now_s: float) -> None:
        """Know whether *key*, which the kernel has as *rows* say, drains."""
        if not isinstance(key, RealServer):
            return
        if key not in rows or not is_draining(key, rows[key], desired):
            self._forget(key)
        elif key not in self._ends_s.get(key.virtual_server, ()):
            end_s = now_s + (self._deadline_of(key) or NEVER)
            self._ends_s.setdefault(key.virtual_server, {})[key] = end_s
            self._count += 1
            self._first_end_s = min(self._first_end_s, end_s)
            self._wait_s = FIRST_CHECK_S
            self._count_s = min(self._count_s, now_s + FIRST_CHECK_S)
            self.due_s = min(self.due_s, self._count_s, end_s)

    def _forget(self, key: RealServer) -> None:
        others = self._ends_s.get(key.virtual_server)
        if others and others.pop(key, None) is not None:
            self._count -= 1
            if not others:
                del self._ends_s[key.virtual_server]

    def behind(self, servers: Collection[VirtualServer]) -> list[RealServer]:
        """Those that drain behind one of *servers*: they go with it, though nobody asks for them by name."""
        return [key for server in servers for key in self._ends_s.get(server, ())] if self._ends_s else []

    def let_go(
        self, count: Callable[[Collection[VirtualServer]], Mapping[RealServer, Connections]], now_s: float
    ) -> Plan:
        """Delete what is over, and what *count* says is idle; *count* is asked once a turn, if it is time to.

        What the kernel refuses to let go still drains, and is looked at again when connections are counted next.
        """
        over = self._over(now_s) if now_s >= min(self._first_end_s, self._count_s) else {}
        if now_s >= self._count_s and not self._uncounted:
            self._uncounted = list(self._ends_s)
            self._wait_s = min(2 * self._wait_s, LONGEST_WAIT_S)
            self._count_s = now_s + self._wait_s if self._ends_s else NEVER
        counted, self._uncounted = self._uncounted[:COUNTED_AT_ONCE], self._uncounted[COUNTED_AT_ONCE:]
        rest = [key for key in self.behind(counted) if key not in over]
        drained = (
            plan_drained(rest, count(list(dict.fromkeys(key.virtual_server for key in rest)))) if rest else Plan(())
        )
        self.due_s = now_s if self._uncounted else min(self._count_s, self._first_end_s)
        return Plan((*(Step("delete", key, None, DRAINING) for key in over), *drained.steps))

    def _over(self, now_s: float) -> dict[RealServer, None]:
        """Those whose time is over; from now on the first end is that of the others."""
        ends = [(key, end_s) for keys in self._ends_s.values() for key, end_s in keys.items()]
        self._first_end_s = min((end_s for _, end_s in ends if end_s > now_s), default=NEVER)
        return dict.fromkeys(key for key, end_s in ends if end_s <= now_s)
