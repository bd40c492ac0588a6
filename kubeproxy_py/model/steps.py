"""Steps and plans: changes to kernel state, and the outcome of applying them.

Invariants:
- A plan is a value: it can be printed, tested and applied by any Kernel.
- Each step can be applied by itself.
"""

from collections.abc import Iterable, Iterator
from errno import EINPROGRESS
from itertools import groupby
from operator import attrgetter, itemgetter
from typing import Literal

from msgspec import Struct

from kubeproxy_py.model.rows import Key, Spec

Verb = Literal["add", "update", "delete"]

UNDER_WAY = EINPROGRESS
"""The errno of what has not ended yet."""


class Step(Struct, frozen=True, gc=False):
    """One row to add, update or delete."""

    verb: Verb
    key: Key
    spec: Spec = None  # add, update: the spec that the row will have
    before: Spec = None  # update, delete: the spec that the row has according to the actual rows


class Plan(Struct, frozen=True, gc=False):
    """Steps in an order in which every prefix is legal and harmless (plan/plan.py)."""

    steps: tuple[Step, ...] = ()

    def __len__(self) -> int:
        return len(self.steps)

    def __iter__(self) -> Iterator[Step]:
        return iter(self.steps)


class StepFailure(Struct, frozen=True, gc=False):
    """A step that the kernel refused, that was not tried because a step that it depends on failed, or is under way."""

    step: Step
    errno: int  # the kernel's answer; 0: the step was not tried; UNDER_WAY
    message: str
    blocker: Key | None = None  # the row that a step which was not tried waits for

    @property
    def is_under_way(self) -> bool:
        """Whether the step has not ended; its outcome follows (kernel/worker.py)."""
        return self.errno == UNDER_WAY

    def __str__(self) -> str:
        return f"{self.step.verb} {type(self.step.key).__name__} {self.step.key}: {self.message}"


class Outcome(Struct, frozen=True, gc=False):
    """The result of applying a plan: every step that is not in ``failures`` was applied."""

    failures: tuple[StepFailure, ...] = ()


def group_by_kind(steps: Iterable[Step]) -> Iterator[tuple[type[Key], list[Step]]]:
    """Yield consecutive *steps* on rows of one kind together, in order.

    No Python code runs for a single step, because the first plan of a large node has 140,000.
    """
    steps = list(steps)
    kinds = map(type, map(attrgetter("key"), steps))
    for kind, pairs in groupby(zip(kinds, steps, strict=True), itemgetter(0)):
        yield kind, list(map(itemgetter(1), pairs))
