"""Replies of rtnetlink about links, addresses and local routes, from bytes.

A listing that cannot be decoded is a KernelError as a whole: what was left out would look like what is missing.

Layout: rtnetlink.py.
"""

from collections.abc import Iterable
from socket import inet_ntop

from msgspec import Struct

from kubeproxy_py.kernel.address.rtnetlink import (
    HOST_PREFIX,
    IFADDRMSG,
    IFINFOMSG,
    IFLA_IFNAME,
    IFLA_MTU,
    RTA_DST,
    RTMSG,
    RTMSG_TYPE,
    RTN_LOCAL,
    local_address,
)
from kubeproxy_py.kernel.errors import decoding
from kubeproxy_py.kernel.netlink.attributes import parse_attributes, read_string, read_u32
from kubeproxy_py.net import IP


class ListedAddress(Struct, frozen=True, gc=False):
    """An address of an interface."""

    family: int
    prefix: int  # length in bits
    flags: int
    scope: int
    index: int  # of the interface
    address: IP


def decode_addresses(bodies: Iterable[bytes]) -> list[ListedAddress]:
    """Return the IP addresses in a listing.  Raises KernelError."""
    with decoding("a listing of addresses"):
        headers = ((body, *IFADDRMSG.unpack_from(body)) for body in bodies)
        return [
            ListedAddress(family, prefix, flags, scope, index, inet_ntop(family, local_address(family, body)))
            for body, family, prefix, flags, scope, index in headers
            if family in HOST_PREFIX
        ]


def decode_index(body: bytes) -> int:
    """Return the index of the interface that *body* describes.  Raises KernelError."""
    with decoding("the description of an interface"):
        return int(IFINFOMSG.unpack_from(body)[2])


def decode_mtu(body: bytes) -> int:
    """Return the MTU of the interface that *body* describes, in bytes.  Raises KernelError."""
    with decoding("the description of an interface"):
        return read_u32(parse_attributes(body, IFINFOMSG.size)[IFLA_MTU])


def decode_names(bodies: Iterable[bytes]) -> dict[int, str]:
    """Return the names of the interfaces in a listing, by index.  Raises KernelError."""
    with decoding("a listing of interfaces"):
        return {
            IFINFOMSG.unpack_from(body)[2]: read_string(parse_attributes(body, IFINFOMSG.size)[IFLA_IFNAME])
            for body in bodies
        }


def decode_local_targets(bodies: Iterable[bytes]) -> list[bytes]:
    """Return the destinations, packed, of the local routes in *bodies*; b"" of all addresses.  Raises KernelError."""
    with decoding("a listing of routes"):
        local = (body for body in bodies if RTMSG.unpack_from(body)[RTMSG_TYPE] == RTN_LOCAL)
        return [parse_attributes(body, RTMSG.size).get(RTA_DST, b"") for body in local]
