"""Drift: rows that somebody else changed, counted when they are found and when they are as desired again.

Law: a row counts as repaired once, however often it was tried; one that is found again has drifted again.
"""

from collections import Counter
from collections.abc import Collection, Iterable

from kubeproxy_py.model.rows import Key
from kubeproxy_py.reconcile.sync_status import by_kind


class Drift:
    """Counts since the start, by the name of the rows' kind."""

    def __init__(self) -> None:
        self.found: Counter[str] = Counter()
        self.repaired: Counter[str] = Counter()
        self._open: set[Key] = set()

    def record(self, keys: Iterable[Key]) -> None:
        """*keys* were found to be different from what we believed."""
        fresh = set(keys)
        self.found.update(by_kind(fresh))
        self._open |= fresh

    def record_outcome(self, tried: Collection[Key] | None, refused: Collection[Key]) -> None:
        """Of *tried* (None: of all rows), all but *refused* are as desired now."""
        if not self._open:
            return
        mended = (self._open if tried is None else self._open.intersection(tried)).difference(refused)
        self.repaired.update(by_kind(mended))
        self._open -= mended
