"""The packet that is traced, and what is known of the host that it traverses.

A packet is the first one of its connection: connection tracking considers it NEW.
"""

from collections.abc import Callable, Collection, Iterable
from ipaddress import ip_address, ip_network

from msgspec import Struct
from msgspec.structs import replace

from kubeproxy_py.model.node import HostAddress
from kubeproxy_py.model.rows import IPVS_DEVICE, VirtualServer
from kubeproxy_py.net import IP, PROTOCOL_NUMBERS, Family, Protocol, family_of, join_host_port

LOOPBACK_DEVICE = "lo"
ICMP = "ICMP"

_LOOPBACK_NETWORKS = {"IPv4": ip_network("127.0.0.0/8"), "IPv6": ip_network("::1/128")}
_PROTOCOLS: dict[str, Protocol] = {protocol: protocol for protocol in PROTOCOL_NUMBERS}


class Packet(Struct, frozen=True, gc=False):
    """A packet at one place on its way."""

    source: IP
    destination: IP
    protocol: str  # "TCP", "UDP", "SCTP" or ICMP: an echo request
    port: int = 0  # of the destination; 0: the protocol has none
    from_host: bool = False  # a program of this host sends it
    in_interface: str | None = ""  # "": unknown; None: it did not arrive from outside (OUTPUT, POSTROUTING)
    out_interface: str | None = ""  # as in_interface, of where it leaves
    mark: int = 0
    unknown_mark: int = 0  # the bits of the mark that are not known
    virtual_server: VirtualServer | None = None  # that took it: the destination is a real server
    is_masqueraded: bool = False  # its source becomes an address of this host
    diverted: str = ""  # the rule of another program that has changed its destination

    @property
    def family(self) -> Family:
        """Return the family of the packet's addresses."""
        return family_of(self.destination)

    @property
    def server(self) -> VirtualServer | None:
        """Return the virtual server that has the packet's destination, if there is one; None for ICMP."""
        protocol = _PROTOCOLS.get(self.protocol)
        return VirtualServer(self.destination, self.port, protocol) if protocol else None

    @property
    def target(self) -> str:
        """Return ``address:port``, or the address of a protocol without ports."""
        return join_host_port(self.destination, self.port) if self.port else self.destination

    @property
    def entry(self) -> str:
        """Return the destination as an entry of a set of type hash:ip,port."""
        return f"{self.destination},{self.protocol.lower()}:{self.port}"


class Route(Struct, frozen=True, gc=False):
    """Where the kernel sends a packet: by which interface, and from which address if the sender has not chosen one."""

    interface: str
    source: IP = ""


def no_route(_address: IP) -> Route | None:
    """Return None: the routes of the host are not known."""
    return None


class Host(Struct, frozen=True, gc=False):
    """What the way of a packet depends on besides rows.

    Attributes:
        addresses: the addresses of all interfaces; those of kube-ipvs0 are rows, and are ignored here.
        route_to: returns the route to an address; None if it is not known.
        pods: returns addresses of pods on this node, of one family.
        listens: returns whether a program of the host listens for a packet; None if it is not known.
        interfaces: returns the names of all interfaces; none if they are not known.
    """

    addresses: tuple[HostAddress, ...] = ()
    route_to: Callable[[IP], Route | None] = no_route
    pods: Callable[[Family], Iterable[IP]] = lambda _family: ()
    listens: Callable[[Packet], bool | None] = lambda _packet: None
    interfaces: Callable[[], Collection[str]] = tuple

    def without_service_addresses(self) -> "Host":
        """Return this host with the addresses that it has besides those of Services."""
        own = tuple(own for own in self.addresses if own.interface != IPVS_DEVICE and not own.is_gone)
        return replace(self, addresses=own)

    def interface_of(self, address: IP) -> str:
        """Return the interface that has *address*; "" if none has."""
        if ip_address(address) in _LOOPBACK_NETWORKS[family_of(address)]:
            return LOOPBACK_DEVICE
        return next((own.interface for own in self.addresses if own.address == address), "")

    def route(self, address: IP) -> Route | None:
        """Return the route to *address*: as the host knows it, else by the network that contains it."""
        return self.route_to(address) or self._connected(address)

    def _connected(self, address: IP) -> Route | None:
        networks = [
            (own.prefix_length, own)
            for own in self.addresses
            if own.prefix_length and family_of(own.address) == family_of(address) and _contains(own, address)
        ]
        if not networks:
            return None
        best = max(networks, key=lambda pair: pair[0])[1]
        return Route(best.interface, best.address)


def _contains(own: HostAddress, address: IP) -> bool:
    network = ip_network(f"{own.address}/{own.prefix_length}", strict=False)
    return ip_address(address) in network
