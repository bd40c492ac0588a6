"""ServerObserver: pass what the loop reports to health, metrics, traffic and the health-check node ports.

Invariants:
- A failure of one of them is logged, and the others are called all the same: health does not depend on metrics.
"""

from kubeproxy_py.metrics.sync import SyncMetrics
from kubeproxy_py.metrics.traffic import TrafficMetrics
from kubeproxy_py.model.events import Event
from kubeproxy_py.reconcile.containment import contained
from kubeproxy_py.reconcile.report import Report, SyncReport
from kubeproxy_py.reconcile.sync_status import SyncStatus
from kubeproxy_py.server.health_check_node_ports import HealthCheckNodePorts
from kubeproxy_py.server.health_updates import HealthUpdates


class ServerObserver:
    """Implements loop.Observer."""

    def __init__(
        self, health: HealthUpdates, sync: SyncMetrics, traffic: TrafficMetrics, ports: HealthCheckNodePorts
    ) -> None:
        self._health = health
        self._sync = sync
        self._traffic = traffic
        self._ports = ports

    def on_pending_since(self, since_s: float | None) -> None:
        """Record since when work has been pending; None if there is none.  May be called from any thread."""
        self._health.on_pending_since(since_s)
        if since_s is not None:
            self._sync.on_sync_requested()

    def on_event(self, event: Event) -> None:
        """Record an event that the agent handled."""
        self._sync.on_event(event)
        self._health.on_event(event)

    def on_report(self, report: Report) -> None:
        """Record what the agent did."""
        contained("metrics of syncs", self._sync.on_report, report)
        if isinstance(report, SyncReport) and report.states:
            contained("metrics of traffic", self._traffic.update_services, report.states)
            contained("health-check node ports", self._ports.update, report.states)
        self._health.on_report(report)

    def on_cycle_end(self, status: SyncStatus) -> None:
        """Record the status at the end of a cycle of the loop."""
        contained("metrics of syncs", self._sync.on_cycle_end, status)
        if families := self._health.on_cycle_end(status):
            self._sync.record_up_to_date(families)
