"""IPVS on the wire: steps to bytes, bytes to rows.

Law: pure.  A message's body is a generic netlink header and then the service, and for real servers the destination,
each an attribute of attributes.  Ports are in network order, all other numbers in host order; an IPv4 address takes
4 bytes when written and the first 4 of 16 when read.

Source: include/uapi/linux/ip_vs.h, IPVS_CMD_*, IPVS_SVC_ATTR_*, IPVS_DEST_ATTR_*.
"""

from collections.abc import Iterable, Iterator
from functools import lru_cache
from socket import htons, inet_ntop, inet_pton, ntohs
from struct import Struct

import msgspec

from kubeproxy_py.kernel.attributes import NESTED, attributes, read_text, read_u16, read_u32, u32
from kubeproxy_py.kernel.families import AF_INET, AF_INET6
from kubeproxy_py.kernel.netlink_frames import HEADER_SIZE, Message, header, message
from kubeproxy_py.model.rows import (
    DRAINING,
    SERVING,
    Connections,
    RealServer,
    RealServerSpec,
    Spec,
    VirtualServer,
    VirtualServerSpec,
)
from kubeproxy_py.model.services import IP, Protocol
from kubeproxy_py.plan.steps import Step, Verb

FAMILY_NAME = "IPVS"
FLAG_HASHED = 0x2  # IP_VS_SVC_F_HASHED: the kernel's own mark, set on all that it holds
NOT_MASQUERADING = RealServerSpec(-1)
"""What a real server with another forwarding method reads back as: a spec that nobody wants, so that it is updated
(which makes it masquerade) where it is wanted, and removed where it is not."""

_USUAL_SPECS = {spec.weight: spec for spec in (SERVING, DRAINING)}  # one value for 100,000 takes little memory

# (name in the step, is it a real server) -> command
_COMMANDS: dict[tuple[str, type], int] = {
    ("add", VirtualServer): 1,
    ("update", VirtualServer): 2,
    ("delete", VirtualServer): 3,
    ("add", RealServer): 5,
    ("update", RealServer): 6,
    ("delete", RealServer): 7,
}
_GET_SERVICE, _GET_DEST, _SET_CONFIG, _GET_CONFIG = 4, 8, 12, 13
_VERSION = 1

_SERVICE, _DEST = 1, 2
_TIMEOUT_TCP, _TIMEOUT_TCP_FIN, _TIMEOUT_UDP = 4, 5, 6

_AF, _PROTOCOL, _ADDR, _PORT, _FWMARK, _SCHED_NAME, _FLAGS, _TIMEOUT, _NETMASK = range(1, 10)
_D_ADDR, _D_PORT, _D_FWD_METHOD, _D_WEIGHT, _D_U_THRESH, _D_L_THRESH, _D_ACTIVE, _D_INACTIVE, _D_PERSISTENT = range(
    1, 10
)
_D_ADDR_FAMILY, _, _D_TUN_TYPE, _D_TUN_PORT, _D_TUN_FLAGS = range(11, 16)

_FORWARD_MASK = 0x7
_MASQUERADE, _LOCAL_NODE = 0, 1  # kernels before 2.6.38 tell masquerading to this host itself as LOCAL_NODE

PROTOCOL_NUMBERS: dict[Protocol, int] = {"TCP": 6, "UDP": 17, "SCTP": 132}
_PROTOCOL_NAMES: dict[int, Protocol] = {number: name for name, number in PROTOCOL_NUMBERS.items()}

_Around = tuple[bytes, bytes]

_HEADERS = {command: bytes((command, _VERSION, 0, 0)) for command in range(1, 18)}

# Structs with their attributes' headers between the values; x pads to four bytes.
_NEST = Struct("=HH")
_IDENTITY: dict[int, Struct] = {
    AF_INET: Struct("=HHHxx HHHxx HH4s HHHxx"),
    AF_INET6: Struct("=HHHxx HHHxx HH16s HHHxx"),
}
_SERVICE_TAIL = Struct("=HHII HHI HHI")
_DEST_KEY: dict[int, Struct] = {AF_INET: Struct("=HH HH4s HHHxx"), AF_INET6: Struct("=HH HH16s HHHxx")}
_DEST_TAIL = Struct("=HHI HHI HHI HHI")
_ADDRESS_AT = 8  # within the DEST attribute
_ADDRESS_BYTES: dict[int, int] = {AF_INET: 4, AF_INET6: 16}

# A virtual server as Linux lists it, up to the header of its scheduler's name: taken apart in one go as well.
_LISTED_OFFSET = 8  # behind the generic netlink header and that of the SERVICE or DEST attribute
_SERVICE_AS_LISTED = Struct("=4sH2x 4sH2x 4s16s 4sH2x H2x")
_SERVICE_HEADERS = tuple(
    Struct("=HH").pack(length, kind) for length, kind in ((6, _AF), (6, _PROTOCOL), (20, _ADDR), (6, _PORT))
)
_SPEC_OFFSET = _LISTED_OFFSET + _SERVICE_AS_LISTED.size - 4
_SPEC_TAIL_SIZE = 12 + 8 + 8  # flags with mask, timeout, netmask
_SPEC_AS_LISTED = {_SCHED_NAME, _FLAGS, _TIMEOUT, _NETMASK}

# A real server as Linux >= 5.2 lists it, taken apart in one go where all headers stand as foreseen: a listing of
# 100,000 is taken apart in a fifth of the time.  Any other order or content goes the general way.
_DEST_AS_LISTED = Struct("=4s16s 4sH2x 4sI 4sI 4sB3x 4sH2x 4sH2x 4sI 4sI 4sI 4sI 4sI 4sH2x")
_DEST_HEADERS = tuple(
    Struct("=HH").pack(length, kind)
    for length, kind in (
        *((20, _D_ADDR), (6, _D_PORT), (8, _D_FWD_METHOD), (8, _D_WEIGHT)),
        *((5, _D_TUN_TYPE), (6, _D_TUN_PORT), (6, _D_TUN_FLAGS)),
        *(
            (8, _D_U_THRESH),
            (8, _D_L_THRESH),
            (8, _D_ACTIVE),
            (8, _D_INACTIVE),
            (8, _D_PERSISTENT),
            (6, _D_ADDR_FAMILY),
        ),
    )
)

_NETMASK_OF: dict[int, int] = {AF_INET: 0xFFFFFFFF, AF_INET6: 128}  # one client is one persistence template


class Timeouts(msgspec.Struct, frozen=True, gc=False):
    """How long IPVS keeps idle connections, in seconds; written, 0 keeps what is there."""

    tcp_s: int = 0
    tcp_fin_s: int = 0
    udp_s: int = 0


class RealServerState(msgspec.Struct, frozen=True, gc=False):
    """A real server as read: its row, and how many connections it has, busy and idle."""

    key: RealServer
    spec: RealServerSpec
    connections: Connections


def encode_step(step: Step) -> bytes:
    """The body for a step on a VirtualServer or RealServer."""
    return next(encode_steps((step,), 0))[HEADER_SIZE:]


def encode_steps(steps: Iterable[Step], kind: int) -> Iterator[Message]:
    """The message for each of *steps*, *kind* being the type that the kernel gave to IPVS.

    Real servers come by virtual server, and nearly all with one port and one weight, so what one has in common with
    the one before is not put together again: of 100,000 that is two thirds of the time.
    """
    server: VirtualServer | None = None
    verb: Verb | None = None
    spec: Spec = None
    port = size = 0
    before = behind = b""
    for step in steps:
        key = step.key
        if not isinstance(key, RealServer):
            assert isinstance(key, VirtualServer)
            yield message(kind, 0, _virtual_server(step.verb, key, step.spec))
            continue
        address = key.address
        packed = inet_pton(AF_INET6, address) if ":" in address else inet_pton(AF_INET, address)
        if (
            key.virtual_server is not server
            or step.spec is not spec
            or step.verb != verb
            or key.port != port
            or len(packed) != size
        ):
            server, spec, verb, port, size = key.virtual_server, step.spec, step.verb, key.port, len(packed)
            before, behind = _around_address(kind, server, verb, port, spec, AF_INET if size == 4 else AF_INET6)
        yield before + packed + behind


def _virtual_server(verb: Verb, key: VirtualServer, spec: Spec) -> bytes:
    command = _COMMANDS[verb, VirtualServer]
    return _HEADERS[command] + _service(key, spec) if isinstance(spec, VirtualServerSpec) else _identified(command, key)


def encode_list_services() -> bytes:
    """The body that lists all virtual servers of the network namespace."""
    return _HEADERS[_GET_SERVICE]


def encode_list_dests(virtual_server: VirtualServer) -> bytes:
    """The body that lists the real servers of *virtual_server*."""
    return _identified(_GET_DEST, virtual_server)


def encode_get_timeouts() -> bytes:
    """The body that asks for the timeouts."""
    return _HEADERS[_GET_CONFIG]


def encode_set_timeouts(timeouts: Timeouts) -> bytes:
    """The body that sets the timeouts that are not 0."""
    fields = ((_TIMEOUT_TCP, timeouts.tcp_s), (_TIMEOUT_TCP_FIN, timeouts.tcp_fin_s), (_TIMEOUT_UDP, timeouts.udp_s))
    return _HEADERS[_SET_CONFIG] + b"".join(u32(kind, value) for kind, value in fields if value)


def decode_timeouts(body: bytes) -> Timeouts:
    """The reply to ``encode_get_timeouts``; 0 for a protocol that the kernel was built without."""
    found = attributes(body, 4)
    return Timeouts(*(read_u32(found[k]) if k in found else 0 for k in (_TIMEOUT_TCP, _TIMEOUT_TCP_FIN, _TIMEOUT_UDP)))


def service_attributes(body: bytes) -> tuple[VirtualServer, dict[int, bytes]] | None:
    """One virtual server of a listing, and all that is told of it; None if it goes by a firewall mark."""
    found = attributes(attributes(body, 4)[_SERVICE])
    if _FWMARK in found:
        return None
    key = VirtualServer(
        _read_address(read_u16(found[_AF]), found[_ADDR]),
        int.from_bytes(found[_PORT], "big"),
        _PROTOCOL_NAMES[read_u16(found[_PROTOCOL])],
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
    return VirtualServer(_read_address(family, address), ntohs(port), _PROTOCOL_NAMES[protocol]), spec


@lru_cache(maxsize=64)  # there are few different ones, and one value for each takes little memory
def _spec_as_listed(data: bytes) -> VirtualServerSpec | None:
    """From the scheduler's name to the netmask, which the counters follow; None if something stands between."""
    found = attributes(data)
    return _spec(found) if found.keys() == _SPEC_AS_LISTED else None


def _spec(found: dict[int, bytes]) -> VirtualServerSpec:
    flags = read_u32(found[_FLAGS]) & ~FLAG_HASHED
    return VirtualServerSpec(read_text(found[_SCHED_NAME]), flags, read_u32(found[_TIMEOUT]))


def decode_dest(body: bytes, virtual_server: VirtualServer) -> RealServerState:
    """One real server of the listing of *virtual_server*."""
    address, port, method, weight, active, inactive, family = _dest_fields(body, _family(virtual_server.address))
    key = RealServer(virtual_server, _read_address(family, address), ntohs(port))
    return RealServerState(key, real_server_spec(method, weight), Connections(active, inactive))


def real_server_spec(method: int, weight: int) -> RealServerSpec:
    """The spec of a real server that has this *weight* and forwarding *method* (and other flags beside it)."""
    if method & _FORWARD_MASK not in (_MASQUERADE, _LOCAL_NODE):
        return NOT_MASQUERADING
    return _USUAL_SPECS.get(weight) or RealServerSpec(weight)


def _dest_fields(body: bytes, family: int) -> tuple[bytes, int, int, int, int, int, int]:
    """(address, port in network order, forwarding method, weight, active, inactive connections, family)."""
    if len(body) >= _DEST_AS_LISTED.size + _LISTED_OFFSET:
        fields = _DEST_AS_LISTED.unpack_from(body, _LISTED_OFFSET)
        if fields[::2] == _DEST_HEADERS:
            _, address, _, port, _, method, _, weight, *_, active, _, inactive, _, _, _, family = fields
            return address, port, method, weight, active, inactive, family
    found = attributes(attributes(body, 4)[_DEST])
    return (
        found[_D_ADDR],
        read_u16(found[_D_PORT]),
        read_u32(found[_D_FWD_METHOD]),
        read_u32(found[_D_WEIGHT]),
        read_u32(found[_D_ACTIVE]),
        read_u32(found[_D_INACTIVE]),
        read_u16(found[_D_ADDR_FAMILY]) if _D_ADDR_FAMILY in found else family,
    )


@lru_cache(maxsize=1024)  # real servers come by virtual server, and each repeats it
def _identified(command: int, key: VirtualServer) -> bytes:
    """The header of *command*, and the SERVICE attribute with what names *key* and no more."""
    family = _family(key.address)
    layout = _IDENTITY[family]
    nest = _NEST.pack(_NEST.size + layout.size, _SERVICE | NESTED)
    return _HEADERS[command] + nest + _identity_fields(key, family)


def _identity_fields(key: VirtualServer, family: int) -> bytes:
    address = inet_pton(family, key.address)
    protocol = PROTOCOL_NUMBERS[key.protocol]
    return _IDENTITY[family].pack(
        *(6, _AF, family), *(6, _PROTOCOL, protocol), *(4 + len(address), _ADDR, address), *(6, _PORT, htons(key.port))
    )


def _service(key: VirtualServer, spec: VirtualServerSpec) -> bytes:
    """The SERVICE attribute in full: identity, scheduler (NUL-terminated), flags with mask, timeout, netmask."""
    family = _family(key.address)
    scheduler = spec.scheduler.encode() + b"\0"
    fields = b"".join(
        (
            _identity_fields(key, family),
            _NEST.pack(_NEST.size + len(scheduler), _SCHED_NAME) + scheduler + bytes(-len(scheduler) & 3),
            _SERVICE_TAIL.pack(
                *(12, _FLAGS, spec.flags, 0xFFFFFFFF),
                *(8, _TIMEOUT, spec.persistence_s),
                *(8, _NETMASK, _NETMASK_OF[family]),
            ),
        )
    )
    return _NEST.pack(_NEST.size + len(fields), _SERVICE | NESTED) + fields


def _around_address(kind: int, server: VirtualServer, verb: Verb, port: int, spec: Spec, family: int) -> _Around:
    """What of the message about a real server of *server* comes before its address, and what behind it."""
    identity = _identified(_COMMANDS[verb, RealServer], server)
    weight = spec.weight if isinstance(spec, RealServerSpec) else None
    before, behind = _dest_around_address(port, weight, family)
    size = len(identity) + len(before) + _ADDRESS_BYTES[family] + len(behind)
    return header(kind, 0, size) + identity + before, behind


@lru_cache(maxsize=1024)  # real servers have few different ports
def _dest_around_address(port: int, weight: int | None, family: int) -> _Around:
    """What of the DEST attribute comes before the address itself, and what behind it.

    Without *weight* (to delete) it has only what names the real server.  Thresholds are 0: none.
    """
    layout = _DEST_KEY[family]
    length = layout.size if weight is None else layout.size + _DEST_TAIL.size
    size = _ADDRESS_BYTES[family]
    name = layout.pack(length, _DEST | NESTED, 4 + size, _D_ADDR, bytes(size), 6, _D_PORT, htons(port))
    tail = b""
    if weight is not None:
        weights = (8, _D_FWD_METHOD, _MASQUERADE, 8, _D_WEIGHT, weight)
        tail = _DEST_TAIL.pack(*weights, 8, _D_U_THRESH, 0, 8, _D_L_THRESH, 0)
    return name[:_ADDRESS_AT], name[_ADDRESS_AT + size :] + tail


def _family(address: IP) -> int:
    return AF_INET6 if ":" in address else AF_INET


def _read_address(family: int, payload: bytes) -> IP:
    return inet_ntop(AF_INET6, payload[:16]) if family == AF_INET6 else inet_ntop(AF_INET, payload[:4])
