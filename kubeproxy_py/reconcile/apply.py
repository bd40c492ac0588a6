"""Apply a plan: hand it to the kernel part by part, and hold back the steps that must wait.

Invariants:
- The order of the plan is kept.
- A step that depends on one that failed, in this plan or an earlier one, waits (plan/dependencies.py): it becomes a
  StepFailure with errno 0 that names the row it waits for.  All other steps are tried.
"""

from collections.abc import Collection, Iterator
from itertools import groupby

from kubeproxy_py.kernel import Kernel, scope_of
from kubeproxy_py.model.rows import IpsetEntry, Key, PolicyEntry, Rows
from kubeproxy_py.model.steps import Plan, Step, StepFailure, group_by_kind
from kubeproxy_py.plan.dependencies import Dependencies
from kubeproxy_py.plan.set_roles import waiting_role


def apply_plan(
    kernel: Kernel, plan: Plan, desired: Rows, actual: Rows, unfinished: Collection[Key] = ()
) -> tuple[StepFailure, ...]:
    """Carry out every step of *plan* that can be, and return those that failed or wait.

    Args:
        kernel: The kernel.
        plan: The steps from *actual* to *desired*.
        desired: All desired rows.
        actual: All actual rows before the plan.
        unfinished: The keys that are not as desired and that *plan* does not try, because they failed before.
    """
    failures: list[StepFailure] = []
    dependencies = Dependencies(desired, actual, plan, unfinished) if unfinished else None
    for steps in _parts(plan):
        ready, waiting = dependencies.split(steps) if dependencies else (steps, ())
        failures += waiting
        refused = kernel.apply(Plan(tuple(ready))).failures if ready else ()
        if refused:
            dependencies = dependencies or Dependencies(desired, actual, plan)
            for failure in refused:
                dependencies.record(failure.step, is_under_way=failure.is_under_way)
            failures += refused
    return tuple(failures)


def _run_of_entries(step: Step) -> tuple[str, str]:
    """Return what differs between steps on entries where the later ones wait for the earlier ones."""
    # Some deletions wait for additions, what the firewall closes for the firewall, and what masquerades, to be deleted,
    # for the deletion of what exempts from it.  All others are dropped only where pods are led elsewhere.
    assert isinstance(step.key, IpsetEntry)
    return step.verb, waiting_role(step.key.set, is_deleted=step.verb == "delete")


def _parts(plan: Plan) -> Iterator[list[Step]]:
    """Yield the steps that are sent together, so that those which wait for their success are not among them.

    They follow each other, and are on scopes of one kind: all sets, or all tables of iptables.
    """
    steps: list[Step] = []
    part = ""
    for kind, group in group_by_kind(plan):
        previous, part = part, scope_of(group[0].key).kind
        if part != previous and steps:
            yield steps
            steps = []
        runs = (
            [list(run) for _, run in groupby(group, _run_of_entries)] if kind in (IpsetEntry, PolicyEntry) else [group]
        )
        for run in runs[:-1]:
            yield steps + run
            steps = []
        steps += runs[-1]
    if steps:
        yield steps
