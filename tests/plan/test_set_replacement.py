"""Recreating a set of another type while rules refer to it: no packet is lost in a gap at any step."""

from collections.abc import Iterator

import pytest

from kubeproxy_py.kernel.memory import MemoryKernel
from kubeproxy_py.model.kube_names import PLACEHOLDER_SET
from kubeproxy_py.model.rows import Chain, ChainSpec, Ipset, IpsetEntry, IpsetSpec, Rows, referenced_sets
from kubeproxy_py.model.steps import Plan, Step
from kubeproxy_py.plan.plan import make_plan

NAME, OTHER = "KUBE-NODE-PORT-SCTP-HASH", "KUBE-CLUSTER-IP"
SET, OTHER_SET = Ipset(NAME), Ipset(OTHER)
WRONG, RIGHT = IpsetSpec("bitmap:port", None), IpsetSpec("hash:ip,port", "IPv4")
CHAIN, OTHER_CHAIN = Chain("IPv4", "nat", "KUBE-NODE-PORT"), Chain("IPv4", "nat", "KUBE-SERVICES")
RULES = ("-j FIRST", f"-m set --match-set {NAME} dst,dst -j MARK", "-j LAST")
ENTRIES: Rows = {IpsetEntry(NAME, f"192.168.3.{n},sctp:30090"): None for n in (10, 11)}
ACTUAL: Rows = {SET: WRONG, IpsetEntry(NAME, "30090"): None, CHAIN: ChainSpec(RULES), OTHER_CHAIN: ChainSpec(("-j A",))}
DESIRED: Rows = {SET: RIGHT, **ENTRIES, CHAIN: ChainSpec(RULES), OTHER_CHAIN: ChainSpec(("-j A",))}


def states(actual: Rows, steps: tuple[Step, ...]) -> Iterator[Rows]:
    """The rows after each of *steps*, none of which the kernel may refuse."""
    kernel = MemoryKernel(actual)
    for step in steps:
        assert not kernel.apply(Plan((step,))).failures, step
        yield dict(kernel.rows)


def is_served(rows: Rows) -> bool:
    """Whether the chain matches on a set of the right type with all entries."""
    spec = rows[CHAIN]
    assert isinstance(spec, ChainSpec)
    assert (spec.rules[0], spec.rules[-1]) == ("-j FIRST", "-j LAST")
    required = {key.entry for key in ENTRIES if isinstance(key, IpsetEntry)}
    return any(
        rows.get(Ipset(name)) == RIGHT and required <= entries(name, rows) for name in referenced_sets(spec.rules)
    )


def entries(name: str, rows: Rows) -> set[str]:
    return {key.entry for key in rows if isinstance(key, IpsetEntry) and key.set == name}


def test_set_of_another_type_is_recreated_under_the_rule_that_refers_to_it() -> None:
    *_, last = states(ACTUAL, make_plan(DESIRED, ACTUAL).steps)
    assert last == DESIRED


def test_once_served_every_further_step_leaves_it_served() -> None:
    served = [is_served(rows) for rows in states(ACTUAL, make_plan(DESIRED, ACTUAL).steps)]
    assert True in served
    assert all(served[served.index(True) :])


def test_crash_after_any_step_is_repaired_without_interrupting_service() -> None:
    for crashed in states(ACTUAL, make_plan(DESIRED, ACTUAL).steps):
        repairing = list(states(crashed, make_plan(DESIRED, crashed).steps))
        last = repairing[-1] if repairing else crashed
        assert last == DESIRED
        if is_served(crashed):
            assert all(is_served(rows) for rows in repairing)


def test_only_the_set_the_placeholder_and_the_chain_are_changed() -> None:
    changed = {str(step.key).partition(" ")[0] for step in make_plan(DESIRED, ACTUAL).steps if step.key != CHAIN}
    assert changed == {NAME, PLACEHOLDER_SET}


def test_set_that_no_rule_refers_to_needs_no_placeholder() -> None:
    lone: Rows = {SET: WRONG, IpsetEntry(NAME, "30090"): None}
    steps = make_plan({SET: RIGHT, **ENTRIES}, lone).steps
    assert [step.verb for step in steps] == ["delete", "update", "add", "add"]
    *_, last = states(lone, steps)
    assert last == {SET: RIGHT, **ENTRIES}


def test_several_sets_are_recreated_one_after_the_other() -> None:
    other_entry = IpsetEntry(OTHER, "10.96.0.10,tcp:80")
    rule = ChainSpec((f"-m set --match-set {OTHER} dst,dst -j ACCEPT",))
    actual: Rows = {**ACTUAL, OTHER_SET: IpsetSpec("hash:ip", "IPv4"), OTHER_CHAIN: rule}
    desired: Rows = {**DESIRED, OTHER_SET: RIGHT, other_entry: None, OTHER_CHAIN: rule}
    *_, last = states(actual, make_plan(desired, actual).steps)
    assert last == desired


def test_planning_only_the_set_includes_its_entries() -> None:
    *_, last = states(ACTUAL, make_plan(DESIRED, ACTUAL, [SET]).steps)
    assert last == DESIRED


@pytest.mark.parametrize(("have", "want", "half"), [(65536, 131072, 0), (131072, 65536, -1)])
def test_set_grows_before_entries_are_added_and_shrinks_after_they_are_deleted(have: int, want: int, half: int) -> None:
    old, new = IpsetEntry(OTHER, "10.0.0.1,tcp:80"), IpsetEntry(OTHER, "10.0.0.2,tcp:80")
    sizes = [IpsetSpec("hash:ip,port", "IPv4", maxelem=maxelem) for maxelem in (have, want)]
    steps = make_plan({OTHER_SET: sizes[1], new: None}, {OTHER_SET: sizes[0], old: None}).steps
    assert steps[half] == Step("update", OTHER_SET, sizes[1], sizes[0])
    assert len(steps) == 3
