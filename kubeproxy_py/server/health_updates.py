"""HealthUpdates: derive the health state from what the loop reports.

Health is kube-proxy's notion: a family is up to date once a sync succeeded, and unhealthy if requested work, or a
failing device, ipset, chain or jump, lasts longer than PATIENCE_PERIODS sync periods.
"""

import time
from collections.abc import Callable, Iterable

from msgspec.structs import replace

from kubeproxy_py.model.events import Event, NodeDeleted, NodeUpserted, Synced
from kubeproxy_py.net import Family
from kubeproxy_py.reconcile.report import Report, SyncReport
from kubeproxy_py.reconcile.sync_status import SyncStatus
from kubeproxy_py.server.health import Health


class HealthUpdates:
    """Updates *health* for a node that serves *families*.

    `on_pending_since` may be called from any thread, the other methods in the loop's thread only.
    """

    def __init__(
        self,
        health: Health,
        families: tuple[Family, ...],
        sync_period_s: Callable[[], float],
        *,
        needs_node: bool = True,
    ) -> None:
        """Update *health*; with *needs_node* a node is eligible only while it has a Node object."""
        self._health = health
        self._needs_node = needs_node
        self._has_node = False
        self._families = families
        self._sync_period_s = sync_period_s  # read each time, because the configuration may be reloaded
        self._synced = False  # in this cycle
        self._requested = False  # a sync was requested, and no cycle ended without work since
        self._compares = 0  # full compares until the last cycle
        self._has_synced = False  # since the start

    def start(self) -> None:
        """Count every family as up to date now, so that the first sync gets as much time as any other."""
        updated_ns = dict.fromkeys(self._families, time.time_ns())
        self._health.update(lambda state: replace(state, updated_ns=updated_ns, sync_period_s=self._sync_period_s()))

    def on_pending_since(self, since_s: float | None) -> None:
        """Record since when work has been pending; None if there is none."""
        self._health.update(lambda state: replace(state, pending_since_s=since_s))
        if since_s is not None:
            self._requested = True

    def on_event(self, event: Event) -> None:
        """Record whether the node may receive traffic."""
        match event:
            case NodeUpserted(node=node):
                self._has_node = True
                self._set_eligible(not node.being_deleted)
            case NodeDeleted():
                self._has_node = False
                self._set_eligible(not self._needs_node)
            case Synced(feed="node") if not self._has_node:
                self._set_eligible(not self._needs_node)

    def _set_eligible(self, node_eligible: bool) -> None:  # noqa: FBT001 - the name of the function says what it means
        self._health.update(lambda state: replace(state, node_eligible=node_eligible))

    def on_report(self, report: Report) -> None:
        """Record that a sync ran; deleting drained real servers or stale flows is none."""
        self._synced = self._synced or isinstance(report, SyncReport)

    def on_cycle_end(self, status: SyncStatus) -> tuple[Family, ...]:
        """Update the state after a cycle of the loop; return the families that are up to date now."""
        requested = self._requested  # read once: another thread may set it meanwhile
        up_to_date = is_up_to_date(
            synced=self._synced,
            compared=status.compares != self._compares,
            requested=requested,
            has_work=status.has_work,
        )
        if requested and not status.has_work:
            self._requested = False
        self._synced, self._compares = False, status.compares
        before = self._health.state
        if status.unprotected != before.unprotected:
            self._health.update(lambda state: replace(state, unprotected=status.unprotected))
        self._has_synced = self._has_synced or up_to_date
        complete = before.complete.union(set(self._families) - status.stuck if self._has_synced else ())
        if complete != before.complete:
            self._health.update(lambda state: replace(state, complete=complete))
        stuck_since_s = stuck_since(before.stuck_since_s, status.stuck, time.monotonic()) if status.stuck else {}
        if not up_to_date:
            if stuck_since_s != before.stuck_since_s:
                self._health.update(lambda state: replace(state, stuck_since_s=stuck_since_s))
            return ()
        families = tuple(family for family in self._families if family not in status.stuck)
        now_ns, sync_period_s = time.time_ns(), self._sync_period_s()
        self._health.update(
            lambda state: replace(
                state,
                updated_ns={**state.updated_ns, **dict.fromkeys(families, now_ns)},
                stuck_since_s=stuck_since_s,
                sync_period_s=sync_period_s,
            )
        )
        return families


def is_up_to_date(*, synced: bool, compared: bool, requested: bool, has_work: bool) -> bool:
    """Return whether a cycle of the loop counts as a sync.

    Args:
        synced: A sync ran.
        compared: A full compare ended.
        requested: A sync had been requested.
        has_work: Requested work is not finished.  If none is, the request turned out to need no change.
    """
    return synced or compared or (requested and not has_work)


def stuck_since(before: dict[Family, float], stuck: Iterable[Family], now_s: float) -> dict[Family, float]:
    """Return since when each of the *stuck* families has been failing, given the times known *before*."""
    return {family: before.get(family, now_s) for family in stuck}
