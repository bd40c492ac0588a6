"""backoff.py: wait times after consecutive failures."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubeproxy_py.backoff import Backoff


@pytest.mark.parametrize(
    ("backoff", "delays_s"),
    [
        (Backoff(0.8, 30.0, jitter=1.0), [0.8, 1.6, 3.2, 6.4, 12.8, 25.6, 30, 30]),  # reflectors
        (Backoff(0.5, 30.0), [0.5, 1, 2, 4, 8, 16, 30, 30]),  # rows
        (Backoff(1.0, 30.0), [1, 2, 4, 8, 16, 30, 30]),  # the loop
        (Backoff(10.0, 12.5, factor=1.0, jitter=0.25), [10, 10, 10]),  # Events
    ],
)
def test_the_delay_grows_from_the_first_to_the_longest(backoff: Backoff, delays_s: list[float]) -> None:
    assert [backoff.delay_s(failures) for failures in range(1, len(delays_s) + 1)] == delays_s


@given(st.floats(0, 0.999), st.integers(1, 7))
def test_jitter_makes_the_delay_longer_up_to_its_share(random: float, failures: int) -> None:
    base_s = Backoff(0.8, 30.0).delay_s(failures)
    assert base_s <= Backoff(0.8, 30.0, jitter=1.0).delay_s(failures, random) <= min(30, 2 * base_s)


def test_the_delay_of_a_million_failures_is_the_longest() -> None:
    assert Backoff(0.5, 30.0).delay_s(1_000_000) == 30
