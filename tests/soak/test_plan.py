"""The sequences that follow from a seed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from itertools import islice

import pytest

from tests.soak.faults import FAULTS, choices
from tests.soak.plan import RARE_EVERY, Choice, changes, rounds

CHOICES = [
    Choice("a", "drift"),
    Choice("b", "drift", pairs=True),
    Choice("c", "agent", pairs=True),
    Choice("d", "clock"),
    Choice("slow", "watches", rare=True),
]


def test_same_seed_gives_the_same_rounds_and_another_seed_others() -> None:
    first, again, other = (list(islice(rounds(seed, CHOICES), 100)) for seed in (7, 7, 8))
    assert first == again
    assert [one.faults for one in first] != [one.faults for one in other]


def test_same_seed_gives_the_same_changes() -> None:
    first, again, other = (list(islice(changes(seed), 200)) for seed in (7, 7, 8))
    assert first == again != other


def alone(seed: int) -> Iterator[str]:
    return (one.faults[0] for one in rounds(seed, CHOICES) if len(one.faults) == 1)


def test_every_fault_comes_once_in_each_deck_and_a_rare_one_in_the_first_and_every_third_after_it() -> None:
    common = len(CHOICES) - 1
    assert Counter(islice(alone(1), common + 1)) == dict.fromkeys(["a", "b", "c", "d", "slow"], 1)
    counted = Counter(islice(alone(1), RARE_EVERY * common + 1))
    assert counted == {**dict.fromkeys("abcd", RARE_EVERY), "slow": 1}


@pytest.mark.parametrize("seed", range(20))
def test_first_rounds_are_one_fault_of_each_kind(seed: int) -> None:
    kinds = {choice.name: choice.kind for choice in CHOICES}
    first = [kinds[one.faults[0]] for one in islice(rounds(seed, CHOICES), 4)]
    assert sorted(first) == ["agent", "clock", "drift", "watches"]


def test_kinds_come_in_an_order_that_follows_from_the_seed() -> None:
    assert len({tuple(islice(alone(seed), 4)) for seed in range(20)}) > 5


def test_pairs_are_two_faults_that_may_come_together() -> None:
    pairs = [one for one in islice(rounds(1, CHOICES), 100) if len(one.faults) > 1]
    assert {tuple(sorted(pair.faults)) for pair in pairs} == {("b", "c")}
    assert all(first.after_s == 0.0 <= second.after_s for first, second in (pair.injections for pair in pairs))


def test_only_a_service_that_exists_is_deleted() -> None:
    existing: set[int] = set()
    deleted = 0
    for change in islice(changes(1), 1000):
        if change.kind == "delete":
            existing.remove(change.number)
            deleted += 1
        elif change.kind == "apply":
            existing.add(change.number)
    assert deleted > 100


def test_soak_has_all_kinds_of_faults() -> None:
    assert {fault.kind for fault in FAULTS.values()} == {
        "rows",
        "addresses",
        "agent",
        "second agent",
        "lock holder",
        "API server",
        "mute watches",
        "clock",
    }


def test_every_fault_that_can_be_injected_is_in_the_table() -> None:
    names = {choice.name for choice in choices()}
    assert names <= set(FAULTS)
    assert set(FAULTS) - names <= {"clock set"}
