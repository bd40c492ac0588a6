"""IP addresses, networks and sockets as people write them -> the one form in which they compare equal.

Law: what comes out is canonical: IPv6 compressed, no leading zeros, no host bits, IPv4-mapped addresses as IPv4.
Leading zeros are read as decimal, as kube-proxy reads them (its ParseIPSloppy); zones (``%eth0``) are refused.
"""

import re
from ipaddress import IPv6Address, ip_address, ip_network

from msgspec import Struct

IP = str
CIDR = str


class SocketAddress(Struct, frozen=True, gc=False):
    """Where a server listens."""

    address: IP
    port: int

    def __str__(self) -> str:
        return join_host_port(self.address, self.port)


def join_host_port(host: str, port: int | str) -> str:
    """``host:port``, with IPv6 in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def is_ipv6(address: str) -> bool:
    """Whether a canonical address or network is IPv6."""
    return ":" in address


def parse_ip(text: str) -> IP:
    """The canonical form of the address *text*.  Raises ValueError."""
    if "%" in text:
        raise ValueError("a zone")
    address = ip_address(_without_leading_zeros(text))
    if isinstance(address, IPv6Address) and address.ipv4_mapped:
        return str(address.ipv4_mapped)
    return str(address)


def parse_cidr(text: str) -> CIDR:
    """The canonical form of the network ``address/length``; host bits are cleared.  Raises ValueError."""
    address, slash, length = text.partition("/")
    if not slash or "%" in address or not re.fullmatch(r"[0-9]{1,3}", length):
        raise ValueError("not address/length")
    return str(ip_network(f"{_without_leading_zeros(address)}/{length}", strict=False))


def parse_socket(text: str, default_port: int) -> SocketAddress:
    """``IP:port``, ``[IPv6]:port``, or a bare IP with *default_port*.  Raises ValueError, said for people."""
    host, port = _split(text, default_port)
    try:
        address = parse_ip(host)
    except ValueError:
        raise ValueError(f"the host {host!r} is not an IP address") from None
    if not re.fullmatch(r"\+?[0-9]{1,6}", port) or not 1 <= int(port) <= 65535:
        raise ValueError(f"the port {port!r} is not in 1-65535")
    return SocketAddress(address, int(port))


def _split(text: str, default_port: int) -> tuple[str, str]:
    if bracketed := re.fullmatch(r"\[([^\[\]]*)\]:([^:]*)", text):
        return bracketed[1], bracketed[2]
    if text.count(":") == 1:
        host, _, port = text.partition(":")
        return host, port
    return text, str(default_port)


def _without_leading_zeros(address: str) -> str:
    """``010.000.0.1`` -> ``10.0.0.1``; the groups of IPv6 may have them anyway."""
    return address if ":" in address else re.sub(r"\b0+(?=[0-9])", "", address)
