"""The sockets on which processes of this host listen, by sock_diag(7).

Linux lists them from a table of their own, so the cost does not depend on the number of connections; /proc/net/tcp
would list every connection.

Source: include/uapi/linux/inet_diag.h, net/sctp/diag.c.
"""

from collections.abc import Iterable, Iterator, Mapping
from socket import inet_ntop
from struct import Struct

from msgspec import Struct as Value

from kubeproxy_py.kernel.errors import KernelError, decoding
from kubeproxy_py.kernel.netlink.attributes import parse_attributes
from kubeproxy_py.kernel.netlink.families import AF_INET, AF_INET6, AF_NUMBERS
from kubeproxy_py.kernel.netlink.socket import Socket, message
from kubeproxy_py.net import IP, PROTOCOL_NUMBERS, Family, Protocol

_NETLINK_SOCK_DIAG = 4
_SOCK_DIAG_BY_FAMILY = 20
_REQUEST = Struct("=BBBxI48x")  # family, protocol, extensions, states, then a socket id, which is not used to list
_REPLY_SIZE = 72
_PORT, _SOURCE = slice(4, 6), slice(8, 24)
_INET_DIAG_SKV6ONLY = 11
_LISTEN, _CLOSE = 1 << 10, 1 << 7  # states of enum tcp_state; a UDP socket without a peer is in the second
_STATES: Mapping[Protocol, int] = {"TCP": _LISTEN, "UDP": _CLOSE, "SCTP": _LISTEN}
_ANY: Mapping[Family, IP] = {"IPv4": "0.0.0.0", "IPv6": "::"}


class ListeningSocket(Value, frozen=True, gc=False):
    """A socket of a process; one that is bound to all addresses of both families is two."""

    protocol: Protocol
    family: Family
    address: IP
    port: int

    @property
    def is_wildcard(self) -> bool:
        """Whether it is bound to all addresses of its family."""
        return self.address == _ANY[self.family]


def listening_sockets() -> frozenset[ListeningSocket]:
    """Return the listening sockets of this network namespace; none of a protocol that the kernel cannot list."""
    found: set[ListeningSocket] = set()
    try:
        netlink = Socket(_NETLINK_SOCK_DIAG)
    except KernelError:
        return frozenset()
    try:
        for protocol, states in _STATES.items():
            for family in AF_NUMBERS.values():
                found.update(_list(netlink, protocol, family, states))
    finally:
        netlink.close()
    return frozenset(found)


def _list(netlink: Socket, protocol: Protocol, family: int, states: int) -> list[ListeningSocket]:
    request = _REQUEST.pack(family, PROTOCOL_NUMBERS[protocol], 0, states)
    try:
        return decode_sockets(protocol, netlink.dump(message(_SOCK_DIAG_BY_FAMILY, 0, request)))
    except KernelError:  # the protocol, or its module for sock_diag, does not exist
        return []


def decode_sockets(protocol: Protocol, bodies: Iterable[bytes]) -> list[ListeningSocket]:
    """Return the sockets in a listing.  Raises KernelError."""
    with decoding("a listing of sockets"):
        return [listening for body in bodies for listening in parse_socket(protocol, body)]


def parse_socket(protocol: Protocol, body: bytes) -> Iterator[ListeningSocket]:
    """Yield what a message about one socket says; *body* begins with its inet_diag_msg.  Raises one of MALFORMED."""
    port = int.from_bytes(body[_PORT], "big")
    if body[0] == AF_INET:
        yield ListeningSocket(protocol, "IPv4", inet_ntop(AF_INET, body[_SOURCE][:4]), port)
        return
    address = inet_ntop(AF_INET6, body[_SOURCE])
    yield ListeningSocket(protocol, "IPv6", address, port)
    is_ipv6_only = parse_attributes(body, _REPLY_SIZE).get(_INET_DIAG_SKV6ONLY, b"\0")[0]
    if address == "::" and not is_ipv6_only:
        yield ListeningSocket(protocol, "IPv4", "0.0.0.0", port)
