"""A problem that an operator must fix: an invalid object, an invalid configuration field, or a missing host feature."""

from collections.abc import Iterable

from msgspec import Struct


class Problem(Struct, frozen=True, gc=False):
    """What is wrong, where, and what to do about it.

    Printed as ``where: field: message (hint)``, without the parts that are empty.
    """

    where: str = ""  # the object or file: "Service shop/web", or "games.yaml, document 3: Service shop/web"
    field: str = ""  # as the operator wrote it: "spec.ports[0].port", "ipvs.scheduler" or "--ipvs-scheduler"
    message: str = ""
    hint: str = ""  # the remedy
    is_warning: bool = False  # what it is about is used all the same, without the part or by a default

    def __str__(self) -> str:
        hint = f" ({self.hint})" if self.hint else ""
        return ": ".join(part for part in (self.where, self.field, self.message) if part) + hint


def errors_in(groups: Iterable[Iterable[Problem]]) -> tuple[Problem, ...]:
    """Return the problems in *groups* that are no warnings."""
    return tuple(problem for problems in groups for problem in problems if not problem.is_warning)
