"""Messages that add, update and delete the device and its addresses.

IPv6 addresses are deprecated from the start: their preferred lifetime is 0, their valid lifetime infinite.  They are
local to this host like others, but the kernel selects one as the source address of a packet only if the host has no
other address of that scope.  Without that, an interface that has a link-local address only (towards the pods of a
Calico node, or an uplink) sends with the Service address that resembles the destination most (RFC 6724, rule 8).
IPv4 has no such rule; there the address of the route is selected.

Source: ipv6_get_saddr_eval, inet6_addr_add and inet6_addr_modify in net/ipv6/addrconf.c.
"""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from socket import inet_pton

from kubeproxy_py.kernel.address.rtnetlink import (
    ADDRESS_HEADER,
    CACHEINFO,
    HOST_PREFIX,
    IFA_CACHEINFO,
    IFA_F_NODAD,
    IFADDRMSG,
    IFINFOMSG,
    IFLA_IFNAME,
    IFLA_INFO_KIND,
    IFLA_LINKINFO,
    IFLA_MTU,
    LIFETIME_INFINITE,
    LOCAL_HEADER,
    RT_SCOPE_UNIVERSE,
    RTM_DELADDR,
    RTM_DELLINK,
    RTM_NEWADDR,
    RTM_NEWLINK,
)
from kubeproxy_py.kernel.netlink.attributes import attribute, nested, string, u32
from kubeproxy_py.kernel.netlink.families import AF_INET6, AF_UNSPEC, family_number
from kubeproxy_py.kernel.netlink.messages import NLM_F_REPLACE, message_header
from kubeproxy_py.kernel.netlink.socket import NLM_F_CREATE, NLM_F_EXCL, Message, message
from kubeproxy_py.model.rows import Address, Link
from kubeproxy_py.model.steps import Step
from kubeproxy_py.net import IP

_DEPRECATED = attribute(IFA_CACHEINFO, CACHEINFO.pack(0, LIFETIME_INFINITE, 0, 0))


def encode_link(step: Step) -> Message:
    """Return the message that adds or deletes the dummy device of *step*; new devices are down."""
    assert isinstance(step.key, Link)
    body = IFINFOMSG.pack(AF_UNSPEC, 0, 0, 0, 0) + string(IFLA_IFNAME, step.key.name)
    if step.verb == "delete":
        return message(RTM_DELLINK, 0, body)
    link_info = nested(IFLA_LINKINFO, attribute(IFLA_INFO_KIND, b"dummy"))
    return message(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, body + link_info)


def encode_rename(index: int, name: str) -> Message:
    """Return the message that gives the device *index* the name *name*."""
    return message(RTM_NEWLINK, 0, IFINFOMSG.pack(AF_UNSPEC, 0, index, 0, 0) + string(IFLA_IFNAME, name))


def encode_mtu(index: int, mtu: int) -> Message:
    """Return the message that gives the device *index* the MTU *mtu*, in bytes."""
    return message(RTM_NEWLINK, 0, IFINFOMSG.pack(AF_UNSPEC, 0, index, 0, 0) + u32(IFLA_MTU, mtu))


def encode_address(step: Step, index: int, foreign_prefixes: Mapping[IP, Sequence[int]]) -> list[Message]:
    """Return the messages that add, update or delete the address of *step* on interface *index*, in their order.

    Addresses are added with the prefix length of a single address and global scope.  *foreign_prefixes* has the other
    prefix lengths with which an address exists.  An update leaves that of a single address: IPv4 has both meanwhile, so
    that the host never lacks the address; IPv6 can't, and lacks it for as long as the kernel takes for two messages.

    For IPv6, duplicate address detection is disabled.  A dummy device has no neighbours and would not do it, but the
    kernel finds that out a moment later, and until then the address is tentative and cannot be used (seen on 6.1).
    An IPv6 address that exists already is changed in place, even if another program added it.
    """
    assert isinstance(step.key, Address)
    address = step.key.address
    family = family_number(address)
    packed = inet_pton(family, address)
    others = [_encode_delete(family, prefix, index, packed) for prefix in foreign_prefixes.get(address, ())]
    if step.verb == "delete":
        return [*others, _delete_template(family, HOST_PREFIX[family], index) + packed]
    add = _add_template(family, index) + packed + ADDRESS_HEADER[family] + packed
    if step.verb == "add" or not others:
        return [add]
    return [*others, add] if family == AF_INET6 else [add, *others]


def _encode_delete(family: int, prefix: int, index: int, packed: bytes) -> Message:
    """Return a delete message that means the address with this *prefix* length only.

    Without IFA_ADDRESS Linux ignores the prefix length of an IPv4 address, and deletes any.
    """
    body = IFADDRMSG.pack(family, prefix, 0, RT_SCOPE_UNIVERSE, index)
    body += LOCAL_HEADER[family] + packed + ADDRESS_HEADER[family] + packed
    return message(RTM_DELADDR, 0, body)


@lru_cache(maxsize=64)
def _delete_template(family: int, prefix: int, index: int) -> bytes:
    """Return a delete message up to the packed address."""
    body = IFADDRMSG.pack(family, prefix, 0, RT_SCOPE_UNIVERSE, index) + LOCAL_HEADER[family]
    return message_header(RTM_DELADDR, 0, len(body) + HOST_PREFIX[family] // 8) + body


@lru_cache(maxsize=64)
def _add_template(family: int, index: int) -> bytes:
    """Return an add message up to the packed address, which occurs twice: as IFA_LOCAL and as IFA_ADDRESS."""
    is_ipv6 = family == AF_INET6
    body = IFADDRMSG.pack(family, HOST_PREFIX[family], IFA_F_NODAD if is_ipv6 else 0, RT_SCOPE_UNIVERSE, index)
    body += (_DEPRECATED if is_ipv6 else b"") + LOCAL_HEADER[family]
    size = len(body) + len(ADDRESS_HEADER[family]) + 2 * HOST_PREFIX[family] // 8
    return message_header(RTM_NEWADDR, NLM_F_CREATE | (NLM_F_REPLACE if is_ipv6 else NLM_F_EXCL), size) + body
