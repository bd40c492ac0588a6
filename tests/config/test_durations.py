"""Go's durations."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubeproxy_py.config.durations import format_duration, parse_duration


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("0", 0), ("0s", 0), ("-0", 0), ("30s", 30), ("+5s", 5), ("-5s", -5), ("1h30m", 5400), ("1.5h", 5400),
        (".5s", 0.5), ("5.s", 5), ("250ms", 0.25), ("1us", 1e-6), ("1µs", 1e-6), ("1μs", 1e-6), ("7ns", 7e-9),
        ("24h0m0s", 86400), ("1m1m", 120),
    ],
)  # fmt: skip
def test_durations_are_parsed_as_by_go(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(
    "text",
    ["", "-", "5", "s", ".s", "1d", "1 s", "1s ", "--1s", "1h-1m", "1e3s", "٣s", "00", "3000000h", "1" * 99 + "s"],
)  # fmt: skip
def test_a_duration_that_go_rejects_is_rejected(text: str) -> None:
    with pytest.raises(ValueError, match=r"unit|years|digits"):
        parse_duration(text)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0s"), (1e-9, "1ns"), (1.5e-6, "1.5µs"), (0.25, "250ms"), (1.5, "1.5s"), (60, "1m0s"), (86400, "24h0m0s"),
     (3661.001, "1h1m1.001s"), (-5, "-5s"), (-0.25, "-250ms")],
)  # fmt: skip
def test_durations_are_formatted_as_by_go(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text


@given(st.integers(-(2**50), 2**50) | st.integers(-(2**33), 2**33).map(lambda seconds: seconds * 10**9))
def test_a_formatted_duration_parses_back_to_the_same_value(nanoseconds: int) -> None:
    assert parse_duration(format_duration(nanoseconds / 1e9)) == nanoseconds / 1e9
