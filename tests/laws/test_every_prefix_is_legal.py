"""Law 2: after any step of any plan the kernel accepts its state, and no packet meets an incomplete Service.

A crash there is repaired by planning again.  After every single step the rows are compared with those desired before
and after the plan, and the process may die before any step.  Any kind of step may also fail until further notice; what
packets meet is evaluated by packets.py, which knows nothing of the planner.
"""

from hypothesis import given, note
from hypothesis import strategies as st

from kubeproxy_py.model.events import ObjectEvent
from tests.laws.checking_kernels import CheckedAgent, PacketKernel, RowKernel, failing
from tests.laws.histories import batches, edits, moves

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

faults = st.lists(st.lists(st.sampled_from(FAULTS), max_size=2), min_size=5, max_size=5)
"""What fails during each sync."""

pauses = st.lists(st.sampled_from([0.1, 61.0]), min_size=5, max_size=5)
"""Seconds after each sync: too few or enough for another try of what failed."""

History = list[list[ObjectEvent]]


@given(history=batches, crashes=st.lists(st.integers(min_value=0, max_value=60), min_size=5, max_size=5))
def test_crash_before_any_step_is_repaired_by_planning_again(history: History, crashes: list[int]) -> None:
    kernel = RowKernel()
    checked = CheckedAgent(kernel)
    for batch, steps in zip(history, crashes, strict=False):
        checked.handle(batch)
        checked.sync_through_crash(steps if steps < 60 else None)
        checked.check_desired()
        assert kernel.rows == checked.agent.state.rows
    note(f"{kernel.steps_seen} steps")


@given(history=batches)
def test_second_sync_has_nothing_to_do(history: History) -> None:
    checked = CheckedAgent(RowKernel())
    checked.handle(object_event for batch in history for object_event in batch)
    checked.restart()
    checked.sync()
    checked.kernel.applied.clear()
    checked.restart()
    checked.sync()
    assert checked.kernel.applied == []


@given(history=batches, failing_in=faults, pauses_s=pauses)
def test_no_packet_meets_an_incomplete_service_whatever_fails(
    history: History, failing_in: list[list[str]], pauses_s: list[float]
) -> None:
    sync_with_faults(history, failing_in, pauses_s)


@given(history=moves, failing_in=faults, pauses_s=pauses)
def test_no_client_meets_a_gap_when_a_frontend_moves_whatever_fails(
    history: History, failing_in: list[list[str]], pauses_s: list[float]
) -> None:
    sync_with_faults(history, failing_in, pauses_s)


@given(history=moves)
def test_no_client_meets_a_gap_when_a_frontend_moves(history: History) -> None:
    sync_with_faults(history, [[]] * len(history), [0.1] * len(history))


@given(history=edits, failing_in=faults, pauses_s=pauses)
def test_no_client_of_a_service_meets_a_gap_when_it_is_edited_whatever_fails(
    history: History, failing_in: list[list[str]], pauses_s: list[float]
) -> None:
    sync_with_faults(history, failing_in, pauses_s)


@given(history=edits)
def test_no_client_of_a_service_meets_a_gap_when_it_is_edited(history: History) -> None:
    sync_with_faults(history, [[]] * len(history), [0.1] * len(history))


def sync_with_faults(history: History, failing_in: list[list[str]], pauses_s: list[float]) -> None:
    """Sync after each batch of *history* while some steps fail, then until everything is done."""
    checked = CheckedAgent(PacketKernel())
    for batch, patterns, pause_s in zip(history, failing_in, pauses_s, strict=False):
        checked.kernel.fault = failing(patterns)
        checked.handle(batch)
        checked.sync()
        checked.advance(pause_s)
    checked.settle()
