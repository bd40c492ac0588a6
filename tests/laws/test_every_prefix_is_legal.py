"""Law 2: after any step of any plan the kernel is in a state it accepts and in which no packet meets half a Service;
a crash there is healed by planning again.

The kernel is MemoryKernel, which refuses what Linux refuses.  After every single step the rows are held against what
was desired before and after, and the process may die before any of them.
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
from kubeproxy_py.reconcile.reconciler import Reconciler
from tests.laws.histories import batches, known
from tests.laws.test_path_does_not_matter import compiler


class WatchedKernel(MemoryKernel):
    """Holds every state between two steps against the law, and refuses nothing silently."""

    def __init__(self) -> None:
        super().__init__()
        self.before: Rows = {}
        self.desired: Rows = {}
        self.steps_seen = 0

    def apply(self, plan: Plan) -> Outcome:
        self.before = dict(self.rows)
        for step in plan:
            outcome = super().apply(Plan((step,)))
            assert not outcome.failed, f"Linux would refuse {outcome.failed[0]}"
            self.steps_seen += 1
            check_no_half_service(self.before, self.desired, self.rows)
        return Outcome()


def check_no_half_service(before: Rows, desired: Rows, now: Rows) -> None:
    """What must hold after every step on the way from *before* to *desired*."""
    for key in before.keys() & desired.keys():
        if before[key] == desired[key]:
            assert key in now, f"{key} was right and is gone"
            if not isinstance(before[key], ChainSpec):
                assert now[key] == desired[key], f"{key} was right and was touched"
    for key in now:
        if isinstance(key, Address):
            check_address(key.address, desired if key not in before else before if key not in desired else {}, now)
        if isinstance(key, VirtualServer) and key in before and key in desired:
            check_never_empty(key, before, desired, now)
    check_rules_stand(before, desired, now)


def check_address(address: str, whole: Rows, now: Rows) -> None:
    """While an address that comes or goes is bound, all that belongs to it stands."""
    for key, spec in whole.items():
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
    """A virtual server that had and shall have someone to answer always has."""

    def answering(rows: Rows) -> bool:
        return any(
            isinstance(key, RealServer) and key.virtual_server == server and spec != DRAINING
            for key, spec in rows.items()
        )

    if answering(before) and answering(desired):
        assert answering(now), f"{server} has nobody to answer"


def check_rules_stand(before: Rows, desired: Rows, now: Rows) -> None:
    """While a set has entries that stay or leave whole, the rules on it stand."""
    filled = {key.set for key in now if isinstance(key, IpsetEntry)}
    for key in now:
        if not isinstance(key, Chain):
            continue
        for whole in (before, desired):
            spec, present = whole.get(key), now[key]
            assert isinstance(present, ChainSpec)
            for rule in spec.rules if isinstance(spec, ChainSpec) else ():
                sets = re.findall(r"--match-set (\S+)", rule)
                told_by_all = all(entry_of(name, whole) for name in sets)
                if sets and told_by_all and set(sets) <= filled and both_say(rule, key, before, desired, sets):
                    assert rule in present.rules, f"{key} lacks {rule} while its sets have entries"


def entry_of(name: str, rows: Rows) -> bool:
    return any(isinstance(key, IpsetEntry) and key.set == name for key in rows)


def both_say(rule: str, chain: Chain, before: Rows, desired: Rows, sets: list[str]) -> bool:
    """Whether nobody who has entries in *sets* wants *rule* away (a new detector replaces rules while sets stay)."""
    for rows in (before, desired):
        spec = rows.get(chain)
        if all(entry_of(name, rows) for name in sets) and not (isinstance(spec, ChainSpec) and rule in spec.rules):
            return False
    return True


def agent_on(kernel: WatchedKernel, made: Compiler) -> Reconciler:
    agent = Reconciler(kernel, made, clock=lambda: 0.0)
    feeds: tuple[Feed, ...] = ("services", "slices", "node")
    for feed in feeds:
        agent.handle_event(Synced(feed), 0.0)
    return agent


def wanted(rows: Rows, desired: Rows) -> Rows:
    """*rows* without those on their way out."""
    return {key: spec for key, spec in rows.items() if not is_draining(key, spec, desired)}


@given(history=batches, lives=st.lists(st.integers(min_value=0, max_value=60), min_size=5, max_size=5))
def test_crash_anywhere_is_healed_by_planning_again(history: list[list[ObjectEvent]], lives: list[int]) -> None:
    kernel, told = WatchedKernel(), list[ObjectEvent]()
    agent = agent_on(kernel, compiler())
    for batch, life in zip(history, lives, strict=False):
        told += batch
        for happened in batch:
            agent.handle_event(happened, 0.0)
        kernel.dies_before = life if life < 60 else None
        try:
            sync(agent, kernel, told)
        except SimulatedCrash:
            event("died in the middle of a plan")
            kernel.dies_before = None
            agent = newborn(kernel, told)
            sync(agent, kernel, told)
        desired = agent.compiler.desired.rows
        assert desired == kernel.desired
        assert wanted(kernel.rows, desired) == desired
        assert kernel.rows == agent.actual
    note(f"{kernel.steps_seen} steps")


@given(history=batches)
def test_a_second_sync_has_nothing_to_do(history: list[list[ObjectEvent]]) -> None:
    kernel, told = WatchedKernel(), [happened for batch in history for happened in batch]
    sync(newborn(kernel, told), kernel, told)
    kernel.applied.clear()
    sync(newborn(kernel, told), kernel, told)
    assert kernel.applied == []


def newborn(kernel: WatchedKernel, told: list[ObjectEvent]) -> Reconciler:
    """An agent that starts after *told*."""
    agent = agent_on(kernel, compiler())
    for happened in known(told):
        agent.handle_event(happened, 0.0)
    return agent


def sync(agent: Reconciler, kernel: WatchedKernel, told: list[ObjectEvent]) -> None:
    """One sync, with the kernel told beforehand where it leads."""
    probe = compiler()
    for happened in known(told):
        probe.handle_event(happened)
    probe.compile()
    kernel.desired = dict(probe.desired.rows)
    agent.step()
