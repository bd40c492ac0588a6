"""The sequence of faults, and that of changes of Services, that follow from a seed; pure.

Invariants:
  - The same seed and faults give the same sequences, however fast they are carried out.
  - Every fault comes once in each deck, alone; a rare one in the first deck and every third one after it.
  - The first rounds are one fault of each kind, so that a short soak has all kinds.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple

SINGLES_PER_PAIR = 4
RARE_EVERY = 3  # decks
LONGEST_OFFSET_S = 0.5  # between the two faults of a pair; most repairs take longer
PAUSE_S = (1.0, 2.0)  # after the recovery, so that retransmissions are over when the next fault comes

CHURNED_SERVICES = 20
_CHURNED_PODS = ("pod-a1", "pod-a2", "pod-b1", "pod-b3")


class Choice(NamedTuple):
    """What the plan needs to know about a fault.

    kind: what is disturbed.  rare: it takes long.  pairs: it may be injected while the node recovers from another one.
    """

    name: str
    kind: str = ""
    rare: bool = False
    pairs: bool = False


class Injection(NamedTuple):
    fault: str
    after_s: float  # after the start of its round


class Round(NamedTuple):
    """One or two faults, and the pause after the node has recovered from them."""

    injections: tuple[Injection, ...]
    pause_s: float

    @property
    def faults(self) -> tuple[str, ...]:
        return tuple(injection.fault for injection in self.injections)


def rounds(seed: int, choices: Sequence[Choice]) -> Iterator[Round]:
    """Yield rounds without end: decks of all faults in random order, with a random pair after every fourth fault.

    The first deck begins with one fault of each kind, and has its pairs after them.
    """
    chance = random.Random(seed)
    opening = _opening(chance, choices)
    for name in opening:
        yield _single(chance, name)
    for deck in itertools.count():
        names = [choice.name for choice in choices if deck % RARE_EVERY == 0 or not choice.rare]
        if deck == 0:
            names = [name for name in names if name not in opening]
        chance.shuffle(names)
        for number, name in enumerate(names, 1):
            yield _single(chance, name)
            if number % SINGLES_PER_PAIR == 0:
                yield _pair(chance, [choice.name for choice in choices if choice.pairs])


def _opening(chance: random.Random, choices: Sequence[Choice]) -> list[str]:
    """Return one fault of each kind, in random order."""
    of_kind: dict[str, list[str]] = {}
    for choice in choices:
        of_kind.setdefault(choice.kind, []).append(choice.name)
    names = [chance.choice(names) for names in of_kind.values()]
    chance.shuffle(names)
    return names


def _single(chance: random.Random, name: str) -> Round:
    return Round((Injection(name, 0.0),), chance.uniform(*PAUSE_S))


def _pair(chance: random.Random, names: Sequence[str]) -> Round:
    first, second = chance.sample(names, 2)
    offset_s = chance.uniform(0.0, LONGEST_OFFSET_S)
    return Round((Injection(first, 0.0), Injection(second, offset_s)), chance.uniform(*PAUSE_S))


class Change(NamedTuple):
    """A change of a Service that is not probed, or a further pod of the probed Service ("scale", *number* 0 or 1)."""

    kind: Literal["apply", "delete", "scale"]
    number: int
    pods: tuple[str, ...] = ()


def changes(seed: int) -> Iterator[Change]:
    """Yield changes without end; only a Service that exists is deleted."""
    chance = random.Random(f"changes {seed}")
    existing: set[int] = set()
    while True:
        number = chance.randrange(CHURNED_SERVICES)
        if chance.random() < 0.15:
            yield Change("scale", chance.randrange(2))
        elif number in existing and chance.random() < 0.4:
            existing.discard(number)
            yield Change("delete", number)
        else:
            existing.add(number)
            yield Change("apply", number, tuple(chance.sample(_CHURNED_PODS, chance.randrange(4))))
