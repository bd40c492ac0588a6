"""Law 2 while chains and jumps take long: steps on them end at any later time, in their order.

What packets meet is checked after every step, late ones included, as in test_every_prefix_is_legal.py.
"""

from collections import deque
from errno import ENOMEM

from hypothesis import event, given
from hypothesis import strategies as st

from kubeproxy_py.kernel import LateSteps, Readable, Scope, Snapshot
from kubeproxy_py.kernel.errors import KernelError
from kubeproxy_py.model.events import ObjectEvent
from kubeproxy_py.model.rows import Chain, Jump, Rows
from kubeproxy_py.model.steps import UNDER_WAY, Outcome, Plan, StepFailure
from tests.laws.checking_kernels import CheckedAgent, PacketKernel
from tests.laws.histories import batches, edits, moves


class LateKernel(PacketKernel):
    """Leaves steps on chains and jumps under way, while *is_late*, until `finish` carries out the oldest."""

    def __init__(self) -> None:
        super().__init__()
        self.jobs: deque[Plan] = deque()
        self.is_late = False

    def apply(self, plan: Plan) -> Outcome:
        is_of_rules = any(isinstance(step.key, Chain | Jump) for step in plan)
        if not is_of_rules or not (self.is_late or self.jobs):
            return super().apply(plan)
        self.jobs.append(plan)
        return Outcome(tuple(StepFailure(step, UNDER_WAY, "under way") for step in plan))

    def read(self, scope: Scope) -> Rows:
        self._check_read_in_order(scope)
        return super().read(scope)

    def snapshot(self, readable: Readable) -> Snapshot:
        self._check_read_in_order(readable)
        return super().snapshot(readable)

    def _check_read_in_order(self, readable: Readable) -> None:
        if self.jobs and isinstance(readable, Scope) and readable.kind == "table":
            raise KernelError("under way", errno=UNDER_WAY)

    def finish(self, *, fails: bool) -> LateSteps:
        """Carry out the oldest steps that are under way; all are refused if it *fails*."""
        plan = self.jobs.popleft()
        self.fault = lambda _step: ENOMEM if fails else 0
        outcome = super().apply(plan)
        self.fault = lambda _step: 0
        return LateSteps(plan.steps, outcome.failures, lambda: None)


Lateness = tuple[bool, int, bool]

lateness = st.lists(st.tuples(st.booleans(), st.integers(0, 3), st.booleans()), min_size=5, max_size=5)
"""For each batch: whether rules are late in its sync, how many late jobs end after it, and whether these fail."""


def sync_with_late_rules(history: list[list[ObjectEvent]], late: list[Lateness]) -> None:
    """Sync after each batch of *history* while rules are late, then until everything is done."""
    kernel = LateKernel()
    checked = CheckedAgent(kernel)

    def finish(*, fails: bool) -> None:
        checked.agent.handle_late_result(kernel.finish(fails=fails), kernel.now_s)

    for batch, (is_late, ending, fails) in zip(history, late, strict=False):
        checked.handle(batch)
        kernel.is_late = is_late
        checked.sync()
        for _ in range(min(ending, len(kernel.jobs))):
            event("late steps ended")
            finish(fails=fails)
            checked.advance(0.1)
            checked.sync()
    kernel.is_late = False
    for _ in range(12):
        while kernel.jobs:
            finish(fails=False)
        checked.advance(31.0)
        checked.sync()
        if not kernel.jobs and not checked.agent.state.pending.keys:
            break
    checked.check_desired()


@given(history=batches, late=lateness)
def test_no_packet_meets_an_incomplete_service_while_rules_are_under_way(
    history: list[list[ObjectEvent]], late: list[Lateness]
) -> None:
    sync_with_late_rules(history, late)


@given(history=edits, late=lateness)
def test_no_client_of_a_service_meets_a_gap_when_it_is_edited_while_rules_are_under_way(
    history: list[list[ObjectEvent]], late: list[Lateness]
) -> None:
    sync_with_late_rules(history, late)


@given(history=moves, late=lateness)
def test_no_client_meets_a_gap_when_a_frontend_moves_while_rules_are_under_way(
    history: list[list[ObjectEvent]], late: list[Lateness]
) -> None:
    sync_with_late_rules(history, late)
