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
from kubeproxy_py.reconcile.agent import Agent
from tests.laws.histories import batches, edits
from tests.laws.test_every_prefix_is_legal import (
    PacketKernel,
    agent_on,
    sync,
    wanted,
)
from tests.laws.test_path_does_not_matter import compiler as new_compiler


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

    def finish(self, agent: Agent, *, fails: bool) -> None:
        """Carry out the oldest steps that are under way; all are refused if it *fails*."""
        plan = self.jobs.popleft()
        self.fault = lambda _step: ENOMEM if fails else 0
        outcome = super().apply(plan)
        self.fault = lambda _step: 0
        agent.handle_late_result(LateSteps(plan.steps, outcome.failures, lambda: None), self.now_s)


Lateness = tuple[bool, int, bool]

lateness = st.lists(st.tuples(st.booleans(), st.integers(0, 3), st.booleans()), min_size=5, max_size=5)
"""For each batch: whether rules are late in its sync, how many late jobs end after it, and whether these fail."""


def sync_with_late_rules(history: list[list[ObjectEvent]], late: list[Lateness]) -> None:
    """Sync after each batch of *history* while rules are late, then until everything is done."""
    kernel, happened = LateKernel(), list[ObjectEvent]()
    agent, now_s = agent_on(kernel, new_compiler()), 0.0
    for batch, (is_late, ending, fails) in zip(history, late, strict=False):
        happened += batch
        for object_event in batch:
            agent.handle_event(object_event, now_s)
        kernel.is_late = is_late
        sync(agent, kernel, happened, now_s)
        for _ in range(min(ending, len(kernel.jobs))):
            event("late steps ended")
            kernel.finish(agent, fails=fails)
            now_s += 0.1
            sync(agent, kernel, happened, now_s)
    kernel.is_late = False
    for _ in range(12):
        if not kernel.jobs and not agent.state.pending.keys:
            break
        while kernel.jobs:
            kernel.finish(agent, fails=False)
        now_s += 31.0
        sync(agent, kernel, happened, now_s)
    desired = agent.compiler.desired.rows
    assert wanted(kernel.rows, desired) == desired
    assert not agent.state.pending.keys


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
