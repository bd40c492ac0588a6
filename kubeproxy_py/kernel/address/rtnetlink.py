"""Constants and layouts of rtnetlink messages about links, addresses and routes.

Layout: each body begins with one of the structures below, in host byte order, followed by attributes.

Source: include/uapi/linux/rtnetlink.h, if_link.h, if_addr.h.
"""

from struct import Struct

from kubeproxy_py.kernel.netlink.attributes import attr_header, parse_attributes
from kubeproxy_py.kernel.netlink.families import AF_INET, AF_INET6

RTM_NEWLINK, RTM_DELLINK, RTM_GETLINK = 16, 17, 18
RTM_NEWADDR, RTM_DELADDR, RTM_GETADDR = 20, 21, 22
RTM_GETROUTE = 26
RTM_NEWNEIGH, RTM_GETNEIGH = 28, 30

IFINFOMSG = Struct("=BxHiII")  # family, type, index, flags, change mask
IFADDRMSG = Struct("=BBBBI")  # family, prefix length, flags, scope, index
IFADDRMSG_INDEX_OFFSET = 4
RTMSG = Struct("=BBBBBBBBI")  # family, destination and source prefix length, TOS, table, protocol, scope, type, flags
RTMSG_TYPE = 7  # field number of the type

IFLA_IFNAME, IFLA_MTU, IFLA_MASTER, IFLA_LINKINFO, IFLA_IFALIAS, IFLA_EXT_MASK = 3, 4, 10, 18, 20, 29
IFLA_INFO_KIND = 1
RTEXT_FILTER_SKIP_STATS = 1 << 3
IFA_ADDRESS, IFA_LOCAL, IFA_CACHEINFO = 1, 2, 6
IFA_F_NODAD = 0x02  # no duplicate address detection
IFA_F_DEPRECATED = 0x20  # the preferred lifetime is over
CACHEINFO = Struct("=IIII")  # preferred and valid lifetime in seconds, created, updated
LIFETIME_INFINITE = 0xFFFFFFFF
RTA_DST = 1
RTN_UNICAST, RTN_LOCAL = 1, 2
RT_SCOPE_UNIVERSE, RT_SCOPE_LINK = 0, 253

HOST_PREFIX: dict[int, int] = {AF_INET: 32, AF_INET6: 128}
"""The prefix length of a single address, by family."""

LOCAL_HEADER: dict[int, bytes] = {family: attr_header(IFA_LOCAL, bits // 8) for family, bits in HOST_PREFIX.items()}
ADDRESS_HEADER: dict[int, bytes] = {family: attr_header(IFA_ADDRESS, bits // 8) for family, bits in HOST_PREFIX.items()}


def local_address(family: int, body: bytes) -> bytes:
    """Return this host's address, packed, from an address message of *family*; *body* begins with its ifaddrmsg.

    On a point-to-point link IFA_ADDRESS is the remote end and IFA_LOCAL is ours.  An IPv4 message has both, IFA_ADDRESS
    first; an IPv6 message has IFA_LOCAL only on such a link, and then first.
    """
    start = IFADDRMSG.size
    if family == AF_INET and body[start + 8 : start + 12] == LOCAL_HEADER[AF_INET]:
        return body[start + 12 : start + 16]
    if family == AF_INET6 and body[start : start + 4] == ADDRESS_HEADER[AF_INET6]:
        return body[start + 4 : start + 20]
    attributes = parse_attributes(body, start)
    return attributes.get(IFA_LOCAL) or attributes[IFA_ADDRESS]
