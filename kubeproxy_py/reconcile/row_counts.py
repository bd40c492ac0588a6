"""RowCounts: how many actual rows each group has that the kernel's marks count."""

from collections import Counter
from collections.abc import Iterable, Mapping

from kubeproxy_py.kernel import mark_group
from kubeproxy_py.model.rows import Key


class RowCounts:
    """Numbers of rows by group; counted again after `invalidate`, when they are needed."""

    def __init__(self) -> None:
        self._counts: Counter[str] | None = None

    def invalidate(self) -> None:
        """Discard the counts, because many rows change at once."""
        self._counts = None

    def change(self, key: Key, by: int) -> None:
        """Record that *key* was added (*by* 1) or removed (*by* -1)."""
        if self._counts is not None and (group := mark_group(key)):
            self._counts[group] += by

    def of(self, rows: Iterable[Key]) -> Mapping[str, int]:
        """Return the counts of *rows*, which are those whose changes were recorded."""
        if self._counts is None:
            self._counts = Counter(map(mark_group, rows))
        return self._counts
