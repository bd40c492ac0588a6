"""Agent: the one owner of the state of the sync (law 6), used by one thread.

It decides what runs when; the work is done by its parts: reconciler, full compare, drain queue and stale flow cleaner.

Invariants:
- It is given events and the time, and asks nothing but the kernel.
- Nothing is programmed before every feed delivered its initial list (law 3).
"""

import logging
from collections.abc import Callable, Collection, Iterator
from functools import partial

from msgspec import Struct

from kubeproxy_py.compile.compiler import Compiler, NodeContextFactory
from kubeproxy_py.compile.udp_destinations import allowed_destinations, udp_server, udp_servers
from kubeproxy_py.kernel import LINK, VIRTUAL_SERVERS, Kernel, Scope, read_all, scope_of
from kubeproxy_py.logging_setup import values
from kubeproxy_py.model.events import AddressesChanged, Event, Feed, HostAddresses, Synced
from kubeproxy_py.model.problem import Problem
from kubeproxy_py.model.rows import Address, RealServer, Rows
from kubeproxy_py.model.services import ServiceName
from kubeproxy_py.model.steps import Step
from kubeproxy_py.model.time import NEVER
from kubeproxy_py.net import CIDR
from kubeproxy_py.plan.ownership import filter_owned
from kubeproxy_py.reconcile.actual_state import ActualState
from kubeproxy_py.reconcile.drain_queue import DrainQueue
from kubeproxy_py.reconcile.drift import ScopeDiff
from kubeproxy_py.reconcile.full_compare import FullCompare
from kubeproxy_py.reconcile.reconciler import Reconciler
from kubeproxy_py.reconcile.report import Report, SyncReport, Trigger
from kubeproxy_py.reconcile.stale_flows import StaleFlowCleaner
from kubeproxy_py.reconcile.sync_status import SyncStatus, count_by_kind, stuck_families

log = logging.getLogger(__name__)


class Timing(Struct, frozen=True, gc=False):
    """Periods and limits of the agent, in seconds."""

    sync_period_s: float = 30.0
    min_sync_period_s: float = 0.0
    drain_deadline_s: float = 0.0  # 0: a real server drains for as long as it has connections


class Settings(Struct, frozen=True, gc=False):
    """What of an agent may change while it runs."""

    make_context: NodeContextFactory
    exclude: tuple[CIDR, ...] = ()  # networks in which virtual servers are not ours
    timing: Timing = Timing()


class Agent:
    """Keeps *kernel* in sync with the objects given to *compiler*.

    *clock* returns seconds that only increase; it is read when a step begins, and for measuring durations.
    """

    def __init__(  # noqa: PLR0913 - the composition root of the sync
        self,
        kernel: Kernel,
        compiler: Compiler,
        clock: Callable[[], float],
        *,
        exclude: tuple[CIDR, ...] = (),
        timing: Timing = Timing(),  # noqa: B008 - frozen
        on_problem: Callable[[Problem], None] = lambda _problem: None,
        on_compiled: Callable[[Collection[ServiceName]], None] = lambda _names: None,
    ) -> None:
        self.kernel = kernel
        self.compiler = compiler
        self.awaited: set[Feed] = {"services", "slices", "node"}
        self.state = ActualState(DrainQueue(self._drain_deadline_s))
        self._clock = clock
        self._exclude = exclude
        self._timing = timing
        self._on_problem = on_problem
        self._on_compiled = on_compiled
        self._oldest_event_s: float | None = None  # of those that no sync answered yet
        self._reconciler = Reconciler(kernel, compiler, self.state, clock)
        self._compare = FullCompare(kernel, self.state, self._owned, clock)
        self._flows = StaleFlowCleaner(kernel, partial(allowed_destinations, compiler=compiler), clock)

    # Input

    def handle_event(self, event: Event, at_s: float) -> None:
        """Handle *event*, which arrived at *at_s* of the clock."""
        match event:
            case Synced(feed=feed):
                self.awaited.discard(feed)
            case Problem():
                self._on_problem(event)
            case _:
                self.compiler.handle_event(event)
                if self._oldest_event_s is None:
                    self._oldest_event_s = at_s

    def handle_addresses_changed(self, change: AddressesChanged) -> None:
        """Read the addresses of this host that *change* concerns.  Raises KernelError.

        A notification of our own change agrees with the known rows and costs nothing (law 7).
        """
        if change.other_interfaces:
            self.compiler.handle_event(HostAddresses(self.kernel.host_addresses()))
        rows = self.state.rows
        differs = any(exists != (Address(address) in rows) for address, exists in change.service_addresses.items())
        if self.state.is_adopted and (change.device or differs):
            self._compare_scope(LINK)

    def reconfigure(self, settings: Settings) -> None:
        """Use *settings* from now on; the next step applies what follows.  Raises KernelError."""
        exclude_changed = settings.exclude != self._exclude
        self._exclude, self._timing = settings.exclude, settings.timing
        self.compiler.reconfigure(settings.make_context)
        self._compare.set_period(self._timing.sync_period_s, self._clock())
        if self.state.is_adopted and exclude_changed:
            self._compare_scope(VIRTUAL_SERVERS)

    def invalidate(self) -> None:
        """Distrust what is known of the kernel: the next step reads and plans everything again."""
        self.state.is_adopted = False

    # When

    def due_s(self) -> float:
        """Return when ``step`` has something to do, by the clock; -inf: now."""
        if self.awaited:
            return NEVER
        if not self.state.is_adopted:
            return -NEVER
        return min(self.state.draining.due_s, self._compare.due_s, self._flows.due_s, self._sync_due_s())

    def _sync_due_s(self) -> float:
        pending = self.state.pending
        if self._is_sync_requested():
            return min(self._reconciler.last_sync_s + self._timing.min_sync_period_s, pending.retry_due_s)
        return pending.retry_due_s

    def _is_sync_requested(self) -> bool:
        return self.compiler.has_work() or self.state.pending.has_new

    def status(self) -> SyncStatus:
        """Return the status for other threads, at the cost of what is pending."""
        state = self.state
        return SyncStatus(
            self.compiler.desired.counts,
            count_by_kind(state.pending.keys),
            count_by_kind(state.pending.failed),
            dict(state.drift.found),
            dict(state.drift.repaired),
            len(state.draining),
            self._compare.count,
            stuck_families(state.pending.failed),
            is_waiting=bool(self.awaited),
            has_work=not state.is_adopted or self._is_sync_requested(),
        )

    # Work

    def step(self) -> list[Report]:
        """Do what is due, at most one sync of each trigger, and return what was done.  Raises KernelError."""
        now_s = self._clock()
        if now_s < self.due_s():
            return []
        if not self.state.is_adopted:
            return [self._first_sync()]
        cleans_flows = now_s >= self._flows.due_s  # those of earlier syncs; this step's come after traffic is served
        reports = list(self._sync_and_drain(now_s))
        if cleans_flows and (report := self._flows.run_slice(now_s)):
            reports.append(report)
        return reports

    def _first_sync(self) -> SyncReport:
        self.compiler.handle_event(HostAddresses(self.kernel.host_addresses()))
        if self.compiler.cluster.node is None:
            context = self.compiler.context
            message = "Node not found; assuming these IPs and no zone"
            log.warning(message, extra=values(node=context.node_name, ips=list(context.node_ips.values())))
        rows = read_all(self.kernel)
        self._compare.reschedule(self._timing.sync_period_s, self._clock())
        report = self._reconciler.first_sync(lambda: self._owned(rows), self._oldest_event_s)
        self._after_sync(report)
        return report

    def _sync_and_drain(self, now_s: float) -> Iterator[Report]:
        compares, drains = now_s >= self._compare.due_s, now_s >= self.state.draining.due_s
        drift_rows = self._run_compare_slice() if compares else 0
        if drift_rows:
            yield self._sync(Trigger.DRIFT, self._clock(), drift_rows=drift_rows)
        drained = self.state.draining.collect_finished(self.kernel.idle, now_s) if drains else []
        if now_s >= self._sync_due_s():
            yield self._sync(Trigger.EVENT, self._clock() if drains or drift_rows else now_s, drained)
            if compares:
                self._compare.yield_to_sync(self._clock())
        elif drained:
            yield self._reconciler.delete_drained(drained)

    def _sync(
        self, trigger: Trigger, began_s: float, drained: list[Step] | None = None, drift_rows: int = 0
    ) -> SyncReport:
        report = self._reconciler.sync(trigger, began_s, self._oldest_event_s, drained or (), drift_rows)
        self._after_sync(report)
        return report

    def _after_sync(self, report: SyncReport) -> None:
        """Enqueue the UDP virtual servers whose flows may be stale; then publish what was compiled."""
        self._oldest_event_s = None
        services = [state.name for state in report.states]
        failed = {failure.step.key for failure in report.failures}
        applied = (udp_server(step.key) for step in report.steps if step.key not in failed)
        servers = {*udp_servers(services, self.compiler), *filter(None, applied)}
        self._flows.enqueue(servers, self._reconciler.last_sync_s)
        self._on_compiled(services)  # last: warnings about Services must not delay serving them

    # Comparing

    def _run_compare_slice(self) -> int:
        """Compare for one slice, and return the number of rows that differ.  Raises KernelError."""
        return sum(self._record(diff) for diff in self._compare.run_slice(self._timing.sync_period_s))

    def _compare_scope(self, scope: Scope) -> None:
        """Read *scope* and compare it with the known rows.  Raises KernelError."""
        rows = self.kernel.read(scope)
        found = self._owned(rows) if scope == VIRTUAL_SERVERS else rows
        self._record(ScopeDiff(found, [key for key in self.state.rows if scope_of(key) == scope]))

    def _record(self, diff: ScopeDiff) -> int:
        return self.state.record_difference(diff, self.compiler.desired.rows, self._clock())

    def _owned(self, rows: Rows) -> Rows:
        return filter_owned(rows, self._exclude, self.compiler.desired.rows)

    def _drain_deadline_s(self, key: RealServer) -> float:
        """Return the deadline that the Service sets, or else that of the configuration."""
        owners = self.compiler.desired.owners(key.virtual_server)
        service = self.compiler.cluster.services.get(owners[0]) if owners else None
        own_s = service.drain_deadline_s if service else None
        return self._timing.drain_deadline_s if own_s is None else own_s
