"""Which Service port has which firewall mark, with exact policies (docs/policies.md).

Invariants:
- A number is sticky: a Service port keeps its own for as long as it needs one, after a restart too, because the
  kernel's set has it.  Otherwise connections would lose their virtual server.
- A mark that is not needed any more *rests*: its virtual server stays, without real servers, until the last of those
  has drained.  Only then it is deleted, and the number may be given to another Service port.
- At most as many Service ports of a family have a mark as there are numbers.  The others get none, and stay as in
  kube-proxy.
- The cost of a change is that of the Service ports that need another mark.
"""

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from zlib import crc32

from msgspec import Struct

from kubeproxy_py.model.health import MarkedPort
from kubeproxy_py.model.kube_names import (
    POLICY_MARKS,
    POLICY_OUTSIDE,
    POLICY_ROUTED,
    IpsetDefinition,
    entry_key,
    family_of_set,
)
from kubeproxy_py.model.policy_marks import MarkRange, foreign_mark_servers, marks_by_entry
from kubeproxy_py.model.rows import IpsetEntry, Rows, VirtualServer, VirtualServerSpec, mark_server
from kubeproxy_py.model.services import ServiceName
from kubeproxy_py.model.settings import DirectReturn
from kubeproxy_py.net import Family, Protocol, family_of

_SETS: Mapping[DirectReturn, IpsetDefinition] = {"": POLICY_MARKS, "tunnel": POLICY_OUTSIDE, "route": POLICY_ROUTED}


class MarkOwner(Struct, frozen=True, gc=False, cache_hash=True):
    """A Service port in one family, for clients inside or for those outside."""

    service: ServiceName
    port: str  # its name
    protocol: Protocol
    family: Family
    direct_return: DirectReturn = ""  # "": for clients inside

    @property
    def set(self) -> str:
        """The name of the set that leads to it."""
        return _SETS[self.direct_return].name_in(self.family)


class MarkNumbers:
    """The marks of all Service ports, and those that rest."""

    def __init__(self) -> None:
        self.without: set[MarkOwner] = set()  # Service ports that need a mark, but there was none
        self.version = 0  # increases whenever ``resting`` changes
        self._resting: dict[VirtualServer, VirtualServerSpec] = {}
        self._last_owners: dict[VirtualServer, MarkOwner] = {}  # of those that rest, as far as they are known
        self._range: MarkRange | None = None
        self._marks: dict[MarkOwner, int] = {}
        self._by_service: dict[ServiceName, dict[MarkOwner, None]] = {}
        self._owners: dict[VirtualServer, MarkOwner] = {}
        self._used: Counter[Family] = Counter()  # numbers that Service ports have, or that rest
        # As the kernel's set had them, until the first Services are compiled:
        self._found: dict[IpsetEntry, int] = {}
        self._claimed: set[tuple[Family, int]] = set()

    @property
    def resting(self) -> Mapping[VirtualServer, VirtualServerSpec]:
        """The virtual servers of marks that rest."""
        return self._resting

    def use(self, mark_range: MarkRange | None) -> None:
        """Give marks of *mark_range* from now on; None: give none."""
        self._range = mark_range

    def adopt(self, kernel_rows: Rows, mark_range: MarkRange | None) -> None:
        """Record the marks of *kernel_rows*, all rows of the kernel; those that no Service port has yet rest.

        *mark_range* is that of the configuration, for virtual servers whose mark the set does not have.
        """
        self._found = marks_by_entry(kernel_rows)
        self._claimed = {(family_of_set(key.set), mark) for key, mark in self._found.items()}
        foreign = foreign_mark_servers(kernel_rows, kernel_rows, mark_range)
        for key, spec in kernel_rows.items():
            if isinstance(key, VirtualServer) and key.mark and key not in foreign and not self._is_used(key):
                assert isinstance(spec, VirtualServerSpec)
                self._rest(key, spec)

    def forget_found(self) -> None:
        """Release the adopted marks that no Service port has taken, because all Services that exist were compiled."""
        self._found, self._claimed = {}, set()

    def owner_of(self, server: VirtualServer) -> MarkOwner | None:
        """Return the Service port that *server* serves by mark, or served until it rests; None if it is not known."""
        return self._owners.get(server) or self._last_owners.get(server)

    def servers_of(self, owners: Iterable[MarkOwner]) -> Iterator[MarkedPort]:
        """Return the virtual server by mark of each of *owners* that has one, with the port's name and protocol."""
        for owner in owners:
            if mark := self._marks.get(owner):
                yield mark_server(owner.family, mark), owner.port, owner.protocol

    def mark_of(self, owner: MarkOwner, frontends: Iterable[str]) -> int:
        """Return the mark of *owner*, which has *frontends* (entries of the set); 0 if no number is left."""
        known = self._marks.get(owner)
        if known is not None:
            return known
        mark = self._found_mark(owner, frontends) or self._free_mark(owner)
        if not mark:
            self.without.add(owner)
            return 0
        self.without.discard(owner)
        self._marks[owner] = mark
        self._by_service.setdefault(owner.service, {})[owner] = None
        server = mark_server(owner.family, mark)
        self._owners[server] = owner
        if self._resting.pop(server, None):
            self._last_owners.pop(server, None)
            self.version += 1
        else:
            self._used[owner.family] += 1
        return mark

    def retain(self, service: ServiceName, owners: Collection[MarkOwner], desired: Rows) -> None:
        """Have the marks of *service* rest, but those of *owners*; *desired* are the rows until now."""
        had = self._by_service.get(service)
        if self.without:
            self.without = {owner for owner in self.without if owner.service != service or owner in owners}
        for owner in [owner for owner in had if owner not in owners] if had else ():
            self._release(owner, desired)

    def end_rest(self, has_real_servers: Callable[[VirtualServer], bool]) -> bool:
        """Give back the marks that rest whose virtual server has no real servers any more; return whether any did."""
        over = [server for server in self._resting if not has_real_servers(server)]
        for server in over:
            del self._resting[server]
            self._last_owners.pop(server, None)
            self._used[family_of(server.address)] -= 1
        self.version += bool(over)
        return bool(over)

    def is_exhausted(self, family: Family) -> bool:
        """Return whether every number of *family* is used, or rests."""
        return self._range is not None and self._used[family] >= self._range.capacity

    def _release(self, owner: MarkOwner, desired: Rows) -> None:
        mark = self._marks.pop(owner)
        del self._by_service[owner.service][owner]
        if not self._by_service[owner.service]:
            del self._by_service[owner.service]
        server = mark_server(owner.family, mark)
        del self._owners[server]
        self._used[owner.family] -= 1
        spec = desired.get(server)
        if isinstance(spec, VirtualServerSpec):  # else it was never desired
            self._rest(server, spec)
            self._last_owners[server] = owner

    def _rest(self, server: VirtualServer, spec: VirtualServerSpec) -> None:
        self._used[family_of(server.address)] += 1
        self._resting[server] = spec
        self.version += 1

    def _is_used(self, server: VirtualServer) -> bool:
        return server in self._owners or server in self._resting

    def _found_mark(self, owner: MarkOwner, frontends: Iterable[str]) -> int:
        """Return the mark that the kernel's set has for one of *frontends*, if no other Service port has it; else 0."""
        if not self._found or self._range is None:
            return 0
        name = owner.set
        marks = [self._found.pop(entry_key(name, frontend), 0) for frontend in frontends]
        usable = (mark for mark in marks if mark in self._range)
        return next((mark for mark in usable if mark_server(owner.family, mark) not in self._owners), 0)

    def _free_mark(self, owner: MarkOwner) -> int:
        """Return a mark that is neither used nor rests, nor may still be claimed; 0 if there is none.

        It follows from the name, so that it is nearly always the same on every node and after a reboot.  What rests is
        given back to the Service port that had it.
        """
        if self._range is None or (self.is_exhausted(owner.family) and owner not in self._last_owners.values()):
            return 0
        family, capacity = owner.family, self._range.capacity
        name = f"{owner.service}:{owner.port}/{owner.protocol}{'/outside' if owner.direct_return else ''}"
        first = crc32(name.encode())
        candidates = (self._range.mark(1 + (first + offset) % capacity) for offset in range(capacity))
        free = (mark for mark in candidates if (family, mark) not in self._claimed)
        return next((mark for mark in free if self._is_for(owner, mark_server(family, mark))), 0)

    def _is_for(self, owner: MarkOwner, server: VirtualServer) -> bool:
        return not self._is_used(server) or self._last_owners.get(server) == owner
