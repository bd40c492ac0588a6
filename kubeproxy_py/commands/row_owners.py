"""RowOwners: for which Services a row of kernel state is, also one that no Service wants any more."""

from collections.abc import Callable

from kubeproxy_py.compile.desired import OF_NO_SERVICE, Desired
from kubeproxy_py.model.kube_names import server_entry
from kubeproxy_py.model.policy_marks import servers_by_entry
from kubeproxy_py.model.rows import Address, IpsetEntry, Key, RealServer, Rows, VirtualServer
from kubeproxy_py.model.services import ServiceName

HolderQuery = Callable[[VirtualServer], ServiceName | None]
"""Returns the Service that has a virtual server, or had it until its mark rests; None if none is known."""


class RowOwners:
    """Names the Services of rows, by the rows that they want.

    A row that none wants belongs to the Service of its virtual server: the one by firewall mark to that of the
    frontends which lead there.  Else it belongs to the only Service that has its address.

    Args:
        desired: The desired rows.
        actual: The actual rows, whose sets name the frontends that lead to a mark.
        holder_of: Returns who has or had a virtual server by mark.
    """

    def __init__(
        self, desired: Desired, actual: Rows | None = None, holder_of: HolderQuery = lambda _server: None
    ) -> None:
        self._holder_of = holder_of
        self._names: dict[Key, tuple[str, ...]] = {}
        self._by_frontend: dict[str, tuple[str, ...]] = {}  # by the entry that names it
        by_address: dict[str, set[str]] = {}
        for owner in desired.owners():
            if owner in OF_NO_SERVICE:
                continue
            for key in desired.rows_of(owner):
                self._names[key] = (*self._names.get(key, ()), str(owner))
                if isinstance(key, VirtualServer) and not key.mark:
                    self._by_frontend[server_entry(key)] = (str(owner),)
                if isinstance(key, VirtualServer | Address) and not getattr(key, "mark", 0):
                    by_address.setdefault(key.address, set()).add(str(owner))
        self._only = {address: names for address, names in by_address.items() if len(names) == 1}
        self._leading: dict[VirtualServer, list[IpsetEntry]] = {}
        for entry, server in servers_by_entry(actual or {}).items():
            self._leading.setdefault(server, []).append(entry)

    def __call__(self, key: Key) -> tuple[str, ...]:
        """Return the names, sorted; none if the row is for all Services, or for none that is known."""
        if names := self._names.get(key):
            return tuple(sorted(names))
        if isinstance(key, RealServer):
            return self(key.virtual_server)
        if isinstance(key, VirtualServer) and key.mark:
            return self._of_mark(key)
        if isinstance(key, IpsetEntry) and (names := self._by_frontend.get(key.entry)):
            return names
        return tuple(self._only.get(_address_of(key), ()))

    def _of_mark(self, server: VirtualServer) -> tuple[str, ...]:
        """Return who had *server*, by firewall mark; who has a frontend now may not be who had it."""
        if holder := self._holder_of(server):
            return (str(holder),)
        return tuple(sorted({name for entry in self._leading.get(server, ()) for name in self(entry)}))


def _address_of(key: Key) -> str:
    if isinstance(key, VirtualServer | Address):
        return key.address
    return key.entry.partition(",")[0] if isinstance(key, IpsetEntry) else ""
