"""Desired: the union of the rows that each owner wants.

Law: the union depends on who wants what now, not on who came first.  Where two Services want one key with different
specs, the one whose name sorts first has it; a virtual server that two want has the real servers of its holder
alone.  The cost of a change is that of the owner's parts that changed: one that is the very same dict is not looked at.
"""

from collections import Counter
from collections.abc import Iterable, Sequence

from kubeproxy_py.compile.chains import NonEmptySets
from kubeproxy_py.model import kube_names as tables
from kubeproxy_py.model.rows import IpsetEntry, Key, RealServer, Rows, Spec, VirtualServer
from kubeproxy_py.model.services import FAMILIES, Family, ObjectName

Owner = ObjectName

BASE = ObjectName("", "base")
"""Owner of the rows that exist without any Service; sorts before every Service."""

CHAINS = ObjectName("", "chains")
"""Owner of the chains, which follow from the sets."""


class Desired:
    """What the kernel shall have, and who wants it."""

    def __init__(self) -> None:
        self.rows: Rows = {}
        self.sets = IpsetUsage()
        self._kinds: Counter[type[Key]] = Counter()  # how many rows of each
        self._claims: dict[Owner, tuple[Rows, ...]] = {}
        self._holder: dict[Key, Owner] = {}  # of real servers none: theirs is their virtual server's
        self._rivals: dict[Key, list[Owner]] = {}  # all owners of a key, where there is more than one

    @property
    def counts(self) -> dict[str, int]:
        """How many rows there are of each kind, by its name."""
        return {kind.__name__: count for kind, count in self._kinds.items()}

    def replace(self, owner: Owner, *parts: Rows) -> list[Key]:
        """*owner* now wants the rows of *parts* and nothing else; the keys of the union that changed by it.

        No two parts have a key in common, and none of them is changed from now on.
        """
        before = self._claims.get(owner, ())
        old, new = _apart(before, parts)
        changed: list[Key] = []
        contested: dict[VirtualServer, None] = {}
        for key in [key for key in old if key not in new]:
            if not self._is_contested(key, contested):
                self._withdraw(owner, key, changed, contested)
        self._remember(owner, parts)
        for key, spec in new.items():
            if (key not in old or old[key] != spec) and not self._is_contested(key, contested):
                self._claim(owner, key, spec, changed, contested)
        wanted_before = _joined(before) if contested else {}
        for server in contested:
            self._settle(server, wanted_before, changed)
        return changed

    def owners(self, key: Key) -> list[Owner]:
        """Who wants *key*, its holder first."""
        if key in self._rivals:
            return sorted(self._rivals[key])
        holder = self._holder.get(key.virtual_server if isinstance(key, RealServer) else key)
        return [holder] if holder and key in self.rows else []

    def contested(self) -> dict[Key, list[Owner]]:
        """Every virtual server that more than one owner wants, with them, the holder first."""
        return {key: self.owners(key) for key in self._rivals if isinstance(key, VirtualServer)}

    def rows_of(self, owner: Owner) -> Rows:
        """What *owner* wants."""
        return _joined(self._claims.get(owner, ()))

    def _remember(self, owner: Owner, parts: Sequence[Rows]) -> None:
        if wanted := tuple(part for part in parts if part):
            self._claims[owner] = wanted
        else:
            self._claims.pop(owner, None)

    def _is_contested(self, key: Key, contested: dict[VirtualServer, None]) -> bool:
        """Whether *key* is a real server of a virtual server that two owners want, or did until now; _settle's then."""
        if not (self._rivals or contested) or not isinstance(key, RealServer):
            return False
        if key.virtual_server in self._rivals:
            contested[key.virtual_server] = None
        return key.virtual_server in contested

    def _claim(
        self, owner: Owner, key: Key, spec: Spec, changed: list[Key], contested: dict[VirtualServer, None]
    ) -> None:
        if isinstance(key, RealServer):
            self._put(key, spec, changed)
            return
        holder = self._holder.setdefault(key, owner)
        if holder != owner or key in self._rivals:
            owners = self._rivals.setdefault(key, [holder])
            if owner not in owners:
                owners.append(owner)
            self._hand_over(key, min(owners), changed, contested)
        else:
            self._put(key, spec, changed)

    def _withdraw(self, owner: Owner, key: Key, changed: list[Key], contested: dict[VirtualServer, None]) -> None:
        owners = self._rivals.get(key)
        if owners is None:
            self._holder.pop(key, None)
            self._drop(key, changed)
            return
        owners.remove(owner)
        if len(owners) == 1:
            del self._rivals[key]
        self._hand_over(key, min(owners), changed, contested)

    def _hand_over(self, key: Key, holder: Owner, changed: list[Key], contested: dict[VirtualServer, None]) -> None:
        self._holder[key] = holder
        self._put(key, next(part[key] for part in self._claims[holder] if key in part), changed)
        if isinstance(key, VirtualServer):
            contested[key] = None

    def _settle(self, server: VirtualServer, old: Rows, changed: list[Key]) -> None:
        """Give *server* the real servers of its holder alone; *old* is what the owner at work wanted before."""
        holder = self._holder.get(server)
        wanted = _real_servers(self.rows_of(holder) if holder else {}, server)
        for rows in (old, *(self.rows_of(owner) for owner in self.owners(server))):
            for key in _real_servers(rows, server):
                if key not in wanted:
                    self._drop(key, changed)
        for key, spec in wanted.items():
            self._put(key, spec, changed)

    def _put(self, key: Key, spec: Spec, changed: list[Key]) -> None:
        if key not in self.rows:
            if isinstance(key, IpsetEntry):
                self.sets.count(key, 1)
            self._kinds[type(key)] += 1
        elif self.rows[key] == spec:
            return
        self.rows[key] = spec
        changed.append(key)

    def _drop(self, key: Key, changed: list[Key]) -> None:
        if key in self.rows:
            del self.rows[key]
            if isinstance(key, IpsetEntry):
                self.sets.count(key, -1)
            self._kinds[type(key)] -= 1
            changed.append(key)


def _apart(before: Sequence[Rows], after: Sequence[Rows]) -> tuple[Rows, Rows]:
    """The rows of *before* and *after*, but for parts that are in both."""
    if len(before) <= 1 and len(after) <= 1:
        return _joined(before), _joined(after)
    kept = {id(part) for part in before} & {id(part) for part in after}
    old, new = ([part for part in parts if id(part) not in kept] for parts in (before, after))
    return _joined(old), _joined(new)


def _joined(parts: Sequence[Rows]) -> Rows:
    """All rows of *parts*; of a single one the very same dict."""
    if len(parts) == 1:
        return parts[0]
    return {key: spec for part in parts for key, spec in part.items()}


def _real_servers(rows: Rows, server: VirtualServer) -> Rows:
    return {key: spec for key, spec in rows.items() if isinstance(key, RealServer) and key.virtual_server == server}


_USUAL = tables.maxelem_for(0)


class IpsetUsage:
    """How many entries each set has, and the entries of the few sets whose content shapes a chain."""

    def __init__(self) -> None:
        self.changed = True  # since the last look
        self._sizes: Counter[str] = Counter()
        self._entries: dict[str, set[str]] = {
            kind.name_in(family): set()
            for family in FAMILIES
            for kind in (tables.LOAD_BALANCER_FW, tables.LOAD_BALANCER_SOURCE_IP)
        }

    def count(self, key: IpsetEntry, more: int) -> None:
        """Note that *key* came (+1) or went (-1)."""
        size = self._sizes[key.set] = self._sizes[key.set] + more
        if size == (1 if more > 0 else 0) or (size >= _USUAL and _outgrows(size, more)):
            self.changed = True
        if key.set in self._entries:
            self.changed = True
            (self._entries[key.set].add if more > 0 else self._entries[key.set].discard)(key.entry)

    def in_use(self, family: Family) -> NonEmptySets:
        """What the chains of *family* depend on."""
        mine = [kind.name_in(family) for kind in tables.SET_KINDS]
        guarded = self._entries[tables.LOAD_BALANCER_FW.name_in(family)]
        open_to_node = self._entries[tables.LOAD_BALANCER_SOURCE_IP.name_in(family)]
        return NonEmptySets(
            frozenset(name for name in mine if self._sizes[name]),
            tuple(sorted(guarded - _fronts_of(open_to_node))),
            tuple((name, most) for name in mine if (most := tables.maxelem_for(self._sizes[name])) > _USUAL),
        )


def _outgrows(size: int, more: int) -> bool:
    """Whether a set that came to *size* by *more* needs another header."""
    return tables.maxelem_for(size) != tables.maxelem_for(size - more)


def _fronts_of(entries: Iterable[str]) -> set[str]:
    """``vip,proto:port`` of entries ``vip,proto:port,vip``."""
    return {entry.rpartition(",")[0] for entry in entries}
