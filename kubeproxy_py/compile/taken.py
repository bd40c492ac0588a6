"""Taken: the addresses that are known to be another machine's or a pod's.

Every endpoint's address is one: a pod's, or that of the node of a pod with hostNetwork, which includes API servers (the
endpoints of default/kubernetes).  Others are reported (``TakenAddresses``).

Invariants:
- The state depends only on the slices and reports now known (law 1).
- The cost of a change is that of the addresses that changed.
"""

from collections.abc import Iterable, Iterator

from kubeproxy_py.model.events import TakenAddresses
from kubeproxy_py.model.rows import VirtualServer
from kubeproxy_py.model.services import EndpointSlice
from kubeproxy_py.net import IP

_ENDPOINT = "the address of an endpoint"
_API_SERVER = "the address of the API server that this agent uses"


class Taken:
    """The taken addresses."""

    def __init__(self) -> None:
        self._is_counting = False
        self._endpoints: dict[IP, int] = {}  # how many endpoints have each address
        self._reports: dict[str, TakenAddresses] = {}  # by source, in order of their names
        self.api_servers: frozenset[VirtualServer] = frozenset()  # where this agent reaches the API server

    def owner_text(self, address: IP, *, besides: str = "") -> str:
        """Return whose *address* is, in words; "" if it is not taken, or if only the source *besides* says so."""
        for report in self._reports.values():
            if report.source == besides:
                continue
            if owner := report.addresses.get(address):
                return owner
        if any(server.address == address for server in self.api_servers):
            return _API_SERVER
        return _ENDPOINT if address in self._endpoints else ""

    def reports(self) -> tuple[TakenAddresses, ...]:
        """Return what each source reported last."""
        return tuple(self._reports.values())

    def start(self, slices: Iterable[EndpointSlice]) -> None:
        """Count the endpoints of *slices*, which are all that are known, unless that was done before.

        Only a cluster that has external addresses needs the count, 50 bytes for each endpoint.
        """
        if not self._is_counting:
            self._is_counting = True
            for endpoint_slice in slices:
                self.replace_slice(None, endpoint_slice)

    def replace_slice(self, old: EndpointSlice | None, new: EndpointSlice | None) -> list[IP]:
        """Replace the slice *old* by *new*; return the addresses that were or are an endpoint's only by this change."""
        if not self._is_counting:
            return []
        counts, changed = self._endpoints, list[IP]()
        for endpoint in new.endpoints if new else ():
            count = counts[endpoint.address] = counts.get(endpoint.address, 0) + 1
            if count == 1:
                changed.append(endpoint.address)
        for endpoint in old.endpoints if old else ():
            count = counts[endpoint.address] = counts[endpoint.address] - 1
            if not count:
                del counts[endpoint.address]
                changed.append(endpoint.address)
        return changed

    def replace_report(self, report: TakenAddresses) -> list[IP]:
        """Replace what the source of *report* reported; return the addresses of which ``owner_text`` changed."""
        before = self._reports.get(report.source)
        concerned = dict.fromkeys((*(_reported(before) if before else ()), *_reported(report)))
        owners = {address: self.owner_text(address) for address in concerned}
        self._reports = dict(sorted({**self._reports, report.source: report}.items()))
        self.api_servers = frozenset(
            VirtualServer(socket.address, socket.port, "TCP")
            for known in self._reports.values()
            for socket in known.api_servers
        )
        return [address for address, owner in owners.items() if self.owner_text(address) != owner]


def _reported(report: TakenAddresses) -> Iterator[IP]:
    yield from report.addresses
    for socket in report.api_servers:
        yield socket.address


NOTHING_TAKEN = Taken()
"""Nothing is taken; not to be changed."""
