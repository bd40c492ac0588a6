"""Step, Plan and Outcome: what is to be done to the kernel, and what came of it.

Law: a plan is a value.  It can be printed, tested and carried out by any Kernel; each of its steps stands alone.
"""

from collections.abc import Iterator
from typing import Literal

from msgspec import Struct

from kubeproxy_py.model.rows import Key, Spec

Verb = Literal["add", "update", "delete"]


class Step(Struct, frozen=True, gc=False):
    """One row to be made, changed or removed.

    ``before`` is the spec that the kernel is believed to have (update, delete); ``spec`` the one it shall have.
    """

    verb: Verb
    key: Key
    spec: Spec = None
    before: Spec = None


class Plan(Struct, frozen=True, gc=False):
    """Steps in an order in which every prefix is legal and harmless (see plan.py)."""

    steps: tuple[Step, ...] = ()

    def __len__(self) -> int:
        return len(self.steps)

    def __iter__(self) -> Iterator[Step]:
        return iter(self.steps)


class StepFailure(Struct, frozen=True, gc=False):
    """A step that the kernel refused, or that waits for another one that was refused.

    ``errno`` is the kernel's answer; 0 where the step was not tried.
    """

    step: Step
    errno: int
    message: str

    def __str__(self) -> str:
        return f"{self.step.verb} {type(self.step.key).__name__} {self.step.key}: {self.message}"


class Outcome(Struct, frozen=True, gc=False):
    """What came of a plan: every step that is not in ``failed`` was carried out."""

    failed: tuple[StepFailure, ...] = ()
