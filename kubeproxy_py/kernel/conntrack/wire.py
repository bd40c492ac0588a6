"""Encode and decode conntrack's netlink messages about UDP flows.

Invariants:
- Pure, and lazy: a listing may have 100,000 entries of which few are ours, so an entry's destination is compared as
  bytes, and only our entries are decoded.
- A delete names the original tuple, its zone and the entry's id (derived from the tuple and the entry's address in
  memory), so that it cannot delete a newer flow with the same tuple.  Without a tuple the kernel would delete all
  flows.

Layout: an entry is an nfgenmsg (family u8, version u8, resource id u16) and attributes.  A tuple, as all kernels so far
write it (for IPv4; IPv6 has types 3 and 4 and addresses of 16 bytes):

    TUPLE_ORIG or TUPLE_REPLY {
        IP    {1: source, 4 bytes; 2: destination, 4 bytes}
        PROTO {NUM, 1 byte; SRC_PORT, 2 bytes; DST_PORT, 2 bytes}
        ZONE, if the entry has one }

All numbers except attribute lengths and types are in network order.

Source: include/uapi/linux/netfilter/nfnetlink_conntrack.h; net/netfilter/nf_conntrack_netlink.c; the bits of a
filter: net/netfilter/nf_internals.h, CTA_FILTER_F_*.
"""

from collections.abc import Iterable, Mapping
from functools import lru_cache
from socket import inet_ntop, inet_pton
from struct import Struct

from kubeproxy_py.kernel.errors import decoding
from kubeproxy_py.kernel.netlink.attributes import NESTED, attribute, nested, parse_attributes, u8, u32
from kubeproxy_py.kernel.netlink.families import AF_INET, AF_INET6, AF_NUMBERS
from kubeproxy_py.kernel.netlink.messages import Message, message
from kubeproxy_py.model.flows import Destination, Flow
from kubeproxy_py.model.rows import VirtualServer
from kubeproxy_py.net import PROTOCOL_NUMBERS, Family, family_of

ServerIndex = Mapping[tuple[bytes, bytes], VirtualServer]
"""Virtual servers by packed address and port, as in a message."""

_SUBSYSTEM = 1 << 8  # NFNL_SUBSYS_CTNETLINK, the high byte of a message type
_GET, _DELETE = _SUBSYSTEM | 1, _SUBSYSTEM | 2  # IPCTNL_MSG_CT_*
_NFGENMSG_SIZE = 4

_TUPLE_ORIG, _TUPLE_REPLY, _ID, _ZONE, _FILTER = 1, 2, 12, 18, 25  # CTA_*
_TUPLE_IP, _TUPLE_PROTO = 1, 2
_PROTO_NUM, _SRC_PORT, _DST_PORT = 1, 2, 3
_FILTER_ORIG_FLAGS = 1
_FILTER_PROTO_NUM = 1 << 3
_UDP = PROTOCOL_NUMBERS["UDP"]

_HEADER = Struct("=HH")  # of an attribute: length, type
_IPV4_SIZE, _IPV6_SIZE = 4, 16
_Tuple = tuple[bytes, bytes, bytes, bytes]  # source, source port, destination, destination port
_Layout = tuple[int, int, int, int]  # size, mask of the constant bits, their values, size of an address


def _tuple_layout(address_size: int, source_type: int) -> _Layout:
    """Return the layout of a tuple without its own attribute header, for addresses of *address_size* bytes."""
    value = bytes(4)  # of a number or port, padded
    parts = (
        _HEADER.pack(12 + 2 * address_size, _TUPLE_IP | NESTED),
        *(_HEADER.pack(4 + address_size, source_type), bytes(address_size)),
        *(_HEADER.pack(4 + address_size, source_type + 1), bytes(address_size)),
        _HEADER.pack(28, _TUPLE_PROTO | NESTED),
        *(_HEADER.pack(5, _PROTO_NUM), value),
        *(_HEADER.pack(6, _SRC_PORT), value),
        *(_HEADER.pack(6, _DST_PORT), value),
    )
    constant = b"".join(parts)
    mask = b"".join((b"\xff" if any(part) else b"\0") * len(part) for part in parts)
    return len(constant), int.from_bytes(mask, "big"), int.from_bytes(constant, "big"), address_size


_LAYOUTS: dict[int, _Layout] = {AF_INET: _tuple_layout(_IPV4_SIZE, 1), AF_INET6: _tuple_layout(_IPV6_SIZE, 3)}


def index_servers(servers: Iterable[VirtualServer], family: Family) -> dict[tuple[bytes, bytes], VirtualServer]:
    """Return those of *servers* that are of *family*, indexed for ``flows_in``."""
    return {
        (inet_pton(AF_NUMBERS[family], server.address), server.port.to_bytes(2, "big")): server
        for server in servers
        if family_of(server.address) == family
    }


def encode_list_udp(family: Family) -> Message:
    """Return the request to list the UDP entries of *family*; kernels before 5.8 ignore the filter and list all."""
    udp = nested(_TUPLE_ORIG, nested(_TUPLE_PROTO, u8(_PROTO_NUM, _UDP)))
    udp_filter = nested(_FILTER, u32(_FILTER_ORIG_FLAGS, _FILTER_PROTO_NUM))
    return message(_GET, 0, _nfgenmsg(AF_NUMBERS[family]) + udp + udp_filter)


def encode_list(family: Family) -> Message:
    """Return the request to list all entries of *family*."""
    return message(_GET, 0, _nfgenmsg(AF_NUMBERS[family]))


def encode_delete(flow: Flow) -> Message:
    """Return the request to delete exactly *flow*.  Raises one of MALFORMED."""
    attributes = parse_attributes(flow.entry, _NFGENMSG_SIZE)
    parts = [nested(_TUPLE_ORIG, attributes[_TUPLE_ORIG])]
    parts += [attribute(attr_type, attributes[attr_type]) for attr_type in (_ZONE, _ID) if attr_type in attributes]
    return message(_DELETE, 0, _nfgenmsg(flow.entry[0]) + b"".join(parts))


def flows_in(entries: Iterable[bytes], servers: ServerIndex) -> list[Flow]:
    """Return those of the listed *entries* that are UDP flows to one of *servers*.  Raises KernelError."""
    flows = []
    with decoding("a listing of UDP flows"):
        for entry in entries:
            original = _udp_tuple(entry, _NFGENMSG_SIZE)
            if original and (server := servers.get(original[2:])):
                reply = _udp_tuple(entry, _NFGENMSG_SIZE + _HEADER.unpack_from(entry, _NFGENMSG_SIZE)[0])
                if reply:
                    flows.append(Flow(server, _destination(*reply[:2]), entry))
    return flows


def _udp_tuple(entry: bytes, offset: int) -> _Tuple | None:
    """Return the tuple whose attribute begins at *offset* of *entry*; None if it is not UDP."""
    layout_size, mask, constant, size = _LAYOUTS[entry[0]]
    start = offset + _HEADER.size
    end = start + layout_size
    if int.from_bytes(entry[start:end], "big") & mask == constant:
        if entry[end - 20] != _UDP:
            return None
        source, destination = start + 8, start + 12 + size
        return (
            *(entry[source : source + size], entry[end - 12 : end - 10]),
            *(entry[destination : destination + size], entry[end - 4 : end - 2]),
        )
    return _parse_udp_tuple(entry, offset)


def _parse_udp_tuple(entry: bytes, offset: int) -> _Tuple | None:
    """Return the same for a tuple of another layout, such as one with its attributes in another order, or ICMP's."""
    attributes = parse_attributes(entry, offset)
    parts = parse_attributes(attributes.get(_TUPLE_ORIG) or attributes.get(_TUPLE_REPLY, b""))
    address, protocol = parse_attributes(parts.get(_TUPLE_IP, b"")), parse_attributes(parts.get(_TUPLE_PROTO, b""))
    source, destination = (3, 4) if entry[0] == AF_INET6 else (1, 2)
    if protocol.get(_PROTO_NUM) != bytes((_UDP,)):
        return None
    return address[source], protocol[_SRC_PORT], address[destination], protocol[_DST_PORT]


@lru_cache(maxsize=4096)  # many flows go to few endpoints
def _destination(address: bytes, port: bytes) -> Destination:
    return inet_ntop(AF_INET if len(address) == _IPV4_SIZE else AF_INET6, address), int.from_bytes(port, "big")


def _nfgenmsg(family: int) -> bytes:
    return bytes((family, 0, 0, 0))
