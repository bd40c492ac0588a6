"""Law 2: after any step of any plan the kernel accepts its state, and no packet meets an incomplete Service.

A crash there is repaired by planning again.  The kernel is MemoryKernel, which refuses what Linux refuses.  After every
single step the rows are compared with those desired before and after the plan, and the process may die before any step.
"""

import re

from hypothesis import event, given, note
from hypothesis import strategies as st

from kubeproxy_py.compile.compiler import Compiler
from kubeproxy_py.kernel.memory import MemoryKernel, SimulatedCrash
from kubeproxy_py.model.events import Feed, ObjectEvent, Synced
from kubeproxy_py.model.rows import (
    DRAINING,
    Address,
    Chain,
    ChainSpec,
    IpsetEntry,
    Key,
    RealServer,
    Rows,
    VirtualServer,
)
from kubeproxy_py.model.steps import Outcome, Plan
from kubeproxy_py.plan.drain_policy import is_draining
from kubeproxy_py.reconcile.agent import Agent
from tests.laws.histories import batches, known
from tests.laws.test_path_does_not_matter import compiler as new_compiler


class CheckingKernel(MemoryKernel):
    """Checks the state between any two steps against the law, and fails if a step is refused."""

    def __init__(self) -> None:
        super().__init__()
        self.before: Rows = {}
        self.desired: Rows = {}
        self.steps_seen = 0

    def apply(self, plan: Plan) -> Outcome:
        self.before = dict(self.rows)
        for step in plan:
            outcome = super().apply(Plan((step,)))
            assert not outcome.failures, f"Linux would refuse {outcome.failures[0]}"
            self.steps_seen += 1
            check_no_incomplete_service(self.before, self.desired, self.rows)
        return Outcome()


def check_no_incomplete_service(before: Rows, desired: Rows, now: Rows) -> None:
    """Check what must be true after every step on the way from *before* to *desired*."""
    for key in before.keys() & desired.keys():
        if before[key] == desired[key]:
            assert key in now, f"{key} was right and was deleted"
            if not isinstance(before[key], ChainSpec):
                assert now[key] == desired[key], f"{key} was right and was changed"
    for key in now:
        if isinstance(key, Address):
            check_address(key.address, desired if key not in before else before if key not in desired else {}, now)
        if isinstance(key, VirtualServer) and key in before and key in desired:
            check_never_empty(key, before, desired, now)
    check_rules_exist(before, desired, now)


def check_address(address: str, required: Rows, now: Rows) -> None:
    """While an address that is added or deleted is bound, all rows of it exist."""
    for key, spec in required.items():
        if belongs(key, address):
            assert now.get(key, "missing") == spec, f"{address} is bound while {key} is {now.get(key, 'missing')}"


def belongs(key: Key, address: str) -> bool:
    match key:
        case VirtualServer():
            return key.address == address
        case RealServer():
            return key.virtual_server.address == address
        case IpsetEntry():
            return key.entry.split(",")[0] == address and "LOOP-BACK" not in key.set
    return False


def check_never_empty(server: VirtualServer, before: Rows, desired: Rows, now: Rows) -> None:
    """Check that a virtual server which has endpoints before and after always has some."""

    def has_serving(rows: Rows) -> bool:
        return any(
            isinstance(key, RealServer) and key.virtual_server == server and spec != DRAINING
            for key, spec in rows.items()
        )

    if has_serving(before) and has_serving(desired):
        assert has_serving(now), f"{server} has no serving real server"


def check_rules_exist(before: Rows, desired: Rows, now: Rows) -> None:
    """Check that rules on a set exist while the set has entries that are desired or not yet all deleted."""
    non_empty = {key.set for key in now if isinstance(key, IpsetEntry)}
    for key in now:
        if not isinstance(key, Chain):
            continue
        for rows in (before, desired):
            spec, present = rows.get(key), now[key]
            assert isinstance(present, ChainSpec)
            for rule in spec.rules if isinstance(spec, ChainSpec) else ():
                sets = re.findall(r"--match-set (\S+)", rule)
                all_used = all(has_entry(name, rows) for name in sets)
                if sets and all_used and set(sets) <= non_empty and not_removed(rule, key, before, desired, sets):
                    assert rule in present.rules, f"{key} lacks {rule} while its sets have entries"


def has_entry(name: str, rows: Rows) -> bool:
    return any(isinstance(key, IpsetEntry) and key.set == name for key in rows)


def not_removed(rule: str, chain: Chain, before: Rows, desired: Rows, sets: list[str]) -> bool:
    """Whether *rule* is in both, where *sets* have entries (a new detectLocalMode replaces rules of unchanged sets)."""
    for rows in (before, desired):
        spec = rows.get(chain)
        if all(has_entry(name, rows) for name in sets) and not (isinstance(spec, ChainSpec) and rule in spec.rules):
            return False
    return True


def agent_on(kernel: CheckingKernel, compiler: Compiler) -> Agent:
    agent = Agent(kernel, compiler, clock=lambda: 0.0)
    feeds: tuple[Feed, ...] = ("services", "slices", "node")
    for feed in feeds:
        agent.handle_event(Synced(feed), 0.0)
    return agent


def wanted(rows: Rows, desired: Rows) -> Rows:
    """*rows* without draining real servers."""
    return {key: spec for key, spec in rows.items() if not is_draining(key, spec, desired)}


@given(history=batches, crashes=st.lists(st.integers(min_value=0, max_value=60), min_size=5, max_size=5))
def test_crash_before_any_step_is_repaired_by_planning_again(
    history: list[list[ObjectEvent]], crashes: list[int]
) -> None:
    kernel, happened = CheckingKernel(), list[ObjectEvent]()
    agent = agent_on(kernel, new_compiler())
    for batch, steps in zip(history, crashes, strict=False):
        happened += batch
        for object_event in batch:
            agent.handle_event(object_event, 0.0)
        kernel.steps_until_crash = steps if steps < 60 else None
        try:
            sync(agent, kernel, happened)
        except SimulatedCrash:
            event("died during a plan")
            kernel.steps_until_crash = None
            agent = started_agent(kernel, happened)
            sync(agent, kernel, happened)
        desired = agent.compiler.desired.rows
        assert desired == kernel.desired
        assert wanted(kernel.rows, desired) == desired
        assert kernel.rows == agent.state.rows
    note(f"{kernel.steps_seen} steps")


@given(history=batches)
def test_second_sync_has_nothing_to_do(history: list[list[ObjectEvent]]) -> None:
    kernel, happened = CheckingKernel(), [object_event for batch in history for object_event in batch]
    sync(started_agent(kernel, happened), kernel, happened)
    kernel.applied.clear()
    sync(started_agent(kernel, happened), kernel, happened)
    assert kernel.applied == []


def started_agent(kernel: CheckingKernel, history: list[ObjectEvent]) -> Agent:
    """An agent that starts after the events *history*."""
    agent = agent_on(kernel, new_compiler())
    for object_event in known(history):
        agent.handle_event(object_event, 0.0)
    return agent


def sync(agent: Agent, kernel: CheckingKernel, history: list[ObjectEvent]) -> None:
    """Sync once; the kernel gets the rows that will be desired beforehand."""
    probe = new_compiler()
    for object_event in known(history):
        probe.handle_event(object_event)
    probe.compile()
    kernel.desired = dict(probe.desired.rows)
    agent.run_due(0.0)
