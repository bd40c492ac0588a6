"""The real servers of an IPv4 virtual server by one getsockopt(2), where netlink takes three system calls.

Law: what is told is what netlink tells, but for real servers of another family, which are for tunnels alone.  How many
there are is not said in the answer: its end is where all is 0, as no real server is, and an answer that leaves no
room behind it is asked for again with more.

Layout: struct ip_vs_get_dests and behind it struct ip_vs_dest_entry; address and port in network byte order.
Source: include/uapi/linux/ip_vs.h, IP_VS_SO_GET_DESTS; net/netfilter/ipvs/ip_vs_ctl.c, which knows it for IPv4 alone.
"""

import socket
from collections.abc import Iterator
from errno import ESRCH
from struct import Struct

from kubeproxy_py.kernel.host.sockopt import SocketOptions
from kubeproxy_py.kernel.ipvs.constants import PROTOCOL_NUMBERS
from kubeproxy_py.model.rows import VirtualServer

GET_DESTS = 64 + 1024 + 64 + 4
_REQUEST = Struct("=H2x4sH2xII4x")  # protocol, address, port, firewall mark, for how many there is room
# address, port, flags (the forwarding method among them), weight, two thresholds, connections: active, inactive,
# persistent; then counters
_ENTRY = Struct("=4sH2xIi8x2I64x")
_ROOM = 16
_WORD = 8
_FIRST, _STRIDE = _REQUEST.size // _WORD, _ENTRY.size // _WORD  # where entries begin, how long they are

Entry = tuple[bytes, int, int, int, int, int]
"""Address and port in network order, forwarding method and flags, weight, active and inactive connections."""


class RealServerReader:
    """Reads real servers in the network namespace in which it was made.  Raises OSError, ImportError if it can't."""

    def __init__(self) -> None:
        self._options = SocketOptions(socket.AF_INET, socket.SOL_IP)
        self._end = 0  # of the last answer; what lies behind is 0
        self._make_room(_ROOM)

    def real_servers(self, server: VirtualServer) -> bytes:
        """What the kernel says of the real servers of *server*; nothing if it is gone.  Raises OSError.

        Layout: an entry for each behind the other, see ``entries``.
        """
        self._ask(server)
        return self._words[_FIRST : self._end // _WORD].tobytes()

    def seal(self, server: VirtualServer) -> int:
        """``seal_of`` the same, of which nothing is copied but what goes into it.  Raises OSError."""
        return _seal(self._ask(server), self._words[_FIRST + 1 :: _STRIDE])

    def _ask(self, server: VirtualServer) -> bytes:
        """Have the answer in the buffer, up to ``_end``; the first words of all entries."""
        protocol, address = PROTOCOL_NUMBERS[server.protocol], socket.inet_pton(socket.AF_INET, server.address)
        while True:
            self._buffer[_REQUEST.size : self._end] = bytes(self._end - _REQUEST.size)
            self._end = _REQUEST.size
            _REQUEST.pack_into(self._buffer, 0, protocol, address, socket.htons(server.port), 0, self._room)
            try:
                self._options.ask(GET_DESTS, self._buffer)
            except OSError as error:
                if error.errno == ESRCH:
                    return b""
                raise
            # Up to the last whose first word is not 0 there are entries.
            firsts = self._words[_FIRST::_STRIDE].tobytes().rstrip(b"\0")
            count = (len(firsts) + _WORD - 1) // _WORD
            self._end = _REQUEST.size + count * _ENTRY.size
            if count < self._room:
                return firsts
            self._make_room(self._room * 4)

    def _make_room(self, entries: int) -> None:
        self._room = entries
        self._buffer = bytearray(_REQUEST.size + entries * _ENTRY.size)
        self._words = memoryview(self._buffer).cast("Q")
        self._end = _REQUEST.size

    def close(self) -> None:
        """Close the socket."""
        self._options.close()


def entries(told: bytes) -> Iterator[Entry]:
    """The real servers in an answer, in the kernel's order."""
    return _ENTRY.iter_unpack(told)


def seal_of(told: bytes) -> int:
    """A hash of what an answer says, connections and traffic aside: address and port, method and weight of each."""
    words = memoryview(told).cast("Q")
    return _seal(words[::_STRIDE].tobytes().rstrip(b"\0"), words[1::_STRIDE])


def _seal(firsts: bytes, seconds: memoryview) -> int:
    """Of the first two words of each entry; behind the last there may be zeros."""
    return hash((firsts, seconds.tobytes().rstrip(b"\0")))
