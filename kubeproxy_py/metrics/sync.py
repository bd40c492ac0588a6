"""SyncMetrics: record what the loop and the reconciler do (kubeproxy_* metrics other than traffic and the API client).

All methods but `on_sync_requested` and `collect` are called in the loop's thread only.  They are on the path of every
event, so each costs no more than what it records.
"""

import time
from collections import Counter
from collections.abc import Callable, Iterator

from kubeproxy_py.metrics.registry import MetricFamily, MetricsRegistry, metric_family
from kubeproxy_py.model.events import Event, ServiceDeleted, ServiceUpserted, SliceDeleted, SliceUpserted
from kubeproxy_py.model.health import Policy, ServiceState
from kubeproxy_py.model.refusal import REASONS
from kubeproxy_py.model.rows import Chain, Jump
from kubeproxy_py.model.services import ServiceName, SliceName
from kubeproxy_py.model.steps import StepFailure
from kubeproxy_py.net import Family as IPFamily
from kubeproxy_py.reconcile.report import Report, StaleFlowReport, SyncReport
from kubeproxy_py.reconcile.sync_status import ROW_KINDS, SyncStatus

_SYNC = "kubeproxy_sync_proxy_rules_"
_CONNTRACK = "kubeproxy_conntrack_reconciler_"
_Trigger = tuple[ServiceName, IPFamily, list[float]]
_POLICIES: tuple[Policy, ...] = ("internal", "external")


class SyncMetrics:
    """Records the syncs of a node that serves *families*."""

    def __init__(
        self, registry: MetricsRegistry, families: tuple[IPFamily, ...], wall_s: Callable[[], float] = time.time
    ) -> None:
        self._registry = registry
        self._families = families
        self._wall_s = wall_s
        self._started_s = wall_s()
        self._status = SyncStatus()  # replaced as a value, so that a scrape needs no lock
        # Slices changed since the last sync of their Service: when the cause of each change happened, since 1970.
        self._triggers: dict[SliceName, _Trigger] = {}
        # Changes of this cycle by kind.  They are recorded once per cycle: a list has thousands.
        self._changes: Counter[str] = Counter()
        self._without_local: dict[ServiceName, tuple[tuple[Policy, IPFamily], ...]] = {}
        self._without_local_counts: Counter[tuple[Policy, IPFamily]] = Counter()
        self._declare()

    def _declare(self) -> None:
        """Make metrics visible before their first event, so that rates are correct from the first event on."""
        registry = self._registry
        for kind in ("service", "endpoint"):
            registry.inc(f"{_SYNC}{kind}_changes_total", amount=0)
            registry.set(f"{_SYNC}{kind}_changes_pending", 0)
        registry.inc("kubeproxy_ipvs_foreign_servers_deleted_total", amount=0)
        for family in self._families:
            registry.declare(f"{_SYNC}duration_seconds", family)
            registry.declare(f"{_CONNTRACK}sync_duration_seconds", family)
            registry.declare("kubeproxy_network_programming_duration_seconds", family)
            registry.set(f"{_SYNC}last_queued_timestamp_seconds", self._started_s, family)
            registry.set(f"{_SYNC}last_timestamp_seconds", 0, family)
            registry.inc(f"{_SYNC}iptables_restore_failures_total", family, amount=0)
            registry.inc(f"{_CONNTRACK}deleted_entries_total", family, amount=0)
            for policy in _POLICIES:
                registry.set(f"{_SYNC}no_local_endpoints_total", 0, policy, family)

    def on_sync_requested(self) -> None:
        """Record that a sync was requested.  May be called from any thread."""
        now_s = self._wall_s()
        with self._registry.batch():
            for family in self._families:
                self._registry.set(f"{_SYNC}last_queued_timestamp_seconds", now_s, family)

    def on_event(self, event: Event) -> None:
        """Count a change of a Service or an EndpointSlice that the reconciler handled."""
        match event:
            case ServiceUpserted() | ServiceDeleted():
                self._changes["service"] += 1
            case SliceUpserted(slice=endpoint_slice, triggered_s=triggered_s):
                self._changes["endpoint"] += 1
                if triggered_s > self._started_s:
                    trigger: _Trigger = (endpoint_slice.service, endpoint_slice.family, [])
                    self._triggers.setdefault(endpoint_slice.name, trigger)[2].append(triggered_s)
            case SliceDeleted(name=name):
                self._changes["endpoint"] += 1
                self._triggers.pop(name, None)

    def _record_changes(self) -> None:
        for kind, count in self._changes.items():
            self._registry.inc(f"{_SYNC}{kind}_changes_total", amount=count)
            self._registry.inc(f"{_SYNC}{kind}_changes_pending", amount=count)
        self._changes.clear()

    def on_report(self, report: Report) -> None:
        """Record what the agent did."""
        with self._registry.batch():
            if isinstance(report, StaleFlowReport):
                self._record_stale_flows(report)
                return
            self._record_failures(report.failures)
            if isinstance(report, SyncReport):
                self._record_sync(report)

    def _record_failures(self, failures: tuple[StepFailure, ...]) -> None:
        # Steps without an errno were not tried.
        rejected = [failure.step.key for failure in failures if failure.errno and not failure.is_under_way]
        for key in rejected:
            self._registry.inc("kubeproxy_ipvs_failed_steps_total", type(key).__name__)
        for family in {key.family for key in rejected if isinstance(key, Chain | Jump)}:
            self._registry.inc(f"{_SYNC}iptables_restore_failures_total", family)

    def _record_sync(self, report: SyncReport) -> None:
        phases = (("compile", report.compile_s), ("plan", report.plan_s), ("apply", report.apply_s))
        for phase, phase_s in phases:
            self._registry.observe("kubeproxy_ipvs_sync_phase_duration_seconds", phase_s, phase)
        took_s = report.compile_s + report.plan_s + report.apply_s
        if report.since_event_s is not None:
            self._registry.observe("kubeproxy_ipvs_event_to_kernel_duration_seconds", report.since_event_s)
        for family in self._families:  # one sync serves both
            self._registry.observe(f"{_SYNC}duration_seconds", took_s, family)
        self._record_changes()
        for kind in ("service", "endpoint"):
            self._registry.set(f"{_SYNC}{kind}_changes_pending", 0)
        if report.foreign:
            self._registry.inc("kubeproxy_ipvs_foreign_servers_deleted_total", amount=len(report.foreign))
        if self._triggers:
            self._record_programming({state.name for state in report.states})
        self._record_without_local(report.states)

    def _record_stale_flows(self, report: StaleFlowReport) -> None:
        flows = report.result
        deleted = {"IPv4": flows.deleted - flows.deleted_ipv6, "IPv6": flows.deleted_ipv6}
        for family in self._families:
            self._registry.observe(f"{_CONNTRACK}sync_duration_seconds", report.duration_s, family)
            self._registry.inc(f"{_CONNTRACK}deleted_entries_total", family, amount=deleted[family])

    def _record_programming(self, services: set[ServiceName]) -> None:
        """Record the time from each trigger to now, for the slices of the *services* that were synced."""
        now_s = self._wall_s()
        for name in [name for name, (service, _, _) in self._triggers.items() if service in services]:
            _, family, times_s = self._triggers.pop(name)
            for triggered_s in times_s:
                self._registry.observe("kubeproxy_network_programming_duration_seconds", now_s - triggered_s, family)

    def _record_without_local(self, states: tuple[ServiceState, ...]) -> None:
        changed: set[tuple[Policy, IPFamily]] = set()
        for state in states:
            before = self._without_local.get(state.name, ())
            if before == state.policies_without_local:  # nearly always; empty updates of a Counter are not free
                continue
            if state.policies_without_local:
                self._without_local[state.name] = state.policies_without_local
            else:
                del self._without_local[state.name]
            self._without_local_counts.subtract(before)
            self._without_local_counts.update(state.policies_without_local)
            changed.update(before, state.policies_without_local)
        for policy, family in changed:
            count = self._without_local_counts[policy, family]
            self._registry.set(f"{_SYNC}no_local_endpoints_total", count, policy, family)

    def on_cycle_end(self, status: SyncStatus) -> None:
        """Record the status at the end of a cycle of the loop."""
        self._status = status
        if self._changes:
            self._record_changes()

    def record_up_to_date(self, families: tuple[IPFamily, ...]) -> None:
        """Record that *families* are up to date now."""
        now_s = self._wall_s()
        with self._registry.batch():
            for family in families:
                self._registry.set(f"{_SYNC}last_timestamp_seconds", now_s, family)

    def collect(self) -> Iterator[MetricFamily]:
        """Yield rows, drift, full compares, unread scopes, draining and refusals.  May be called from any thread."""
        status = self._status
        states = (("desired", status.desired), ("pending", status.pending), ("failed", status.failed))
        rows = [((kind, state), counts.get(kind, 0)) for state, counts in states for kind in ROW_KINDS]
        yield metric_family("kubeproxy_ipvs_rows", rows)
        for name, counts in (("found", status.drift_found), ("repaired", status.drift_repaired)):
            samples = [((kind,), counts.get(kind, 0)) for kind in ROW_KINDS]
            yield metric_family(f"kubeproxy_ipvs_drift_{name}_total", samples)
        yield metric_family("kubeproxy_ipvs_full_compares_total", [((), status.compares)])
        yield metric_family("kubeproxy_ipvs_partial_compares_total", [((), status.partial_compares)])
        yield metric_family("kubeproxy_ipvs_unread_scopes", [((), status.unread)])
        yield metric_family("kubeproxy_ipvs_draining_real_servers", [((), status.draining)])
        refusals = [((reason,), status.refusals.get(reason, 0)) for reason in REASONS]
        yield metric_family("kubeproxy_ipvs_refusals", refusals)
        yield metric_family("kubeproxy_ipvs_disputed_rows_total", [((), status.disputed)])
        fights = [((kind,), status.fights.get(kind, 0)) for kind in ROW_KINDS]
        yield metric_family("kubeproxy_ipvs_fights_total", fights)
        yield metric_family("kubeproxy_ipvs_uncompiled_objects", [((), status.uncompiled)])
