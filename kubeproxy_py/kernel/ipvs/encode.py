"""What IPVS is asked, as bytes: a step -> its message, and the listings and timeouts that are asked for.

Law: pure.  A message's body is a generic netlink header and then the service, and for real servers the destination,
each an attribute of attributes.  Ports are in network order, all other numbers in host order, and an IPv4 address
takes 4 bytes.  Messages differ in little but their addresses: what stands around these is put together once for all
that have it in common, and a first sync has 110,000.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from itertools import chain
from socket import inet_pton
from struct import pack
from typing import Any

from kubeproxy_py.kernel.ipvs.constants import (
    D_ADDRESS,
    D_LOWER,
    D_METHOD,
    D_PORT,
    D_UPPER,
    D_WEIGHT,
    DEL_DEST,
    DEL_SERVICE,
    DEST,
    GET_CONFIG,
    GET_DEST,
    GET_SERVICE,
    MASQUERADE,
    NEW_DEST,
    NEW_SERVICE,
    PROTOCOL_NUMBERS,
    S_ADDRESS,
    S_FAMILY,
    S_FLAGS,
    S_NETMASK,
    S_PORT,
    S_PROTOCOL,
    S_SCHEDULER,
    S_TIMEOUT,
    SERVICE,
    SET_CONFIG,
    SET_DEST,
    SET_SERVICE,
    TIMEOUT_TCP,
    TIMEOUT_TCP_FIN,
    TIMEOUT_UDP,
    VERSION,
    Timeouts,
)
from kubeproxy_py.kernel.netlink.attributes import NESTED, attribute, big16, head, text, u16, u32
from kubeproxy_py.kernel.netlink.families import AF_INET, AF_INET6, family_number
from kubeproxy_py.kernel.netlink.messages import Message, header
from kubeproxy_py.kernel.runs import kinds, runs
from kubeproxy_py.model.rows import Key, RealServer, RealServerSpec, Spec, VirtualServer, VirtualServerSpec
from kubeproxy_py.model.services import Protocol
from kubeproxy_py.model.steps import Step, Verb

_SERVICE_COMMANDS: dict[Verb, int] = {"add": NEW_SERVICE, "update": SET_SERVICE, "delete": DEL_SERVICE}
_DEST_COMMANDS: dict[Verb, int] = {"add": NEW_DEST, "update": SET_DEST, "delete": DEL_DEST}

_ADDRESS_SIZE: dict[int, int] = {AF_INET: 4, AF_INET6: 16}
_NETMASK: dict[int, int] = {AF_INET: 0xFFFFFFFF, AF_INET6: 128}  # one client is one persistence template
_ALL_FLAGS = 0xFFFFFFFF

_Around = tuple[bytes, bytes]
"""What stands before an address, and what behind it."""


def encode_steps(steps: Sequence[Step], kind: int) -> Iterator[Message]:
    """The message for each of *steps* on virtual and real servers; *kind* is the type that the kernel gave to IPVS."""
    each_run = (_OF_KIND[row](run, kind) for row, run in runs(steps, kinds(steps)))
    return chain.from_iterable(each_run)


def _real_servers(steps: Sequence[Step], kind: int) -> Iterator[Message]:
    """Real servers come by virtual server, and nearly all with one port and one weight.

    So what one has in common with the one before is not put together again.
    """
    server: VirtualServer | None = None
    verb: Verb | None = None
    spec: Spec = None
    port, family, is_ipv6 = 0, AF_INET, False
    before = behind = b""
    for step in steps:
        key: Any = step.key  # a RealServer: to ask that for each is a tenth of the time
        if (
            key.virtual_server is not server
            or step.spec is not spec
            or step.verb != verb
            or key.port != port
            or (":" in key.address) is not is_ipv6
        ):
            server, spec, verb, port, is_ipv6 = key.virtual_server, step.spec, step.verb, key.port, ":" in key.address
            family = AF_INET6 if is_ipv6 else AF_INET
            before, behind = _around_real_server(kind, verb, key, spec, family)
        yield before + inet_pton(family, key.address) + behind


def encode_list_services() -> bytes:
    """The body that lists all virtual servers of the network namespace."""
    return _command(GET_SERVICE)


def encode_list_dests(server: VirtualServer) -> bytes:
    """The body that lists the real servers of *server*."""
    family = family_number(server.address)
    before, behind = _service(family, server.protocol, server.port, None)
    return _command(GET_DEST) + before + inet_pton(family, server.address) + behind


def encode_get_timeouts() -> bytes:
    """The body that asks for the timeouts."""
    return _command(GET_CONFIG)


def encode_set_timeouts(timeouts: Timeouts) -> bytes:
    """The body that sets the timeouts that are not 0."""
    fields = ((TIMEOUT_TCP, timeouts.tcp_s), (TIMEOUT_TCP_FIN, timeouts.tcp_fin_s), (TIMEOUT_UDP, timeouts.udp_s))
    return _command(SET_CONFIG) + b"".join(u32(kind, value) for kind, value in fields if value)


def _virtual_servers(steps: Sequence[Step], kind: int) -> Iterator[Message]:
    for step in steps:
        assert isinstance(step.key, VirtualServer)
        yield _virtual_server(kind, step.verb, step.key, step.spec)


def _virtual_server(kind: int, verb: Verb, server: VirtualServer, spec: Spec) -> Message:
    family = family_number(server.address)
    own = spec if isinstance(spec, VirtualServerSpec) else None
    before, behind = _around_virtual_server(kind, _SERVICE_COMMANDS[verb], family, server.protocol, server.port, own)
    return before + inet_pton(family, server.address) + behind


def _around_real_server(kind: int, verb: Verb, key: RealServer, spec: Spec, family: int) -> _Around:
    server = key.virtual_server
    weight = spec.weight if isinstance(spec, RealServerSpec) else None
    near = family_number(server.address)
    before, between, behind = _around_both(
        kind, _DEST_COMMANDS[verb], near, server.protocol, server.port, family, key.port, weight
    )
    return before + inet_pton(near, server.address) + between, behind


@lru_cache(maxsize=1024)  # Services have few different ports
def _around_virtual_server(
    kind: int, command: int, family: int, protocol: Protocol, port: int, spec: VirtualServerSpec | None
) -> _Around:
    """What of the message stands around the address of a virtual server; without *spec*, of one that only names it."""
    before, behind = _service(family, protocol, port, spec)
    front = _command(command) + before
    return header(kind, 0, len(front) + _ADDRESS_SIZE[family] + len(behind)) + front, behind


@lru_cache(maxsize=1024)  # as above, and so have pods
def _around_both(
    kind: int, command: int, near: int, protocol: Protocol, near_port: int, family: int, port: int, weight: int | None
) -> tuple[bytes, bytes, bytes]:
    """What stands before the address of the virtual server (*near*), between it and the real server's, and behind."""
    before, near_behind = _service(near, protocol, near_port, None)
    dest, behind = _dest(family, port, weight)
    front, between = _command(command) + before, near_behind + dest
    size = len(front) + _ADDRESS_SIZE[near] + len(between) + _ADDRESS_SIZE[family] + len(behind)
    return header(kind, 0, size) + front, between, behind


def _service(family: int, protocol: Protocol, port: int, spec: VirtualServerSpec | None) -> _Around:
    """The SERVICE attribute around its address: identity, then scheduler, flags with mask, timeout, netmask."""
    before = u16(S_FAMILY, family) + u16(S_PROTOCOL, PROTOCOL_NUMBERS[protocol])
    behind = big16(S_PORT, port)
    if spec:
        behind += text(S_SCHEDULER, spec.scheduler)
        behind += attribute(S_FLAGS, pack("=II", spec.flags, _ALL_FLAGS))
        behind += u32(S_TIMEOUT, spec.persistence_s) + u32(S_NETMASK, _NETMASK[family])
    return _nested(SERVICE, before, S_ADDRESS, family, behind)


def _dest(family: int, port: int, weight: int | None) -> _Around:
    """The DEST attribute around its address.

    Without *weight* (to delete) it has only what names the real server.  Thresholds are 0: none.
    """
    behind = big16(D_PORT, port)
    if weight is not None:
        behind += u32(D_METHOD, MASQUERADE) + u32(D_WEIGHT, weight) + u32(D_UPPER, 0) + u32(D_LOWER, 0)
    return _nested(DEST, b"", D_ADDRESS, family, behind)


def _nested(kind: int, before: bytes, address_kind: int, family: int, behind: bytes) -> _Around:
    """An attribute of attributes around the payload of the one that is an address."""
    size = _ADDRESS_SIZE[family]
    before += head(address_kind, size)
    return head(kind | NESTED, len(before) + size + len(behind)) + before, behind


def _command(command: int) -> bytes:
    """The generic netlink header."""
    return bytes((command, VERSION, 0, 0))


_OF_KIND: dict[type[Key], Callable[[Sequence[Step], int], Iterator[Message]]] = {
    VirtualServer: _virtual_servers,
    RealServer: _real_servers,
}
