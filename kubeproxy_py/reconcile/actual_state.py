"""ActualState: the rows that the kernel is known to have, and which of them are not yet as desired.

Invariants:
- A row is actual because it was read from the kernel, or because the step that created it succeeded.
- Of a row whose step is under way, actual is what it has before and after that step.
- Pending rows, drift counts, fingerprints and the drain queue are updated here, together with the rows, so they never
  disagree.
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from errno import ETIMEDOUT

from kubeproxy_py.compile.desired import Desired
from kubeproxy_py.kernel import scopes_of
from kubeproxy_py.model.policy_marks import MarkRange, foreign_mark_servers
from kubeproxy_py.model.rows import ChainSpec, Key, RealServer, Rows, Spec, VirtualServer, is_draining_spec
from kubeproxy_py.model.steps import Plan, Step, StepFailure
from kubeproxy_py.net import CIDR, IP
from kubeproxy_py.plan.ownership import filter_owned, is_foreign
from kubeproxy_py.plan.urgency import may_stay_changed
from kubeproxy_py.reconcile.drain_queue import DrainQueue
from kubeproxy_py.reconcile.drift import Drift, ScopeDiff
from kubeproxy_py.reconcile.fingerprints import Fingerprints
from kubeproxy_py.reconcile.marks import ConfirmedMarks
from kubeproxy_py.reconcile.retry_queue import RetryQueue
from kubeproxy_py.reconcile.row_counts import RowCounts
from kubeproxy_py.reconcile.unread_scopes import UnreadScopes


class ActualState:
    """The actual rows, and the queues and counts that follow from them.

    Args:
        desired: The desired rows.
        draining: Tracks every real server that begins or ends to drain.
        exclude: Networks in which virtual servers are not ours, unless they are desired.
        node_addresses: Returns the addresses of this host. If it is given, virtual servers that no set and no address
            of ours names are not ours either.
        mark_range: The firewall marks of exact policies; None: those of the default.
    """

    def __init__(
        self,
        desired: Desired,
        draining: DrainQueue,
        exclude: tuple[CIDR, ...] = (),
        node_addresses: Callable[[], Collection[IP]] | None = None,
        mark_range: MarkRange | None = None,
    ) -> None:
        self.rows: Rows = {}
        self.is_adopted = False  # the rows were read from the kernel, and were not invalidated since
        self.pending = RetryQueue()
        self.drift = Drift()
        self.draining = draining
        self.fingerprints = Fingerprints()
        self.unread = UnreadScopes()
        self.marks = ConfirmedMarks()
        self._counts = RowCounts()
        self.exclude = exclude
        self._desired = desired
        self._node_addresses = node_addresses
        self._mark_range = mark_range
        self._before: dict[Key, Spec] = {}  # the rows whose steps are under way, as they were; None: it did not exist
        self._foreign: set[Key] = set()  # virtual servers of other programs that are to be deleted

    @property
    def counts(self) -> Mapping[str, int]:
        """The number of actual rows in each group that marks count."""
        return self._counts.of(self.rows)

    @property
    def real_server_counts(self) -> Mapping[VirtualServer, int]:
        """The number of actual real servers by virtual server; some of these may be no actual rows any more."""
        return self._counts.real_servers(self.rows)

    def virtual_servers(self) -> list[VirtualServer]:
        """Return the actual virtual servers."""
        counts = self.real_server_counts
        self._counts.drop_gone(self.rows)
        return list(counts)

    def filter_owned(self, rows: Rows, known: Rows | None = None) -> Rows:
        """Return those of *rows*, which were read from the kernel, that are ours.

        *known* are the rows of the sets and addresses; None: the actual rows.
        """
        by_rows = self.rows if known is None else known
        foreign = foreign_mark_servers(rows, by_rows, self._mark_range)
        if self._node_addresses is None:
            return filter_owned(rows, self.exclude, self._desired.rows, foreign=foreign)
        addresses = self._node_addresses()
        return filter_owned(
            rows,
            self.exclude,
            self._desired.rows,
            lambda server: server not in self.rows and is_foreign(server, by_rows, addresses),
            foreign,
        )

    def foreign_deletes(self, steps: Iterable[Step]) -> tuple[VirtualServer, ...]:
        """Return the virtual servers that *steps* delete although another program created them, each once."""
        if not self._foreign:
            return ()
        deleted = [step.key for step in steps if step.verb == "delete" and step.key in self._foreign]
        self._foreign.difference_update(deleted)
        return tuple(key for key in deleted if isinstance(key, VirtualServer))

    def adopt(self, rows: Rows) -> None:
        """Replace the actual rows by those of *rows*, which were read from the kernel, that are ours."""
        self.rows = {}
        self.rows = self.filter_owned(rows, rows)
        self._foreign = self._foreign_among(self.rows)
        self.is_adopted = True
        self.pending = RetryQueue()
        self._before.clear()
        self._invalidate_all()

    def _invalidate_all(self) -> None:
        self.fingerprints.invalidate_all()
        self.marks.invalidate_all()
        self._counts.invalidate()

    def record_full_sync(
        self, plan: Plan, failures: Collection[StepFailure], now_s: float, deferred: Mapping[Key, float]
    ) -> None:
        """Record the outcome of *plan*, which was computed for every row; the *deferred* keys wait until then."""
        unapplied = _unapplied(plan, failures)
        under_way, begun, failed = _by_outcome(unapplied)
        self._invalidate_all()
        before = self.rows
        if unapplied or deferred or len(plan) <= len(self.rows):
            _apply_in_place(self.rows, plan, unapplied)
        else:
            self.rows = _rows_after_full_sync(self.rows, plan, self._desired.rows)
        # Those that drained before the rows were read, too: some may be gone.
        self.track_draining(self.draining.drains(), now_s)
        # What was added does not drain.
        self.track_draining([key for key in before if is_draining_spec(self.rows.get(key))], now_s)
        self.pending.record_outcome((), failed, now_s, _timed_out(failures), _errors(failures))
        self.pending.defer(deferred)
        self._begin(under_way)
        self.drift.record_outcome(None, {*failed, *begun})

    def record_outcome(
        self, plan: Plan, failures: Collection[StepFailure], tried: Collection[Key], now_s: float
    ) -> None:
        """Record the outcome of *plan*, which was computed for the keys *tried*."""
        if not failures:  # nearly always
            self._apply_written(plan.steps, ())
            self._track_steps(plan, now_s, tried)
            self.pending.record_outcome(tried, {}, now_s)
            self.drift.record_outcome(tried, ())
            return
        unapplied = _unapplied(plan, failures)
        under_way, begun, failed = _by_outcome(unapplied)
        self._apply_written(plan.steps, unapplied)
        self._track_steps(plan, now_s, tried)
        ended = [key for key in tried if key not in begun] if begun else tried
        self.pending.record_outcome(ended, failed, now_s, _timed_out(failures), _errors(failures))
        self._begin(under_way)
        self.drift.record_outcome(ended, failed)

    def _apply_written(self, steps: Sequence[Step], failures: Collection[StepFailure]) -> None:
        """Change the rows by *steps*, which were sent to the kernel, but those of *failures*."""
        keys = [step.key for step in steps]
        self.fingerprints.invalidate(keys)
        self.marks.record_written(scopes_of(keys))
        _apply_in_place(self.rows, steps, failures, self._counts.change)

    def _begin(self, steps: Collection[Step]) -> None:
        """Record that *steps*, which are on chains and jumps, are under way; those on one row together."""
        self.pending.begin(steps)
        for step in steps:
            before = self.rows.get(step.key)
            self._before.setdefault(step.key, before)
            self._set_row(step.key, _common_spec(before, step.spec))

    def record_late(self, steps: Iterable[Step], failures: Collection[StepFailure], now_s: float) -> None:
        """Record that *steps*, which were under way, have ended, with the outcome *failures*.

        Those that are not under way any more were begun before all rows were read again, and say nothing new.
        """
        ended = [step for step in steps if step in self.pending.under_way.get(step.key, ())]
        refused = [failure for failure in failures if failure.step in ended]
        failed = _failed(refused)
        keys = dict.fromkeys(step.key for step in ended)
        for key in keys:
            self._set_row(key, self._before.pop(key))
        self._apply_written(ended, refused)
        self.pending.end(keys)
        self.pending.record_outcome(keys, failed, now_s, _timed_out(refused), _errors(refused))
        desired = self._desired.rows
        outdated = [key for key in keys if key not in failed and self.rows.get(key) != desired.get(key)]
        self.pending.enqueue(outdated)
        self.drift.record_outcome(keys, {*failed, *outdated})

    def _set_row(self, key: Key, spec: Spec) -> None:
        """Set the row of a chain or jump; without *spec* it does not exist."""
        if spec is None:
            self.rows.pop(key, None)
        else:
            self.rows[key] = spec

    def record_diff(self, diff: ScopeDiff, now_s: float) -> int:
        """Record the rows of *diff* that differ from the actual ones as drift; return their number."""
        keys = diff.differing(self.rows)
        if not keys:
            return 0
        for key in keys:
            if key not in diff.found:
                del self.rows[key]
                self._counts.change(key, -1)
                continue
            if key not in self.rows:
                self._counts.change(key, 1)
            self.rows[key] = diff.found[key]
        self.fingerprints.invalidate(keys)
        self._foreign |= self._foreign_among(keys)
        self.drift.record(keys, now_s)
        pauses_s = {key: self.drift.pause_s(key, now_s) for key in keys if self._may_stay_changed(key)}
        deferred = {key: now_s + pause_s for key, pause_s in pauses_s.items() if pause_s}
        self.pending.enqueue(key for key in keys if key not in deferred)
        self.pending.defer(deferred)
        self.track_draining(keys, now_s)
        return len(keys)

    def _may_stay_changed(self, key: Key) -> bool:
        return may_stay_changed(key, self.rows.get(key), self._desired.rows)

    def _foreign_among(self, found: Iterable[Key]) -> set[Key]:
        """Return the virtual servers among the keys *found* in the kernel that nothing desires and no set names."""
        desired = self._desired.rows
        return {
            key
            for key in found
            if isinstance(key, VirtualServer) and key not in desired and key in self.rows and is_foreign(key, self.rows)
        }

    def track_draining(self, keys: Iterable[Key], now_s: float) -> None:
        """Have the drain queue add or remove each of *keys*."""
        track, rows, desired = self.draining.track, self.rows, self._desired.rows
        for key in keys:
            track(key, rows, desired, now_s)

    def _track_steps(self, plan: Plan, now_s: float, tried: Collection[Key] = ()) -> None:
        # What was added did not exist, so it did not drain; what was deleted may have, if anything drains.
        verbs = ("update", "delete") if self.draining else ("update",)
        keys = [step.key for step in plan.steps if step.verb in verbs and isinstance(step.key, RealServer)]
        self.track_draining(keys, now_s)
        if len(tried) > len(plan):  # some had no step: one that was set aside drains from now on
            self.track_draining([key for key in tried if is_draining_spec(self.rows.get(key))], now_s)


def _unapplied(plan: Plan, failures: Collection[StepFailure]) -> Collection[StepFailure]:
    """Return those of *failures* after which the row is not as the step would have made it.

    A real server whose deletion failed is gone nevertheless if its virtual server was deleted.
    """
    if not any(_is_undeleted_real_server(failure.step) for failure in failures):
        return failures
    failed = {failure.step.key for failure in failures}
    deleted = {step.key for step in plan if step.verb == "delete" and step.key not in failed}

    def is_gone(step: Step) -> bool:
        return _is_undeleted_real_server(step) and step.key.virtual_server in deleted  # type: ignore[attr-defined]

    return [failure for failure in failures if not is_gone(failure.step)]


def _is_undeleted_real_server(failed: Step) -> bool:
    return failed.verb == "delete" and isinstance(failed.key, RealServer)


def _by_outcome(unapplied: Collection[StepFailure]) -> tuple[list[Step], set[Key], dict[Key, Key | None]]:
    """Return the steps that are under way, their keys, and the others as ``_failed`` does."""
    under_way = [failure.step for failure in unapplied if failure.is_under_way]
    begun = {step.key for step in under_way}
    return under_way, begun, _failed(unapplied, begun)


def _failed(failures: Iterable[StepFailure], others: Collection[Key] = ()) -> dict[Key, Key | None]:
    """Return the keys that failed, without *others*, each with that of the row that it waits for."""
    return {failure.step.key: failure.blocker for failure in failures if failure.step.key not in others}


def _common_spec(before: Spec, after: Spec) -> Spec:
    """Return what a chain or jump has *before* and *after* a step: rules that are in both, or nothing."""
    if isinstance(before, ChainSpec) and isinstance(after, ChainSpec):
        return ChainSpec(tuple(rule for rule in before.rules if rule in after.rules))
    return None


def _timed_out(failures: Iterable[StepFailure]) -> set[Key]:
    return {failure.step.key for failure in failures if failure.errno == ETIMEDOUT}


def _errors(failures: Iterable[StepFailure]) -> dict[Key, str]:
    return {failure.step.key: failure.message for failure in failures}


def _apply_in_place(
    rows: Rows,
    steps: Iterable[Step],
    failures: Iterable[StepFailure] = (),
    on_change: Callable[[Key, int], None] | None = None,
) -> None:
    """Change *rows* to what they are after *steps*, except for those of *failures*.

    A chain has two steps in a plan where it loses rules: the first may succeed while the second waits.  *on_change* is
    called with each key that is new (1) or gone (-1).
    """
    failed = {failure.step for failure in failures}
    number = len(rows)
    for step in steps:
        if failed and step in failed:
            continue
        if step.verb == "delete":
            rows.pop(step.key, None)
        else:
            rows[step.key] = step.spec
        if on_change and step.verb != "update" and (after := len(rows)) != number:
            on_change(step.key, after - number)
            number = after


def _rows_after_full_sync(rows: Rows, plan: Plan, desired: Rows) -> Rows:
    """Return the rows after *plan*, which was computed for every row and succeeded; *rows* is not changed.

    A dict that grows step by step to 140,000 rows needs twice the memory meanwhile; a copy does not.
    """
    extra = {key: spec for key, spec in rows.items() if key not in desired}
    after = {**desired, **extra}
    _apply_in_place(after, (step for step in plan if step.key not in desired))
    return after
