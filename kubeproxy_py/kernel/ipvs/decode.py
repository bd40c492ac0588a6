"""What IPVS answers: bytes -> rows and timeouts.

Law: pure.  What stands as Linux lists it is taken apart in one go, which takes a fifth of the time; any other order or
content goes the general way, and says the same.  An IPv4 address takes the first 4 of 16 bytes; ports are in network
order, all other numbers in host order.
"""

import sys
from functools import lru_cache
from socket import inet_ntop, ntohs
from struct import Struct

import msgspec

from kubeproxy_py.kernel.ipvs.constants import (
    D_ACTIVE,
    D_ADDRESS,
    D_FAMILY,
    D_INACTIVE,
    D_LOWER,
    D_METHOD,
    D_PERSISTENT,
    D_PORT,
    D_TUNNEL_FLAGS,
    D_TUNNEL_PORT,
    D_TUNNEL_TYPE,
    D_UPPER,
    D_WEIGHT,
    DEST,
    FLAG_HASHED,
    LOCAL_NODE,
    MASQUERADE,
    METHOD_MASK,
    PROTOCOL_NAMES,
    S_ADDRESS,
    S_FAMILY,
    S_FIREWALL_MARK,
    S_FLAGS,
    S_NETMASK,
    S_PORT,
    S_PROTOCOL,
    S_SCHEDULER,
    S_TIMEOUT,
    SERVICE,
    TIMEOUT_TCP,
    TIMEOUT_TCP_FIN,
    TIMEOUT_UDP,
    Timeouts,
)
from kubeproxy_py.kernel.netlink.attributes import attributes, head, read_text, read_u16, read_u32
from kubeproxy_py.kernel.netlink.families import AF_INET, AF_INET6, family_number
from kubeproxy_py.model.rows import (
    DRAINING,
    SERVING,
    Connections,
    RealServer,
    RealServerSpec,
    Traffic,
    VirtualServer,
    VirtualServerSpec,
)
from kubeproxy_py.model.services import IP

NOT_MASQUERADING = RealServerSpec(-1)
"""What a real server with another forwarding method reads back as: a spec that nobody wants, so that it is updated
(which makes it masquerade) where it is wanted, and removed where it is not."""

_USUAL_SPECS = {spec.weight: spec for spec in (SERVING, DRAINING)}  # one value for 100,000 takes little memory

# A virtual server as Linux lists it, up to the header of its scheduler's name.
_LISTED_OFFSET = 8  # behind the generic netlink header and that of the SERVICE or DEST attribute
_SERVICE_AS_LISTED = Struct("=4sH2x 4sH2x 4s16s 4sH2x H2x")
_SERVICE_HEADERS = tuple(
    head(kind, size) for kind, size in ((S_FAMILY, 2), (S_PROTOCOL, 2), (S_ADDRESS, 16), (S_PORT, 2))
)
_SPEC_OFFSET = _LISTED_OFFSET + _SERVICE_AS_LISTED.size - 4
_SPEC_TAIL_SIZE = 12 + 8 + 8  # flags with mask, timeout, netmask
_SPEC_AS_LISTED = {S_SCHEDULER, S_FLAGS, S_TIMEOUT, S_NETMASK}

# A real server as Linux >= 5.2 lists it.
_DEST_AS_LISTED = Struct("=4s16s 4sH2x 4sI 4sI 4sB3x 4sH2x 4sH2x 4sI 4sI 4sI 4sI 4sI 4sH2x")
_DEST_HEADERS = tuple(
    head(kind, size)
    for kind, size in (
        *((D_ADDRESS, 16), (D_PORT, 2), (D_METHOD, 4), (D_WEIGHT, 4)),
        *((D_TUNNEL_TYPE, 1), (D_TUNNEL_PORT, 2), (D_TUNNEL_FLAGS, 2)),
        *((D_UPPER, 4), (D_LOWER, 4), (D_ACTIVE, 4), (D_INACTIVE, 4), (D_PERSISTENT, 4), (D_FAMILY, 2)),
    )
)


class RealServerState(msgspec.Struct, frozen=True, gc=False):
    """A real server as read: its row, and how many connections it has, busy and idle."""

    key: RealServer
    spec: RealServerSpec
    connections: Connections


def decode_timeouts(body: bytes) -> Timeouts:
    """The reply to ``encode_get_timeouts``; 0 for a protocol that the kernel was built without."""
    found = attributes(body, 4)
    return Timeouts(*(read_u32(found[k]) if k in found else 0 for k in (TIMEOUT_TCP, TIMEOUT_TCP_FIN, TIMEOUT_UDP)))


def service_attributes(body: bytes) -> tuple[VirtualServer, dict[int, bytes]] | None:
    """One virtual server of a listing, and all that is told of it; None if it goes by a firewall mark."""
    found = attributes(attributes(body, 4)[SERVICE])
    if S_FIREWALL_MARK in found:
        return None
    key = VirtualServer(
        _read_address(read_u16(found[S_FAMILY]), found[S_ADDRESS]),
        int.from_bytes(found[S_PORT], "big"),
        PROTOCOL_NAMES[read_u16(found[S_PROTOCOL])],
    )
    return key, found


def decode_service(body: bytes) -> tuple[VirtualServer, VirtualServerSpec] | None:
    """One virtual server of a listing; None if it goes by a firewall mark."""
    if listed := _service_as_listed(body):
        return listed
    told = service_attributes(body)
    return told and (told[0], _spec(told[1]))


def _service_as_listed(body: bytes) -> tuple[VirtualServer, VirtualServerSpec] | None:
    """None if it is not told as Linux tells it."""
    if len(body) < _SPEC_OFFSET + _SPEC_TAIL_SIZE:
        return None
    fields = _SERVICE_AS_LISTED.unpack_from(body, _LISTED_OFFSET)
    if fields[:-1:2] != _SERVICE_HEADERS:
        return None
    _, family, _, protocol, _, address, _, port, scheduler_length = fields
    spec = _spec_as_listed(body[_SPEC_OFFSET : _SPEC_OFFSET + (scheduler_length + 3 & ~3) + _SPEC_TAIL_SIZE])
    if not spec:
        return None
    return VirtualServer(_read_address(family, address), ntohs(port), PROTOCOL_NAMES[protocol]), spec


@lru_cache(maxsize=64)  # there are few different ones, and one value for each takes little memory
def _spec_as_listed(data: bytes) -> VirtualServerSpec | None:
    """From the scheduler's name to the netmask, which the counters follow; None if something stands between."""
    found = attributes(data)
    return _spec(found) if found.keys() == _SPEC_AS_LISTED else None


def _spec(found: dict[int, bytes]) -> VirtualServerSpec:
    flags = read_u32(found[S_FLAGS]) & ~FLAG_HASHED
    return VirtualServerSpec(read_text(found[S_SCHEDULER]), flags, read_u32(found[S_TIMEOUT]))


def decode_dest(body: bytes, virtual_server: VirtualServer) -> RealServerState:
    """One real server of the listing of *virtual_server*."""
    own_family = family_number(virtual_server.address)
    address, port, method, weight, active, inactive, family = _dest_fields(body, own_family)
    key = RealServer(virtual_server, _read_address(family, address), ntohs(port))
    return RealServerState(key, real_server_spec(method, weight), Connections(active, inactive))


def real_server_spec(method: int, weight: int) -> RealServerSpec:
    """The spec of a real server that has this *weight* and forwarding *method* (and other flags beside it)."""
    if method & METHOD_MASK not in (MASQUERADE, LOCAL_NODE):
        return NOT_MASQUERADING
    return _USUAL_SPECS.get(weight) or RealServerSpec(weight)


def _dest_fields(body: bytes, family: int) -> tuple[bytes, int, int, int, int, int, int]:
    """(address, port in network order, forwarding method, weight, active, inactive connections, family)."""
    if len(body) >= _DEST_AS_LISTED.size + _LISTED_OFFSET:
        fields = _DEST_AS_LISTED.unpack_from(body, _LISTED_OFFSET)
        if fields[::2] == _DEST_HEADERS:
            _, address, _, port, _, method, _, weight, *_, active, _, inactive, _, _, _, family = fields
            return address, port, method, weight, active, inactive, family
    found = attributes(attributes(body, 4)[DEST])
    return (
        found[D_ADDRESS],
        read_u16(found[D_PORT]),
        read_u32(found[D_METHOD]),
        read_u32(found[D_WEIGHT]),
        read_u32(found[D_ACTIVE]),
        read_u32(found[D_INACTIVE]),
        read_u16(found[D_FAMILY]) if D_FAMILY in found else family,
    )


def _read_address(family: int, payload: bytes) -> IP:
    return inet_ntop(AF_INET6, payload[:16]) if family == AF_INET6 else inet_ntop(AF_INET, payload[:4])


_STATS, _STATS64 = 10, 12
_COUNTS = range(1, 6)  # CONNS, INPKTS, OUTPKTS, INBYTES, OUTBYTES: the order of Traffic's fields


def decode_traffic(body: bytes) -> tuple[VirtualServer, Traffic] | None:
    """One virtual server of a listing with what it carried; None if it goes by a firewall mark."""
    service = service_attributes(body)
    if service is None:
        return None
    key, found = service
    counts = attributes(found.get(_STATS64) or found.get(_STATS) or b"")
    return key, Traffic(*(int.from_bytes(counts.get(kind, b""), sys.byteorder) for kind in _COUNTS))
