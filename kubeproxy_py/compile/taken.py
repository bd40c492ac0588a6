"""Taken: the addresses that are known to be another machine's or a pod's.

Every endpoint's address is one: a pod's, or that of the node of a pod with hostNetwork, which includes API servers (the
endpoints of default/kubernetes).  Others are reported (``TakenAddresses``).

Invariants:
- The state depends only on the slices and reports now known (law 1).
- The cost of a change is that of the addresses that changed.
"""

from collections.abc import Iterator

from kubeproxy_py.model.events import TakenAddresses
from kubeproxy_py.model.rows import VirtualServer
from kubeproxy_py.model.services import EndpointSlice
from kubeproxy_py.net import IP

_ENDPOINT = "the address of an endpoint"
_API_SERVER = "the address of the API server that this agent uses"


class Taken:
    """The taken addresses; of the endpoints, in how many slices each one is."""

    def __init__(self) -> None:
        self._endpoints: dict[IP, int] = {}
        self._reports: dict[str, TakenAddresses] = {}  # by source, in order of their names
        self._api_servers: dict[VirtualServer, None] = {}

    def by_whom(self, address: IP) -> str:
        """Return whose *address* is, in words; "" if it is not taken."""
        for report in self._reports.values():
            if owner := report.addresses.get(address):
                return owner
        if any(server.address == address for server in self._api_servers):
            return _API_SERVER
        return _ENDPOINT if address in self._endpoints else ""

    def is_api_server(self, server: VirtualServer) -> bool:
        """Return whether this agent reaches the API server at the address and port of *server*."""
        return server in self._api_servers

    @property
    def api_servers(self) -> tuple[VirtualServer, ...]:
        """Return the addresses and ports at which this agent reaches the API server."""
        return tuple(self._api_servers)

    def replace_slice(self, old: EndpointSlice | None, new: EndpointSlice | None) -> list[IP]:
        """Replace the slice *old* by *new*; return the addresses that were or are an endpoint's only by this change."""
        before = _addresses(old) if old else {}
        after = _addresses(new) if new else {}
        gone = [address for address in before if address not in after and self._remove(address)]
        return gone + [address for address in after if address not in before and self._add(address)]

    def replace_report(self, report: TakenAddresses) -> list[IP]:
        """Replace what the source of *report* reported; return the addresses of which ``by_whom`` changed."""
        before = self._reports.get(report.source)
        concerned = dict.fromkeys((*(_reported(before) if before else ()), *_reported(report)))
        owners = {address: self.by_whom(address) for address in concerned}
        self._reports = dict(sorted({**self._reports, report.source: report}.items()))
        self._api_servers = {
            VirtualServer(socket.address, socket.port, "TCP"): None
            for known in self._reports.values()
            for socket in known.api_servers
        }
        return [address for address, owner in owners.items() if self.by_whom(address) != owner]

    def _add(self, address: IP) -> bool:
        count = self._endpoints[address] = self._endpoints.get(address, 0) + 1
        return count == 1

    def _remove(self, address: IP) -> bool:
        count = self._endpoints[address] - 1
        if count:
            self._endpoints[address] = count
        else:
            del self._endpoints[address]
        return not count


def _addresses(endpoint_slice: EndpointSlice) -> dict[IP, None]:
    return {endpoint.address: None for endpoint in endpoint_slice.endpoints}


def _reported(report: TakenAddresses) -> Iterator[IP]:
    yield from report.addresses
    for socket in report.api_servers:
        yield socket.address


NOTHING_TAKEN = Taken()
"""Nothing is taken; not to be changed."""
