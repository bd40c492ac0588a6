"""SlowStart: how far each new endpoint is, also after a restart of the agent."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubeproxy_py.failover.slow_start import SlowStart, steps_in_kernel
from kubeproxy_py.model.conditions import FULL_STEP
from kubeproxy_py.model.flows import Destination
from kubeproxy_py.model.time import NEVER

OLD: Destination = ("10.244.1.5", 8080)
NEW: Destination = ("10.244.2.5", 8080)


def started(duration_s: float = 27.0) -> SlowStart:
    """Return a slow start in which OLD has its whole weight, and NEW comes at second 100."""
    made = SlowStart(duration_s, {OLD: FULL_STEP}, 90)
    made.update([OLD, NEW], 100)
    return made


def test_a_new_endpoint_begins_with_a_tenth_and_has_all_after_the_duration() -> None:
    made = started()
    steps = [made.steps(100 + seconds).get(NEW, FULL_STEP) for seconds in (0, 2.9, 3, 6, 13.5, 26.9, 27, 1000)]
    assert steps == [1, 1, 2, 3, 5, 9, 10, 10]


def test_the_next_step_is_due_when_it_changes_something() -> None:
    made = started()
    due_s = []
    now_s = 100.0
    while now_s != NEVER:
        due_s.append(now_s)
        made.steps(now_s)
        now_s = made.next_s(now_s)
    assert due_s == pytest.approx([100 + 3 * step for step in range(10)])


def test_an_endpoint_that_left_begins_again_when_it_returns() -> None:
    made = started()
    made.update([OLD], 120)
    assert made.steps(120) == {}
    made.update([OLD, NEW], 130)
    assert made.steps(130) == {NEW: 1}


def test_an_endpoint_that_is_known_does_not_begin_again() -> None:
    made = started()
    made.update([OLD, NEW], 110)
    assert made.steps(110) == {NEW: 4}


@given(st.integers(1, 9), st.floats(1, 3600))
def test_a_restart_goes_on_at_the_step_of_the_kernel(step: int, duration_s: float) -> None:
    made = SlowStart(duration_s, {OLD: FULL_STEP, NEW: step}, 50)
    assert made.steps(50) == {NEW: step}
    assert made.next_s(50) == pytest.approx(50 + duration_s / 9)


KERNEL = [
    ({OLD: 10, NEW: 3}, {OLD: 10, NEW: 10}, {OLD: 10, NEW: 3}),
    ({OLD: 1, NEW: 1}, {OLD: 10, NEW: 10}, {OLD: 10, NEW: 10}),  # after kube-proxy: all are equal
    ({OLD: 40, NEW: 3}, {OLD: 40, NEW: 10}, {OLD: 10, NEW: 3}),  # of different whole weights
    ({OLD: 10, NEW: 0}, {OLD: 10, NEW: 10}, {OLD: 10}),  # it drained
    ({OLD: 10}, {OLD: 10, NEW: 10}, {OLD: 10}),
    ({}, {OLD: 10, NEW: 10}, {}),
    ({NEW: 2}, {NEW: 10}, {NEW: 10}),  # nobody is further
]


@pytest.mark.parametrize(("weights", "desired", "steps"), KERNEL)
def test_steps_are_read_from_the_weights_of_the_kernel(
    weights: dict[Destination, int], desired: dict[Destination, int], steps: dict[Destination, int]
) -> None:
    assert steps_in_kernel(weights, desired) == steps
