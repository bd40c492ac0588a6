"""The time of day of a moment of the past stays the same, however long passes between reading two clocks."""

from __future__ import annotations

from itertools import chain, repeat
from random import Random

import pytest

from kubeproxy_py.diagnose.rows import time_text
from kubeproxy_py.reconcile.wall_clock import WallClock

ZERO_S = 1_700_000_000.0


class Clocks:
    """Two clocks, of which each reading takes as long as *pauses_s* says."""

    def __init__(self, pauses_s: list[float]) -> None:
        self._pauses_s = chain(pauses_s, repeat(0.0))
        self.now_s = 0.0
        self.zero_s = ZERO_S

    def monotonic(self) -> float:
        self.now_s += next(self._pauses_s)
        return self.now_s

    def time(self) -> float:
        return self.zero_s + self.monotonic()


def test_a_past_moment_has_one_time_of_day_on_a_busy_machine() -> None:
    random = Random(1)
    clocks = Clocks([random.choice((0.0, 1e-6, 0.0004, 0.003, 0.2)) for _ in range(3_000)])
    clock = WallClock(clocks.monotonic, clocks.time)
    texts = {time_text(clock.zero_s() + 5.0005) for _ in range(1_000)}
    assert len(texts) == 1
    assert clock.zero_s() == pytest.approx(ZERO_S, abs=0.0005)


@pytest.mark.parametrize("step_s", [3600.0, -3600.0, 0.05])
def test_a_clock_that_was_set_is_followed(step_s: float) -> None:
    clocks = Clocks([])
    clock = WallClock(clocks.monotonic, clocks.time)
    assert clock.zero_s() == ZERO_S
    clocks.zero_s += step_s
    assert clock.zero_s() == ZERO_S + step_s
