"""SyncNumbers: what the loop says it took, did and stands at, as numbers.

Law: each call costs what it tells of, and is made in the loop's thread alone; a scrape reads whole values.
"""

import time
from collections import Counter
from collections.abc import Callable, Iterator

from kubeproxy_py.metrics.registry import MetricFamily, MetricsRegistry, family
from kubeproxy_py.model.events import Event, ServiceDeleted, ServiceUpserted, SliceDeleted, SliceUpserted
from kubeproxy_py.model.health import Policy, ServiceState
from kubeproxy_py.model.rows import Chain, Jump
from kubeproxy_py.model.services import Family as IPFamily
from kubeproxy_py.model.services import ServiceName, SliceName
from kubeproxy_py.reconcile.report import SyncReport
from kubeproxy_py.reconcile.sync_status import KIND_NAMES, SyncStatus

_SYNC = "kubeproxy_sync_proxy_rules_"
_CONNTRACK = "kubeproxy_conntrack_reconciler_"
_POLICIES: tuple[Policy, ...] = ("internal", "external")


class SyncMetrics:
    """For a node that serves *families*."""

    def __init__(
        self, numbers: MetricsRegistry, families: tuple[IPFamily, ...], wall_s: Callable[[], float] = time.time
    ) -> None:
        self._numbers = numbers
        self._families = families
        self._wall_s = wall_s
        self._started_s = wall_s()
        self._standing = SyncStatus()
        self._triggers: dict[SliceName, tuple[ServiceName, IPFamily, list[float]]] = {}
        self._changes: Counter[str] = Counter()  # taken within this turn, by sort: one count for a list of thousands
        self._not_local: dict[ServiceName, tuple[tuple[Policy, IPFamily], ...]] = {}
        self._not_local_counts: Counter[tuple[Policy, IPFamily]] = Counter()
        self._begin()

    def _begin(self) -> None:
        """What is 0 before anything happens is said to be, so that rates can be had from the first event on."""
        for kind in ("service", "endpoint"):
            self._numbers.add(f"{_SYNC}{kind}_changes_total", count=0)
            self._numbers.put(f"{_SYNC}{kind}_changes_pending", 0)
        for each in self._families:
            self._numbers.expect(f"{_SYNC}duration_seconds", each)
            self._numbers.expect(f"{_CONNTRACK}sync_duration_seconds", each)
            self._numbers.expect("kubeproxy_network_programming_duration_seconds", each)
            self._numbers.put(f"{_SYNC}last_queued_timestamp_seconds", self._started_s, each)
            self._numbers.put(f"{_SYNC}last_timestamp_seconds", 0, each)
            self._numbers.add(f"{_SYNC}iptables_restore_failures_total", each, count=0)
            self._numbers.add(f"{_CONNTRACK}deleted_entries_total", each, count=0)
            for policy in _POLICIES:
                self._numbers.put(f"{_SYNC}no_local_endpoints_total", 0, policy, each)

    def asked(self) -> None:
        """A sync was asked for.  May be called from any thread."""
        now_s = self._wall_s()
        with self._numbers.together():
            for each in self._families:
                self._numbers.put(f"{_SYNC}last_queued_timestamp_seconds", now_s, each)

    def took(self, event: Event) -> None:
        """The agent knows *event*."""
        match event:
            case ServiceUpserted() | ServiceDeleted():
                self._changes["service"] += 1
            case SliceUpserted(slice=part, triggered_s=at_s):
                self._changes["endpoint"] += 1
                if at_s > self._started_s:
                    self._triggers.setdefault(part.name, (part.service, part.family, []))[2].append(at_s)
            case SliceDeleted(name=name):
                self._changes["endpoint"] += 1
                self._triggers.pop(name, None)

    def _count_changes(self) -> None:
        for kind, count in self._changes.items():
            self._numbers.add(f"{_SYNC}{kind}_changes_total", count=count)
            self._numbers.add(f"{_SYNC}{kind}_changes_pending", count=count)
        self._changes.clear()

    def did(self, report: SyncReport) -> None:
        """The agent did what *report* says."""
        with self._numbers.together():
            self._did(report)

    def _did(self, report: SyncReport) -> None:
        if report.flows:
            self._swept(report)
            return
        for failure in report.failed:
            self._numbers.add("kubeproxy_ipvs_failed_steps_total", type(failure.step.key).__name__)
        keys = (failure.step.key for failure in report.failed if failure.errno)
        for each in {key.family for key in keys if isinstance(key, Chain | Jump)}:
            self._numbers.add(f"{_SYNC}iptables_restore_failures_total", each)
        if report.why != "drained":
            self._synced(report)

    def _synced(self, report: SyncReport) -> None:
        phases = {"compile": report.compile_s, "plan": report.plan_s, "apply": report.apply_s}
        for phase, took_s in phases.items():
            self._numbers.observe("kubeproxy_ipvs_sync_phase_duration_seconds", took_s, phase)
        if report.since_event_s is not None:
            self._numbers.observe("kubeproxy_ipvs_event_to_kernel_duration_seconds", report.since_event_s)
        for each in self._families:
            self._numbers.observe(f"{_SYNC}duration_seconds", sum(phases.values()), each)
        self._count_changes()
        for kind in ("service", "endpoint"):
            self._numbers.put(f"{_SYNC}{kind}_changes_pending", 0)
        self._programmed({state.name for state in report.states})
        self._note_not_local(report.states)

    def _swept(self, report: SyncReport) -> None:
        flows = report.flows
        assert flows is not None, "it is a report of flows"
        for each in self._families:
            self._numbers.observe(f"{_CONNTRACK}sync_duration_seconds", report.apply_s, each)
        deleted = {"IPv4": flows.forgotten - flows.forgotten_ipv6, "IPv6": flows.forgotten_ipv6}
        for each in self._families:
            self._numbers.add(f"{_CONNTRACK}deleted_entries_total", each, count=deleted[each])

    def _programmed(self, services: set[ServiceName]) -> None:
        now_s = self._wall_s()
        for name in [name for name, (service, _, _) in self._triggers.items() if service in services]:
            _, ip_family, moments = self._triggers.pop(name)
            for at_s in moments:
                self._numbers.observe("kubeproxy_network_programming_duration_seconds", now_s - at_s, ip_family)

    def _note_not_local(self, states: tuple[ServiceState, ...]) -> None:
        changed: set[tuple[Policy, IPFamily]] = set()
        for state in states:
            before = self._not_local.pop(state.name, ())
            if state.not_local:
                self._not_local[state.name] = state.not_local
            self._not_local_counts.subtract(before)
            self._not_local_counts.update(state.not_local)
            changed.update(before, state.not_local)
        for policy, each in changed:
            self._numbers.put(f"{_SYNC}no_local_endpoints_total", self._not_local_counts[policy, each], policy, each)

    def stands(self, standing: SyncStatus) -> None:
        """A turn is over."""
        self._standing = standing
        if self._changes:
            self._count_changes()

    def synced(self, families: tuple[IPFamily, ...]) -> None:
        """*families* are up to date now."""
        now_s = self._wall_s()
        with self._numbers.together():
            for each in families:
                self._numbers.put(f"{_SYNC}last_timestamp_seconds", now_s, each)

    def families(self) -> Iterator[MetricFamily]:
        """Rows, drift and draining; may be called from any thread."""
        standing = self._standing
        states = (("desired", standing.desired), ("pending", standing.pending), ("failed", standing.failed))
        rows = [((kind, state), counts.get(kind, 0)) for state, counts in states for kind in KIND_NAMES]
        yield family("kubeproxy_ipvs_rows", rows)
        for name, counts in (("found", standing.drift_found), ("repaired", standing.drift_repaired)):
            yield family(f"kubeproxy_ipvs_drift_{name}_total", [((kind,), counts.get(kind, 0)) for kind in KIND_NAMES])
        yield family("kubeproxy_ipvs_full_compares_total", [((), standing.compares)])
        yield family("kubeproxy_ipvs_draining_real_servers", [((), standing.draining)])
