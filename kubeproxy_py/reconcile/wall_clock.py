"""Tell the time of day of moments of ``time.monotonic``: of the same moment always the same."""

from collections.abc import Callable

_TOLERANCE_S = 0.001  # nobody sets a clock by less
_TRIES = 10


class WallClock:
    """The time of day at which ``time.monotonic`` was 0, kept until somebody sets the time of day.

    Two clocks cannot be read at the same moment: on a busy machine milliseconds pass between them, by which a moment
    of the past would change from one reading to the next.
    """

    def __init__(self, monotonic: Callable[[], float], time: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._time = time
        self._zero_s: float | None = None

    def zero_s(self) -> float:
        """Return the time of day at which the monotonic clock was 0, in seconds since 1970."""
        earliest_s, latest_s = self._bounds()
        kept_s = self._zero_s
        if kept_s is None or not earliest_s - _TOLERANCE_S <= kept_s <= latest_s + _TOLERANCE_S:
            tries = [self._bounds() for _ in range(_TRIES)]
            earliest_s, latest_s = min(tries, key=lambda bounds: bounds[1] - bounds[0])
            kept_s = self._zero_s = (earliest_s + latest_s) / 2
        return kept_s

    def _bounds(self) -> tuple[float, float]:
        """Return between which times the zero is: as far apart as this thread was away from the CPU."""
        before_s = self._monotonic()
        time_s = self._time()
        return time_s - self._monotonic(), time_s - before_s
