"""IPVS requests as bytes: steps on virtual and real servers, listings, timeouts.

Layout: a generic netlink header, then the SERVICE attribute, and for real servers the DEST attribute, both nested.
Ports are in network order, all other numbers in host order, and an IPv4 address has 4 bytes.

Messages differ in little but their addresses, so the bytes around these are encoded once for all messages that have
them in common; a first sync has 110,000.  They are kept for the next sync too: encoding them again was an eighth of the
function calls for one changed endpoint.
"""

from collections.abc import Iterable, Iterator
from functools import lru_cache
from itertools import groupby
from socket import inet_pton
from struct import pack

from kubeproxy_py.kernel.ipvs.constants import (
    ATTR_DEST,
    ATTR_SERVICE,
    ATTR_TIMEOUT_TCP,
    ATTR_TIMEOUT_TCP_FIN,
    ATTR_TIMEOUT_UDP,
    CMD_DEL_DEST,
    CMD_DEL_SERVICE,
    CMD_GET_CONFIG,
    CMD_GET_DEST,
    CMD_GET_SERVICE,
    CMD_NEW_DEST,
    CMD_NEW_SERVICE,
    CMD_SET_CONFIG,
    CMD_SET_DEST,
    CMD_SET_SERVICE,
    DEST_ADDR,
    DEST_FWD_METHOD,
    DEST_L_THRESH,
    DEST_PORT,
    DEST_U_THRESH,
    DEST_WEIGHT,
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
    SVC_TIMEOUT,
    VERSION,
    Timeouts,
)
from kubeproxy_py.kernel.netlink.attributes import NESTED, attr_header, attribute, be16, nested, string, u16, u32
from kubeproxy_py.kernel.netlink.families import AF_INET, AF_INET6, family_number
from kubeproxy_py.kernel.netlink.messages import Message, message_header
from kubeproxy_py.model.rows import Forwarding, RealServer, RealServerSpec, Spec, VirtualServer, VirtualServerSpec
from kubeproxy_py.model.steps import Step, Verb
from kubeproxy_py.net import PROTOCOL_NUMBERS, Protocol

_SERVICE_COMMANDS: dict[Verb, int] = {"add": CMD_NEW_SERVICE, "update": CMD_SET_SERVICE, "delete": CMD_DEL_SERVICE}
_DEST_COMMANDS: dict[Verb, int] = {"add": CMD_NEW_DEST, "update": CMD_SET_DEST, "delete": CMD_DEL_DEST}

_ADDRESS_SIZE: dict[int, int] = {AF_INET: 4, AF_INET6: 16}
_ALL_FLAGS = 0xFFFFFFFF
_METHODS: dict[Forwarding, int] = {"masquerade": FWD_MASQUERADE, "route": FWD_ROUTE, "tunnel": FWD_TUNNEL}


_Service = tuple[Verb, Spec, int, Protocol, int]
"""What messages on virtual servers have in common but addresses: verb, spec, family, protocol, port."""

_Dest = tuple[Verb, Spec, int, Protocol, int, int, int]
"""What messages on real servers have in common but addresses: verb and spec; family, protocol and port of the virtual
server; family and port of the real server."""


def encode_steps(steps: Iterable[Step], message_type: int) -> Iterator[Message]:
    """Yield the message for each of *steps* on virtual and real servers.

    Args:
        steps: On VirtualServer and RealServer rows.
        message_type: The number that the kernel assigned to IPVS.
    """
    for (server, protocol, family, port, verb, spec, mark), group in groupby(steps, _group_key):
        if mark:
            yield from (_encode_marked(step, message_type) for step in group)
            continue
        if server is None:
            assert protocol is not None
            before, after = _service_template(message_type, (verb, spec, family, protocol, port))
        else:
            server_family = family_number(server.address)
            dest = verb, spec, server_family, server.protocol, server.port, family, port
            before, between, after = _dest_template(message_type, dest)
            before += inet_pton(server_family, server.address) + between
        for step in group:
            address = step.key.address  # type: ignore[attr-defined]  # both kinds have one; an assert would take 4 %
            yield before + inet_pton(family, address) + after


def _group_key(step: Step) -> tuple[VirtualServer | None, Protocol | None, int, int, Verb, Spec, int]:
    """Return virtual server (of a real server) or protocol (of a virtual server), family, port, verb, spec and mark.

    The messages of consecutive steps with one key differ in one address only.
    """
    key = step.key
    if isinstance(key, RealServer):
        family = AF_INET6 if ":" in key.address else AF_INET  # family_number() would take a tenth of the time
        return key.virtual_server, None, family, key.port, step.verb, step.spec, key.virtual_server.mark
    assert isinstance(key, VirtualServer)
    return None, key.protocol, family_number(key.address), key.port, step.verb, step.spec, key.mark


def _encode_marked(step: Step, message_type: int) -> Message:
    """Return the message for *step* on a virtual server by firewall mark, or on a real server of one."""
    key, spec = step.key, step.spec
    if isinstance(key, VirtualServer):
        service_spec = spec if isinstance(spec, VirtualServerSpec) else None
        body = _genl_header(_SERVICE_COMMANDS[step.verb]) + _marked_service(key, service_spec)
    else:
        assert isinstance(key, RealServer)
        family = family_number(key.address)
        before, after = _around_dest_address(family, key.port, spec if isinstance(spec, RealServerSpec) else None)
        body = _genl_header(_DEST_COMMANDS[step.verb]) + _marked_service(key.virtual_server, None)
        body += before + inet_pton(family, key.address) + after
    return message_header(message_type, 0, len(body)) + body


def _marked_service(server: VirtualServer, spec: VirtualServerSpec | None) -> bytes:
    """Return the SERVICE attribute of *server*, which is by firewall mark."""
    family = family_number(server.address)
    identity = u16(SVC_AF, family) + u32(SVC_FWMARK, server.mark)
    return nested(ATTR_SERVICE, identity, _configuration(family, spec))


def encode_list_services() -> bytes:
    """Return the body that lists all virtual servers of the network namespace."""
    return _genl_header(CMD_GET_SERVICE)


def encode_list_dests(server: VirtualServer) -> bytes:
    """Return the body that lists the real servers of *server*."""
    if server.mark:
        return _genl_header(CMD_GET_DEST) + _marked_service(server, None)
    family = family_number(server.address)
    before, after = _around_service_address(family, server.protocol, server.port, None)
    return _genl_header(CMD_GET_DEST) + before + inet_pton(family, server.address) + after


def encode_get_timeouts() -> bytes:
    """Return the body that reads the timeouts."""
    return _genl_header(CMD_GET_CONFIG)


def encode_set_timeouts(timeouts: Timeouts) -> bytes:
    """Return the body that sets the timeouts that are not 0."""
    values = (
        (ATTR_TIMEOUT_TCP, timeouts.tcp_s),
        (ATTR_TIMEOUT_TCP_FIN, timeouts.tcp_fin_s),
        (ATTR_TIMEOUT_UDP, timeouts.udp_s),
    )
    return _genl_header(CMD_SET_CONFIG) + b"".join(u32(attr_type, value) for attr_type, value in values if value)


@lru_cache(maxsize=1024)  # Services have few different ports
def _service_template(message_type: int, service: _Service) -> tuple[bytes, bytes]:
    """Return a message on a virtual server before and after its address; without *spec* it only names the server."""
    verb, spec, family, protocol, port = service
    service_spec = spec if isinstance(spec, VirtualServerSpec) else None
    service_before, after = _around_service_address(family, protocol, port, service_spec)
    before = _genl_header(_SERVICE_COMMANDS[verb]) + service_before
    return message_header(message_type, 0, len(before) + _ADDRESS_SIZE[family] + len(after)) + before, after


@lru_cache(maxsize=1024)  # and so have pods
def _dest_template(message_type: int, dest: _Dest) -> tuple[bytes, bytes, bytes]:
    """Return a message before the address of the virtual server, between it and the real server's, and after."""
    verb, spec, server_family, protocol, server_port, family, port = dest
    service_before, service_after = _around_service_address(server_family, protocol, server_port, None)
    dest_before, after = _around_dest_address(family, port, spec if isinstance(spec, RealServerSpec) else None)
    before, between = _genl_header(_DEST_COMMANDS[verb]) + service_before, service_after + dest_before
    size = len(before) + _ADDRESS_SIZE[server_family] + len(between) + _ADDRESS_SIZE[family] + len(after)
    return message_header(message_type, 0, size) + before, between, after


def _around_service_address(
    family: int, protocol: Protocol, port: int, spec: VirtualServerSpec | None
) -> tuple[bytes, bytes]:
    """Return the SERVICE attribute before and after its address.

    Layout: family, protocol, address, port; with *spec* scheduler, flags with mask, timeout, netmask.
    """
    before = u16(SVC_AF, family) + u16(SVC_PROTOCOL, PROTOCOL_NUMBERS[protocol])
    after = be16(SVC_PORT, port) + _configuration(family, spec)
    return _nest_around_address(ATTR_SERVICE, before, SVC_ADDR, family, after)


def _configuration(family: int, spec: VirtualServerSpec | None) -> bytes:
    """Return scheduler, flags with mask, timeout and netmask; nothing without *spec*."""
    if not spec:
        return b""
    flags = attribute(SVC_FLAGS, pack("=II", spec.flags, _ALL_FLAGS))
    persistence = u32(SVC_TIMEOUT, spec.persistence_s) + attribute(SVC_NETMASK, _netmask(spec.netmask, family))
    return string(SVC_SCHED_NAME, spec.scheduler) + flags + persistence


def _netmask(text: str, family: int) -> bytes:
    """Return the netmask of a persistence template: in network order for IPv4, a prefix length for IPv6."""
    if text and family == AF_INET:
        return inet_pton(AF_INET, text)
    return pack("=I", int(text) if text else SINGLE_CLIENT[family])


def _around_dest_address(family: int, port: int, spec: RealServerSpec | None) -> tuple[bytes, bytes]:
    """Return the DEST attribute before and after its address.

    Without *spec* (to delete) it has only what identifies the real server.
    """
    after = be16(DEST_PORT, port)
    if spec is not None:
        after += u32(DEST_FWD_METHOD, _METHODS[spec.forwarding]) + u32(DEST_WEIGHT, spec.weight)
        after += u32(DEST_U_THRESH, spec.upper) + u32(DEST_L_THRESH, spec.lower)
    return _nest_around_address(ATTR_DEST, b"", DEST_ADDR, family, after)


def _nest_around_address(
    attr_type: int, before: bytes, address_attr_type: int, family: int, after: bytes
) -> tuple[bytes, bytes]:
    """Return a nested attribute before and after the payload of the address in it."""
    size = _ADDRESS_SIZE[family]
    before += attr_header(address_attr_type, size)
    return attr_header(attr_type | NESTED, len(before) + size + len(after)) + before, after


def _genl_header(command: int) -> bytes:
    return bytes((command, VERSION, 0, 0))
