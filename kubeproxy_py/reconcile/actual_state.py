"""ActualState: the rows that the kernel is known to have, and which of them are not yet as desired.

Invariants:
- A row is known because the kernel returned it, or because the step that made it so did not fail.
- Pending rows, drift counts, fingerprints and the drain queue are updated here, together with the rows, so they never
  disagree.
"""

from collections.abc import Collection, Iterable

from kubeproxy_py.model.rows import DRAINING, Key, Rows
from kubeproxy_py.model.steps import Plan, Step, StepFailure
from kubeproxy_py.reconcile.drain_queue import DrainQueue
from kubeproxy_py.reconcile.drift import Drift, ScopeDiff
from kubeproxy_py.reconcile.fingerprints import Fingerprints
from kubeproxy_py.reconcile.retry_queue import RetryQueue


class ActualState:
    """What is known of the kernel.  *draining* is told of every real server that begins or ends to drain."""

    def __init__(self, draining: DrainQueue) -> None:
        self.rows: Rows = {}
        self.is_adopted = False  # the kernel was read, and what is known of it is trusted
        self.pending = RetryQueue()
        self.drift = Drift()
        self.draining = draining
        self.fingerprints = Fingerprints()

    def adopt(self, rows: Rows) -> None:
        """Replace all that was known by *rows*, which were read from the kernel."""
        self.rows = rows
        self.is_adopted = True
        self.pending = RetryQueue()
        self.fingerprints.invalidate_all()

    def record_full_sync(self, plan: Plan, failures: Collection[StepFailure], desired: Rows, now_s: float) -> None:
        """Record the outcome of *plan*, which was made for every row."""
        failed = {failure.step.key for failure in failures}
        self.fingerprints.invalidate_all()
        if failed or len(plan) <= len(self.rows):
            self._apply_to_rows(plan, failed)
        else:
            # A dict that grows step by step to 140,000 rows takes twice the memory on its way; a copy does not.
            extra = {key: spec for key, spec in self.rows.items() if key not in desired}
            self.rows = {**desired, **extra}
            self._apply_to_rows((step for step in plan if step.key not in desired), failed)
        self.pending.record_outcome((), failed, now_s)
        self.drift.record_outcome(None, failed)
        self.track_draining((key for key, spec in self.rows.items() if spec == DRAINING), desired, now_s)

    def record_outcome(
        self, plan: Plan, failures: Collection[StepFailure], tried: Collection[Key], desired: Rows, now_s: float
    ) -> None:
        """Record the outcome of *plan*, which was made for the keys *tried*."""
        failed = {failure.step.key for failure in failures}
        self.fingerprints.invalidate(step.key for step in plan)
        self._apply_to_rows(plan, failed)
        # An added real server drained before only if something drains.
        changed = (step.key for step in plan if step.verb != "add" or self.draining)
        self.track_draining(changed, desired, now_s)
        self.pending.record_outcome(tried, failed, now_s)
        self.drift.record_outcome(tried, failed)

    def record_difference(self, diff: ScopeDiff, desired: Rows, now_s: float) -> int:
        """Record the rows of *diff* that differ from what was known as drift; return their number."""
        keys = diff.differing(self.rows)
        if not keys:
            return 0
        for key in keys:
            if key in diff.found:
                self.rows[key] = diff.found[key]
            else:
                del self.rows[key]
        self.fingerprints.invalidate(keys)
        self.pending.enqueue(keys)
        self.drift.record(keys)
        self.track_draining(keys, desired, now_s)
        return len(keys)

    def track_draining(self, keys: Iterable[Key], desired: Rows, now_s: float) -> None:
        """Have the drain queue track or drop each of *keys*."""
        for key in keys:
            self.draining.track(key, self.rows, desired, now_s)

    def _apply_to_rows(self, plan: Iterable[Step], failed: Collection[Key]) -> None:
        for step in plan:
            if step.key in failed:
                continue
            if step.verb == "delete":
                self.rows.pop(step.key, None)
            else:
                self.rows[step.key] = step.spec
