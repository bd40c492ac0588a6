"""RowOwners: for which Services a row of kernel state is, also one that no Service wants any more."""

from kubeproxy_py.compile.desired import BASE, CHAINS, RESTING, Desired
from kubeproxy_py.model.rows import Address, IpsetEntry, Key, RealServer, VirtualServer


class RowOwners:
    """Names the Services of rows, by the rows that they want.

    A row that none wants belongs to the Service of its virtual server, else to the only one that has its address.
    """

    def __init__(self, desired: Desired) -> None:
        self._names: dict[Key, tuple[str, ...]] = {}
        by_address: dict[str, set[str]] = {}
        for owner in desired.owners():
            if owner in (BASE, CHAINS, RESTING):
                continue
            for key in desired.rows_of(owner):
                self._names[key] = (*self._names.get(key, ()), str(owner))
                if isinstance(key, VirtualServer | Address) and not getattr(key, "mark", 0):
                    by_address.setdefault(key.address, set()).add(str(owner))
        self._only = {address: names for address, names in by_address.items() if len(names) == 1}

    def __call__(self, key: Key) -> tuple[str, ...]:
        """Return the names, sorted; none if the row is for all Services, or for none."""
        if names := self._names.get(key):
            return tuple(sorted(names))
        if isinstance(key, RealServer):
            return self(key.virtual_server)
        return tuple(self._only.get(_address_of(key), ()))


def _address_of(key: Key) -> str:
    if isinstance(key, VirtualServer | Address):
        return key.address
    return key.entry.partition(",")[0] if isinstance(key, IpsetEntry) else ""
