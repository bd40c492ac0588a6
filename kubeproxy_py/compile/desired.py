"""Desired: the union of the rows that each owner wants.

Law: the union depends on who wants what now, not on who came first.  Where two Services want one key with different
specs, the one whose name sorts first has it; a virtual server that two want has the real servers of its holder
alone.  The cost of a change is that of the owner's own rows.
"""

from collections import Counter
from collections.abc import Iterable

from kubeproxy_py.compile.chains import SetsInUse
from kubeproxy_py.model import tables
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
        self.sets = _SetUse()
        self.counts: Counter[str] = Counter()  # rows by the name of their kind
        self._claims: dict[Owner, Rows] = {}
        self._holder: dict[Key, Owner] = {}
        self._rivals: dict[Key, list[Owner]] = {}  # all owners of a key, where there is more than one

    def replace(self, owner: Owner, rows: Rows) -> list[Key]:
        """*owner* now wants *rows* and nothing else; the keys of the union that changed by it."""
        old = self._claims.get(owner, {})
        changed: list[Key] = []
        contested: dict[VirtualServer, None] = {}
        for key in [key for key in old if key not in rows]:
            if not self._is_contested(key, contested):
                self._withdraw(owner, key, changed, contested)
        self._remember(owner, rows)
        for key, spec in rows.items():
            if (key not in old or old[key] != spec) and not self._is_contested(key, contested):
                self._claim(owner, key, spec, changed, contested)
        for server in contested:
            self._settle(server, old, changed)
        return changed

    def owners(self, key: Key) -> list[Owner]:
        """Who wants *key*, its holder first."""
        if key in self._rivals:
            return sorted(self._rivals[key])
        return [self._holder[key]] if key in self._holder else []

    def contested(self) -> dict[Key, list[Owner]]:
        """Every virtual server that more than one owner wants, with them, the holder first."""
        return {key: self.owners(key) for key in self._rivals if isinstance(key, VirtualServer)}

    def rows_of(self, owner: Owner) -> Rows:
        """What *owner* wants."""
        return self._claims.get(owner, {})

    def _remember(self, owner: Owner, rows: Rows) -> None:
        if rows:
            self._claims[owner] = rows
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
            del self._holder[key]
            self._drop(key, changed)
            return
        owners.remove(owner)
        if len(owners) == 1:
            del self._rivals[key]
        self._hand_over(key, min(owners), changed, contested)

    def _hand_over(self, key: Key, holder: Owner, changed: list[Key], contested: dict[VirtualServer, None]) -> None:
        self._holder[key] = holder
        self._put(key, self._claims[holder][key], changed)
        if isinstance(key, VirtualServer):
            contested[key] = None

    def _settle(self, server: VirtualServer, old: Rows, changed: list[Key]) -> None:
        """Give *server* the real servers of its holder alone; *old* is what the owner at work wanted before."""
        holder = self._holder.get(server)
        wanted = _real_servers(self._claims.get(holder, {}) if holder else {}, server)
        for rows in (old, *(self._claims.get(owner, {}) for owner in self.owners(server))):
            for key in _real_servers(rows, server):
                if key not in wanted:
                    self._holder.pop(key, None)
                    self._drop(key, changed)
        for key, spec in wanted.items():
            if holder:
                self._holder[key] = holder
            self._put(key, spec, changed)

    def _put(self, key: Key, spec: Spec, changed: list[Key]) -> None:
        if key not in self.rows:
            self.sets.count(key, 1)
            self.counts[type(key).__name__] += 1
        elif self.rows[key] == spec:
            return
        self.rows[key] = spec
        changed.append(key)

    def _drop(self, key: Key, changed: list[Key]) -> None:
        if key in self.rows:
            del self.rows[key]
            self.sets.count(key, -1)
            self.counts[type(key).__name__] -= 1
            changed.append(key)


def _real_servers(rows: Rows, server: VirtualServer) -> Rows:
    return {key: spec for key, spec in rows.items() if isinstance(key, RealServer) and key.virtual_server == server}


_USUAL = tables.maxelem_for(0)


class _SetUse:
    """How many entries each set has, and the entries of the few sets whose content shapes a chain."""

    def __init__(self) -> None:
        self.changed = True  # since the last look
        self._sizes: Counter[str] = Counter()
        self._entries: dict[str, set[str]] = {
            kind.name_in(family): set()
            for family in FAMILIES
            for kind in (tables.LOAD_BALANCER_FW, tables.LOAD_BALANCER_SOURCE_IP)
        }

    def count(self, key: Key, more: int) -> None:
        """Note that *key* came (+1) or went (-1)."""
        if not isinstance(key, IpsetEntry):
            return
        size = self._sizes[key.set] = self._sizes[key.set] + more
        if size == (1 if more > 0 else 0) or (size >= _USUAL and _outgrows(size, more)):
            self.changed = True
        if key.set in self._entries:
            self.changed = True
            (self._entries[key.set].add if more > 0 else self._entries[key.set].discard)(key.entry)

    def in_use(self, family: Family) -> SetsInUse:
        """What the chains of *family* depend on."""
        mine = [kind.name_in(family) for kind in tables.SET_KINDS]
        guarded = self._entries[tables.LOAD_BALANCER_FW.name_in(family)]
        open_to_node = self._entries[tables.LOAD_BALANCER_SOURCE_IP.name_in(family)]
        return SetsInUse(
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
