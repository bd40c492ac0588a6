"""Marks of the virtual servers: of IPv4 by getsockopt(2), which also counts the real servers; of IPv6 by netlink.

Invariants:
- A mark does not depend on traffic, nor on the order in which the kernel lists, which changes when it resizes its hash
  table.
- What a mark does not show: the weight of a real server, one real server in place of another, and the real servers of
  IPv6 virtual servers.  Only IPv4 is supported by the kernel's older interface, which is the only one that counts real
  servers.

One listing by getsockopt takes 0.2 us for each virtual server, by netlink 3 us (measured).

Layout: struct ip_vs_getinfo; struct ip_vs_get_services, then a struct ip_vs_service_entry for each virtual server.

Source: include/uapi/linux/ip_vs.h, IP_VS_SO_GET_INFO, IP_VS_SO_GET_SERVICES; net/netfilter/ipvs/ip_vs_ctl.c.
"""

import socket
from collections.abc import Sequence
from struct import Struct

from kubeproxy_py.kernel import IPV4_REAL_SERVERS, IPV4_SERVERS, IPV6_SERVERS, VIRTUAL_SERVERS, Mark
from kubeproxy_py.kernel.host.sockopt import SocketOptions
from kubeproxy_py.kernel.ipvs.constants import SVC_STATS
from kubeproxy_py.kernel.netlink.families import AF_INET6

_GET_INFO, _GET_SERVICES = 64 + 1024 + 64 + 1, 64 + 1024 + 64 + 2
_INFO = Struct("=III")  # version, size of the connection table, number of virtual servers
_REQUEST = Struct("=I4x")  # the number of entries that fit
# protocol, address, port, firewall mark, scheduler, flags, timeout, netmask, number of real servers; then counters
_CONFIGURATION_SIZE, _ENTRY_SIZE = 48, 104
_ENTRY = Struct(f"={_CONFIGURATION_SIZE}s{_ENTRY_SIZE - _CONFIGURATION_SIZE}x")
_REAL_SERVERS = slice((_REQUEST.size + 44) // 4, None, _ENTRY_SIZE // 4)  # the counts, among the 32-bit words

_HEADER = Struct("=HH")  # of a netlink attribute: length, type
_FAMILY = Struct("=H")
_FAMILY_OFFSET = 12  # after the generic netlink header and those of the SERVICE attribute and the family
_ATTRIBUTES_OFFSET = 8


class VirtualServerMarkReader:
    """Reads the mark of the IPv4 virtual servers in the network namespace in which it was created.

    Raises:
        OSError: no socket could be opened.
        ImportError: Python has no ctypes.
    """

    def __init__(self) -> None:
        self._options = SocketOptions(socket.AF_INET, socket.SOL_IP)

    def read(self) -> Mark:
        """Return the mark of the IPv4 virtual servers, those by firewall mark included.  Raises OSError."""
        info = bytearray(_INFO.size)
        self._options.get(_GET_INFO, info)
        count = _INFO.unpack(info)[2]
        # With another length than that of the number of entries Linux refuses the request, and says so in its log.
        answer = bytearray(_REQUEST.pack(count) + bytes(count * _ENTRY_SIZE))
        self._options.get(_GET_SERVICES, answer)
        data = memoryview(answer)
        configurations = frozenset(_ENTRY.iter_unpack(data[_REQUEST.size :]))
        real_servers = sum(data.cast("I")[_REAL_SERVERS])
        counts = (IPV4_SERVERS, count), (IPV4_REAL_SERVERS, real_servers)
        return Mark(VIRTUAL_SERVERS, hash(configurations), counts)

    def close(self) -> None:
        """Close the socket."""
        self._options.close()


def ipv6_mark(bodies: Sequence[bytes]) -> Mark:
    """Return the mark of the IPv6 virtual servers among *bodies*, the listing of all by netlink."""
    listed = [body for body in bodies if _FAMILY.unpack_from(body, _FAMILY_OFFSET)[0] == AF_INET6]
    configurations = frozenset(body[: _counters_offset(body)] for body in listed)
    return Mark(VIRTUAL_SERVERS, hash(configurations), ((IPV6_SERVERS, len(listed)),))


def _counters_offset(body: bytes) -> int:
    """Return where the counters of a virtual server begin, which Linux lists last; the end if there are none."""
    offset = _ATTRIBUTES_OFFSET
    while offset + _HEADER.size <= len(body):
        length, attr_type = _HEADER.unpack_from(body, offset)
        if attr_type & 0xFF == SVC_STATS or length < _HEADER.size:
            return offset
        offset += (length + 3) & ~3
    return len(body)
