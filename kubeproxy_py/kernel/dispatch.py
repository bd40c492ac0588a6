"""Dispatch: hand each group of steps of a plan to the adapter of its kind, and collect the failures.

Invariants:
- The order of the plan is kept.
- Adapters do not know each other, and no step waits here: reconcile/apply.py holds back the steps that must wait.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from typing import Protocol, TypeVar, runtime_checkable

from kubeproxy_py.kernel import MarkReader, Scope, Snapshot
from kubeproxy_py.kernel.errors import KernelError
from kubeproxy_py.model.rows import Key, Rows
from kubeproxy_py.model.steps import Outcome, Plan, Step, StepFailure, Verb, group_by_kind

_GroupKey = TypeVar("_GroupKey")


class Adapter(Protocol):
    """Applies steps on some kinds of rows, and reads these rows back."""

    def scopes(self) -> Sequence[Scope]:
        """Return the scopes that this adapter reads."""
        ...

    def read(self, scope: Scope) -> Rows:
        """Return the current rows of *scope*.  Raises KernelError."""
        ...

    def apply(self, steps: Sequence[Step]) -> Sequence[StepFailure]:
        """Carry out every step that can be and return the failures.  Raises KernelError if no step can be."""
        ...

    def close(self) -> None:
        """Close sockets."""
        ...


@runtime_checkable
class Snapshotter(Protocol):
    """An adapter that can list a scope without creating its rows."""

    def snapshot(self, scope: Scope) -> Snapshot:
        """Return the current state of *scope*.  Raises KernelError."""
        ...


@runtime_checkable
class Marked(Protocol):
    """An adapter whose scopes have marks."""

    def mark_readers(self) -> Sequence[MarkReader]:
        """Return the readers of the marks."""
        ...


def dispatch(plan: Plan, adapters: Mapping[type[Key], Adapter]) -> Outcome:
    """Carry out every step of *plan* that can be; *adapters* has one for each kind of row."""
    failures: list[StepFailure] = []
    for adapter, groups in groupby(group_by_kind(plan), lambda group: adapters[group[0]]):
        failures += apply_steps(adapter, [step for _, steps in groups for step in steps])
    return Outcome(tuple(failures))


def group_steps(
    steps: Iterable[Step], group_key: Callable[[Step], _GroupKey]
) -> Iterator[tuple[_GroupKey, list[Step]]]:
    """Yield consecutive *steps* with equal *group_key* together, in order."""
    for key, group in groupby(steps, group_key):
        yield key, list(group)


def row_kind(step: Step) -> type[Key]:
    """Return the kind of row of *step*; a key for ``group_steps``."""
    return type(step.key)


def row_kind_and_verb(step: Step) -> tuple[type[Key], Verb]:
    """Return the kind of row and the verb of *step*; a key for ``group_steps``."""
    return type(step.key), step.verb


def apply_steps(adapter: Adapter, steps: Sequence[Step]) -> Sequence[StepFailure]:
    """Return the failures of *steps*; all of them if the adapter cannot be used."""
    try:
        return adapter.apply(steps)
    except KernelError as error:
        return [StepFailure(step, error.errno, str(error)) for step in steps]
