"""ConfirmedMarks: which scopes may have drifted, given the marks of the kernel and the numbers of actual rows.  Pure.

A mark is *confirmed* while the scope is known to have the actual rows when the kernel has this mark.  A scope is
*suspect* if its mark is not the confirmed one; then its rows are compared.

Invariants:
- After a step of ours on a scope its mark is a new one, and unknown.  It is confirmed at once if the kernel has as many
  rows as are actual: what another program added or deleted at the same time would show.  Where the kernel does not
  count (tables of iptables), the rows are compared once.  Where the mark has the rows that changed, they must be the
  actual ones, too.
- A mark whose changed rows are all actual ones, in the same number, is confirmed as well: what of them had drifted was
  recorded before, and needs no comparison of the whole scope.
- A scope stays suspect until its rows were compared and none had drifted: after a repair they are compared once more,
  because the program that changed them may do it again at once.
- Rows of a group that are not ours (virtual servers in excluded networks) are a surplus, which is known from the last
  comparison without drift.
"""

from collections.abc import Collection, Iterable, Mapping

from kubeproxy_py.kernel import Mark, Scope
from kubeproxy_py.model.rows import Rows, completed

_Surplus = tuple[int, ...]


class ConfirmedMarks:
    """The confirmed marks, by their names, and the scopes that are suspect."""

    def __init__(self) -> None:
        self._confirmed: dict[str, Mark] = {}
        self._surplus: dict[str, _Surplus] = {}  # by mark: rows of each group that are not actual ones
        self._observed: dict[str, tuple[Mark, _Surplus]] = {}  # by the last observation, and not confirmed
        self._written: set[Scope] = set()  # since the last observation
        self._suspects: dict[Scope, None] = {}

    def record_written(self, scopes: Iterable[Scope]) -> None:
        """Record that steps of ours were carried out in *scopes*, so that their marks have changed."""
        self._written.update(scopes)

    def invalidate_all(self) -> None:
        """Discard all that is known but the surplus, because all rows were read again."""
        self._confirmed.clear()
        self._observed.clear()
        self._suspects.clear()

    def suspect(self, scope: Scope) -> None:
        """Have *scope* be suspect for another reason than its mark."""
        self._suspects[scope] = None

    def is_confirmed(self, name: str, mark: Mark) -> bool:
        """Return whether *mark* is the very one that was confirmed under this *name*."""
        return self._confirmed.get(name) is mark

    def observe(self, marks: Mapping[str, Mark], counts: Mapping[str, int], rows: Rows) -> list[Scope]:
        """Return the scopes that are suspect, given *marks* of the kernel.

        *rows* are the actual rows, and *counts* their numbers by group.
        """
        self._observed.clear()
        if self._written:
            kept = self._confirmed.items()
            self._confirmed = {name: mark for name, mark in kept if mark.scope not in self._written}
            self._written.clear()
        for name, mark in marks.items():
            confirmed = self._confirmed.get(name)
            if mark == confirmed:
                continue
            surplus = tuple(number - counts.get(group, 0) for group, number in mark.counts)
            is_expected = bool(surplus) and surplus == self._surplus.get(name, (0,) * len(surplus))
            is_explained = confirmed is None or bool(mark.changed)
            if is_explained and is_expected and _are_actual(mark, rows):
                self._confirmed[name] = mark
            else:
                self._observed[name] = mark, surplus
                self._suspects[mark.scope] = None
        return list(self._suspects)

    def record_compared(self, scopes: Collection[Scope], *, has_drift: bool) -> None:
        """Record that the rows of *scopes* were compared after the last observation, and whether any had drifted."""
        if has_drift:
            return
        for scope in scopes:
            self._suspects.pop(scope, None)
        for name, (mark, surplus) in self._observed.items():
            if mark.scope in scopes:
                self._surplus[name] = surplus
                if mark.scope not in self._written:
                    self._confirmed[name] = mark


def _are_actual(mark: Mark, rows: Rows) -> bool:
    """Return whether the changed rows of *mark* are those of *rows*, as far as a mark shows them."""
    return all(rows.get(key) == completed(spec, rows.get(key)) for key, spec in mark.changed)
