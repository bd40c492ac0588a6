"""IP addresses, networks, address families, ports and protocols: the only place where their forms are decided.

Invariants:
- A canonical address is what ``inet_ntop`` prints, so equal addresses are equal strings, whether they were parsed from
  an object or a configuration or read back from the kernel.
- A canonical network has no host bits set.
- Parsing is as sloppy as Go's before 1.17, which the Kubernetes API still accepts: leading zeros of IPv4 are decimal,
  and an IPv4-mapped IPv6 address or network is the IPv4 one.  Zones (``%eth0``) are rejected.

Source: k8s.io/utils/net, ParseIPSloppy and ParseCIDRSloppy; RFC 4291, 2.5.5.2 (IPv4-mapped addresses).
"""

import re
from collections.abc import Iterable, Mapping
from ipaddress import ip_network
from socket import AF_INET, AF_INET6, inet_ntop, inet_pton
from typing import Literal

from msgspec import Struct

IP = str
"""A canonical IPv4 or IPv6 address."""

CIDR = str
"""A canonical network, ``address/length``."""

Family = Literal["IPv4", "IPv6"]
FAMILIES: tuple[Family, ...] = ("IPv4", "IPv6")

Protocol = Literal["TCP", "UDP", "SCTP"]
PROTOCOL_NUMBERS: dict[Protocol, int] = {"TCP": 6, "UDP": 17, "SCTP": 132}
"""Protocol numbers as assigned by IANA (``/etc/protocols``)."""

_MAPPED_PREFIX = bytes(10) + b"\xff\xff"  # ::ffff:0:0/96
_MAPPED_PREFIX_BITS = 96
_DOTTED_DECIMAL = re.compile(r"(^|.*:)([0-9]+(?:\.[0-9]+){3})", re.ASCII)
_TEXT_MAX = 64  # the longest address has 45 characters; leading zeros may add some

PORT_MAX = 65535
ADDRESS_BITS: dict[Family, int] = {"IPv4": 32, "IPv6": 128}
"""The number of bits of an address: the prefix length of a network of one address."""

LOOPBACK_IP: Mapping[Family, IP] = {"IPv4": "127.0.0.1", "IPv6": "::1"}
"""The loopback address."""

_SOCKET_FAMILIES: dict[Family, int] = {"IPv4": AF_INET, "IPv6": AF_INET6}
_SPECIAL_USES: dict[Family, tuple[tuple[str, int, int], ...]] = {
    # (use, bits after the prefix, prefix); RFC 6890
    "IPv4": (
        ("loopback", 24, 127),
        ("multicast", 28, 0xE),
        ("link-local", 16, 0xA9FE),
        ("unspecified", 0, 0),
        ("broadcast", 0, 0xFFFFFFFF),
    ),
    "IPv6": (
        ("multicast", 120, 0xFF),
        ("link-local", 118, 0xFE80 >> 6),
        ("loopback", 0, 1),
        ("unspecified", 0, 0),
    ),
}
# The first two characters of canonical addresses for a special use; other addresses may begin with them, too.
_SPECIAL_BEGINNINGS = frozenset(("0.", "12", "16", "22", "23", "25", "::", "fe", "ff"))


class SocketAddress(Struct, frozen=True, gc=False):
    """The address and port on which a server listens."""

    address: IP
    port: int

    def __str__(self) -> str:
        return join_host_port(self.address, self.port)


IPV6_MIN_MTU = 1280
"""With a smaller MTU, in bytes, an interface has no IPv6 addresses (RFC 8200, section 5)."""


def is_ipv6(address: str) -> bool:
    """Return whether a canonical address or network is IPv6."""
    return ":" in address


def family_of(address: str) -> Family:
    """Return the family of a canonical address or network."""
    return "IPv6" if ":" in address else "IPv4"


def pack(address: IP) -> bytes:
    """Return the 4 or 16 bytes of a canonical address; those of one family sort as the addresses do."""
    return inet_pton(_SOCKET_FAMILIES[family_of(address)], address)


def special_use(address: IP) -> str:
    """Return what *address* is reserved for ("loopback", "multicast"); "" if a host beyond this link can have it."""
    if address[:2] not in _SPECIAL_BEGINNINGS:  # nearly all: every address of every object comes here
        return ""
    family = family_of(address)
    number = int.from_bytes(inet_pton(_SOCKET_FAMILIES[family], address))
    return next((use for use, bits, prefix in _SPECIAL_USES[family] if number >> bits == prefix), "")


def by_family(addresses: tuple[IP, ...]) -> dict[Family, IP]:
    """Return the first address of each family."""
    return {family_of(address): address for address in reversed(addresses)}


def networks_by_family(networks: Iterable[CIDR], families: Iterable[Family]) -> dict[Family, tuple[CIDR, ...]]:
    """Return the distinct *networks* of each of *families* that has any, in their order."""
    distinct = dict.fromkeys(networks)
    found = {family: tuple(cidr for cidr in distinct if family_of(cidr) == family) for family in families}
    return {family: cidrs for family, cidrs in found.items() if cidrs}


def is_port_number(text: str) -> bool:
    """Return whether *text* is a port from 1 to PORT_MAX, in ASCII digits."""
    return text.isascii() and text.isdecimal() and len(text) <= _TEXT_MAX and 1 <= int(text) <= PORT_MAX


def join_host_port(host: str, port: int | str) -> str:
    """Return ``host:port``, with an IPv6 host in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def parse_ip(text: str) -> IP:
    """Return the canonical form of the address *text*.

    Raises:
        ValueError: *text* is not an address.
    """
    try:
        packed = inet_pton(AF_INET6 if ":" in text else AF_INET, text)
    except (OSError, ValueError):  # ValueError: a NUL character in the text
        return _parse_sloppy_ip(text)
    return _canonical_ipv6(packed) if ":" in text else text  # inet_pton accepts canonical IPv4 only


def parse_cidr(text: str) -> CIDR:
    """Return the canonical form of the network ``address/length``, with host bits cleared.

    Raises:
        ValueError: *text* is not a network.
    """
    address, slash, length = text.partition("/")
    if not slash or not re.fullmatch(r"[0-9]{1,3}", length, re.ASCII):
        raise ValueError(f"{text[:_TEXT_MAX]!r} is not a network")
    ip = parse_ip(address)
    bits = int(length)
    if is_ipv6(address) and not is_ipv6(ip):
        bits -= _MAPPED_PREFIX_BITS  # Go counts the length of an IPv4-mapped network from the start of the IPv6 address
    if not 0 <= bits <= ADDRESS_BITS[family_of(ip)]:
        raise ValueError(f"{text[:_TEXT_MAX]!r} has a prefix length that is out of range for its family")
    network = ip_network((ip, bits), strict=False)
    # ip_network prints ``::a00:0/104`` where inet_ntop, and so the kernel readers, print ``::10.0.0.0/104``.
    return f"{inet_ntop(_SOCKET_FAMILIES[family_of(ip)], network.network_address.packed)}/{bits}"


def contains(network: CIDR, other: CIDR) -> bool:
    """Return whether all addresses of *other* are in *network*."""
    outer, inner = ip_network(network), ip_network(other)
    return outer.version == inner.version and inner.prefixlen >= outer.prefixlen and inner.network_address in outer


def parse_socket(text: str, default_port: int) -> SocketAddress:
    """Return the socket address of ``IP:port``, ``[IPv6]:port``, or a bare IP with *default_port*.

    Raises:
        ValueError: The host or the port is invalid; the message is for operators.
    """
    host, port = _split_host_port(text, default_port)
    try:
        address = parse_ip(host)
    except ValueError:
        raise ValueError(f"the host {host!r} is not an IP address") from None
    if not re.fullmatch(r"\+?[0-9]{1,6}", port) or not 1 <= int(port) <= PORT_MAX:
        raise ValueError(f"the port {port!r} is not in 1-{PORT_MAX}")
    return SocketAddress(address, int(port))


def _canonical_ipv6(packed: bytes) -> IP:
    if packed.startswith(_MAPPED_PREFIX):
        return inet_ntop(AF_INET, packed[len(_MAPPED_PREFIX) :])
    return inet_ntop(AF_INET6, packed)


def _parse_sloppy_ip(text: str) -> IP:
    """Return the address without the leading zeros of its decimals.  Raises ValueError."""
    match = _DOTTED_DECIMAL.fullmatch(text) if len(text) <= _TEXT_MAX else None
    if match is None:
        raise ValueError(f"{text[:_TEXT_MAX]!r} is not an IP address")
    plain = match[1] + ".".join(str(int(decimal)) for decimal in match[2].split("."))
    try:
        if match[1]:
            return _canonical_ipv6(inet_pton(AF_INET6, plain))
        return inet_ntop(AF_INET, inet_pton(AF_INET, plain))
    except OSError:
        raise ValueError(f"{text[:_TEXT_MAX]!r} is not an IP address") from None


def _split_host_port(text: str, default_port: int) -> tuple[str, str]:
    if bracketed := re.fullmatch(r"\[([^\[\]]*)\]:([^:]*)", text):
        return bracketed[1], bracketed[2]
    if text.count(":") == 1:
        host, _, port = text.partition(":")
        return host, port
    return text, str(default_port)
