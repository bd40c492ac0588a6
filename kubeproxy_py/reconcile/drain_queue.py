"""Draining: a TCP real server that left has weight 0 and stays while it has connections.

Law: which real servers drain is read off the rows (weight 0 and not wanted), so the list survives a restart; plan.py
puts them there, this module lets them go: when they have no connections left, or when their deadline is over.
Connections are counted only while something drains, the less often the longer it takes, and in turns, so that an event
need not wait until thousands are counted.

Linux keeps what was deleted for two minutes, and each real server that is added searches all of it
(``ip_vs_trash_get_dest``).  So where much changes nothing goes before it drained for LINGER_S: an endpoint that comes
back until then costs a change of weight, and a rollout adds before it deletes.
"""

from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable

from kubeproxy_py.model.rows import DRAINING, Key, RealServer, Rows, VirtualServer
from kubeproxy_py.model.steps import Step
from kubeproxy_py.model.time import NEVER
from kubeproxy_py.plan.drain_policy import is_draining

FIRST_CHECK_S = 1.0
"""How long after a real server began to drain its connections are first counted, if no other began since."""

MIN_DRAIN_S = 10.0
"""The same where others begin all the time: as long as the usual readiness probe takes to succeed again."""

LONGEST_WAIT_S = 60.0
"""Those that had connections are counted again after twice the time each time, up to this: upstream's minute."""

CHECK_BATCH = 40
"""Virtual servers, whose connections are counted in one turn: with ten real servers each some 4 ms."""

Idle = Callable[[Collection[RealServer]], Collection[RealServer]]
"""Asks the kernel which of some real servers have no connections left; one that was not counted is not told."""

DeadlineOf = Callable[[RealServer], float]
"""The longest that a real server may drain, in seconds; 0: as long as it has connections."""


class DrainQueue:
    """The real servers that drain, since when, and when they are to be looked at next.

    All times are seconds of the caller's clock.
    """

    def __init__(self, deadline_of: DeadlineOf = lambda _key: 0.0) -> None:
        self.due_s = NEVER
        self._deadline_of = deadline_of
        self._ends_s: dict[VirtualServer, dict[RealServer, float]] = {}  # of those that drain, by virtual server
        self._count = 0  # of them
        self._first_end_s = NEVER  # no end is earlier; perhaps of one that is gone
        self._fresh: OrderedDict[VirtualServer, float] = OrderedDict()  # since when there is one that was never counted
        self._last_s = -NEVER  # when the last one began
        self._again_s = NEVER  # when the others are counted next
        self._wait_s = FIRST_CHECK_S
        self._uncounted: list[VirtualServer] = []  # of the others, in the count that is under way

    def __len__(self) -> int:
        return self._count

    def track(self, key: Key, rows: Rows, desired: Rows, now_s: float) -> None:
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
            self._fresh.setdefault(key.virtual_server, now_s)
            self._last_s = now_s
            self.due_s = self._next_s()

    def _forget(self, key: RealServer) -> None:
        others = self._ends_s.get(key.virtual_server)
        if others and others.pop(key, None) is not None:
            self._count -= 1
            if not others:
                del self._ends_s[key.virtual_server]
                self._fresh.pop(key.virtual_server, None)

    def draining_behind(self, servers: Collection[VirtualServer]) -> list[RealServer]:
        """Those that drain behind one of *servers*: they go with it, though nobody asks for them by name."""
        return [key for server in servers for key in self._ends_s.get(server, ())] if self._ends_s else []

    def collect_finished(self, idle: Idle, now_s: float) -> list[Step]:
        """Delete what is over, and what *idle* tells; *idle* is asked once a turn, if it is time to.

        What the kernel refuses to let go still drains, and is looked at again when connections are counted next.
        """
        counted, ends = self._counted_now(now_s), now_s >= self._first_end_s
        over = self._over(self._ends_s if ends else counted, now_s)  # of the counted, those that were refused before
        rest = [key for key in self.draining_behind(counted) if key not in over]
        gone = [*over, *idle(rest)] if rest else over
        if ends:  # last, for counting may fail
            self._first_end_s = self._later_end_s(now_s)
        self.due_s = now_s if self._uncounted else self._next_s()
        return [Step("delete", key, None, DRAINING) for key in gone]

    def _counted_now(self, now_s: float) -> list[VirtualServer]:
        """The virtual servers whose connections are to be counted in this turn, at most COUNTED_AT_ONCE."""
        if now_s >= self._again_s and not self._uncounted:
            self._uncounted = [server for server in self._ends_s if server not in self._fresh]
            self._wait_s = min(2 * self._wait_s, LONGEST_WAIT_S)
            self._again_s = now_s + self._wait_s if self._uncounted else NEVER
        counted: list[VirtualServer] = []
        while self._fresh and self._ripe_s() <= now_s and len(counted) < CHECK_BATCH:
            counted.append(self._fresh.popitem(last=False)[0])
        if counted:
            self._wait_s = 2 * FIRST_CHECK_S
            self._again_s = min(self._again_s, now_s + self._wait_s)
        room = CHECK_BATCH - len(counted)
        counted += self._uncounted[:room]
        self._uncounted = self._uncounted[room:]
        return counted

    def _ripe_s(self) -> float:
        """When those are to be counted that are fresh for the longest time."""
        since_s = next(iter(self._fresh.values()), NEVER)
        return min(max(self._last_s, since_s) + FIRST_CHECK_S, since_s + MIN_DRAIN_S)

    def _next_s(self) -> float:
        return min(self._ripe_s(), self._again_s, self._first_end_s)

    def _over(self, servers: Iterable[VirtualServer], now_s: float) -> dict[RealServer, None]:
        """Those behind *servers* whose time is over."""
        return {
            key: None for server in servers for key, end_s in self._ends_s.get(server, {}).items() if end_s <= now_s
        }

    def _later_end_s(self, now_s: float) -> float:
        ends = (end_s for keys in self._ends_s.values() for end_s in keys.values())
        return min((end_s for end_s in ends if end_s > now_s), default=NEVER)
