"""The neighbour table: which machines on the links of this host answer for which addresses.

The kernel itself asks (ARP, neighbour discovery), so no raw socket is needed, and CAP_NET_ADMIN is enough.

Source: include/uapi/linux/neighbour.h, neigh_add in net/core/neighbour.c.
"""

from collections.abc import Collection, Iterable
from socket import if_nametoindex, inet_ntop, inet_pton
from struct import Struct

from kubeproxy_py.kernel.address.rtnetlink import HOST_PREFIX, RTM_GETNEIGH, RTM_NEWNEIGH
from kubeproxy_py.kernel.errors import decoding
from kubeproxy_py.kernel.netlink.attributes import attribute, parse_attributes
from kubeproxy_py.kernel.netlink.families import family_number
from kubeproxy_py.kernel.netlink.socket import NLM_F_CREATE, Message, Socket, message
from kubeproxy_py.model.node import HostAddress, Neighbour

_NDMSG = Struct("=BxxxiHBB")  # family, interface index, state, flags, type
_NDA_DST, _NDA_LLADDR = 1, 2
_NTF_USE = 0x01  # resolve the address now, as if a packet were sent to it
_MAC_BYTES = 6
# NUD_REACHABLE, NUD_STALE, NUD_DELAY, NUD_PROBE, NUD_PERMANENT: the MAC address is known.
_ANSWERED = 0x02 | 0x04 | 0x08 | 0x10 | 0x80


def solicit(netlink: Socket, targets: Iterable[HostAddress]) -> None:
    """Have the kernel resolve the address of each of *targets* on its interface; the answers come later.

    A target that cannot be asked for is skipped.  Raises KernelError if the socket failed.
    """
    indexed = ((target, _index(target.interface)) for target in targets)
    netlink.execute([encode_solicit(target, index) for target, index in indexed if index])


def encode_solicit(target: HostAddress, index: int) -> Message:
    """Return the message that has the kernel resolve *target* on the interface *index*."""
    family = family_number(target.address)
    body = _NDMSG.pack(family, index, 0, _NTF_USE, 0) + attribute(_NDA_DST, inet_pton(family, target.address))
    return message(RTM_NEWNEIGH, NLM_F_CREATE, body)


def read_neighbours(netlink: Socket, interfaces: Collection[str]) -> tuple[Neighbour, ...]:
    """Return the neighbours on *interfaces* that have answered.  Raises KernelError."""
    names = {index: name for name in interfaces if (index := _index(name))}
    bodies = [body for family in HOST_PREFIX for body in netlink.dump(_list_request(family))]
    return decode_neighbours(bodies, names)


def decode_neighbours(bodies: Iterable[bytes], names: dict[int, str]) -> tuple[Neighbour, ...]:
    """Return the neighbours in a listing, see ``parse_neighbour``.  Raises KernelError."""
    with decoding("the neighbour table"):
        return tuple(neighbour for body in bodies if (neighbour := parse_neighbour(body, names)))


def parse_neighbour(body: bytes, names: dict[int, str]) -> Neighbour | None:
    """Return the neighbour of one message, unless it has not answered or is on none of the interfaces *names*.

    Raises one of MALFORMED.
    """
    family, index, state, _, _ = _NDMSG.unpack_from(body)
    if index not in names or family not in HOST_PREFIX or not state & _ANSWERED:
        return None
    attributes = parse_attributes(body, _NDMSG.size)
    mac = attributes.get(_NDA_LLADDR, b"")
    if len(mac) != _MAC_BYTES or _NDA_DST not in attributes:
        return None
    return Neighbour(names[index], inet_ntop(family, attributes[_NDA_DST]), mac.hex(":"))


def _list_request(family: int) -> Message:
    return message(RTM_GETNEIGH, 0, _NDMSG.pack(family, 0, 0, 0, 0))


def _index(interface: str) -> int:
    try:
        return if_nametoindex(interface)
    except OSError:  # it was deleted meanwhile
        return 0
