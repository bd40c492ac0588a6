"""DrainQueue: deletes real servers that drained, when they have no connections left or their deadline has passed.

Invariants:
- Connections are counted only while something drains, with growing pauses, and for at most CHECK_BATCH virtual servers
  per call, so that events are not delayed.

Linux keeps deleted real servers on a trash list for two minutes, and searches it whenever one is added
(``ip_vs_trash_get_dest``).  While others begin to drain, a real server is therefore deleted after MIN_DRAIN_S at the
earliest: an endpoint that returns until then costs a change of weight only, and a rollout adds before it deletes.
"""

from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable

from kubeproxy_py.backoff import Backoff
from kubeproxy_py.model.progress import Drain
from kubeproxy_py.model.rows import DRAINING, Key, RealServer, Rows, VirtualServer
from kubeproxy_py.model.steps import Step
from kubeproxy_py.model.time import NEVER
from kubeproxy_py.plan.drain_policy import is_draining

FIRST_CHECK_S = 1.0
"""How long after a real server began to drain its connections are first counted, if no other began since."""

MIN_DRAIN_S = 10.0
"""The same while others keep beginning to drain: as long as a usual readiness probe needs to succeed again."""

LONGEST_WAIT_S = 60.0
"""Real servers that had connections are counted again after doubling pauses, up to this: kube-proxy's minute."""

CHECK_BATCH = 40
"""Virtual servers whose connections are counted in one call: with ten real servers each some 4 ms."""

_RECHECKS = Backoff(FIRST_CHECK_S, LONGEST_WAIT_S)

IdleQuery = Callable[[Collection[RealServer]], Collection[RealServer]]
"""Returns which of some real servers exist and have no connections.  Raises KernelError."""

DeadlineQuery = Callable[[RealServer], float]
"""Returns the longest time that a real server may drain, in seconds; 0: no limit."""


class DrainQueue:
    """The real servers that drain, since when, and when they are checked next.

    All times are seconds of the caller's clock.
    """

    def __init__(self, deadline_of: DeadlineQuery = lambda _key: 0.0) -> None:
        self.due_s = NEVER
        self._deadline_of = deadline_of
        self._drains: dict[VirtualServer, dict[RealServer, Drain]] = {}
        self._count = 0  # draining real servers
        self._earliest_deadline_s = NEVER  # no deadline is earlier; its real server may be deleted already
        self._unchecked: OrderedDict[VirtualServer, float] = OrderedDict()  # since when a real server was never checked
        self._last_began_s = -NEVER  # when the last real server began to drain
        self._recheck_s = NEVER  # when those that had connections are checked again
        self._rechecks = 1  # consecutive
        self._recheck_batch: list[VirtualServer] = []  # still to be checked in the recheck under way

    def __len__(self) -> int:
        return self._count

    def track(self, key: Key, rows: Rows, desired: Rows, now_s: float) -> None:
        """Add or drop *key*, depending on whether it drains in the *rows* of the kernel."""
        if not isinstance(key, RealServer):
            return
        drains = self._drains.get(key.virtual_server)
        if not is_draining(key, rows.get(key), desired):
            if drains:
                self._drop(key, drains)
        elif not drains or key not in drains:
            deadline_s = now_s + (self._deadline_of(key) or NEVER)
            self._drains.setdefault(key.virtual_server, {})[key] = Drain(now_s, deadline_s)
            self._count += 1
            self._earliest_deadline_s = min(self._earliest_deadline_s, deadline_s)
            self._unchecked.setdefault(key.virtual_server, now_s)
            self._last_began_s = now_s
            self.due_s = self._next_s()

    def _drop(self, key: RealServer, drains: dict[RealServer, Drain]) -> None:
        """Drop *key*, if it is among *drains*, those of its virtual server."""
        if drains.pop(key, None) is not None:
            self._count -= 1
            if not drains:
                del self._drains[key.virtual_server]
                self._unchecked.pop(key.virtual_server, None)

    def drains(self) -> dict[RealServer, Drain]:
        """Return the real servers that drain, as they are now."""
        return {key: drain for drains in self._drains.values() for key, drain in drains.items()}

    def draining_behind(self, servers: Collection[VirtualServer]) -> list[RealServer]:
        """Return the draining real servers of *servers*: they are deleted with their virtual server."""
        return [key for server in servers for key in self._drains.get(server, ())] if self._drains else []

    def collect_finished(self, idle: IdleQuery, now_s: float) -> list[Step]:
        """Return the steps that delete real servers without connections and those past their deadline.

        *idle* is called at most once, and only if connections are due to be counted.  A real server whose deletion
        fails keeps draining and is checked again with the next count.  Raises KernelError from *idle*.
        """
        checked, deadline_passed = self._next_batch(now_s), now_s >= self._earliest_deadline_s
        # Of the checked servers too: deleting a real server past its deadline may have failed before.
        overdue = self._overdue(self._drains if deadline_passed else checked, now_s)
        unfinished = [key for key in self.draining_behind(checked) if key not in overdue]
        finished = [*overdue, *idle(unfinished)] if unfinished else overdue
        if deadline_passed:  # only now, because idle may raise
            self._earliest_deadline_s = self._next_deadline_s(now_s)
        self.due_s = now_s if self._recheck_batch else self._next_s()
        return [Step("delete", key, None, DRAINING) for key in finished]

    def _next_batch(self, now_s: float) -> list[VirtualServer]:
        """Return at most CHECK_BATCH virtual servers whose connections are to be counted now."""
        if now_s >= self._recheck_s and not self._recheck_batch:
            self._recheck_batch = [server for server in self._drains if server not in self._unchecked]
            self._rechecks += 1
            self._recheck_s = now_s + _RECHECKS.delay_s(self._rechecks) if self._recheck_batch else NEVER
        batch: list[VirtualServer] = []
        while self._unchecked and self._first_check_s() <= now_s and len(batch) < CHECK_BATCH:
            batch.append(self._unchecked.popitem(last=False)[0])
        if batch:
            self._rechecks = 2
            self._recheck_s = min(self._recheck_s, now_s + _RECHECKS.delay_s(self._rechecks))
        room = CHECK_BATCH - len(batch)
        batch += self._recheck_batch[:room]
        self._recheck_batch = self._recheck_batch[room:]
        return batch

    def _first_check_s(self) -> float:
        """Return when those that were never checked for the longest time are checked."""
        since_s = next(iter(self._unchecked.values()), NEVER)
        return min(max(self._last_began_s, since_s) + FIRST_CHECK_S, since_s + MIN_DRAIN_S)

    def _next_s(self) -> float:
        return min(self._first_check_s(), self._recheck_s, self._earliest_deadline_s)

    def _overdue(self, servers: Iterable[VirtualServer], now_s: float) -> dict[RealServer, None]:
        """Return the real servers of *servers* that are past their deadline."""
        return {
            key: None
            for server in servers
            for key, drain in self._drains.get(server, {}).items()
            if drain.deadline_s <= now_s
        }

    def _next_deadline_s(self, now_s: float) -> float:
        deadlines_s = (drain.deadline_s for drains in self._drains.values() for drain in drains.values())
        return min((deadline_s for deadline_s in deadlines_s if deadline_s > now_s), default=NEVER)
