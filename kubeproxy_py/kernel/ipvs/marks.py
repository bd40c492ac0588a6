"""Marks of the virtual servers: of IPv4 by getsockopt(2), which also counts the real servers; of IPv6 by netlink.

Invariants:
- A mark does not depend on traffic, nor on the order in which the kernel lists, which changes when it resizes its hash
  table.
- A mark has the virtual servers that are new or have another configuration than those of the mark before.
- What a mark does not show: the weight of a real server, one real server in place of another, and the real servers of
  IPv6 virtual servers.  Only IPv4 is supported by the kernel's older interface, which is the only one that counts real
  servers.

One listing by getsockopt takes 0.2 us for each virtual server, by netlink 3 us (measured).

Layout: struct ip_vs_getinfo; struct ip_vs_get_services, then a struct ip_vs_service_entry for each virtual server.

Source: include/uapi/linux/ip_vs.h, IP_VS_SO_GET_INFO, IP_VS_SO_GET_SERVICES; net/netfilter/ipvs/ip_vs_ctl.c.
"""

import socket
from collections.abc import Iterable, Iterator, Sequence
from struct import Struct

from kubeproxy_py.kernel import IPV4_REAL_SERVERS, IPV4_SERVERS, IPV6_SERVERS, VIRTUAL_SERVERS, Mark
from kubeproxy_py.kernel.errors import decoding
from kubeproxy_py.kernel.host.sockopt import SocketOptions
from kubeproxy_py.kernel.ipvs.constants import SVC_STATS
from kubeproxy_py.kernel.ipvs.decode import PROTOCOLS, decode_services, virtual_server_spec
from kubeproxy_py.kernel.netlink.families import AF_INET, AF_INET6
from kubeproxy_py.model.rows import VirtualServer, VirtualServerSpec, mark_server

_GET_INFO, _GET_SERVICES = 64 + 1024 + 64 + 1, 64 + 1024 + 64 + 2
_INFO = Struct("=III")  # version, size of the connection table, number of virtual servers
_REQUEST = Struct("=I4x")  # the number of entries that fit
# protocol, address, port, firewall mark, scheduler, flags, timeout, netmask, number of real servers; then counters
_CONFIGURATION_SIZE, _ENTRY_SIZE = 48, 104
_ENTRY = Struct(f"={_CONFIGURATION_SIZE}s{_ENTRY_SIZE - _CONFIGURATION_SIZE}x")
_SERVER = Struct("=H2x4sH2xI16sII4s")  # the configuration, but the number of real servers
_SERVER_ENTRY = Struct(f"={_SERVER.size}s{_ENTRY_SIZE - _SERVER.size}x")
_REAL_SERVERS = slice((_REQUEST.size + 44) // 4, None, _ENTRY_SIZE // 4)  # the counts, among the 32-bit words
_WORD = 8  # bytes
_CONFIGURATION_WORDS = range(_REQUEST.size // _WORD, (_REQUEST.size + _CONFIGURATION_SIZE) // _WORD)  # of the first
_ENTRY_WORDS = _ENTRY_SIZE // _WORD

_HEADER = Struct("=HH")  # of a netlink attribute: length, type
_FAMILY = Struct("=H")
_FAMILY_OFFSET = 12  # after the generic netlink header and those of the SERVICE attribute and the family
_ATTRIBUTES_OFFSET = 8


class VirtualServerMarkReader:
    """Reads the mark of the IPv4 virtual servers in the network namespace in which it was created.

    With *marks* those by firewall mark are among what has changed.

    Raises:
        OSError: no socket could be opened.
        ImportError: Python has no ctypes.
    """

    def __init__(self, *, marks: bool = False) -> None:
        self._has_marks = marks
        self._options = SocketOptions(socket.AF_INET, socket.SOL_IP)
        self._info = bytearray(_INFO.size)
        # Two answers, this one and the last, so that no memory is allocated while the number stays the same.
        self._answer, self._last = bytearray(), bytearray()
        self._mark: Mark | None = None  # of the last answer
        self._servers: frozenset[tuple[bytes]] = frozenset()  # their configurations

    def read(self) -> Mark:
        """Return the mark of the IPv4 virtual servers, those by firewall mark included.  Raises OSError."""
        self._options.get(_GET_INFO, self._info)
        count = _INFO.unpack(self._info)[2]
        # With another length than that of the number of entries Linux refuses the request, and says so in its log.
        size = _REQUEST.size + count * _ENTRY_SIZE
        if len(self._answer) != size:
            self._answer = bytearray(size)
        _REQUEST.pack_into(self._answer, 0, count)
        self._options.get(_GET_SERVICES, self._answer)
        if self._mark is None or not _have_equal_configurations(self._answer, self._last):
            before, self._servers = self._servers, configurations(self._answer)
            self._mark = ipv4_mark(self._answer, decode_configurations(self._servers - before, marks=self._has_marks))
        self._answer, self._last = self._last, self._answer
        return self._mark

    def close(self) -> None:
        """Close the socket."""
        self._options.close()


class Ipv6Marks:
    """Makes the marks of the IPv6 virtual servers from listings by netlink; *marks* as VirtualServerMarkReader."""

    def __init__(self, *, marks: bool = False) -> None:
        self._has_marks = marks
        self._servers: dict[bytes, bytes] = {}  # configuration -> body
        self._mark = Mark(VIRTUAL_SERVERS, 0, ((IPV6_SERVERS, 0),))

    def mark(self, bodies: Sequence[bytes]) -> Mark:
        """Return the mark of those among *bodies*, the listing of all virtual servers.  Raises KernelError."""
        with decoding("a listing of virtual servers"):
            listed = [body for body in bodies if _FAMILY.unpack_from(body, _FAMILY_OFFSET)[0] == AF_INET6]
            servers = dict(zip(_configurations(listed), listed, strict=True))
        if servers.keys() != self._servers.keys():
            bodies_changed = (body for key, body in servers.items() if key not in self._servers)
            changed = decode_services(bodies_changed, marks=self._has_marks)
            counts = ((IPV6_SERVERS, len(listed)),)
            self._mark = Mark(VIRTUAL_SERVERS, hash(frozenset(servers)), counts, tuple(changed.items()))
        self._servers = servers
        return self._mark


def configurations(answer: bytes | bytearray) -> frozenset[tuple[bytes]]:
    """Return the configuration of each virtual server in the *answer* to IP_VS_SO_GET_SERVICES."""
    return frozenset(_SERVER_ENTRY.iter_unpack(memoryview(answer)[_REQUEST.size :]))


def decode_configurations(
    servers: Iterable[tuple[bytes]], *, marks: bool = False
) -> Iterator[tuple[VirtualServer, VirtualServerSpec]]:
    """Yield the virtual servers of *servers*, without those that cannot be ours; with *marks* also those by mark."""
    for (configuration,) in servers:
        number, address, port, mark, scheduler, flags, timeout_s, netmask = _SERVER.unpack(configuration)
        protocol = PROTOCOLS.get(number)
        server = mark_server("IPv4", mark) if mark and marks else None
        if protocol and not mark:
            server = VirtualServer(socket.inet_ntop(socket.AF_INET, address), socket.ntohs(port), protocol)
        if server:
            name = scheduler.partition(b"\0")[0].decode(errors="replace")
            yield server, virtual_server_spec(name, flags, timeout_s, AF_INET, netmask)


def ipv4_mark(answer: bytes | bytearray, changed: Iterable[tuple[VirtualServer, VirtualServerSpec]] = ()) -> Mark:
    """Return the mark of the IPv4 virtual servers in the *answer* to IP_VS_SO_GET_SERVICES."""
    data = memoryview(answer)
    value = hash(frozenset(_ENTRY.iter_unpack(data[_REQUEST.size :])))
    real_servers = sum(data.cast("I")[_REAL_SERVERS])
    count = (len(answer) - _REQUEST.size) // _ENTRY_SIZE
    return Mark(VIRTUAL_SERVERS, value, ((IPV4_SERVERS, count), (IPV4_REAL_SERVERS, real_servers)), tuple(changed))


def _have_equal_configurations(answer: bytearray, other: bytearray) -> bool:
    """Return whether two answers differ at most in counters, much faster than a mark is made."""
    if len(answer) != len(other):
        return False
    words, other_words = memoryview(answer).cast("Q"), memoryview(other).cast("Q")
    return all(words[first::_ENTRY_WORDS] == other_words[first::_ENTRY_WORDS] for first in _CONFIGURATION_WORDS)


def _configurations(bodies: Sequence[bytes]) -> Iterator[bytes]:
    """Yield each of *bodies* without its counters, which are mostly where those of the one before are."""
    offset, header = 0, b""
    for body in bodies:
        if not header or body[offset : offset + _HEADER.size] != header:
            offset = _counters_offset(body)
            header = body[offset : offset + _HEADER.size]
        yield body[:offset]


def _counters_offset(body: bytes) -> int:
    """Return where the counters of a virtual server begin, which Linux lists last; the end if there are none."""
    offset = _ATTRIBUTES_OFFSET
    while offset + _HEADER.size <= len(body):
        length, attr_type = _HEADER.unpack_from(body, offset)
        if attr_type & 0xFF == SVC_STATS or length < _HEADER.size:
            return offset
        offset += (length + 3) & ~3
    return len(body)
