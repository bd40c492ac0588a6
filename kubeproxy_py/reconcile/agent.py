"""Agent: the one owner of the state of the sync (law 6), used by one thread.

It decides what runs when; the work is done by its parts: reconciler, full compare, drain queue and stale flow cleaner.

Invariants:
- It is given events and the time, and reads nothing but the kernel.
- Nothing is programmed before every feed has delivered its initial list (law 3).
"""

import logging
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import partial
from itertools import chain
from typing import Protocol

from msgspec import Struct

from kubeproxy_py.compile.compiler import Compiler, NodeContextFactory
from kubeproxy_py.compile.desired import Owner
from kubeproxy_py.compile.udp_destinations import allowed_destinations, udp_servers, udp_servers_among
from kubeproxy_py.diagnose.snapshot import Activity, ActualRows, Snapshot
from kubeproxy_py.kernel import LINK, SYSCTLS, VIRTUAL_SERVERS, Kernel, LateResult, LateSteps, Scope, read_scopes
from kubeproxy_py.logging_setup import values
from kubeproxy_py.model.events import AddressesChanged, Event, Feed, PeersRefused, Synced
from kubeproxy_py.model.peers import NO_NEEDS, PeerNeeds
from kubeproxy_py.model.policy_marks import MarkRange
from kubeproxy_py.model.problem import Problem
from kubeproxy_py.model.rows import Address, Key, RealServer, Rows
from kubeproxy_py.model.services import ServiceName
from kubeproxy_py.model.steps import Step
from kubeproxy_py.model.time import NEVER
from kubeproxy_py.net import CIDR, FAMILIES, IP
from kubeproxy_py.reconcile.actual_state import ActualState
from kubeproxy_py.reconcile.containment import contained
from kubeproxy_py.reconcile.drain_queue import DrainQueue
from kubeproxy_py.reconcile.drift_watch import DriftWatch
from kubeproxy_py.reconcile.failure_causes import missing_schedulers
from kubeproxy_py.reconcile.full_compare import FullCompare
from kubeproxy_py.reconcile.gone_addresses import GRACE_S
from kubeproxy_py.reconcile.reconciler import Reconciler
from kubeproxy_py.reconcile.report import Report, SyncReport, Trigger
from kubeproxy_py.reconcile.slow_starts import SlowStarts
from kubeproxy_py.reconcile.stale_flows import StaleFlowCleaner
from kubeproxy_py.reconcile.surroundings import Surroundings
from kubeproxy_py.reconcile.sync_status import SyncStatus, count_by_kind, stuck_families, unprotected_families
from kubeproxy_py.reconcile.tunnel_rests import TunnelRests
from kubeproxy_py.reconcile.weight_hold import WeightHold

PEERS_WAIT_S = 5.0
"""How long the first sync waits for the list of all nodes, if it is needed."""

log = logging.getLogger(__name__)


class WatchPeers(Protocol):
    """Has what is needed of all nodes read; see Source.watch_peers."""

    def __call__(self, needs: PeerNeeds, *, at_once: bool) -> None:
        """Read them."""


class Timing(Struct, frozen=True, gc=False):
    """Periods and limits of the agent, in seconds."""

    sync_period_s: float = 30.0
    min_sync_period_s: float = 0.0
    drain_deadline_s: float = 0.0  # 0: a real server drains for as long as it has connections
    address_grace_s: float = GRACE_S  # how long NodePorts stay at an address of this host that is gone
    marks_period_s: float = NEVER  # how often the marks of the kernel are read; NEVER: only full compares find drift


class Settings(Struct, frozen=True, gc=False):
    """What of an agent may change while it runs."""

    make_context: NodeContextFactory
    exclude: tuple[CIDR, ...] = ()  # networks in which virtual servers are not ours
    timing: Timing = Timing()


class Agent:
    """Keeps *kernel* in sync with the objects that *compiler* knows.

    Args:
        kernel: The kernel to program.
        compiler: Turns events into desired rows.
        clock: The clock of all times that are given, in seconds. It is read only to learn when a phase of the work
            ended: for its duration, and for what is due a certain time after it.
        cpu_clock: Returns the CPU time, in seconds, of this thread and the programs that it had run, by which the
            search for drift is bounded; None: as *clock*, as if no other program ever ran.
        exclude: Networks in which virtual servers are not ours, unless they are desired.
        keep_foreign: Leave virtual servers in place that neither our sets nor kube-ipvs0 name.
        mark_range: The firewall marks of exact policies, whether these are on or not; None: those of the default.
        watch_nodes: The endpoints of all Services are checked (``--watch-nodes``).
        timing: Periods and limits.
        on_problem: Called with each rejected object.
        on_compiled: Called with the Services of each sync, after it; to publish what is refused of them.
        on_disputed: Called with rows that drift again each time after they were repaired.
        watch_peers: Called with what is needed of all nodes, when that changes, and whether the first sync waits.
        on_marks: Called whenever the marks of the kernel are read, with the scopes that are suspect.
    """

    def __init__(  # noqa: PLR0913 - the composition root of the sync
        self,
        kernel: Kernel,
        compiler: Compiler,
        clock: Callable[[], float],
        *,
        cpu_clock: Callable[[], float] | None = None,
        exclude: tuple[CIDR, ...] = (),
        keep_foreign: bool = False,
        mark_range: MarkRange | None = None,
        watch_nodes: bool = False,
        timing: Timing = Timing(),  # noqa: B008 - frozen
        on_problem: Callable[[Problem], None] = lambda _problem: None,
        on_compiled: Callable[[Collection[ServiceName]], None] = lambda _names: None,
        on_disputed: Callable[[Collection[Key]], None] = lambda _keys: None,
        on_marks: Callable[[Collection[Scope]], None] = lambda _suspects: None,
        watch_peers: WatchPeers | None = None,
    ) -> None:
        self.kernel = kernel
        self.compiler = compiler
        self.awaited: set[Feed] = {"services", "slices", "node"}
        draining = DrainQueue(self._drain_deadline_s)
        node_addresses = self._node_addresses if keep_foreign else None
        self.state = ActualState(compiler.desired, draining, exclude, node_addresses, mark_range)
        self._watch_peers = watch_peers
        self._peer_needs = NO_NEEDS  # as they were said last
        self._peers_due_s = NEVER  # when they are not waited for any more
        self._clock = clock
        self._timing = timing
        self._on_problem = on_problem
        self._on_compiled = on_compiled
        self._on_disputed = on_disputed
        self._oldest_event_s: float | None = None  # of those that no sync has handled yet
        self._late_drift_rows = 0  # found in scopes that were read late, and not repaired yet
        self._surroundings = Surroundings(kernel, compiler, timing.sync_period_s, timing.address_grace_s)
        self._slow_starts = SlowStarts(compiler, watch_nodes=watch_nodes)
        self._weights = WeightHold(compiler)
        self._tunnel_rests = TunnelRests(compiler, lambda: self._timing.drain_deadline_s)
        self._reconciler = Reconciler(
            kernel, compiler, self.state, clock, self._hold, self._slow_starts, self._tunnel_rests, mark_range
        )
        self._compare = FullCompare(kernel, self.state, clock, cpu_clock or clock)
        self._watch = DriftWatch(
            kernel,
            self.state,
            clock,
            cpu_clock or clock,
            on_marks=on_marks,
            limited=compiler.limited_servers,
        )
        self._flows = StaleFlowCleaner(kernel, partial(allowed_destinations, compiler=compiler), clock)

    # Input

    def handle_event(self, event: Event, at_s: float) -> None:
        """Handle *event*, which arrived at *at_s* of the clock."""
        match event:
            case Synced(feed=feed):
                self.awaited.discard(feed)
                if feed == "peers":
                    self._end_weight_hold()
                if not self.awaited and not self.state.is_adopted:
                    self._ask_for_peers(at_s)
            case Problem():
                contained("problem", self._on_problem, event)
            case _:
                self.compiler.handle_event(event)
                if isinstance(event, PeersRefused):
                    self._end_weight_hold()
                    if event.reason:  # all else goes on without them
                        self.awaited.discard("peers")
                if self._oldest_event_s is None:
                    self._oldest_event_s = at_s

    def _ask_for_peers(self, now_s: float) -> None:
        """Have peers read if they are needed, and wait for them before the first sync, but not for ever.

        Without them what was handed on before would be taken back for a moment, and weights would change and return.
        """
        needs = self.compiler.peer_needs
        if needs == self._peer_needs or not self._watch_peers:
            return
        self._peer_needs = needs
        self._watch_peers(needs, at_once=not self.state.is_adopted)
        if needs and not self.state.is_adopted:
            self.awaited.add("peers")
            self._peers_due_s = now_s + PEERS_WAIT_S

    def _hold(self, keys: Sequence[Key], actual: Rows, now_s: float) -> dict[Key, float]:
        """Return which of *keys*, about to be planned, must wait, and until when."""
        return {**self._surroundings.neighbours.hold(keys, actual, now_s), **self._weights.hold(keys, actual)}

    def _end_weight_hold(self) -> None:
        """Have weights follow from what is known of nodes."""
        held = self._weights.end()
        holders = dict.fromkeys(self.compiler.holder_of(key.virtual_server) for key in held)
        self._slow_starts.readopt(name for name in holders if name)
        self.state.pending.enqueue(held)

    def handle_addresses_changed(self, change: AddressesChanged, now_s: float) -> None:
        """Read the addresses of this host that *change* concerns.  Raises KernelError.

        A notification of our own change agrees with the actual rows and costs nothing (law 7).
        """
        if change.other_interfaces:
            self._surroundings.read_addresses(now_s)
        rows = self.state.rows
        differs = any(exists != (Address(address) in rows) for address, exists in change.service_addresses.items())
        if self.state.is_adopted and (change.device or differs):
            self._compare.compare_scope(LINK, now_s)

    def handle_late_result(self, result: LateResult, now_s: float) -> None:
        """Record what was under way in the kernel and has ended."""
        result.release()
        if isinstance(result, LateSteps):
            self._reconciler.record_late(result, now_s)
        elif self.state.is_adopted:
            self._late_drift_rows += self._compare.compare_late(result, now_s)

    def reconfigure(self, settings: Settings, now_s: float) -> None:
        """Use *settings* from now on; `run_due` applies what follows from them.  Raises KernelError."""
        exclude_changed = settings.exclude != self.state.exclude
        self.state.exclude, self._timing = settings.exclude, settings.timing
        self.compiler.reconfigure(settings.make_context)
        self._compare.set_period(self._timing.sync_period_s, now_s)
        if self.state.is_adopted:
            self._watch.start(self._timing.marks_period_s, now_s)
        if self.state.is_adopted and exclude_changed:
            self._compare.compare_scope(VIRTUAL_SERVERS, now_s)

    def invalidate(self) -> None:
        """Have `run_due` read and plan everything again, because the actual rows may be wrong."""
        self.state.is_adopted = False

    # When

    def due_s(self) -> float:
        """Return when `run_due` has something to do; -inf: now."""
        if self.awaited:
            return self._peers_due_s if self.awaited == {"peers"} else NEVER
        if not self.state.is_adopted:
            return -NEVER
        return min(
            self._sync_due_s(),
            self.state.draining.due_s,
            self._compare.due_s,
            self._watch.due_s,
            self._flows.due_s,
            self._surroundings.due_s,
            self._slow_starts.due_s,
            self._tunnel_rests.due_s,
        )

    def _sync_due_s(self) -> float:
        pending = self.state.pending
        if self._is_sync_requested():
            return min(self._reconciler.last_sync_s + self._timing.min_sync_period_s, pending.retry_due_s)
        return pending.retry_due_s

    def _is_sync_requested(self) -> bool:
        return self.compiler.has_work() or self.state.pending.has_new or self._reconciler.has_late_steps

    def status(self) -> SyncStatus:
        """Return the status for other threads, at the cost of what is pending."""
        state, pending = self.state, self.state.pending
        failed = pending.failed if pending else ()
        return SyncStatus(
            self.compiler.desired.counts,
            count_by_kind(pending.keys) if pending else {},
            count_by_kind(failed) if failed else {},
            dict(state.drift.found),
            dict(state.drift.repaired),
            len(state.draining),
            self._compare.count,
            self._watch.count,
            len(state.unread.errors),
            stuck_families((*failed, *pending.under_way)) if pending else frozenset(),
            self.compiler.refusals.counts(),
            state.drift.disputed,
            len(self.compiler.failed),
            unprotected_families(pending.keys, state.rows) if state.is_adopted else frozenset(FAMILIES),
            fights=dict(state.drift.fights),
            is_waiting=bool(self.awaited),
            has_work=not state.is_adopted or self._is_sync_requested(),
        )

    def snapshot(self, now_s: float, zero_s: float) -> Snapshot:
        """Return what is known now, at the cost of shallow copies.

        Args:
            now_s: The moment, in seconds of the agent's clock.
            zero_s: When that clock was 0, in seconds since 1970.
        """
        compiler, cluster, state, pending = self.compiler, self.compiler.cluster, self.state, self.state.pending
        claims, parts = compiler.claims.copy(), compiler.desired.parts()
        drains = state.draining.drains()
        by_mark = {key.virtual_server for key in drains if key.virtual_server.mark}
        return Snapshot(
            taken_s=now_s,
            zero_s=zero_s,
            awaited=frozenset(self.awaited),
            context=compiler.context,
            node=cluster.node,
            host_addresses=cluster.addresses,
            taken=cluster.taken.reports(),
            peers=cluster.peers.copy(),
            labels=cluster.labels.copy(),
            peers_refused=cluster.peers_refused,
            services=cluster.services.copy(),
            slices=cluster.all_slices(),
            claims=claims,
            mark_holders={server: holder for server in by_mark if (holder := compiler.holder_of(server))},
            conditions=cluster.conditions.copy(),
            refusals=compiler.refusals.copy(claims),
            uncompiled=compiler.failed.copy(),
            parts=parts,
            is_adopted=state.is_adopted,
            kernel_rows=self._actual_rows(parts),
            pending=dict.fromkeys(pending.keys),
            retries=dict(pending.retries),
            under_way=dict.fromkeys(pending.under_way),
            draining=drains,
            unread=dict(state.unread.errors),
            activity=self._activity(),
        )

    def _actual_rows(self, parts: Mapping[Owner, tuple[Rows, ...]]) -> ActualRows:
        """Return the actual rows, by how they differ from the desired *parts*: only pending and draining rows do."""
        rows, desired, state = self.state.rows, self.compiler.desired.rows, self.state
        keys = {*state.pending.keys, *state.draining.drains()} if state.is_adopted else set[Key]()
        absent = [key for key in keys if key in desired and key not in rows]
        changed = {key: rows[key] for key in keys if key in rows}
        surplus = [key for key in changed if key not in desired]
        if len(rows) != len(desired) - len(absent) + len(surplus):  # before the first sync, or some are unaccounted for
            return ActualRows(rows=rows.copy())
        counts = Counter(self.compiler.desired.counts)
        counts.subtract(type(key).__name__ for key in absent)
        counts.update(type(key).__name__ for key in surplus)
        return ActualRows(parts, changed, absent, counts)

    def _activity(self) -> Activity:
        drift = self.state.drift
        return Activity(
            self._reconciler.last_sync_s,
            self._compare.last_s,
            self._compare.count,
            self._watch.count,
            dict(drift.found),
            dict(drift.repaired),
            drift.disputed,
        )

    # Work

    def run_due(self, now_s: float) -> list[Report]:
        """Do what is due, at most one sync of each trigger, and return what was done.  Raises KernelError."""
        if self.awaited == {"peers"} and now_s >= self._peers_due_s:
            self.awaited.clear()
            self._weights.begin()
        if self.awaited:
            return []
        if not self.state.is_adopted:
            return [self._first_sync(now_s)]
        if now_s >= self._surroundings.due_s:
            self.state.pending.enqueue(self._surroundings.run(now_s))
        if now_s >= self._slow_starts.due_s:
            self._slow_starts.run(now_s)
        if now_s >= self._tunnel_rests.due_s:
            self.state.pending.enqueue(self._tunnel_rests.update((), self.state.rows, now_s))
        cleans_flows = now_s >= self._flows.due_s  # of earlier syncs; those of this one wait until traffic is served
        reports = list(self._sync_and_drain(now_s))
        if cleans_flows and (report := self._flows.run_slice(now_s)):
            reports.append(report)
        return reports

    def _first_sync(self, now_s: float) -> SyncReport:
        self._surroundings.read(now_s)
        warn_if_node_is_missing(self.compiler)
        rows = self._read_kernel()
        self._compare.reschedule(self._timing.sync_period_s, self._clock())
        self._watch.start(self._timing.marks_period_s, self._clock())
        self._surroundings.neighbours.adopt(rows)
        report = self._reconciler.first_sync(rows, self._oldest_event_s)
        self._after_sync(report)
        return report

    def _read_kernel(self) -> Rows:
        """Return all rows that can be read.  Raises KernelError if no part of the kernel state can be."""
        rows, unread = read_scopes(self.kernel)
        if unread and unread.keys() >= {*self.kernel.scopes()} - {SYSCTLS}:
            raise next(iter(unread.values()))
        for scope, error in unread.items():
            self.state.unread.record_error(scope, error)
        return rows

    def _sync_and_drain(self, now_s: float) -> Iterator[Report]:
        """Compare for a slice, delete drained real servers, and sync if that is due, in the same messages."""
        events_wait = now_s >= self._sync_due_s()
        watches = now_s >= (self._watch.overdue_s if events_wait else self._watch.due_s)
        compares = now_s >= self._compare.due_s and not watches
        drift_rows, self._late_drift_rows = self._late_drift_rows, 0
        if watches:
            drift_rows += self._watch.run_slice(now_s, events_wait=events_wait)
        if compares:
            drift_rows += self._compare.run_slice(self._timing.sync_period_s, now_s)
        if drift_rows:
            yield self._sync(Trigger.DRIFT, self._clock(), drift_rows=drift_rows)
        drains = now_s >= self.state.draining.due_s
        drained = self.state.draining.collect_finished(self.kernel.idle, now_s) if drains else []
        if now_s >= self._sync_due_s():
            began_s = self._clock() if drains or drift_rows else now_s  # reading the clock is not free
            yield self._sync(Trigger.EVENT, began_s, drained)
            if compares:
                self._compare.yield_to_sync(self._clock())
            if watches:
                self._watch.yield_to_sync(self._clock())
        elif drained:
            yield self._reconciler.delete_drained(drained)

    def _sync(self, trigger: Trigger, began_s: float, drained: Sequence[Step] = (), drift_rows: int = 0) -> SyncReport:
        report = self._reconciler.sync(trigger, began_s, self._oldest_event_s, drained, drift_rows)
        self._after_sync(report)
        return report

    def _after_sync(self, report: SyncReport) -> None:
        """Enqueue the UDP virtual servers whose flows may be stale; then publish what was compiled."""
        self._oldest_event_s = None
        self.compiler.record_missing_schedulers(missing_schedulers(report.failures))
        services = [state.name for state in report.states]
        self._surroundings.after_sync(self.compiler.desired.rows)
        contained("peers", self._ask_for_peers, self._clock())
        contained("stale flows", self._enqueue_flows, report, services)
        if disputed := self.state.drift.pop_disputed():
            contained("disputed rows", self._on_disputed, disputed)
        contained("compiled Services", self._on_compiled, services)  # last: warnings must not delay serving

    def _enqueue_flows(self, report: SyncReport, services: Collection[ServiceName]) -> None:
        applied = [step.key for step in report.steps]
        if failed := {failure.step.key for failure in report.failures}:
            applied = [key for key in applied if key not in failed]
        servers = udp_servers_among(applied).union(udp_servers(services, self.compiler))
        self._flows.enqueue(servers, self._reconciler.last_sync_s)

    def _node_addresses(self) -> frozenset[IP]:
        return frozenset(chain.from_iterable(self.compiler.context.foreign_addresses.values()))

    def _drain_deadline_s(self, key: RealServer) -> float:
        """Return the deadline that the Service sets, or else that of the configuration."""
        holder = self.compiler.holder_of(key.virtual_server)
        service = self.compiler.cluster.services.get(holder) if holder else None
        own_s = service.settings.drain_deadline_s if service else None
        return self._timing.drain_deadline_s if own_s is None else own_s


def warn_if_node_is_missing(compiler: Compiler) -> None:
    """Log a warning if the Node object of this node is unknown, which zone and traffic policies need."""
    if compiler.cluster.node is not None:
        return
    context = compiler.context
    details = values(node=context.node_name, ips=list(context.node_ips.values()))
    if context.needs_node:
        log.warning("Node not found; assuming these IPs and no zone", extra=details)
    else:
        log.info("No Node among the manifests; using this host's own name and addresses", extra=details)
