"""Recognize kube-ipvs0 under another name, which another program gave it while no agent ran.

It is a dummy device that is down, and all of its addresses are single ones, most of them those of virtual servers.
Devices that other programs have for Service addresses do not look so: kube-router's is up, and node-local-dns has a
link-local address on its own.
"""

from collections.abc import Callable, Collection, Iterable

from kubeproxy_py.kernel.address.decode import ListedAddress
from kubeproxy_py.kernel.address.rtnetlink import (
    HOST_PREFIX,
    IFINFOMSG,
    IFLA_INFO_KIND,
    IFLA_LINKINFO,
    RT_SCOPE_UNIVERSE,
)
from kubeproxy_py.kernel.errors import decoding
from kubeproxy_py.kernel.netlink.attributes import parse_attributes, read_string
from kubeproxy_py.net import IP

_IFF_UP = 0x1
_KIND = "dummy"
_LINK_LOCAL = ("169.254.", "fe80:")


def find_renamed(
    links: Iterable[bytes], addresses: Iterable[ListedAddress], served: Callable[[], Collection[IP]]
) -> int:
    """Return the index of the device of *links* that was kube-ipvs0; 0 if there is none.

    Args:
        links: A listing of all interfaces.
        addresses: All addresses.
        served: Returns the addresses of the virtual servers; called only if there is a device that it may be.

    Raises:
        KernelError: *links* cannot be decoded, or from *served*.
    """
    with decoding("a listing of interfaces"):
        dummies = {index for body in links if (index := _dummy_index(body))}
    by_device: dict[int, list[ListedAddress]] = {}
    for each in addresses:
        if each.index in dummies:
            by_device.setdefault(each.index, []).append(each)
    candidates = {index: listed for index, listed in by_device.items() if all(map(_is_single, listed))}
    if not candidates:
        return 0
    known = served()
    numbers = {index: sum(each.address in known for each in listed) for index, listed in candidates.items()}
    likely = [index for index, number in numbers.items() if 2 * number > len(candidates[index])]
    return max(likely, key=numbers.__getitem__, default=0)


def _dummy_index(body: bytes) -> int:
    """Return the index of a dummy device that is down; 0 for any other one.  Raises one of MALFORMED."""
    _, _, index, flags, _ = IFINFOMSG.unpack_from(body)
    info = parse_attributes(body, IFINFOMSG.size).get(IFLA_LINKINFO, b"")
    kind = read_string(parse_attributes(info).get(IFLA_INFO_KIND, b""))
    return int(index) if kind == _KIND and not flags & _IFF_UP else 0


def _is_single(listed: ListedAddress) -> bool:
    is_global = listed.scope == RT_SCOPE_UNIVERSE and not listed.address.startswith(_LINK_LOCAL)
    return is_global and listed.prefix == HOST_PREFIX[listed.family]
