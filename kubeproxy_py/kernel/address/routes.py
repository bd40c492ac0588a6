"""The gateways of this host's routes.

Only the main table is read, and of it only what an administrator, DHCP or router advertisements put there, besides the
route that the kernel uses for an unknown destination: routing daemons may have 100,000 routes there, and reading them
all would take half a second of CPU.  Linux filters by protocol since 4.20; before, it sends all of them.

Source: net/ipv4/fib_frontend.c, net/ipv4/fib_semantics.c, net/ipv6/route.c.
"""

from collections.abc import Iterable, Iterator
from errno import ENOENT
from socket import if_indextoname, inet_ntop, inet_pton
from struct import Struct

from kubeproxy_py.kernel.address.rtnetlink import HOST_PREFIX, RTA_DST, RTM_GETROUTE, RTMSG, RTN_UNICAST
from kubeproxy_py.kernel.errors import KernelError, decoding
from kubeproxy_py.kernel.netlink.attributes import attribute, parse_attributes, read_u32
from kubeproxy_py.kernel.netlink.families import AF_INET, AF_INET6
from kubeproxy_py.kernel.netlink.socket import Socket, message
from kubeproxy_py.net import IP

_RTA_OIF, _RTA_GATEWAY, _RTA_PREFSRC, _RTA_MULTIPATH = 4, 5, 7, 9
_RTNEXTHOP = Struct("=HBBi")  # length with attributes, flags, hops, interface index
_TABLE_MAIN = 254
_PROTOCOLS = (3, 4, 9, 16)  # RTPROT_BOOT, RTPROT_STATIC, RTPROT_RA, RTPROT_DHCP
_RTM_F_FIB_MATCH = 0x2000  # answer with the matching route, with all its nexthops
_UNKNOWN_DESTINATIONS = {AF_INET: "192.0.2.1", AF_INET6: "2001:db8::1"}  # RFC 5737, RFC 3849


def read_gateways(netlink: Socket) -> dict[IP, str]:
    """Return the gateways, each with its interface.  Raises KernelError.

    *netlink* should have strict checking on (Socket.request_filtering), without which the kernel does not filter.
    """
    bodies: list[bytes] = []
    for family in HOST_PREFIX:
        bodies += (*_static_routes(netlink, family), *_default_route(netlink, family))
    return {address: _interface(index) for address, index in decode_gateways(bodies)}


def read_route(netlink: Socket, address: IP) -> tuple[str, IP] | None:
    """Return the interface and the source address with which this host sends to *address*; None without a route."""
    family = AF_INET6 if ":" in address else AF_INET
    header = RTMSG.pack(family, HOST_PREFIX[family], 0, 0, 0, 0, 0, 0, 0)
    try:
        body = netlink.request(message(RTM_GETROUTE, 0, header + attribute(RTA_DST, inet_pton(family, address))))
    except KernelError:
        return None
    route = decode_route(body)
    return (_interface(route[0]), route[1]) if route else None


def decode_route(body: bytes) -> tuple[int, IP] | None:
    """Return the interface's index and the source address of a route message; None if it leads to no interface.

    Raises:
        KernelError: The message cannot be decoded.
    """
    with decoding("a route"):
        attributes = parse_attributes(body, RTMSG.size)
        if _RTA_OIF not in attributes:
            return None
        source = attributes.get(_RTA_PREFSRC)
        return read_u32(attributes[_RTA_OIF]), inet_ntop(body[0], source) if source else ""


def decode_gateways(bodies: Iterable[bytes]) -> list[tuple[IP, int]]:
    """Return the gateways of route messages and the indexes of their interfaces.  Raises KernelError."""
    with decoding("a listing of routes"):
        return [gateway for body in bodies for gateway in parse_gateways(body)]


def parse_gateways(body: bytes) -> Iterator[tuple[IP, int]]:
    """Yield the gateways of a route message and the indexes of their interfaces; *body* begins with its rtmsg.

    Raises one of MALFORMED.
    """
    family, _, _, _, _, _, _, kind, _ = RTMSG.unpack_from(body)
    if kind != RTN_UNICAST or family not in HOST_PREFIX:
        return
    attributes = parse_attributes(body, RTMSG.size)
    for index, nexthop in _nexthops(attributes):
        gateway = nexthop.get(_RTA_GATEWAY)
        if gateway:
            yield inet_ntop(family, gateway), index


def _nexthops(attributes: dict[int, bytes]) -> Iterator[tuple[int, dict[int, bytes]]]:
    if _RTA_OIF in attributes:
        yield read_u32(attributes[_RTA_OIF]), attributes
    hops = attributes.get(_RTA_MULTIPATH, b"")
    while len(hops) >= _RTNEXTHOP.size:
        length, _, _, index = _RTNEXTHOP.unpack_from(hops)
        if length < _RTNEXTHOP.size:
            return
        yield index, parse_attributes(hops[:length], _RTNEXTHOP.size)
        hops = hops[(length + 3) & ~3 :]


def _static_routes(netlink: Socket, family: int) -> Iterable[bytes]:
    for protocol in _PROTOCOLS:
        header = RTMSG.pack(family, 0, 0, 0, _TABLE_MAIN, protocol, 0, RTN_UNICAST, 0)
        try:
            routes = netlink.dump(message(RTM_GETROUTE, 0, header))
        except KernelError as error:
            if error.errno == ENOENT:  # no route was ever added to the table
                continue
            raise
        yield from (body for body in routes if body[4:6] == bytes((_TABLE_MAIN, protocol)))


def _default_route(netlink: Socket, family: int) -> list[bytes]:
    """Return the route to an unknown destination, if there is one."""
    target = attribute(RTA_DST, inet_pton(family, _UNKNOWN_DESTINATIONS[family]))
    header = RTMSG.pack(family, HOST_PREFIX[family], 0, 0, 0, 0, 0, 0, _RTM_F_FIB_MATCH)
    try:
        return [netlink.request(message(RTM_GETROUTE, 0, header + target))]
    except KernelError:  # no route, or a kernel before 4.13, which knows no such flag
        return []


def _interface(index: int) -> str:
    try:
        return if_indextoname(index)
    except (OSError, OverflowError):  # it was deleted meanwhile, or is no index
        return f"interface {index}"
