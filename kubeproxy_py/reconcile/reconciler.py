"""Agent: the one owner of the state of the sync (law 6), in one thread.

Law: it is told events and the time, and asks the kernel alone.  Nothing is touched before every feed has said that
its first list is whole (law 3); what a step did is known from its outcome, so no sync reads the kernel (law 7); a
row that failed stays pending with backoff while all others go on (law 5).
"""

import logging
from collections.abc import Callable, Collection, Iterable, Sequence
from functools import partial

from msgspec import Struct

from kubeproxy_py.compile.compiler import Compiler, NodeContextFactory
from kubeproxy_py.compile.udp_destinations import allowed_destinations, udp_server, udp_servers
from kubeproxy_py.kernel import LINK, VIRTUAL_SERVERS, FlowTable, Kernel, Scope, read_all, scope_of
from kubeproxy_py.kernel.errors import KernelError
from kubeproxy_py.model.events import AddressesChanged, Event, Feed, HostAddresses, ObjectProblem, Synced
from kubeproxy_py.model.rows import DRAINING, Address, Key, RealServer, Rows, VirtualServer
from kubeproxy_py.model.services import CIDR, ServiceName
from kubeproxy_py.model.steps import Plan, Step, StepFailure
from kubeproxy_py.model.time import NEVER
from kubeproxy_py.plan.drain_policy import with_drained
from kubeproxy_py.plan.ownership import filter_owned
from kubeproxy_py.plan.plan import make_plan
from kubeproxy_py.reconcile import actual_state as believed
from kubeproxy_py.reconcile.drain_queue import DrainQueue
from kubeproxy_py.reconcile.drift import Drift
from kubeproxy_py.reconcile.full_compare import FullCompare, ScopeDiff
from kubeproxy_py.reconcile.report import SyncReport
from kubeproxy_py.reconcile.retry_queue import RetryQueue
from kubeproxy_py.reconcile.stale_flows import StaleFlowCleaner
from kubeproxy_py.reconcile.sync_status import SyncStatus, by_kind, stuck_families

log = logging.getLogger(__name__)

FIRST_SYNC = "first sync"


class Timing(Struct, frozen=True, gc=False):
    """The periods that the agent honours."""

    sync_period_s: float = 30.0
    min_sync_period_s: float = 0.0
    drain_deadline_s: float = 0.0  # 0: a real server drains for as long as it has connections


class Settings(Struct, frozen=True, gc=False):
    """What of an agent may change while it runs: who we are, what is not ours, how often we look."""

    make_site: NodeContextFactory
    exclude: tuple[CIDR, ...] = ()
    timing: Timing = Timing()


class Reconciler:
    """Cluster, Desired and Actual, and what is pending between the last two.

    *clock* tells seconds that only grow.  *exclude* are the addresses at which virtual servers are not ours.
    """

    def __init__(
        self,
        kernel: Kernel,
        compiler: Compiler,
        clock: Callable[[], float],
        *,
        exclude: tuple[CIDR, ...] = (),
        timing: Timing = Timing(),  # noqa: B008 - frozen
        on_problem: Callable[[ObjectProblem], None] = lambda _problem: None,
        on_compiled: Callable[[Collection[ServiceName]], None] = lambda _names: None,
    ) -> None:
        self.kernel = kernel
        self.compiler = compiler
        self.actual: Rows = {}
        self.draining = DrainQueue(self._drain_deadline_s)
        self.pending = RetryQueue()
        self.awaited: set[Feed] = {"services", "slices", "node"}
        self.adopted = False  # the kernel was read
        self._clock = clock
        self._exclude = exclude
        self._timing = timing
        self._on_problem = on_problem
        self._on_compiled = on_compiled
        self._oldest_event_s: float | None = None
        self._last_sync_s = -NEVER
        self._drift = Drift()
        self._full = FullCompare(kernel, clock, timing.sync_period_s)
        self._swept_s = 0.0  # what the sweep under way took so far
        flow_table = kernel if isinstance(kernel, FlowTable) else None
        self._sweep = StaleFlowCleaner(flow_table, partial(allowed_destinations, compiler=compiler))

    # What it is told

    def handle_event(self, event: Event, at_s: float) -> None:
        """Know what *event* says, which came at *at_s* of the clock."""
        match event:
            case Synced(feed=feed):
                self.awaited.discard(feed)
            case ObjectProblem():
                self._on_problem(event)
            case _:
                self.compiler.handle_event(event)
                if self._oldest_event_s is None:
                    self._oldest_event_s = at_s

    def addresses_changed(self, change: AddressesChanged) -> None:
        """Addresses of this host changed: read again what is concerned.  Raises KernelError.

        An echo of what we did ourselves agrees with what we believe, and costs nothing (law 7).
        """
        if change.elsewhere:
            self.compiler.handle_event(HostAddresses(self.kernel.host_addresses()))
        unknown = any(there != (Address(address) in self.actual) for address, there in change.ours.items())
        if self.adopted and (change.device or unknown):
            self._compare(LINK)

    def reconfigure(self, settings: Settings) -> None:
        """Go by *settings* from now on; what follows from them is done by the next step.  Raises KernelError."""
        whose_changed = settings.exclude != self._exclude
        self._exclude, self._timing = settings.exclude, settings.timing
        self.compiler.reconfigure(settings.make_site)
        self._full.set_period(self._timing.sync_period_s)
        if self.adopted and whose_changed:
            self._compare(VIRTUAL_SERVERS)

    def invalidate(self) -> None:
        """Believe nothing of the kernel any more: the next step reads it, and compares all of it."""
        self.adopted = False

    # When it wants to work

    def due_s(self) -> float:
        """When step() next has something to do, by the clock; -inf: now."""
        if self.awaited:
            return NEVER
        if not self.adopted:
            return -NEVER
        return min(self.draining.due_s, self._full.due_s, self._sweep.due_s, self._sync_due_s())

    def _sync_due_s(self) -> float:
        if self.compiler.has_work() or self.pending.is_asked:
            return min(self._last_sync_s + self._timing.min_sync_period_s, self.pending.retry_due_s)
        return self.pending.retry_due_s

    def status(self) -> SyncStatus:
        """How the kernel stands to what is desired, for other threads to read; costs what is pending."""
        failed = self.pending.failed
        return SyncStatus(
            self.compiler.desired.counts,
            by_kind(self.pending.keys),
            by_kind(failed),
            dict(self._drift.found),
            dict(self._drift.repaired),
            len(self.draining),
            self._full.count,
            stuck_families(failed),
            is_waiting=bool(self.awaited),
            has_work=not self.adopted or self.compiler.has_work() or self.pending.is_asked,
        )

    # What it does

    def step(self) -> list[SyncReport]:
        """Do what is due, at most one sync of each sort; what was done."""
        now_s = self._clock()
        if now_s < self.due_s():
            return []
        if not self.adopted:
            return [self._first_sync()]
        reports = []
        sweeps = now_s >= self._sweep.due_s  # for earlier syncs: traffic first, and its report
        compares = now_s >= self._full.due_s
        if compares and (drift := self._compare_on()):
            reports.append(self._sync(f"drift in {drift} rows", self._clock()))
        drains = now_s >= self.draining.due_s
        drained = self.draining.collect_finished(self.kernel.idle, now_s) if drains else []
        if now_s >= self._sync_due_s():
            reports.append(self._sync("", self._clock() if drains or reports else now_s, drained=drained))
            if compares:
                self._full.yield_to_sync()
        elif drained:
            reports.append(self._carry_out(Plan(tuple(drained)), 0, "drained"))
        if sweeps:
            reports += self._sweep_flows(now_s)
        return reports

    def _first_sync(self) -> SyncReport:
        """Adopt what the kernel has, and compare all of it with all that is desired.  Raises KernelError."""
        self.compiler.handle_event(HostAddresses(self.kernel.host_addresses()))
        if self.compiler.cluster.node is None:
            name, ips = self.compiler.site.node_name, self.compiler.site.node_ips
            log.warning(f"there is no Node {name}: its zone is not known, its IPs are taken to be {list(ips.values())}")
        found = read_all(self.kernel)
        self._full.reschedule()
        report = self._sync(FIRST_SYNC, self._clock(), found)
        self._note_draining((key for key, spec in self.actual.items() if spec == DRAINING), self._clock())
        believed.grow_sooner(self.actual)
        return report

    def _adopt(self, found: Rows) -> None:
        """Believe that the kernel has *found*, and nothing that was believed before."""
        self.actual = self._ours(found)
        self._full.proofs.invalidate_all()
        self.adopted = True
        self.pending = RetryQueue()

    def _sync(self, why: str, began_s: float, found: Rows | None = None, drained: Sequence[Step] = ()) -> SyncReport:
        """Compile, and carry out what follows; *drained* with it, in the same messages."""
        services = list(self.compiler.cluster.dirty)
        changed = self.compiler.compile()
        compiled_s = self._clock()
        due: Collection[Key] | None = None
        if found is None:
            self.pending.enqueue(changed)
            due = self.pending.due(compiled_s)
        else:
            self._adopt(found)
        plan = with_drained(self._plan(due), drained, self.compiler.desired.rows)
        compile_s = compiled_s - began_s
        report = self._carry_out(plan, len(services), why, due=due, compile_s=compile_s, began_s=compiled_s)
        self._oldest_event_s = None
        self._note_flows(services, report)
        self._on_compiled(services)  # last, for what is said of Services serves none of them
        return report

    def _plan(self, due: Collection[Key] | None) -> Plan:
        """The steps for *due*, and for what drains behind it; None: for every row there is."""
        desired, actual = self.compiler.desired.rows, self.actual
        if due is None:
            return make_plan(desired, actual)
        along = self.draining.draining_behind({key for key in due if isinstance(key, VirtualServer)})
        return make_plan(desired, actual, dict.fromkeys((*due, *along)) if along else due)

    def _carry_out(
        self,
        plan: Plan,
        services: int,
        why: str,
        *,
        due: Collection[Key] | None = (),
        compile_s: float = 0.0,
        began_s: float | None = None,
    ) -> SyncReport:
        planned_s = self._clock()
        outcome = self.kernel.apply(plan) if plan.steps else None
        failed = outcome.failed if outcome else ()
        applied_s = self._clock()
        self._settle(plan, failed, due, applied_s)
        self._last_sync_s = applied_s
        answers_none = due is not None and not due
        return SyncReport(
            services=services,
            steps=plan.steps,
            failed=failed,
            rows=len(self.actual),
            pending=len(self.pending),
            compile_s=compile_s,
            plan_s=planned_s - (planned_s if began_s is None else began_s),
            apply_s=applied_s - planned_s,
            since_event_s=None if self._oldest_event_s is None or answers_none else applied_s - self._oldest_event_s,
            why=why,
            states=self.compiler.drain_states(),
        )

    def _settle(self, plan: Plan, failed: tuple[StepFailure, ...], due: Collection[Key] | None, now_s: float) -> None:
        """Know what the kernel has now; keep what failed pending."""
        refused = {failure.step.key for failure in failed}
        desired = self.compiler.desired.rows
        if due is None:
            self._full.proofs.invalidate_all()
        else:
            self._full.proofs.invalidate(step.key for step in plan)
        self.actual = believed.after(plan, self.actual, refused, desired, is_whole=due is None)
        self._note_draining((step.key for step in plan if step.verb != "add" or self.draining), now_s)
        self.pending.mark_done(due or (), refused, now_s)
        self._drift.record_outcome(due, refused)

    # Draining

    def _note_draining(self, keys: Iterable[Key], now_s: float) -> None:
        desired = self.compiler.desired.rows
        for key in keys:
            self.draining.track(key, self.actual, desired, now_s)

    def _drain_deadline_s(self, key: RealServer) -> float:
        """What its Service says, else the agent's own setting."""
        owners = self.compiler.desired.owners(key.virtual_server)
        service = self.compiler.cluster.services.get(owners[0]) if owners else None
        own_s = service.drain_deadline_s if service else None
        return self._timing.drain_deadline_s if own_s is None else own_s

    # Drift

    def _compare_on(self) -> int:
        """Go on with the full compare for one turn; how many rows differ.  Raises KernelError."""
        return sum(self._hold(piece) for piece in self._full.run_slice(self.actual, self._ours))

    def _compare(self, scope: Scope) -> None:
        """Read *scope* and hold it against all that we believe to be in it."""
        found = self.kernel.read(scope)
        mine = self._ours(found) if scope == VIRTUAL_SERVERS else found
        self._hold(ScopeDiff(mine, [key for key in self.actual if scope_of(key) == scope]))

    def _hold(self, piece: ScopeDiff) -> int:
        """What differs in *piece* from what we believe is known from now on, and pending; how many rows."""
        differing = piece.differing(self.actual)
        if not differing:
            return 0
        for key in differing:
            if key in piece.found:
                self.actual[key] = piece.found[key]
            else:
                del self.actual[key]
        self._full.proofs.invalidate(differing)
        self.pending.enqueue(differing)
        self._drift.record(differing)
        self._note_draining(differing, self._clock())
        return len(differing)

    def _ours(self, found: Rows) -> Rows:
        return filter_owned(found, self._exclude, self.compiler.desired.rows)

    # Flows

    def _note_flows(self, services: list[ServiceName], report: SyncReport) -> None:
        """Have the flows of the UDP virtual servers of *services*, and of those that were touched, looked at."""
        failed = {failure.step.key for failure in report.failed}
        done = (udp_server(step.key) for step in report.steps if step.key not in failed)
        self._sweep.enqueue({*udp_servers(services, self.compiler), *filter(None, done)}, self._last_sync_s)

    def _sweep_flows(self, now_s: float) -> list[SyncReport]:
        """Go on with the sweep; a report when it is done.  That the kernel can't be asked is said once, and no harm."""
        began_s = self._clock()
        try:
            flows = self._sweep.run_slice(now_s)
        except KernelError as error:
            if self._sweep.failures == 1:
                log.warning(f"UDP flows to endpoints that are gone stay until they time out: {error}")
            return []
        self._swept_s += self._clock() - began_s
        if not flows:
            return []
        swept_s, self._swept_s = self._swept_s, 0.0
        why = "stale flows" if flows.forgotten or flows.refused else ""
        return [SyncReport(0, (), (), len(self.actual), len(self.pending), 0.0, 0.0, swept_s, None, why, flows=flows)]
