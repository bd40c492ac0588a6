"""The desired rows: the union of the rows that each owner wants.

Invariants:
- The union depends on who wants which rows now, not on the order in which they came.
- Where two Services want one key with different specs, the Service whose name sorts first holds the key and decides.  A
  virtual server that two Services want has the real servers of its holder only.
- The cost of a change is that of the owner's parts that changed: a part that is the very same dict is not compared.
"""

from collections import Counter
from collections.abc import Container, Iterable, Sequence

from kubeproxy_py.compile.ipset_usage import IpsetUsage
from kubeproxy_py.model.rows import IpsetEntry, Key, RealServer, Rows, Spec, VirtualServer
from kubeproxy_py.model.services import ObjectName

Owner = ObjectName

BASE = ObjectName("", "base")
"""Owner of the rows that exist without any Service; sorts before every Service."""

CHAINS = ObjectName("", "chains")
"""Owner of the chains, which follow from the sets."""

_Changes = tuple[list[Key], dict[VirtualServer, None]]
"""The keys of the union that changed, and the shared virtual servers whose real servers are still to be resolved."""


class Desired:
    """The rows that the kernel should have, and their owners."""

    def __init__(self) -> None:
        self.rows: Rows = {}
        self.sets = IpsetUsage()
        self._kinds: Counter[type[Key]] = Counter()  # number of rows of each kind
        self._claims: dict[Owner, tuple[Rows, ...]] = {}
        self._holder: dict[Key, Owner] = {}  # not for real servers, which their virtual server's holder holds
        self._rivals: dict[Key, list[Owner]] = {}  # all owners of each key that has several

    @property
    def counts(self) -> dict[str, int]:
        """Return the number of rows by the name of their kind."""
        return {kind.__name__: count for kind, count in self._kinds.items()}

    def replace(self, owner: Owner, *parts: Rows) -> list[Key]:
        """Replace the rows that *owner* wants by those of *parts*, and return the keys of the union that changed.

        No two parts may have a key in common, and no part may be changed afterwards.
        """
        before = self._claims.get(owner, ())
        old, new = _differing_parts(before, parts)
        changed, shared = self._withdraw(owner, [key for key in old if key not in new])
        self._store(owner, parts)
        claimed, newly_shared = self._claim(owner, old, new, shared)
        changed += claimed
        shared |= newly_shared
        wanted_before = _joined(before) if shared else {}
        for server in shared:
            changed += self._resolve(server, wanted_before)
        return changed

    def owners(self, key: Key) -> list[Owner]:
        """Return the owners of *key*, the holder first."""
        if key in self._rivals:
            return sorted(self._rivals[key])
        holder = self._holder.get(key.virtual_server if isinstance(key, RealServer) else key)
        return [holder] if holder and key in self.rows else []

    def rows_of(self, owner: Owner) -> Rows:
        """Return the rows that *owner* wants."""
        return _joined(self._claims.get(owner, ()))

    def _store(self, owner: Owner, parts: Sequence[Rows]) -> None:
        if non_empty := tuple(part for part in parts if part):
            self._claims[owner] = non_empty
        else:
            self._claims.pop(owner, None)

    def _withdraw(self, owner: Owner, keys: Iterable[Key]) -> _Changes:
        """Remove *keys*, which *owner* no longer wants, unless another owner wants them."""
        changed: list[Key] = []
        shared: dict[VirtualServer, None] = {}
        for key in keys:
            if isinstance(key, RealServer):
                if key.virtual_server in self._rivals:
                    shared[key.virtual_server] = None
                elif key.virtual_server not in shared and self._delete(key):
                    changed.append(key)
            elif key in self._rivals:
                self._remove_rival(key, owner)
                if isinstance(key, VirtualServer):
                    shared[key] = None
                if self._set(key, self._spec_by_holder(key)):
                    changed.append(key)
            else:
                self._holder.pop(key, None)
                if self._delete(key):
                    changed.append(key)
        return changed, shared

    def _claim(self, owner: Owner, old: Rows, new: Rows, unresolved: Container[VirtualServer]) -> _Changes:
        """Add the rows of *new* that differ from *old*, for *owner*.

        Real servers of shared virtual servers, and of those in *unresolved*, are left to ``_resolve``.
        """
        changed: list[Key] = []
        shared: dict[VirtualServer, None] = {}
        for key, own_spec in new.items():
            if key in old and old[key] == own_spec:
                continue
            spec = own_spec
            if isinstance(key, RealServer):
                if key.virtual_server in self._rivals:
                    shared[key.virtual_server] = None
                    continue
                if key.virtual_server in unresolved or key.virtual_server in shared:
                    continue
            elif self._holder.setdefault(key, owner) != owner or key in self._rivals:
                self._add_rival(key, owner)
                spec = self._spec_by_holder(key)
                if isinstance(key, VirtualServer):
                    shared[key] = None
            if self._set(key, spec):
                changed.append(key)
        return changed, shared

    def _add_rival(self, key: Key, owner: Owner) -> None:
        owners = self._rivals.setdefault(key, [self._holder[key]])
        if owner not in owners:
            owners.append(owner)
        self._holder[key] = min(owners)

    def _remove_rival(self, key: Key, owner: Owner) -> None:
        owners = self._rivals[key]
        owners.remove(owner)
        if len(owners) == 1:
            del self._rivals[key]
        self._holder[key] = min(owners)

    def _spec_by_holder(self, key: Key) -> Spec:
        return next(part[key] for part in self._claims[self._holder[key]] if key in part)

    def _resolve(self, server: VirtualServer, wanted_before: Rows) -> list[Key]:
        """Give *server* the real servers of its holder only, and return the keys that changed.

        *wanted_before* are the rows that the owner being replaced wanted until now.
        """
        holder = self._holder.get(server)
        wanted = _real_servers(self.rows_of(holder) if holder else {}, server)
        changed: list[Key] = []
        for rows in (wanted_before, *(self.rows_of(owner) for owner in self.owners(server))):
            changed += [key for key in _real_servers(rows, server) if key not in wanted and self._delete(key)]
        changed += [key for key, spec in wanted.items() if self._set(key, spec)]
        return changed

    def _set(self, key: Key, spec: Spec) -> bool:
        """Set the row *key* of the union, and return whether it changed."""
        if key not in self.rows:
            if isinstance(key, IpsetEntry):
                self.sets.add(key)
            self._kinds[type(key)] += 1
        elif self.rows[key] == spec:
            return False
        self.rows[key] = spec
        return True

    def _delete(self, key: Key) -> bool:
        """Delete the row *key* of the union, and return whether it existed."""
        if key not in self.rows:
            return False
        del self.rows[key]
        if isinstance(key, IpsetEntry):
            self.sets.remove(key)
        self._kinds[type(key)] -= 1
        return True


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


def _real_servers(rows: Rows, server: VirtualServer) -> Rows:
    return {key: spec for key, spec in rows.items() if isinstance(key, RealServer) and key.virtual_server == server}
