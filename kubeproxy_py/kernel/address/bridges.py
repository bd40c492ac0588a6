"""The bridges of this network namespace, by rtnetlink.

/sys/class/net would do, but shows the namespace in which /sys was mounted, which need not be ours.

Source: include/uapi/linux/if_link.h.
"""

from collections.abc import Iterable

from kubeproxy_py.kernel.address.rtnetlink import (
    IFINFOMSG,
    IFLA_EXT_MASK,
    IFLA_IFNAME,
    IFLA_INFO_KIND,
    IFLA_LINKINFO,
    IFLA_MASTER,
    RTEXT_FILTER_SKIP_STATS,
    RTM_GETLINK,
)
from kubeproxy_py.kernel.errors import decoding
from kubeproxy_py.kernel.netlink.attributes import parse_attributes, read_string, read_u32, u32
from kubeproxy_py.kernel.netlink.families import AF_UNSPEC
from kubeproxy_py.kernel.netlink.socket import NETLINK_ROUTE, Socket, message


def bridges_with_ports() -> tuple[str, ...]:
    """Return the names of the bridges that have at least one port.  Raises KernelError."""
    netlink = Socket(NETLINK_ROUTE)
    try:
        body = IFINFOMSG.pack(AF_UNSPEC, 0, 0, 0, 0) + u32(IFLA_EXT_MASK, RTEXT_FILTER_SKIP_STATS)
        return parse_bridges(netlink.dump(message(RTM_GETLINK, 0, body)))
    finally:
        netlink.close()


def parse_bridges(replies: Iterable[bytes]) -> tuple[str, ...]:
    """Return the names of the bridges with ports among the links of *replies*, each an ifinfomsg with attributes.

    Raises KernelError.
    """
    bridges: dict[int, str] = {}
    masters: set[int] = set()
    with decoding("a listing of interfaces"):
        for reply in replies:
            attributes = parse_attributes(reply, IFINFOMSG.size)
            if _kind(attributes.get(IFLA_LINKINFO, b"")) == "bridge":
                bridges[IFINFOMSG.unpack_from(reply)[2]] = read_string(attributes[IFLA_IFNAME])
            if IFLA_MASTER in attributes:
                masters.add(read_u32(attributes[IFLA_MASTER]))
    return tuple(sorted(name for index, name in bridges.items() if index in masters))


def _kind(link_info: bytes) -> str:
    return read_string(parse_attributes(link_info, 0).get(IFLA_INFO_KIND, b""))
