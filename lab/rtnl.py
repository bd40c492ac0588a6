"""The rtnetlink requests that set up a network: links, addresses, routes.

One socket per network namespace (a socket stays where it was made), one request and one acknowledgement at a time:
about 0.1 ms each in the lab, where a process of `ip` takes 30 to 50 ms.  Each request raises OSError with the kernel's
errno if it fails.

Source: rtnetlink(7), include/uapi/linux/{rtnetlink,if_link,if_addr,veth}.h.
"""

from __future__ import annotations

import fcntl
import itertools
import os
import socket
import struct
from ipaddress import ip_interface, ip_network

_ACK, _REQUEST, _EXCL, _CREATE = 0x4, 0x1, 0x200, 0x400
_NEWLINK, _DELLINK, _NEWADDR, _NEWROUTE = 16, 17, 20, 24
_IFF_UP = 1
_NESTED = 1 << 15
# IFLA_*
_IFNAME, _MASTER, _LINKINFO, _NET_NS_FD = 3, 10, 18, 28
_INFO_KIND, _INFO_DATA, _VETH_PEER, _BRIDGE_FORWARD_DELAY = 1, 2, 1, 1
_USER_HZ = 100  # unit of a bridge's times
# IFA_*, RTA_*
_IFA_ADDRESS, _IFA_LOCAL, _IFA_FLAGS, _NODAD = 1, 2, 8, 2
_RTA_DST, _RTA_GATEWAY = 1, 5
_PEER_INDEX = 100  # each namespace is the peer end of one cable at most
_MAIN_TABLE, _PROTO_STATIC, _SCOPE_UNIVERSE, _UNICAST = 254, 4, 0, 1


def _attribute(kind: int, content: bytes) -> bytes:
    return struct.pack("HH", len(content) + 4, kind) + content + b"\0" * (-len(content) % 4)


def _link_header(index: int = 0, flags: int = 0) -> bytes:
    return struct.pack("BxHiII", socket.AF_UNSPEC, 0, index, flags, flags)


class Rtnl:
    """Requests in the network namespace in which the calling thread is when this object is created."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
        self._socket.bind((0, 0))
        self._socket.settimeout(5.0)
        self._numbers = itertools.count(1)
        self._port_indexes = itertools.count(_PEER_INDEX + 1)

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()

    def index(self, name: str) -> int:
        """Return the interface's index, 0 if there is none."""
        request = struct.pack("16s16x", name.encode())
        try:
            return int(struct.unpack_from("i", fcntl.ioctl(self._socket, 0x8933, request), 16)[0])  # SIOCGIFINDEX
        except OSError:
            return 0

    def add_link(self, name: str, kind: str, data: bytes = b"", index: int = 0) -> None:
        """Add a link of *kind* (dummy, bridge) with *index*; 0: the next free index."""
        info = _attribute(_INFO_KIND, kind.encode()) + (_attribute(_INFO_DATA | _NESTED, data) if data else b"")
        body = _link_header(index) + _attribute(_IFNAME, name.encode() + b"\0") + _attribute(_LINKINFO | _NESTED, info)
        self._request(_NEWLINK, body, _CREATE | _EXCL)

    def add_bridge(self, name: str, forward_delay_s: int) -> None:
        """Add a bridge without STP."""
        self.add_link(name, "bridge", _attribute(_BRIDGE_FORWARD_DELAY, struct.pack("I", forward_delay_s * _USER_HZ)))

    def add_veth(self, name: str, peer: str, peer_namespace: int) -> None:
        """Add a veth pair: *name* here, *peer* in the namespace of the descriptor *peer_namespace*.

        The two ends get different indexes: with equal ones (each namespace counts from 1) the kernel treats the veth
        as a plain device, and reports its carrier to the bridge only at the next full second.  Source:
        linkwatch_urgent_event.
        """
        end = _link_header(_PEER_INDEX) + _attribute(_IFNAME, peer.encode() + b"\0")
        end += _attribute(_NET_NS_FD, struct.pack("i", peer_namespace))
        self.add_link(name, "veth", _attribute(_VETH_PEER | _NESTED, end), next(self._port_indexes))

    def set_up(self, name: str, master: str | None = None) -> None:
        """Set a link up, as a port of the bridge *master* if one is given."""
        port = _attribute(_MASTER, struct.pack("i", self.index(master))) if master else b""
        self._request(_NEWLINK, _link_header(self.index(name), _IFF_UP) + port)

    def delete_link(self, name: str) -> None:
        """Delete a link, if there is one of that name."""
        if index := self.index(name):
            self._request(_DELLINK, _link_header(index))

    def add_address(self, name: str, address: str) -> None:
        """Add *address*, as 10.0.0.1/24; IPv6 without duplicate address detection, so that it is usable at once."""
        interface = ip_interface(address)
        family = socket.AF_INET if interface.version == 4 else socket.AF_INET6
        body = struct.pack("BBBBi", family, interface.network.prefixlen, 0, 0, self.index(name))
        body += _attribute(_IFA_LOCAL, interface.packed) + _attribute(_IFA_ADDRESS, interface.packed)
        if interface.version == 6:
            body += _attribute(_IFA_FLAGS, struct.pack("I", _NODAD))
        self._request(_NEWADDR, body, _CREATE | _EXCL)

    def add_route(self, network: str, gateway: str) -> None:
        """Add a route to *network* (0.0.0.0/0 or ::/0: the default) by *gateway*."""
        target, via = ip_network(network), ip_interface(gateway)
        family = socket.AF_INET if target.version == 4 else socket.AF_INET6
        lengths = (family, target.prefixlen, 0, 0)
        body = struct.pack("8BI", *lengths, _MAIN_TABLE, _PROTO_STATIC, _SCOPE_UNIVERSE, _UNICAST, 0)
        if target.prefixlen:
            body += _attribute(_RTA_DST, target.network_address.packed)
        self._request(_NEWROUTE, body + _attribute(_RTA_GATEWAY, via.packed), _CREATE | _EXCL)

    def _request(self, kind: int, body: bytes, flags: int = 0) -> None:
        header = struct.pack("IHHII", len(body) + 16, kind, _REQUEST | _ACK | flags, next(self._numbers), 0)
        self._socket.send(header + body)
        # The answer to a request with ACK is one NLMSG_ERROR whose first word is -errno, or 0.
        number = -struct.unpack_from("i", self._socket.recv(1 << 16), 16)[0]
        if number:
            raise OSError(number, os.strerror(number), f"rtnetlink request {kind}")
