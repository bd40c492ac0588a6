"""ConnectSchedule: bounded, spread, and failures first."""

import random

from hypothesis import given
from hypothesis import strategies as st

from kubeproxy_py.failover.connect_schedule import BUDGET_PER_S, BURST, ConnectSchedule
from kubeproxy_py.model.flows import Destination

ONE: Destination = ("10.244.1.5", 8080)
TWO: Destination = ("10.244.2.5", 8080)


def places(count: int) -> list[Destination]:
    return [(f"10.244.{index // 250}.{index % 250}", 8080) for index in range(count)]


def schedule(*targets: Destination, interval_s: float = 5.0, at: float = 0.5) -> ConnectSchedule:
    """Return a schedule of *targets*, at second 0, where each random number is *at*."""
    made = ConnectSchedule(lambda: at)
    made.replace(dict.fromkeys(targets, interval_s), 0.0)
    return made


def test_the_first_connect_comes_within_an_interval() -> None:
    made = schedule(ONE, at=0.5)
    assert (made.due_s(0), made.pop_due(2.4), made.pop_due(2.5)) == (2.5, [], [ONE])


def test_an_endpoint_is_due_again_only_after_its_connect_has_ended() -> None:
    made = schedule(ONE, at=0)
    assert made.pop_due(0) == [ONE]
    assert made.pop_due(100) == []
    made.postpone(ONE, 101)
    assert (made.pop_due(101 + 3.7), made.pop_due(101 + 3.75)) == ([], [ONE])


def test_pauses_are_up_to_a_quarter_shorter_or_longer() -> None:
    for at, pause_s in ((0.0, 3.75), (0.5, 5.0), (1.0, 6.25)):
        made = schedule(ONE, at=at)
        made.postpone(ONE, 10)
        assert made.due_s(10) == 10 + pause_s


def test_what_failed_is_checked_before_what_is_due() -> None:
    made = schedule(*places(100), interval_s=1, at=0)
    made.pop_due(0)
    made.retry(ONE, 0.5)
    assert made.pop_due(0.5) != [ONE], "it is no target"
    made = schedule(*places(100), ONE, interval_s=1, at=0)
    made.retry(ONE, 0)
    assert made.pop_due(0)[0] == ONE


def test_hastening_an_endpoint_that_is_being_connected_to_does_nothing() -> None:
    made = schedule(ONE, at=0)
    made.pop_due(0)
    made.hasten(ONE, 0)
    assert made.pop_due(50) == []


def test_hastened_endpoint_is_due_once() -> None:
    made = schedule(ONE, TWO, at=1)
    made.hasten(ONE, 0)
    assert (made.pop_due(0), made.pop_due(4.9)) == ([ONE], [])


def test_endpoints_that_are_no_targets_any_more_are_dropped() -> None:
    made = schedule(ONE, TWO, at=0)
    made.retry(TWO, 0)
    made.replace({ONE: 5.0}, 0)
    made.postpone(TWO, 0)
    made.retry(TWO, 0)
    assert (len(made), made.pop_due(100)) == (1, [ONE])


def test_an_endpoint_that_stays_keeps_its_time() -> None:
    made = schedule(ONE, at=0.5)
    made.replace({ONE: 5.0, TWO: 5.0}, 2.0)
    assert (made.pop_due(2.5), made.pop_due(4.5)) == ([ONE], [TWO])


@given(st.integers(0, 2**32), st.integers(1, 400), st.floats(0.1, 5), st.floats(0.01, 2))
def test_connects_never_exceed_the_budget(seed: int, count: int, interval_s: float, pause_s: float) -> None:
    rng = random.Random(seed)
    made = ConnectSchedule(rng.random)
    targets = places(count)
    made.replace(dict.fromkeys(targets, interval_s), 0.0)
    now_s, total = 0.0, 0
    for _ in range(40):
        popped = made.pop_due(now_s)
        assert len(set(popped)) == len(popped)
        total += len(popped)
        assert total <= BURST + BUDGET_PER_S * now_s + 1e-6
        for place in popped:
            (made.retry if rng.random() < 0.5 else made.postpone)(place, now_s)
        now_s += pause_s * rng.random()


@given(st.integers(1, 300))
def test_no_endpoint_is_starved(count: int) -> None:
    made = ConnectSchedule(lambda: 0.5)
    made.replace(dict.fromkeys(places(count), 1.0), 0.0)
    seen: set[Destination] = set()
    now_s = 0.0
    while len(seen) < count:
        now_s = max(now_s, made.due_s(now_s))
        assert now_s < 2 + count / BUDGET_PER_S
        for place in made.pop_due(now_s):
            seen.add(place)
            made.postpone(place, now_s)
