"""IPVS replies from bytes: virtual servers, real servers, traffic counters, timeouts.

A message with the layout in which Linux lists it is unpacked in one step, in a fifth of the time; a message with any
other order or content is parsed attribute by attribute, with the same result.

A listing that cannot be decoded is a KernelError as a whole: what was left out would look like what is missing.

Layout: an IPv4 address is the first 4 of 16 bytes; ports are in network order, all other numbers in host order.
"""

import sys
from collections.abc import Iterable
from functools import lru_cache
from socket import inet_ntoa, inet_ntop, ntohs
from struct import Struct, pack

import msgspec

from kubeproxy_py.kernel.errors import decoding
from kubeproxy_py.kernel.ipvs.constants import (
    ATTR_DEST,
    ATTR_SERVICE,
    ATTR_TIMEOUT_TCP,
    ATTR_TIMEOUT_TCP_FIN,
    ATTR_TIMEOUT_UDP,
    DEST_ACTIVE_CONNS,
    DEST_ADDR,
    DEST_ADDR_FAMILY,
    DEST_FWD_METHOD,
    DEST_INACT_CONNS,
    DEST_L_THRESH,
    DEST_PERSIST_CONNS,
    DEST_PORT,
    DEST_STATS,
    DEST_STATS64,
    DEST_TUN_FLAGS,
    DEST_TUN_PORT,
    DEST_TUN_TYPE,
    DEST_U_THRESH,
    DEST_WEIGHT,
    FLAG_HASHED,
    FWD_LOCALNODE,
    FWD_MASK,
    FWD_MASQUERADE,
    FWD_ROUTE,
    FWD_TUNNEL,
    SINGLE_CLIENT,
    SVC_ADDR,
    SVC_AF,
    SVC_FLAGS,
    SVC_FWMARK,
    SVC_NETMASK,
    SVC_PORT,
    SVC_PROTOCOL,
    SVC_SCHED_NAME,
    SVC_STATS,
    SVC_STATS64,
    SVC_TIMEOUT,
    Timeouts,
)
from kubeproxy_py.kernel.netlink.attributes import attr_header, parse_attributes, read_string, read_u16, read_u32
from kubeproxy_py.kernel.netlink.families import AF_INET, AF_INET6, family_number
from kubeproxy_py.model.rows import (
    DRAINING,
    FLAG_PERSISTENT,
    SERVING,
    Connections,
    Forwarding,
    RealServer,
    RealServerCounters,
    RealServerSpec,
    Rows,
    Traffic,
    VirtualServer,
    VirtualServerSpec,
    mark_server,
)
from kubeproxy_py.net import IP, PROTOCOL_NUMBERS, Family, Protocol

FOREIGN_FORWARDING = RealServerSpec(weight=-1)
"""The spec of a real server that has another forwarding method than masquerading, where no Service has any.

Only virtual servers by firewall mark may have those of direct server return.

No desired spec equals it, so such a real server is updated where it is desired, which makes it masquerade, and deleted
where it is not.
"""

PROTOCOLS: dict[int, Protocol] = {number: protocol for protocol, number in PROTOCOL_NUMBERS.items()}
_COMMON_SPECS = {spec.weight: spec for spec in (SERVING, DRAINING)}  # one value for 100,000 rows saves memory
_DIRECT: dict[int, Forwarding] = {FWD_ROUTE: "route", FWD_TUNNEL: "tunnel"}
_GENLMSGHDR_SIZE = 4
_NESTED_OFFSET = 8  # after the generic netlink header and that of the SERVICE or DEST attribute
_STATS_COUNTERS = range(1, 6)  # CONNS, INPKTS, OUTPKTS, INBYTES, OUTBYTES: the order of Traffic's fields

# A virtual server as Linux lists it, up to the header of its scheduler's name.
_SERVICE_LAYOUT = Struct("=4sH2x 4sH2x 4s16s 4sH2x H2x")
_SERVICE_HEADERS = tuple(
    attr_header(attr_type, size) for attr_type, size in ((SVC_AF, 2), (SVC_PROTOCOL, 2), (SVC_ADDR, 16), (SVC_PORT, 2))
)
_SPEC_OFFSET = _NESTED_OFFSET + _SERVICE_LAYOUT.size - 4
_SPEC_TAIL_SIZE = 12 + 8 + 8  # flags with mask, timeout, netmask
_SPEC_ATTRIBUTES = {SVC_SCHED_NAME, SVC_FLAGS, SVC_TIMEOUT, SVC_NETMASK}

# A real server as Linux >= 5.2 lists it.
_DEST_LAYOUT = Struct("=4s16s 4sH2x 4sI 4sI 4sB3x 4sH2x 4sH2x 4sI 4sI 4sI 4sI 4sI 4sH2x")
_DEST_HEADERS = tuple(
    attr_header(attr_type, size)
    for attr_type, size in (
        *((DEST_ADDR, 16), (DEST_PORT, 2), (DEST_FWD_METHOD, 4), (DEST_WEIGHT, 4)),
        *((DEST_TUN_TYPE, 1), (DEST_TUN_PORT, 2), (DEST_TUN_FLAGS, 2)),
        *((DEST_U_THRESH, 4), (DEST_L_THRESH, 4), (DEST_ACTIVE_CONNS, 4), (DEST_INACT_CONNS, 4)),
        *((DEST_PERSIST_CONNS, 4), (DEST_ADDR_FAMILY, 2)),
    )
)


class RealServerState(msgspec.Struct, frozen=True, gc=False):
    """A real server as read: its row, and the number of its connections."""

    key: RealServer
    spec: RealServerSpec
    connections: Connections


def decode_timeouts(body: bytes) -> Timeouts:
    """Return the reply to ``encode_get_timeouts``; 0 for a protocol that the kernel was built without.

    Raises KernelError.
    """
    attrs = parse_attributes(body, _GENLMSGHDR_SIZE)
    with decoding("the IPVS timeouts"):
        tcp, tcp_fin, udp = (
            read_u32(attrs[attr_type]) if attr_type in attrs else 0
            for attr_type in (ATTR_TIMEOUT_TCP, ATTR_TIMEOUT_TCP_FIN, ATTR_TIMEOUT_UDP)
        )
    return Timeouts(tcp, tcp_fin, udp)


def decode_services(bodies: Iterable[bytes], *, marks: bool = False) -> Rows:
    """Return the virtual servers in a part of a listing, without those that cannot be ours.

    Those by firewall mark are among them only with *marks*.  Raises KernelError.
    """
    with decoding("a listing of virtual servers"):
        return dict(service for body in bodies if (service := decode_service(body, marks=marks)))


def decode_all_traffic(bodies: Iterable[bytes], *, marks: bool = False) -> dict[VirtualServer, Traffic]:
    """Return the counters of the virtual servers in a listing, as ``decode_services``.  Raises KernelError."""
    with decoding("the counters of virtual servers"):
        return dict(service for body in bodies if (service := decode_traffic(body, marks=marks)))


def decode_dests(bodies: Iterable[bytes], virtual_server: VirtualServer) -> list[RealServerState]:
    """Return the real servers in the listing of *virtual_server*.  Raises KernelError."""
    with decoding("a listing of real servers"):
        return [decode_dest(body, virtual_server) for body in bodies]


def decode_dest_counters(
    bodies: Iterable[bytes], virtual_server: VirtualServer
) -> dict[RealServer, RealServerCounters]:
    """Return the counters in the listing of the real servers of *virtual_server*.  Raises KernelError."""
    with decoding("the counters of real servers"):
        return dict(_decode_counters(body, virtual_server) for body in bodies)


def _decode_counters(body: bytes, virtual_server: VirtualServer) -> tuple[RealServer, RealServerCounters]:
    state = decode_dest(body, virtual_server)
    attrs = parse_attributes(parse_attributes(body, _GENLMSGHDR_SIZE)[ATTR_DEST])
    traffic = _decode_stats(attrs.get(DEST_STATS64) or attrs.get(DEST_STATS) or b"")
    return state.key, RealServerCounters(state.spec.weight, state.connections, traffic)


def decode_service(body: bytes, *, marks: bool = False) -> tuple[VirtualServer, VirtualServerSpec] | None:
    """Return one virtual server of a listing; None if it has a protocol that no Service has.

    Also None if it is by firewall mark, unless *marks*.  As ``decode_traffic`` and ``decode_dest``, raises one of
    MALFORMED.
    """
    if service := _unpack_service(body):
        return service
    parsed = _parse_service(body, marks=marks)
    return parsed and (parsed[0], _spec(parsed[1], read_u16(parsed[1][SVC_AF])))


def key_bytes(body: bytes) -> bytes:
    """Return the part of a virtual server's body that no other one has: family, protocol, address and port.

    Of a virtual server that is defined by a firewall mark: family, mark, and the start of its configuration.
    """
    return body[_NESTED_OFFSET:_SPEC_OFFSET]


def decode_traffic(body: bytes, *, marks: bool = False) -> tuple[VirtualServer, Traffic] | None:
    """Return one virtual server of a listing with its counters; None as ``decode_service``."""
    parsed = _parse_service(body, marks=marks)
    if parsed is None:
        return None
    server, attrs = parsed
    return server, _decode_stats(attrs.get(SVC_STATS64) or attrs.get(SVC_STATS) or b"")


def _decode_stats(data: bytes) -> Traffic:
    stats = parse_attributes(data)
    return Traffic(*(int.from_bytes(stats.get(attr_type, b""), sys.byteorder) for attr_type in _STATS_COUNTERS))


def decode_dest(body: bytes, virtual_server: VirtualServer) -> RealServerState:
    """Return one real server of the listing of *virtual_server*."""
    default_family = family_number(virtual_server.address)
    address, port, method, weight, upper, lower, active, inactive, family = _dest_fields(body, default_family)
    key = RealServer(virtual_server, _read_address(family, address), ntohs(port))
    spec = real_server_spec(method, weight, upper, lower, is_marked=bool(virtual_server.mark))
    return RealServerState(key, spec, Connections(active, inactive))


def real_server_spec(
    method: int, weight: int, upper: int = 0, lower: int = 0, *, is_marked: bool = False
) -> RealServerSpec:
    """Return the spec of a real server.

    Args:
        method: Its forwarding method, which may have other flags set.
        weight: Its weight.
        upper: The upper threshold of its connections.
        lower: The lower one.
        is_marked: Its virtual server is by firewall mark.
    """
    if method & FWD_MASK not in (FWD_MASQUERADE, FWD_LOCALNODE):
        forwarding = _DIRECT.get(method & FWD_MASK) if is_marked else None
        return RealServerSpec(weight, upper, lower, forwarding) if forwarding else FOREIGN_FORWARDING
    if upper or lower:
        return RealServerSpec(weight, upper, lower)
    return _COMMON_SPECS.get(weight) or RealServerSpec(weight)


def _parse_service(body: bytes, *, marks: bool = False) -> tuple[VirtualServer, dict[int, bytes]] | None:
    """Return one virtual server and its attributes; None as ``decode_service``."""
    attrs = parse_attributes(parse_attributes(body, _GENLMSGHDR_SIZE)[ATTR_SERVICE])
    if SVC_FWMARK in attrs:
        return (_mark_server(attrs), attrs) if marks else None
    # The kernel accepts any protocol from a program that uses netlink.
    if not (protocol := PROTOCOLS.get(read_u16(attrs[SVC_PROTOCOL]))):
        return None
    address, port = attrs[SVC_ADDR], attrs[SVC_PORT]
    return VirtualServer(_read_address(read_u16(attrs[SVC_AF]), address), ntohs(read_u16(port)), protocol), attrs


def _mark_server(attrs: dict[int, bytes]) -> VirtualServer:
    family: Family = "IPv6" if read_u16(attrs[SVC_AF]) == AF_INET6 else "IPv4"
    return mark_server(family, read_u32(attrs[SVC_FWMARK]))


def _unpack_service(body: bytes) -> tuple[VirtualServer, VirtualServerSpec] | None:
    """Return one virtual server; None if it does not have the usual layout."""
    if len(body) < _SPEC_OFFSET + _SPEC_TAIL_SIZE:
        return None
    fields = _SERVICE_LAYOUT.unpack_from(body, _NESTED_OFFSET)
    if fields[:-1:2] != _SERVICE_HEADERS:
        return None
    _, family, _, number, _, address, _, port, scheduler_length = fields
    protocol = PROTOCOLS.get(number)
    spec = _decode_spec(body[_SPEC_OFFSET : _SPEC_OFFSET + (scheduler_length + 3 & ~3) + _SPEC_TAIL_SIZE], family)
    if not spec or not protocol:
        return None
    return VirtualServer(_read_address(family, address), ntohs(port), protocol), spec


@lru_cache(maxsize=64)  # Services have few different specs, and sharing their values saves memory
def _decode_spec(data: bytes, family: int) -> VirtualServerSpec | None:
    """Return the spec from the attributes from scheduler to netmask, before the counters; None if there are others."""
    attrs = parse_attributes(data)
    return _spec(attrs, family) if attrs.keys() == _SPEC_ATTRIBUTES else None


def _spec(attrs: dict[int, bytes], family: int) -> VirtualServerSpec:
    flags, timeout_s = read_u32(attrs[SVC_FLAGS]), read_u32(attrs[SVC_TIMEOUT])
    return virtual_server_spec(read_string(attrs[SVC_SCHED_NAME]), flags, timeout_s, family, attrs[SVC_NETMASK])


def virtual_server_spec(scheduler: str, flags: int, timeout_s: int, family: int, netmask: bytes) -> VirtualServerSpec:
    """Return the spec of a virtual server; *netmask*, four bytes, counts only if the *flags* say persistent."""
    text = ""
    if flags & FLAG_PERSISTENT and netmask != pack("=I", SINGLE_CLIENT[family]):
        text = inet_ntoa(netmask) if family == AF_INET else str(read_u32(netmask))
    return VirtualServerSpec(scheduler, flags & ~FLAG_HASHED, timeout_s, text)


def _dest_fields(body: bytes, default_family: int) -> tuple[bytes, int, int, int, int, int, int, int, int]:
    """Return the address, port in network order, forwarding method, weight, thresholds, connections, and family.

    Thresholds are the upper and the lower one, connections the active and the inactive ones.
    """
    if len(body) >= _DEST_LAYOUT.size + _NESTED_OFFSET:
        fields = _DEST_LAYOUT.unpack_from(body, _NESTED_OFFSET)
        if fields[::2] == _DEST_HEADERS:
            address, port, method, weight, _, _, _, upper, lower, active, inactive, _, family = fields[1::2]
            return address, port, method, weight, upper, lower, active, inactive, family
    attrs = parse_attributes(parse_attributes(body, _GENLMSGHDR_SIZE)[ATTR_DEST])
    return (
        attrs[DEST_ADDR],
        read_u16(attrs[DEST_PORT]),
        read_u32(attrs[DEST_FWD_METHOD]),
        read_u32(attrs[DEST_WEIGHT]),
        read_u32(attrs[DEST_U_THRESH]),
        read_u32(attrs[DEST_L_THRESH]),
        read_u32(attrs[DEST_ACTIVE_CONNS]),
        read_u32(attrs[DEST_INACT_CONNS]),
        read_u16(attrs[DEST_ADDR_FAMILY]) if DEST_ADDR_FAMILY in attrs else default_family,
    )


def _read_address(family: int, payload: bytes) -> IP:
    return inet_ntop(AF_INET6, payload[:16]) if family == AF_INET6 else inet_ntop(AF_INET, payload[:4])
