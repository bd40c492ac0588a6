"""Exponential backoff: how long to wait before the next attempt.

Pure arithmetic: the caller counts the failures and draws the random number.
"""

from msgspec import Struct

_EXPONENT_MAX = 64  # beyond any longest_s in use; keeps the power within the range of a float


class Backoff(Struct, frozen=True, gc=False):
    """Wait times that grow by *factor* from *first_s* to *longest_s*.

    Jitter spreads the attempts of thousands of nodes, so that they do not reach an API server at the same moment.
    """

    first_s: float
    longest_s: float
    factor: float = 2.0
    jitter: float = 0.0  # a wait is up to this share longer, but never longer than longest_s

    def delay_s(self, failures: int, random: float = 0.0) -> float:
        """Return the wait before the next attempt, in seconds.

        Args:
            failures: Consecutive failures, at least 1.
            random: Position within the jitter, from 0 to below 1.
        """
        base_s = self.first_s * self.factor ** min(failures - 1, _EXPONENT_MAX)
        return min(self.longest_s, base_s * (1 + self.jitter * random))
