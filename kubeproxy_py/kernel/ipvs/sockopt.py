"""The real servers of an IPv4 virtual server by one getsockopt(2), where netlink takes three system calls.

Invariants:
- The result is that of netlink, except for real servers of another family, which only tunnels have.

The answer does not contain the number of entries: it ends at the first entry that is all zero, which no real server is.
An answer that fills the buffer is requested again with a larger one.

Layout: struct ip_vs_get_dests, then struct ip_vs_dest_entry for each; address and port in network byte order.

Source: include/uapi/linux/ip_vs.h, IP_VS_SO_GET_DESTS; net/netfilter/ipvs/ip_vs_ctl.c, which supports IPv4 only.
"""

import socket
from collections.abc import Iterator
from errno import ESRCH
from struct import Struct

from kubeproxy_py.kernel.host.sockopt import SocketOptions
from kubeproxy_py.model.rows import VirtualServer
from kubeproxy_py.net import PROTOCOL_NUMBERS

GET_DESTS = 64 + 1024 + 64 + 4
_REQUEST = Struct("=H2x4sH2xII4x")  # protocol, address, port, firewall mark, number of entries that fit
# address, port, flags (including the forwarding method), weight, two thresholds, connections: active, inactive,
# persistent; then counters
_ENTRY = Struct("=4sH2xIi2I2I64x")
_INITIAL_CAPACITY = 16  # entries
_GROWTH = 4
_WORD = 8  # bytes
_FIRST_WORD, _ENTRY_WORDS = _REQUEST.size // _WORD, _ENTRY.size // _WORD

Entry = tuple[bytes, int, int, int, int, int, int, int]
"""Address and port in network order, forwarding method and flags, weight, upper and lower threshold of connections,
active and inactive connections."""


class RealServerReader:
    """Reads real servers in the network namespace in which it was created.

    Raises:
        OSError: No socket could be opened.
        ImportError: Python has no ctypes.
    """

    def __init__(self) -> None:
        self._options = SocketOptions(socket.AF_INET, socket.SOL_IP)
        self._end = 0  # of the last answer; all bytes after it are 0
        self._set_capacity(_INITIAL_CAPACITY)

    def real_servers(self, server: VirtualServer) -> bytes:
        """Return the entries of the real servers of *server*, see ``entries``; empty if it is gone.  Raises OSError."""
        self._read(server)
        return self._words[_FIRST_WORD : self._end // _WORD].tobytes()

    def fingerprint(self, server: VirtualServer) -> int:
        """Return ``fingerprint_of(real_servers(server))`` without copying all of the answer.  Raises OSError."""
        first_words, words = self._read(server), self._words[_FIRST_WORD:]
        return _fingerprint(first_words, words[1::_ENTRY_WORDS], words[2::_ENTRY_WORDS])

    def close(self) -> None:
        """Close the socket."""
        self._options.close()

    def _read(self, server: VirtualServer) -> bytes:
        """Read the answer into the buffer, up to ``_end``; return the first word of each entry."""
        protocol, address = PROTOCOL_NUMBERS[server.protocol], socket.inet_pton(socket.AF_INET, server.address)
        while True:
            self._buffer[_REQUEST.size : self._end] = bytes(self._end - _REQUEST.size)
            self._end = _REQUEST.size
            _REQUEST.pack_into(
                self._buffer, 0, protocol, address, socket.htons(server.port), server.mark, self._capacity
            )
            try:
                self._options.get(GET_DESTS, self._buffer)
            except OSError as error:
                if error.errno == ESRCH:
                    return b""
                raise
            # The last entry is the last whose first word is not 0.
            first_words = self._words[_FIRST_WORD::_ENTRY_WORDS].tobytes().rstrip(b"\0")
            count = (len(first_words) + _WORD - 1) // _WORD
            self._end = _REQUEST.size + count * _ENTRY.size
            if count < self._capacity:
                return first_words
            self._set_capacity(self._capacity * _GROWTH)

    def _set_capacity(self, entry_count: int) -> None:
        self._capacity = entry_count
        self._buffer = bytearray(_REQUEST.size + entry_count * _ENTRY.size)
        self._words = memoryview(self._buffer).cast("Q")
        self._end = _REQUEST.size


def entries(data: bytes) -> Iterator[Entry]:
    """Yield the real servers in *data*, in the kernel's order."""
    return _ENTRY.iter_unpack(data)


def fingerprint_of(data: bytes) -> int:
    """Return a hash of address, port, method, weight and thresholds of each entry in *data*.

    It does not depend on connections and traffic.
    """
    words = memoryview(data).cast("Q")
    first_words = words[::_ENTRY_WORDS].tobytes().rstrip(b"\0")
    return _fingerprint(first_words, words[1::_ENTRY_WORDS], words[2::_ENTRY_WORDS])


def _fingerprint(first_words: bytes, *others: memoryview) -> int:
    """Return a hash of words of each entry; those after the first ones may be followed by zeros."""
    return hash((first_words, *(words.tobytes().rstrip(b"\0") for words in others)))
