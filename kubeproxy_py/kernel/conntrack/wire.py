"""UDP flows on the wire: conntrack's netlink messages, both ways.

Law: pure, and lazy: a listing may have 100,000 entries of which few are ours, so an entry's destination is compared
as the bytes that it is, and only what is ours is decoded.  A delete names the whole original tuple, its zone and the
entry's id (made of the tuple and the entry's place in memory), lest it hit a newer flow of the same tuple; without a
tuple the kernel would delete all flows.

A tuple, as every kernel so far writes it (v4; v6 has types 3 and 4 and 16 bytes for the addresses):
TUPLE {IP {SRC 4 bytes, DST 4 bytes}, PROTO {NUM 1 byte, SRC_PORT, DST_PORT 2 bytes each}, ZONE if it has one}.
All numbers but lengths and types are in network order.

Source: include/uapi/linux/netfilter/nfnetlink_conntrack.h; net/netfilter/nf_conntrack_netlink.c; the bits of a
filter: net/netfilter/nf_internals.h, CTA_FILTER_F_*.
"""

from collections.abc import Iterable, Mapping
from functools import lru_cache
from socket import inet_ntop, inet_pton
from struct import Struct

from kubeproxy_py.kernel.netlink.attributes import NESTED, attribute, attributes, nest, u8, u32
from kubeproxy_py.kernel.netlink.families import AF_INET, AF_INET6
from kubeproxy_py.kernel.netlink.messages import Message, message
from kubeproxy_py.model.flows import Destination, Flow
from kubeproxy_py.model.rows import VirtualServer
from kubeproxy_py.model.services import Family, family_of

Places = Mapping[tuple[bytes, bytes], VirtualServer]
"""Virtual servers by address and port as they stand in a message."""

_SUBSYSTEM = 1 << 8  # NFNL_SUBSYS_CTNETLINK, the high byte of a message's type
_GET, _DELETE = _SUBSYSTEM | 1, _SUBSYSTEM | 2  # IPCTNL_MSG_CT_*
_NFGENMSG_SIZE = 4  # family, version, resource (2 bytes)
_AF: dict[Family, int] = {"IPv4": AF_INET, "IPv6": AF_INET6}

_TUPLE_ORIG, _TUPLE_REPLY, _ID, _ZONE, _FILTER = 1, 2, 12, 18, 25  # CTA_*
_TUPLE_IP, _TUPLE_PROTO = 1, 2
_PROTO_NUM, _SRC_PORT, _DST_PORT = 1, 2, 3
_FILTER_ORIG_FLAGS = 1
_FILTER_PROTO_NUM = 1 << 3
_UDP = 17

_HEADER = Struct("=HH")
_Tuple = tuple[bytes, bytes, bytes, bytes]  # source, its port, destination, its port
_Layout = tuple[int, int, int, int]  # size, mask of what is fixed, what it is there, size of an address


def _layout(size: int, source: int) -> _Layout:
    """What the module says of a tuple, without its own header: addresses of *size* bytes, SRC being type *source*."""
    value = bytes(4)  # of a number or port, padded
    parts = (
        _HEADER.pack(12 + 2 * size, _TUPLE_IP | NESTED),
        *(_HEADER.pack(4 + size, source), bytes(size)),
        *(_HEADER.pack(4 + size, source + 1), bytes(size)),
        _HEADER.pack(28, _TUPLE_PROTO | NESTED),
        *(_HEADER.pack(5, _PROTO_NUM), value),
        *(_HEADER.pack(6, _SRC_PORT), value),
        *(_HEADER.pack(6, _DST_PORT), value),
    )
    fixed = b"".join(parts)
    mask = b"".join((b"\xff" if any(part) else b"\0") * len(part) for part in parts)
    return len(fixed), int.from_bytes(mask, "big"), int.from_bytes(fixed, "big"), size


_LAYOUTS = {int(AF_INET): _layout(4, 1), int(AF_INET6): _layout(16, 3)}


def places(servers: Iterable[VirtualServer], family: Family) -> dict[tuple[bytes, bytes], VirtualServer]:
    """Those of *servers* that are of *family*, to be found by flows_in."""
    return {
        (inet_pton(_AF[family], server.address), server.port.to_bytes(2, "big")): server
        for server in servers
        if family_of(server.address) == family
    }


def encode_list_udp(family: Family) -> Message:
    """List the UDP entries of *family*; kernels before 5.8 don't know the filter and list all."""
    udp = nest(_TUPLE_ORIG, nest(_TUPLE_PROTO, u8(_PROTO_NUM, _UDP)))
    return message(_GET, 0, _nfgenmsg(_AF[family]) + udp + nest(_FILTER, u32(_FILTER_ORIG_FLAGS, _FILTER_PROTO_NUM)))


def encode_list(family: Family) -> Message:
    """List all entries of *family*."""
    return message(_GET, 0, _nfgenmsg(_AF[family]))


def encode_delete(flow: Flow) -> Message:
    """Delete *flow*, and no other."""
    found = attributes(flow.entry, _NFGENMSG_SIZE)
    parts = [nest(_TUPLE_ORIG, found[_TUPLE_ORIG])]
    parts += [attribute(kind, found[kind]) for kind in (_ZONE, _ID) if kind in found]
    return message(_DELETE, 0, _nfgenmsg(flow.entry[0]) + b"".join(parts))


def flows_in(entries: Iterable[bytes], servers: Places) -> list[Flow]:
    """Those of the listed *entries* that are UDP flows to one of *servers*."""
    flows = []
    for entry in entries:
        original = _udp_tuple(entry, _NFGENMSG_SIZE)
        if original and (server := servers.get(original[2:])):
            reply = _udp_tuple(entry, _NFGENMSG_SIZE + _HEADER.unpack_from(entry, _NFGENMSG_SIZE)[0])
            if reply:
                flows.append(Flow(server, _destination(*reply[:2]), entry))
    return flows


def _udp_tuple(entry: bytes, offset: int) -> _Tuple | None:
    """The tuple that begins at *offset* of *entry*; None if it is not UDP's."""
    layout_size, mask, fixed, size = _LAYOUTS[entry[0]]
    start = offset + _HEADER.size
    end = start + layout_size
    if int.from_bytes(entry[start:end], "big") & mask == fixed:
        if entry[end - 20] != _UDP:
            return None
        source, destination = start + 8, start + 12 + size
        return (
            *(entry[source : source + size], entry[end - 12 : end - 10]),
            *(entry[destination : destination + size], entry[end - 4 : end - 2]),
        )
    return _odd_udp_tuple(entry, offset)


def _odd_udp_tuple(entry: bytes, offset: int) -> _Tuple | None:
    """The same, where attributes stand in another order; ICMP's are others."""
    found = attributes(entry, offset)
    parts = attributes(found.get(_TUPLE_ORIG) or found.get(_TUPLE_REPLY, b""))
    address, protocol = attributes(parts.get(_TUPLE_IP, b"")), attributes(parts.get(_TUPLE_PROTO, b""))
    source, destination = (3, 4) if entry[0] == AF_INET6 else (1, 2)
    if protocol.get(_PROTO_NUM) != bytes((_UDP,)):
        return None
    return address[source], protocol[_SRC_PORT], address[destination], protocol[_DST_PORT]


@lru_cache(maxsize=4096)  # many flows go to few endpoints
def _destination(address: bytes, port: bytes) -> Destination:
    return inet_ntop(AF_INET if len(address) == 4 else AF_INET6, address), int.from_bytes(port, "big")


def _nfgenmsg(family: int) -> bytes:
    return bytes((family, 0, 0, 0))
