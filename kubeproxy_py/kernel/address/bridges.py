"""The bridges of this network namespace and their ports, by rtnetlink.

/sys/class/net would do, but shows the namespace in which /sys was mounted, which need not be ours.

Source: include/uapi/linux/if_link.h.
"""

from collections.abc import Iterable

from msgspec import Struct

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

_IFF_PROMISC = 0x100
_IFLA_INFO_SLAVE_KIND, _IFLA_INFO_SLAVE_DATA = 4, 5
_IFLA_BRPORT_MODE = 4


class Bridge(Struct, frozen=True, gc=False):
    """A bridge that has at least one port."""

    name: str
    hairpin_off: tuple[str, ...] = ()  # ports that do not send a packet back where it came from


def bridges_with_ports() -> tuple[Bridge, ...]:
    """Return the bridges that have at least one port, by name.  Raises KernelError."""
    netlink = Socket(NETLINK_ROUTE)
    try:
        body = IFINFOMSG.pack(AF_UNSPEC, 0, 0, 0, 0) + u32(IFLA_EXT_MASK, RTEXT_FILTER_SKIP_STATS)
        return parse_bridges(netlink.dump(message(RTM_GETLINK, 0, body)))
    finally:
        netlink.close()


def parse_bridges(replies: Iterable[bytes]) -> tuple[Bridge, ...]:
    """Return the bridges with ports among the links of *replies*, each an ifinfomsg with attributes.

    Raises KernelError.
    """
    bridges: dict[int, str] = {}
    promiscuous: set[int] = set()  # such a bridge takes all packets itself, and sends them back (kubelet's other way)
    ports: dict[int, list[tuple[str, bool]]] = {}
    with decoding("a listing of interfaces"):
        for reply in replies:
            attributes = parse_attributes(reply, IFINFOMSG.size)
            _, _, index, flags, *_ = IFINFOMSG.unpack_from(reply)
            info = parse_attributes(attributes.get(IFLA_LINKINFO, b""), 0)
            if read_string(info.get(IFLA_INFO_KIND, b"")) == "bridge":
                bridges[index] = read_string(attributes[IFLA_IFNAME])
                if flags & _IFF_PROMISC:
                    promiscuous.add(index)
            if IFLA_MASTER in attributes:
                port = read_string(attributes[IFLA_IFNAME]), _has_hairpin(info)
                ports.setdefault(read_u32(attributes[IFLA_MASTER]), []).append(port)
    return tuple(
        sorted(
            (
                Bridge(name, _without_hairpin(ports[index], index in promiscuous))
                for index, name in bridges.items()
                if index in ports
            ),
            key=lambda bridge: bridge.name,
        )
    )


def _has_hairpin(link_info: dict[int, bytes]) -> bool:
    """Return whether a port has hairpin mode; True where the kernel does not say."""
    if read_string(link_info.get(_IFLA_INFO_SLAVE_KIND, b"")) != "bridge":
        return True
    mode = parse_attributes(link_info.get(_IFLA_INFO_SLAVE_DATA, b""), 0).get(_IFLA_BRPORT_MODE)
    return mode is None or mode[0] != 0


def _without_hairpin(ports: Iterable[tuple[str, bool]], is_promiscuous: bool) -> tuple[str, ...]:  # noqa: FBT001 - one of two
    return () if is_promiscuous else tuple(sorted(name for name, has_hairpin in ports if not has_hairpin))
