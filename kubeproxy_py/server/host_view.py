"""HostView: what a trace asks of the host that no row has: routes, interfaces, and the programs that listen."""

from socket import if_nameindex

from kubeproxy_py.diagnose.trace.packet import Packet, Route
from kubeproxy_py.kernel.address.host_network import HostNetwork
from kubeproxy_py.kernel.errors import KernelError
from kubeproxy_py.kernel.host.listening import ListeningSocket, listening_sockets
from kubeproxy_py.net import IP


class HostView:
    """The host as it is when it is first asked for; to be used by one thread, in the host's network namespace."""

    def __init__(self) -> None:
        self._network = HostNetwork()
        self._routes: dict[IP, Route | None] = {}
        self._sockets: frozenset[ListeningSocket] | None = None

    def route_to(self, address: IP) -> Route | None:
        """Return the route to *address*; None if there is none, or if it cannot be read."""
        if address not in self._routes:
            self._routes[address] = self._read_route(address)
        return self._routes[address]

    def _read_route(self, address: IP) -> Route | None:
        try:
            found = self._network.route_to(address)
        except (KernelError, OSError):
            return None
        return Route(*found) if found else None

    def listens(self, packet: Packet) -> bool | None:
        """Return whether a program listens for *packet*; None if the kernel cannot list sockets of its protocol."""
        if self._sockets is None:
            self._sockets = listening_sockets()
        same = [each for each in self._sockets if (each.protocol, each.family) == (packet.protocol, packet.family)]
        if not same:
            return None
        return any(
            each.port == packet.port and (each.is_wildcard or each.address == packet.destination) for each in same
        )

    @staticmethod
    def interfaces() -> tuple[str, ...]:
        """Return the names of all interfaces; none if they cannot be read."""
        try:
            return tuple(name for _, name in if_nameindex())
        except OSError:
            return ()

    def close(self) -> None:
        """Close the socket."""
        self._network.close()
