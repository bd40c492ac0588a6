"""The real servers of an IPv4 virtual server by one getsockopt(2), where netlink takes three system calls.

Law: what is told is what netlink tells, but for real servers of another family, which are for tunnels alone.  How many
there are is not said in the answer: entries are taken up to the first that is all 0, which no real server is, and an
answer that leaves none such is asked for again with more room.

Layout: struct ip_vs_get_dests and behind it struct ip_vs_dest_entry; address and port in network byte order.
Source: include/uapi/linux/ip_vs.h, IP_VS_SO_GET_DESTS; net/netfilter/ipvs/ip_vs_ctl.c, which knows it for IPv4 alone.
"""

import socket
from errno import ESRCH
from struct import Struct

from kubeproxy_py.kernel.ipvs_wire import PROTOCOL_NUMBERS
from kubeproxy_py.kernel.sockopt import SocketOptions
from kubeproxy_py.model.rows import VirtualServer

GET_DESTS = 64 + 1024 + 64 + 4
_REQUEST = Struct("=H2x4sH2xII4x")  # protocol, address, port, firewall mark, for how many there is room
# address, port, flags (the forwarding method among them), weight, two thresholds, connections: active, inactive,
# persistent; then counters
_ENTRY = Struct("=4sH2xIi8x2I64x")
_ROOM = 32
_NOBODY = bytes(4)

Entry = tuple[bytes, int, int, int, int, int]
"""Address and port in network order, forwarding method and flags, weight, active and inactive connections."""


class DestReader:
    """Reads real servers in the network namespace in which it was made.  Raises OSError, ImportError if it can't."""

    def __init__(self) -> None:
        self._options = SocketOptions(socket.AF_INET, socket.SOL_IP)
        self._room = _ROOM
        self._buffer = bytearray(_REQUEST.size + _ROOM * _ENTRY.size)
        self._used = 0  # entries of the last answer

    def real_servers(self, server: VirtualServer) -> list[Entry]:
        """The real servers of *server*, in the kernel's order; none if it is gone.  Raises OSError."""
        address, port = socket.inet_pton(socket.AF_INET, server.address), socket.htons(server.port)
        while True:
            self._buffer[_REQUEST.size : _REQUEST.size + self._used * _ENTRY.size] = bytes(self._used * _ENTRY.size)
            request = (PROTOCOL_NUMBERS[server.protocol], address, port, 0, self._room)
            _REQUEST.pack_into(self._buffer, 0, *request)
            try:
                self._options.ask(GET_DESTS, self._buffer)
            except OSError as error:
                if error.errno == ESRCH:
                    self._used = 0
                    return []
                raise
            found = self._entries()
            self._used = len(found)
            if self._used < self._room:
                return found
            self._room *= 4
            self._buffer, self._used = bytearray(_REQUEST.size + self._room * _ENTRY.size), 0

    def _entries(self) -> list[Entry]:
        found: list[Entry] = []
        with memoryview(self._buffer) as view:
            for entry in _ENTRY.iter_unpack(view[_REQUEST.size :]):
                if entry[0] == _NOBODY:
                    break
                found.append(entry)
        return found

    def close(self) -> None:
        """Close the socket."""
        self._options.close()
