"""Truth of several statements together."""

from __future__ import annotations

import pytest

from kubeproxy_py.diagnose.trace.truth import MAYBE, NO, YES, Truth, all_of


@pytest.mark.parametrize(
    ("values", "expected"),
    [((), YES), ((YES, YES), YES), ((YES, MAYBE), MAYBE), ((MAYBE, YES, NO), NO), ((NO, MAYBE), NO)],
)
def test_all_of_them_are_as_true_as_the_least(values: tuple[Truth, ...], expected: Truth) -> None:
    assert all_of(values) == expected


def test_nothing_is_asked_for_after_a_no() -> None:
    values = iter((YES, NO, MAYBE))
    assert all_of(values) == NO
    assert next(values) == MAYBE
