"""EndpointHealth: which results in a row make an endpoint fail, and which let it return."""

from collections.abc import Iterable
from functools import reduce

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubeproxy_py.failover.endpoint_health import (
    GIVE_UP_S,
    NEW,
    Health,
    Result,
    Rule,
    after,
    fail,
    given_up,
    inherited,
)

A, R, S = Result.ANSWERED, Result.REFUSED, Result.SILENT
SERVES, REFUSES, DESERTED = Result.SERVES, Result.REFUSES, Result.DESERTED
TCP = Rule()
NODE = Rule(only_nodes=True)


def health_after(results: Iterable[Result], rule: Rule = TCP, first: Health = NEW) -> Health:
    """Apply *results*, one a second from second 10 on."""
    return reduce(lambda health, one: after(health, one[1], rule, one[0]), enumerate(results, 10), first)


FAILING: list[tuple[tuple[Result, ...], Rule, bool]] = [
    ((A, S, S), TCP, False),
    ((A, S, S, S), TCP, True),
    ((A, S, S, A, S, S), TCP, False),  # in a row
    ((A, R, R, R), TCP, True),
    ((R, R, R), TCP, True),  # what refuses was reached
    ((R, R, R, R), NODE, False),  # and its node lives
    ((A, S, R, S), TCP, True),
    ((A, S, R, S), NODE, False),
    ((S, S, S, S, S), TCP, False),  # it was never reached: a NetworkPolicy may forbid connects
    ((R, S, S, S), NODE, True),
    ((DESERTED, DESERTED), TCP, False),
    ((DESERTED, DESERTED, DESERTED), TCP, True),  # whether or not it was reached before
    ((A, DESERTED, S, S), TCP, True),
    ((A, S, S, SERVES, S), TCP, False),  # clients are answered
    ((A, R, R, SERVES, R), TCP, True),  # on old connections only: nothing listens any more
    ((A, S, S, REFUSES, S), TCP, True),  # a reset is no answer of the program
    ((A, S, S, REFUSES, S), NODE, False),
    ((A, S), Rule(threshold=1), True),
]


@pytest.mark.parametrize(("results", "rule", "fails"), FAILING)
def test_failures_in_a_row_up_to_the_threshold_make_an_endpoint_fail(
    results: tuple[Result, ...], rule: Rule, fails: bool
) -> None:
    assert (health_after(results, rule).failure is not None) is fails


RETURNS: list[tuple[tuple[Result, ...], Rule, bool]] = [
    ((A,), TCP, False),
    ((A, A), TCP, True),
    ((A, S, A), TCP, False),
    ((A, S, A, A), TCP, True),
    ((SERVES, SERVES), TCP, True),
    ((REFUSES, REFUSES), TCP, False),
    ((R, R), TCP, False),
    ((R, R), NODE, True),
]


@pytest.mark.parametrize(("results", "rule", "returns"), RETURNS)
def test_answers_in_a_row_let_an_endpoint_return(results: tuple[Result, ...], rule: Rule, returns: bool) -> None:
    failing = health_after((A, S, S, S), rule)
    assert failing.failure
    assert (health_after(results, rule, failing).failure is None) is returns


def test_a_failure_is_since_the_first_of_the_failures_and_names_them() -> None:
    failure = health_after((A, S, S, S)).failure
    assert failure
    assert (failure.since_s, failure.reason) == (11, "3 TCP connects got no answer")


@pytest.mark.parametrize(
    ("results", "reason"),
    [
        ((A, R, R, R), "3 TCP connects were refused"),
        ((DESERTED,) * 3, "new connections of clients got no answer while other endpoints answered"),
        (
            (A, DESERTED, DESERTED, S),
            "new connections of clients got no answer while other endpoints answered, and 1 TCP connect got no answer",
        ),
    ],
)
def test_the_reason_of_a_failure_names_its_checks(results: tuple[Result, ...], reason: str) -> None:
    failure = health_after(results).failure
    assert failure
    assert failure.reason == reason


def test_an_endpoint_that_no_connect_reaches_returns_after_a_while() -> None:
    failing = health_after((DESERTED, DESERTED, DESERTED))
    assert given_up(failing, 12 + GIVE_UP_S - 0.1).failure
    assert given_up(failing, 12 + GIVE_UP_S) == NEW


def test_an_endpoint_that_was_reached_fails_until_it_answers() -> None:
    assert given_up(health_after((A, S, S, S)), 1e9).failure


def test_an_inherited_failure_ends_by_answers_or_after_a_while() -> None:
    failing = inherited("set aside before", 5)
    assert given_up(failing, 5 + GIVE_UP_S) == NEW
    assert not health_after((A, A), first=failing).failure
    assert given_up(health_after((A, S), first=failing), 1e9).failure, "it was reached meanwhile"


def test_an_endpoint_of_a_silent_node_fails_and_returns_by_itself() -> None:
    failing = fail(health_after((A,)), "its node is silent", 20)
    assert failing.failure
    assert failing.failure.reason == "its node is silent"
    assert not health_after((A, A), first=failing).failure


@given(st.lists(st.sampled_from(Result), max_size=30), st.integers(1, 5), st.booleans())
def test_no_endpoint_fails_without_as_many_failures_in_a_row(results: list[Result], threshold: int, node: bool) -> None:
    rule = Rule(threshold=threshold, only_nodes=node)
    health = NEW
    for at_s, result in enumerate(results):
        before, health = health, after(health, result, rule, at_s)
        if health.failure and not before.failure:
            assert health.failures == threshold
            assert all(one in (S, R, DESERTED, SERVES, REFUSES) for one in results[int(health.since_s) : at_s + 1])
        if result is A and not before.failure:
            assert not health.failures
