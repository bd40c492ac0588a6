"""How long to wait before the next attempt.

Law: waits double from 0.8 s to 30 s with jitter, and start over after a success, as client-go's reflectors do, so
that thousands of nodes don't come back to an API server at once.

Source: k8s.io/client-go/tools/cache, NewReflector (800 ms, 30 s, factor 2, jitter 1).
"""

from collections.abc import Callable

FIRST_S = 0.8
LONGEST_S = 30.0
_DOUBLINGS_MAX = 6  # 0.8 s, doubled six times, is above the longest


class Backoff:
    """Counts failures in a row.  *random* gives numbers from 0 to below 1."""

    def __init__(self, random: Callable[[], float]) -> None:
        self._random = random
        self._failures = 0

    def failed(self) -> float:
        """The time to wait, in s, after one more failure."""
        base_s = FIRST_S * 2 ** min(self._failures, _DOUBLINGS_MAX)
        self._failures += 1
        return float(min(LONGEST_S, base_s * (1 + self._random())))

    def succeeded(self) -> None:
        self._failures = 0
