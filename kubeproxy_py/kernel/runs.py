"""Runs: steps that follow each other and go the same way, found without a step of Python's for each.

Law: the order of the steps is kept, and each is in one run.
"""

from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from operator import attrgetter
from typing import Any, TypeVar

from kubeproxy_py.model.rows import Key
from kubeproxy_py.model.steps import Step, Verb

_Mark = TypeVar("_Mark")

_OF_KEY: Any = attrgetter("key")
of_verb: Any = attrgetter("verb")


def kinds(steps: Iterable[Step]) -> Iterator[type[Key]]:
    """The kind of row of each of *steps*."""
    return map(type, map(_OF_KEY, steps))


def sorts(steps: Sequence[Step]) -> Iterator[tuple[type[Key], Verb]]:
    """The kind of row and the verb of each of *steps*."""
    return zip(kinds(steps), map(of_verb, steps), strict=True)


def runs(steps: Sequence[Step], marks: Iterable[_Mark]) -> Iterator[tuple[_Mark, Sequence[Step]]]:
    """The longest runs of *steps* with equal *marks*, one for each step."""
    start = 0
    for mark, same in groupby(marks):
        end = start + len(list(same))
        yield mark, steps[start:end]
        start = end
