"""The desired rows: the union of the rows that each owner wants.

Invariants:
- The union depends on who wants which rows now, not on the order in which they came.
- Owners that want the same key want the same spec: addresses, and entries of sets.  A virtual server with its real
  servers has one owner, the Service that holds the frontend (claims.py).
- The cost of a change is that of the owner's parts that changed: a part that is the very same dict is not compared.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from operator import attrgetter

from kubeproxy_py.compile.ipset_usage import IpsetUsage
from kubeproxy_py.model.rows import IpsetEntry, Key, Rows, Spec
from kubeproxy_py.model.services import ObjectName

Owner = ObjectName

BASE = ObjectName("", "base")
"""Owner of the rows that exist without any Service."""

CHAINS = ObjectName("", "chains")
"""Owner of the chains, which follow from the sets."""

RESTING = ObjectName("", "resting marks")
"""Owner of the virtual servers by firewall marks that rest (mark_numbers.py)."""

RESTING_TUNNELS = ObjectName("", "resting tunnels")
"""Owner of the devices of direct server return that stay for open connections (reconcile/tunnel_rests.py)."""

OF_NO_SERVICE = (BASE, CHAINS, RESTING, RESTING_TUNNELS)
"""The owners that are no Services."""

_ABSENT = object()
_kind_name: Callable[[Key], str] = attrgetter("__class__.__name__")


class Desired:
    """The rows that the kernel should have."""

    def __init__(self) -> None:
        self.rows: Rows = {}
        self.sets = IpsetUsage()
        self._counts: Counter[str] = Counter()  # number of rows by the name of their kind
        self._parts: dict[Owner, tuple[Rows, ...]] = {}
        self._other_owners: dict[Key, int] = {}  # of each key that several owners want: how many besides one

    @property
    def counts(self) -> dict[str, int]:
        """Return the number of rows by the name of their kind."""
        return dict(self._counts)

    def replace(self, owner: Owner, *parts: Rows) -> list[Key]:
        """Replace the rows that *owner* wants by those of *parts*, and return the keys of the union that changed.

        No two parts may have a key in common, and no part may be changed afterwards.
        """
        old, new = _differing_parts(self._parts.get(owner, ()), parts)
        self._store(owner, parts)
        if not old and self.rows.keys().isdisjoint(new):  # a new Service
            self._add_all(new)
            return list(new)
        changed = [key for key in old if key not in new and self._withdraw(key)]
        for key, spec in new.items():
            before = old.get(key, _ABSENT)  # hashing a key costs more than all else here
            if before is _ABSENT:
                if self._add(key, spec):
                    changed.append(key)
            elif before != spec and self._change(key, spec):
                changed.append(key)
        return changed

    def owners(self) -> list[Owner]:
        """Return everyone who wants rows."""
        return list(self._parts)

    def parts(self) -> dict[Owner, tuple[Rows, ...]]:
        """Return the parts of each owner, as they are now."""
        return self._parts.copy()

    def parts_of(self, owner: Owner) -> tuple[Rows, ...]:
        """Return the rows that *owner* wants in parts, which never change."""
        return self._parts.get(owner, ())

    def rows_of(self, owner: Owner) -> Rows:
        """Return the rows that *owner* wants."""
        return _joined(self._parts.get(owner, ()))

    def _store(self, owner: Owner, parts: Sequence[Rows]) -> None:
        if non_empty := tuple(part for part in parts if part):
            self._parts[owner] = non_empty
        else:
            self._parts.pop(owner, None)

    def _add_all(self, rows: Rows) -> None:
        """Add *rows*, which nobody else wants, without Python code for each but the entries of sets."""
        self.rows.update(rows)
        self._counts.update(map(_kind_name, rows))
        for key in [key for key in rows if isinstance(key, IpsetEntry)]:
            self.sets.add(key)

    def _add(self, key: Key, spec: Spec) -> bool:
        """Record that another owner wants the row *key*, and return whether the union changed."""
        if key in self.rows:
            self._other_owners[key] = self._other_owners.get(key, 0) + 1
            return self._change(key, spec)
        self.rows[key] = spec
        if isinstance(key, IpsetEntry):
            self.sets.add(key)
        self._counts[type(key).__name__] += 1
        return True

    def _change(self, key: Key, spec: Spec) -> bool:
        """Set the spec of *key*, which is a row of the union, and return whether it was another one."""
        if self.rows[key] == spec:
            return False
        self.rows[key] = spec
        return True

    def _withdraw(self, key: Key) -> bool:
        """Remove *key*, which an owner no longer wants, unless another does; return whether it was removed."""
        others = self._other_owners.get(key) if self._other_owners else None
        if others is None:
            del self.rows[key]
            if isinstance(key, IpsetEntry):
                self.sets.remove(key)
            self._counts[type(key).__name__] -= 1
            return True
        if others > 1:
            self._other_owners[key] = others - 1
        else:
            del self._other_owners[key]
        return False


def _differing_parts(before: Sequence[Rows], after: Sequence[Rows]) -> tuple[Rows, Rows]:
    """Return the rows of *before* and of *after*, without the parts that are in both."""
    if len(before) <= 1 and len(after) <= 1:
        return _joined(before), _joined(after)
    unchanged = {id(part) for part in before} & {id(part) for part in after}
    old, new = ([part for part in parts if id(part) not in unchanged] for parts in (before, after))
    return _joined(old), _joined(new)


def _joined(parts: Sequence[Rows]) -> Rows:
    """Return all rows of *parts*; of a single part the very same dict."""
    if len(parts) == 1:
        return parts[0]
    return {key: spec for part in parts for key, spec in part.items()}
