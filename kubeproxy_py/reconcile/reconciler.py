"""Reconciler: brings kernel state in line with the desired rows: compile, plan, apply.

Invariants:
- What a step did is known from its outcome, so no sync but the first reads the kernel (law 7).
- A failed row stays pending with backoff while all others are applied, except those that depend on it (law 5).
- A step that is under way is recorded when it ends, and reported with the next sync.
"""

from collections.abc import Callable, Collection, Mapping, Sequence

from kubeproxy_py.compile.compiler import Compiler
from kubeproxy_py.kernel import Kernel, LateSteps
from kubeproxy_py.model.kube_names import server_entry
from kubeproxy_py.model.policy_marks import MarkRange, servers_by_entry
from kubeproxy_py.model.rows import Address, IpsetEntry, Key, RealServer, Rows, VirtualServer
from kubeproxy_py.model.steps import Plan, Step, StepFailure
from kubeproxy_py.model.time import NEVER
from kubeproxy_py.plan.drain_policy import append_drained_deletes
from kubeproxy_py.plan.plan import make_plan
from kubeproxy_py.plan.set_roles import frontend_of
from kubeproxy_py.reconcile.actual_state import ActualState
from kubeproxy_py.reconcile.apply import apply_plan
from kubeproxy_py.reconcile.report import DrainReport, SyncReport, Trigger
from kubeproxy_py.reconcile.slow_starts import SlowStarts
from kubeproxy_py.reconcile.tunnel_rests import TunnelRests

Hold = Callable[[Sequence[Key], Rows, float], Mapping[Key, float]]
"""Returns which keys must wait, and until when, given the keys, the actual rows and the time."""


class Reconciler:
    """Runs syncs of *kernel*, and records their outcome in *state*.

    *clock* is read only at the end of each phase, for its duration and for the time of its outcome.  *hold* returns
    which of the keys that are about to be planned must wait, and until when.  *slow_starts* gives new endpoints their
    first weights, *tunnel_rests* has devices stay for open connections.
    """

    def __init__(  # noqa: PLR0913, PLR0917 - all that a sync needs
        self,
        kernel: Kernel,
        compiler: Compiler,
        state: ActualState,
        clock: Callable[[], float],
        hold: Hold,
        slow_starts: SlowStarts,
        tunnel_rests: TunnelRests,
        mark_range: MarkRange | None = None,
    ) -> None:
        self.last_sync_s = -NEVER  # when the last plan was applied
        self._kernel = kernel
        self._compiler = compiler
        self._state = state
        self._clock = clock
        self._hold = hold
        self._mark_range = mark_range
        self._slow_starts = slow_starts
        self._tunnel_rests = tunnel_rests
        self._late: list[LateSteps] = []  # not reported yet

    @property
    def has_late_steps(self) -> bool:
        """Whether steps ended that no report contains yet."""
        return bool(self._late)

    def record_late(self, late: LateSteps, now_s: float) -> None:
        """Record the outcome of steps that were under way."""
        self._state.record_late(late.steps, late.failures, now_s)
        self._late.append(late)

    def first_sync(self, kernel_rows: Rows, event_s: float | None) -> SyncReport:
        """Compile every Service, adopt *kernel_rows*, which were just read, and apply the difference.

        Args:
            kernel_rows: All rows of the kernel, including those that are not ours.
            event_s: When the oldest event arrived that this sync handles; None if there is none.
        """
        began_s = self._clock()
        self._compiler.adopt_marks(kernel_rows, self._mark_range)
        self._compiler.compile()
        self._compiler.keep_last_rows(kernel_rows)
        self._slow_starts.adopt(kernel_rows, began_s)
        self._tunnel_rests.adopt(kernel_rows, began_s)
        compiled_s = self._clock()
        self._state.adopt(kernel_rows)  # after compiling, because desired virtual servers are ours in any case
        plan = make_plan(self._compiler.desired.rows, self._state.rows)
        held = self._hold([step.key for step in plan if step.verb != "delete"], self._state.rows, compiled_s)
        if held:
            plan = Plan(tuple(step for step in plan if step.key not in held))
        foreign = self._state.foreign_deletes(plan)
        planned_s = self._clock()
        failures = self._apply(plan)
        applied_s = self.last_sync_s = self._clock()
        self._state.record_full_sync(plan, failures, applied_s, held)
        self._end_rest()
        phases_s = (compiled_s - began_s, planned_s - compiled_s, applied_s - planned_s)
        return self._report(
            Trigger.FIRST_SYNC,
            plan=plan,
            failures=failures,
            phases_s=phases_s,
            event_s=event_s,
            foreign=foreign,
        )

    def sync(
        self, trigger: Trigger, began_s: float, event_s: float | None, drained: Sequence[Step] = (), drift_rows: int = 0
    ) -> SyncReport:
        """Compile what changed and apply what follows, with the deletions of *drained* in the same messages.

        Args:
            trigger: Why this sync runs.
            began_s: When it began.
            event_s: When the oldest event arrived that it handles; None if there is none.
            drained: Steps that delete drained real servers.
            drift_rows: Number of rows that were found to differ, if that is the trigger.
        """
        changed = self._compiler.compile()
        changed += self._slow_starts.update(began_s, self._state.rows)
        changed += self._tunnel_rests.update(changed, self._state.rows, began_s)
        compiled_s = self._clock()
        self._state.pending.enqueue(changed)
        due = self._due(compiled_s)
        if held := self._hold(due, self._state.rows, compiled_s):
            self._state.pending.defer(held)
            due = [key for key in due if key not in held]
        plan = append_drained_deletes(self._plan_due(due), drained, self._compiler.desired.rows)
        foreign = self._state.foreign_deletes(plan)
        planned_s = self._clock()
        failures = self._apply(plan, self._state.pending.others(due))
        applied_s = self.last_sync_s = self._clock()
        self._state.record_outcome(plan, failures, due, applied_s)
        self._end_rest()
        phases_s = (compiled_s - began_s, planned_s - compiled_s, applied_s - planned_s)
        return self._report(
            trigger,
            plan=plan,
            failures=failures,
            phases_s=phases_s,
            event_s=event_s if due else None,  # nothing was due: the event changed no row
            drift_rows=drift_rows,
            drift=self._state.drift.pop_found(),
            foreign=foreign,
        )

    def delete_drained(self, steps: Sequence[Step]) -> DrainReport:
        """Delete drained real servers, without a sync."""
        plan = Plan(tuple(steps))
        began_s = self._clock()
        failures = self._apply(plan)
        applied_s = self.last_sync_s = self._clock()
        self._state.record_outcome(plan, failures, (), applied_s)
        self._end_rest()
        return DrainReport(
            steps=plan.steps,
            failures=failures,
            rows=len(self._state.rows),
            pending=len(self._state.pending),
            apply_s=applied_s - began_s,
        )

    def _end_rest(self) -> None:
        """Have the next sync delete virtual servers by firewall mark whose real servers and entries have all gone."""
        resting = self._compiler.marks.resting
        if not resting:
            return
        counts = self._state.real_server_counts
        if all(counts.get(server) for server in resting):
            return
        # What leads to a mark that rests is not desired, so it is pending: a search of all rows costs as the cluster.
        rows = self._state.rows
        pending = {key: rows[key] for key in self._state.pending.keys if key in rows}
        led_to = set(servers_by_entry(pending).values())
        self._compiler.end_rest(lambda server: bool(counts.get(server)) or server in led_to)

    def _due(self, now_s: float) -> list[Key]:
        """Return the keys to plan: those that are due, and those that must not be left behind by them.

        The kernel deletes real servers along with their virtual server.  An address is bound, and a set entry admits
        a port there, only together with its virtual server: what that waits for may have ceased to matter since.  So
        does a set entry go with it: it would admit packets to the host's own port.
        """
        pending = self._state.pending
        due = pending.due(now_s)
        if len(due) == len(pending):
            return due
        addresses = {key.entry.partition(",")[0] for key in due if isinstance(key, IpsetEntry)}
        addresses |= {key.address for key in due if isinstance(key, Address)}
        servers = {key for key in due if isinstance(key, VirtualServer)}
        waiting = pending.waiting if addresses or servers else ()
        at_addresses = [key for key in waiting if isinstance(key, VirtualServer) and key.address in addresses]
        retried = (*pending.failed, *waiting) if at_addresses else pending.failed
        servers.update(at_addresses)
        behind = (key for key in retried if isinstance(key, RealServer) and key.virtual_server in servers)
        return list(dict.fromkeys((*due, *at_addresses, *behind, *self._obsolete_entries(waiting, servers))))

    def _obsolete_entries(self, waiting: Collection[Key], servers: Collection[VirtualServer]) -> list[Key]:
        """Return the entries among *waiting* that are to go with those of *servers* that are."""
        desired = self._compiler.desired.rows
        frontends = {server_entry(server) for server in servers if server not in desired} if waiting else ()
        if not frontends:
            return []
        entries = [key for key in waiting if isinstance(key, IpsetEntry) and key not in desired]
        return [key for key in entries if frontend_of(key) in frontends]

    def _plan_due(self, due: Collection[Key]) -> Plan:
        """Return the steps for the keys *due* and for the real servers draining behind them."""
        servers = {key for key in due if isinstance(key, VirtualServer)}
        behind = self._state.draining.draining_behind(servers)
        keys = dict.fromkeys((*due, *behind)) if behind else due
        return make_plan(self._compiler.desired.rows, self._state.rows, keys)

    def _apply(self, plan: Plan, unfinished: Collection[Key] = ()) -> tuple[StepFailure, ...]:
        """Apply *plan*; *unfinished* are the keys that are not as desired and that it does not try."""
        return apply_plan(self._kernel, plan, self._compiler.desired.rows, self._state.rows, unfinished)

    def _report(  # noqa: PLR0913 - the report has as many fields
        self,
        trigger: Trigger,
        *,
        plan: Plan,
        failures: tuple[StepFailure, ...],
        phases_s: tuple[float, float, float],
        event_s: float | None,
        drift_rows: int = 0,
        drift: tuple[Key, ...] = (),
        foreign: tuple[VirtualServer, ...] = (),
    ) -> SyncReport:
        compile_s, plan_s, apply_s = phases_s
        states = self._compiler.pop_states()
        late, self._late = self._late, []
        return SyncReport(
            trigger=trigger,
            services=len(states),
            steps=(*(step for ended in late for step in ended.steps), *plan.steps) if late else plan.steps,
            failures=(*(failure for ended in late for failure in ended.failures), *failures) if late else failures,
            rows=len(self._state.rows),
            pending=len(self._state.pending),
            compile_s=compile_s,
            plan_s=plan_s,
            apply_s=apply_s,
            since_event_s=None if event_s is None else self.last_sync_s - event_s,
            states=states,
            drift_rows=drift_rows,
            drift=drift,
            foreign=foreign,
        )
