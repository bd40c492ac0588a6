"""CpuBudget: keeps work that is never finished below a share of a core.  Pure.

Invariants:
- On average the work takes at most its share, and at most `burst_s` at once after a time without any.
- What is counted is CPU time, so that a busy machine, on which everything takes longer, delays nothing further.
- Where Linux counts CPU time in ticks (user-mode-linux), a piece of work costs nothing, or a tick of 10 ms: a burst of
  some ticks makes up for it.
"""

_NEVER_SPENT_S = -float("inf")


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
