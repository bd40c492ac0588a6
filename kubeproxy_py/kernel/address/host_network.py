"""HostNetwork: what surrounds this host: its gateways, and the machines on its links."""

from collections.abc import Collection, Iterable

from kubeproxy_py.kernel.address.neighbours import read_neighbours, solicit
from kubeproxy_py.kernel.address.routes import read_gateways, read_route
from kubeproxy_py.kernel.address.routing_socket import RoutingSocket
from kubeproxy_py.model.node import HostAddress, Neighbour
from kubeproxy_py.net import IP


class HostNetwork(RoutingSocket):
    """Reads by rtnetlink, in the network namespace in which it is first used; see Kernel for the methods."""

    filters = True

    def gateways(self) -> dict[IP, str]:
        """Return the gateways of the routes, each with its interface."""
        return read_gateways(self._netlink)

    def route_to(self, address: IP) -> tuple[str, IP] | None:
        """Return the interface and source address with which this host sends to *address*; None without a route."""
        return read_route(self._netlink, address)

    def solicit(self, targets: Iterable[HostAddress]) -> None:
        """Have the kernel resolve *targets*."""
        solicit(self._netlink, targets)

    def neighbours(self, interfaces: Collection[str]) -> tuple[Neighbour, ...]:
        """Read the neighbour tables."""
        return read_neighbours(self._netlink, interfaces)
