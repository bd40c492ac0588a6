"""CpuBudget: keeps work that is never finished below a share of a core.  Pure.

Invariants:
- On average the work takes at most its share, and at most `burst_s` at once after a time without any.
- What is counted is CPU time, so that a busy machine, on which everything takes longer, delays nothing further.
- Where Linux counts CPU time in ticks (user-mode-linux), a piece of work costs nothing, or a tick of 10 ms: a burst of
  some ticks makes up for it.  EvenCpuTime distributes the ticks where the intervals between pieces matter.
"""

_NEVER_SPENT_S = -float("inf")
_LATELY_S = 2.0  # of work, not of time
_ERROR_MAX_S = 0.1  # ten ticks


class CpuBudget:
    """Work that may take *share* of a core, of which *burst_s* seconds at once."""

    def __init__(self, share: float, burst_s: float) -> None:
        self.share = share
        self.due_s = _NEVER_SPENT_S  # when the next piece may begin
        self._burst_s = burst_s

    def spend(self, cpu_s: float, now_s: float) -> None:
        """Record that a piece of work, which ended at *now_s*, took *cpu_s* of CPU time."""
        since_s = max(self.due_s, now_s - self._burst_s / self.share)
        self.due_s = since_s + cpu_s / self.share


class EvenCpuTime:
    """The CPU time of short pieces of work, distributed by how long each took.

    Invariants:
    - Where it is counted exactly, and on an otherwise idle machine, a piece costs what was counted.
    - The sum of all differs from what was counted by at most _ERROR_MAX_S.
    """

    def __init__(self) -> None:
        self._counted_s = self._took_s = 0.0  # lately
        self._owed_s = 0.0  # of what was counted

    def of(self, counted_s: float, took_s: float) -> float:
        """Return the CPU time of a piece that *took_s* by the clock, and for which *counted_s* were counted."""
        self._counted_s += counted_s
        self._took_s += took_s
        if self._took_s > _LATELY_S:
            self._counted_s /= 2
            self._took_s /= 2
        self._owed_s += counted_s
        even_s = took_s * self._counted_s / self._took_s if self._took_s else 0.0
        cpu_s = max(0.0, self._owed_s - _ERROR_MAX_S, min(even_s, self._owed_s + _ERROR_MAX_S))
        self._owed_s -= cpu_s
        return cpu_s
