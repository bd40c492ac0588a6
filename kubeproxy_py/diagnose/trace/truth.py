"""Truth: yes, no, or not known (Kleene's three values)."""

from collections.abc import Iterable
from enum import IntEnum


class Truth(IntEnum):
    """Whether a rule matches."""

    NO = 0
    MAYBE = 1
    YES = 2

    def negated(self) -> "Truth":
        """Return the opposite; that of MAYBE is MAYBE."""
        return Truth(2 - self)


NO, MAYBE, YES = Truth.NO, Truth.MAYBE, Truth.YES


def truth(value: bool) -> Truth:  # noqa: FBT001 - it is what is converted
    """Return YES or NO."""
    return YES if value else NO


def all_of(values: Iterable[Truth]) -> Truth:
    """Return the least of *values*: NO if one is, however many are not known, without asking for those after it."""
    least = YES
    for value in values:
        least = min(least, value)
        if least is NO:
            break
    return least
