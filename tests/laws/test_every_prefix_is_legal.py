"""Law 2: after any step of any plan the kernel accepts its state, and no packet reaches an incomplete Service.

A crash there is repaired by planning again.  The kernel is MemoryKernel, which refuses what Linux refuses.  After every
single step the rows are compared with those desired before and after the plan, and the process may die before any step.
Any kind of step may also fail until further notice; what happens to packets is evaluated by packets.py, which knows
nothing of the planner.
"""

import re
from collections.abc import Callable, Iterable
from errno import ENOMEM

from hypothesis import event, given, note
from hypothesis import strategies as st

from kubeproxy_py.kernel.memory import SimulatedCrash
from kubeproxy_py.model.events import ObjectEvent
from kubeproxy_py.model.steps import Step
from tests.laws.checking_kernels import CheckingKernel, PacketKernel, agent_on, started_agent, sync, wanted
from tests.laws.histories import batches, edits, moves
from tests.laws.new_compiler import new_compiler


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


FAULTS = (
    *("add Ipset .*LOOP-BACK", "add Ipset .*-CLUSTER-IP", "add Ipset .*EXTERNAL-IP", "add Ipset .*LOAD-BALANCER$"),
    *("add Ipset .*SOURCE", "add Ipset .*-FW", "add Ipset .*IPVS-IPS", "add Ipset .*NODE-PORT", "add Ipset .*LOCAL"),
    *("(add|update) Chain IPv4 nat", "(add|update) Chain .* filter", "(add|update) Chain .*SERVICES"),
    *("(add|update) Chain .*POSTROUTING", "(add|update) Chain .*MARK-MASQ", "(add|update) Chain .*LOAD-BALANCER"),
    *("(add|update) Chain .*IPVS-FILTER", "(add|update) Chain .*FIREWALL", "(add|update) Chain .*OUT-FILTER"),
    *("update Chain", "add Chain", "add Jump", "add Jump .*INPUT", "add Jump .* nat", "add Jump .*FIREWALL"),
    *("add IpsetEntry", "delete IpsetEntry", "add IpsetEntry .*LOCAL", "delete IpsetEntry .*LOCAL"),
    *("add IpsetEntry .*EXTERNAL-IP ", "delete IpsetEntry .*EXTERNAL-IP ", "add IpsetEntry .*-FW"),
    *("add IpsetEntry .*LOAD-BALANCER ", "delete IpsetEntry .*LOAD-BALANCER ", "delete IpsetEntry .*-FW"),
    *("add IpsetEntry .*-CLUSTER-IP", "add IpsetEntry .*NODE-PORT", "delete IpsetEntry .*SOURCE"),
    *("add IpsetEntry .*SOURCE", "add IpsetEntry .*IPVS-IPS", "delete IpsetEntry .*IPVS-IPS"),
    *("add VirtualServer", "update VirtualServer", "delete VirtualServer", "add VirtualServer .*:80/TCP"),
    *("add RealServer", "update RealServer", "delete RealServer", "add Address", "delete Address"),
)
"""Patterns of what fails: verb, kind and key of steps."""


def failing(patterns: Iterable[str]) -> Callable[[Step], int]:
    """Return a fault of MemoryKernel that refuses the steps that match one of *patterns*."""
    compiled = [re.compile(pattern) for pattern in patterns]

    def fault(step: Step) -> int:
        text = f"{step.verb} {type(step.key).__name__} {step.key}"
        return ENOMEM if any(pattern.match(text) for pattern in compiled) else 0

    return fault


faults = st.lists(st.lists(st.sampled_from(FAULTS), max_size=2), min_size=5, max_size=5)
"""What fails during each sync."""

pauses = st.lists(st.sampled_from([0.1, 61.0]), min_size=5, max_size=5)
"""Seconds after each sync: too few or enough for another try of what failed."""


@given(history=batches, failing_in=faults, pauses_s=pauses)
def test_no_packet_reaches_an_incomplete_service_whatever_fails(
    history: list[list[ObjectEvent]], failing_in: list[list[str]], pauses_s: list[float]
) -> None:
    sync_with_faults(history, failing_in, pauses_s)


@given(history=moves)
def test_no_client_notices_a_gap_when_a_frontend_moves(history: list[list[ObjectEvent]]) -> None:
    sync_with_faults(history, [[]] * len(history), [0.1] * len(history))


@given(history=edits, failing_in=faults, pauses_s=pauses)
def test_no_client_of_a_service_notices_a_gap_when_it_is_edited_whatever_fails(
    history: list[list[ObjectEvent]], failing_in: list[list[str]], pauses_s: list[float]
) -> None:
    sync_with_faults(history, failing_in, pauses_s)


@given(history=edits)
def test_no_client_of_a_service_notices_a_gap_when_it_is_edited(history: list[list[ObjectEvent]]) -> None:
    sync_with_faults(history, [[]] * len(history), [0.1] * len(history))


def sync_with_faults(history: list[list[ObjectEvent]], failing_in: list[list[str]], pauses_s: list[float]) -> None:
    """Sync after each batch of *history* while some steps fail, then until everything is done."""
    kernel, happened, now_s = PacketKernel(), list[ObjectEvent](), 0.0
    agent = agent_on(kernel, new_compiler())
    for batch, patterns, pause_s in zip(history, failing_in, pauses_s, strict=False):
        happened += batch
        kernel.fault = failing(patterns)
        for object_event in batch:
            agent.handle_event(object_event, now_s)
        sync(agent, kernel, happened, now_s)
        now_s += pause_s
    kernel.fault = lambda _step: 0
    for _ in range(6):
        now_s += 31.0
        sync(agent, kernel, happened, now_s)
    desired = agent.compiler.desired.rows
    assert wanted(kernel.rows, desired) == desired
    assert not agent.state.pending.keys
