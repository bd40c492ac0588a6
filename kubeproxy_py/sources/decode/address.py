"""Addresses and networks, made canonical.

Law: what comes out is what ``inet_ntop`` prints, so that equal addresses are equal strings.  What goes in may be
anything that Kubernetes ever accepted: leading zeros in IPv4 are decimal (Go's parser before 1.17, which the API
still uses), and an IPv4-mapped IPv6 address is the IPv4 address.

Source: k8s.io/utils/net, ParseIPSloppy and ParseCIDRSloppy.
"""

import re
from ipaddress import ip_network
from socket import AF_INET, AF_INET6, inet_ntop, inet_pton

from kubeproxy_py.model.services import CIDR, IP
from kubeproxy_py.sources.decode.errors import FieldError

_MAPPED = bytes(10) + b"\xff\xff"  # ::ffff:0:0/96, RFC 4291, 2.5.5.2
_DOTTED = re.compile(r"(^|.*:)([0-9]+(?:\.[0-9]+){3})", re.ASCII)
_TEXT_MAX = 64  # the longest address has 45 characters; zeros may lead


def canonical_ip(text: str) -> IP:
    """*text* as inet_ntop would print it.  Raises Flaw if it is no address."""
    try:
        if ":" in text:
            return _of_ipv6(inet_pton(AF_INET6, text))
        inet_pton(AF_INET, text)  # takes four plain decimals only: what it takes is canonical
        return text
    except (OSError, ValueError):  # ValueError: a NUL character within
        return _sloppy_ip(text)


def _of_ipv6(packed: bytes) -> IP:
    return inet_ntop(AF_INET, packed[12:]) if packed.startswith(_MAPPED) else inet_ntop(AF_INET6, packed)


def _sloppy_ip(text: str) -> IP:
    """The address once the zeros that lead its decimals are gone.  Raises Flaw."""
    match = _DOTTED.fullmatch(text) if len(text) <= _TEXT_MAX else None
    try:
        if match is None:
            raise OSError
        plain = match[1] + ".".join(str(int(decimal)) for decimal in match[2].split("."))
        return _of_ipv6(inet_pton(AF_INET6, plain)) if match[1] else inet_ntop(AF_INET, inet_pton(AF_INET, plain))
    except OSError:
        raise FieldError(
            "", f"{text[:_TEXT_MAX]!r} is not an IP address", "write it like 10.0.0.1 or fd00::1"
        ) from None


def canonical_cidr(text: str) -> CIDR:
    """*text* without surrounding white space and without host bits.  Raises Flaw if it is no network."""
    address, slash, length = text.strip().partition("/")
    if not slash or not (length.isascii() and length.isdigit()) or len(length) > 3:
        raise FieldError(
            "", f"{text[:_TEXT_MAX]!r} is not a network", "write it like 10.0.0.0/8; one address is /32 or /128"
        )
    ip = canonical_ip(address)
    bits = int(length)
    if ":" in address and ":" not in ip:
        bits -= 96  # an IPv4-mapped network; Go counts its length from the IPv6 address's beginning
    if not 0 <= bits <= (128 if ":" in ip else 32):
        raise FieldError("", f"{text[:_TEXT_MAX]!r} has a prefix length that no address of its family has")
    return str(ip_network((ip, bits), strict=False))
