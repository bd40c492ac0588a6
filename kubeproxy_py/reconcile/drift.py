"""Drift: rows that another program changed, found by comparing kernel state with the known rows."""

from collections import Counter
from collections.abc import Collection, Iterable, Sequence

from msgspec import Struct

from kubeproxy_py.model.rows import Key, Rows
from kubeproxy_py.reconcile.sync_status import count_by_kind


class ScopeDiff(Struct, frozen=True, gc=False):
    """Rows of a part of the kernel state, and the known rows that belong to that part."""

    found: Rows
    known: Sequence[Key]

    def differing(self, actual: Rows) -> list[Key]:
        """Return the keys whose rows differ from *actual*; a known key that is in neither was deleted meanwhile."""
        found, missing = self.found, object()
        # Nearly always nothing differs, and these two checks run without Python code for each row: a third of the time.
        if found.items() <= actual.items() and all(map(found.__contains__, self.known)):
            return []
        changed = [key for key, spec in found.items() if actual.get(key, missing) != spec]
        return changed + [key for key in self.known if key not in found and key in actual]


class Drift:
    """Numbers of drifted rows since the start, by the name of their kind.

    A row counts as repaired once, however often it was tried; a row that is found again has drifted again.
    """

    def __init__(self) -> None:
        self.found: Counter[str] = Counter()
        self.repaired: Counter[str] = Counter()
        self._unrepaired: set[Key] = set()

    def record(self, keys: Iterable[Key]) -> None:
        """Record that *keys* were found to have drifted."""
        drifted = set(keys)
        self.found.update(count_by_kind(drifted))
        self._unrepaired |= drifted

    def record_outcome(self, tried: Collection[Key] | None, failed: Collection[Key]) -> None:
        """Record that of *tried* (None: of all rows) all but *failed* are as desired now."""
        if not self._unrepaired:
            return
        tried_drift = self._unrepaired if tried is None else self._unrepaired.intersection(tried)
        repaired = tried_drift.difference(failed)
        self.repaired.update(count_by_kind(repaired))
        self._unrepaired -= repaired
