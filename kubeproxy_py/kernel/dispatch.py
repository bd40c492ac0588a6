"""dispatch: a plan -> each run of steps to the adapter of its kind, in order, and what came of them.

Law: the order of the plan is kept, and an error stays at its row.  What needs a row that could not be made waits
(``Failed`` with errno 0), and so does the removal of what a row that could not be removed leans on; all others go on.
Adapters know nothing of one another; what rows need of rows of another kind is told by the tables NEEDS and
LEANS_ON alone.  A row that could not be *updated* still exists, so nothing waits for it.

A plan of 140,000 steps costs some 10 ms here: one pass to find the runs, and nothing more until something fails.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

from kubeproxy_py.kernel import Scope, Snapshot
from kubeproxy_py.kernel.errors import KernelError
from kubeproxy_py.kernel.runs import kinds, runs
from kubeproxy_py.model.rows import (
    IPVS_DEVICE,
    Address,
    Chain,
    ChainSpec,
    Ipset,
    IpsetEntry,
    Jump,
    Key,
    Link,
    Rows,
    Spec,
    VirtualServer,
    named_chains,
    named_sets,
)
from kubeproxy_py.model.services import IP
from kubeproxy_py.model.steps import Outcome, Plan, Step, StepFailure


class Adapter(Protocol):
    """One part of the kernel: it is told steps of its kinds, and read back."""

    def scopes(self) -> Sequence[Scope]:
        """What it can read."""
        ...

    def read(self, scope: Scope) -> Rows:
        """The rows of *scope* as they are now.  Raises KernelError if it could not be asked."""
        ...

    def apply(self, steps: Sequence[Step]) -> Sequence[StepFailure]:
        """Carry out every step that can be; tell those that were refused.  Raises KernelError if all were."""
        ...

    def close(self) -> None:
        """Give back sockets."""
        ...


@runtime_checkable
class Snapshotter(Protocol):
    """An adapter that can say what the kernel says of a scope without making rows of it."""

    def snapshot(self, scope: Scope) -> Snapshot:
        """What ``read`` would tell.  Raises KernelError if it could not be asked."""
        ...


def dispatch(plan: Plan, adapters: Mapping[type[Key], Adapter]) -> Outcome:
    """Carry out every step of *plan* that can be."""
    failed: list[StepFailure] = []
    for adapter, run in runs(plan.steps, map(adapters.__getitem__, kinds(plan.steps))):
        steps, waiting = _without_waiting(plan, run, failed)
        failed += waiting
        failed += _apply(adapter, steps)
    return Outcome(tuple(failed))


def _apply(adapter: Adapter, steps: Sequence[Step]) -> Sequence[StepFailure]:
    """What the adapter refuses: all, where it could not even ask."""
    try:
        return adapter.apply(steps) if steps else ()
    except KernelError as error:
        return [StepFailure(step, error.errno, str(error)) for step in steps]


def _chain_needs(key: Any, spec: Spec) -> list[Key]:
    rules = spec.rules if isinstance(spec, ChainSpec) else ()
    sets = (Ipset(name) for name in named_sets(rules))
    chains = (Chain(key.family, key.table, name) for name in named_chains(rules))
    return [*sets, *chains]


DEPENDS_ON: dict[type[Key], Callable[[Any, Spec], Iterable[Key]]] = {
    # Real servers need their virtual server too, but go in one run with it, and the kernel says so itself (ESRCH).
    IpsetEntry: lambda key, _: (Ipset(key.set),),
    Address: lambda _key, _: (Link(IPVS_DEVICE),),
    Chain: _chain_needs,
    Jump: lambda key, _: (Chain(key.family, key.table, key.target),),
}
"""What must exist before a row of the kind is made or changed."""

DELETE_AFTER: dict[type[Key], Callable[[Any], Iterable[Key]]] = {
    # An address that outlives its virtual servers leads packets to the host's own ports.
    VirtualServer: lambda key: (Address(key.address),),
}
"""What must be gone before a row of the kind may go, where the kernel itself would not refuse."""


def _without_waiting(
    plan: Plan, steps: Sequence[Step], failed: Sequence[StepFailure]
) -> tuple[Sequence[Step], list[StepFailure]]:
    """*steps* without those that must wait for one of *failed*, and these."""
    if not failed:
        return steps, []
    lost: dict[str, set[Key]] = {"add": set(), "update": set(), "delete": set()}
    for each in failed:
        lost[each.step.verb].add(each.step.key)
    bare = _bare_addresses(plan, lost["add"])
    ready: list[Step] = []
    waiting: list[StepFailure] = []
    for step in steps:
        blocker = _blocker(step, lost["add"], lost["delete"], bare)
        if blocker is None:
            ready.append(step)
        else:
            waiting.append(StepFailure(step, 0, f"waits for {type(blocker).__name__} {blocker}"))
            lost[step.verb].add(step.key)
    return ready, waiting


def _blocker(step: Step, unmade: set[Key], unremoved: set[Key], bare: Mapping[IP, Key]) -> Key | None:
    """The row for which *step* must wait, if any."""
    kind = type(step.key)
    if step.verb == "delete":
        leans_on = DELETE_AFTER.get(kind)
        return next((key for key in leans_on(step.key) if key in unremoved), None) if leans_on else None
    needs = DEPENDS_ON.get(kind)
    blocker = next((key for key in needs(step.key, step.spec) if key in unmade), None) if needs else None
    return blocker or (bare.get(step.key.address) if isinstance(step.key, Address) else None)


def _bare_addresses(plan: Plan, unmade: set[Key]) -> dict[IP, Key]:
    """Addresses of which *plan* adds virtual servers and all were refused, each with one of these.

    Such an address must not be bound: its packets would reach the host's own ports.
    """
    refused: dict[IP, Key] = {key.address: key for key in unmade if isinstance(key, VirtualServer)}
    if refused:
        for step in plan:
            if step.verb == "add" and isinstance(step.key, VirtualServer) and step.key not in unmade:
                refused.pop(step.key.address, None)
    return refused
