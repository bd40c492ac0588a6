"""Record refusals by ICMP where they arrive: SCTP sockets do not report them, so a refusal would look like a loss."""

from __future__ import annotations

import os
import selectors
import socket
import threading
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Final

from lab.namespace import Namespace

_IPV6_HEADER_BYTES = 40
_KINDS: Final = {
    socket.AF_INET: (socket.IPPROTO_ICMP, (3, 3)),
    socket.AF_INET6: (socket.IPPROTO_ICMPV6, (1, 4)),
}


@contextmanager
def refused_ports(clients: Iterable[Namespace]) -> Iterator[set[int]]:
    """Yield the source ports of packets of *clients* that an ICMP error port unreachable names; the set grows."""
    ports: set[int] = set()
    with ExitStack() as stack:
        selector = stack.enter_context(selectors.DefaultSelector())
        read_end, write_end = os.pipe()
        stack.callback(os.close, read_end)
        selector.register(read_end, selectors.EVENT_READ)
        for client in clients:
            for family, (protocol, _) in _KINDS.items():
                with client.inside():
                    sock = stack.enter_context(socket.socket(family, socket.SOCK_RAW, protocol))
                sock.setblocking(False)
                selector.register(sock, selectors.EVENT_READ)
        thread = threading.Thread(target=_record, args=(selector, read_end, ports), name="icmp", daemon=True)
        thread.start()
        try:
            yield ports
        finally:
            os.close(write_end)
            thread.join()


def _record(selector: selectors.BaseSelector, stop: int, ports: set[int]) -> None:
    while True:
        for key, _ in selector.select():
            if key.fileobj == stop:
                return
            if isinstance(key.fileobj, socket.socket):
                ports.update(_refused_port(key.fileobj.family, key.fileobj.recv(2048)))


def _refused_port(family: int, message: bytes) -> list[int]:
    """Return the source port of the packet that the ICMP *message* refuses, if it does."""
    if family == socket.AF_INET:  # only IPv4 includes the IP header
        message = message[(message[0] & 15) * 4 :]
    if tuple(message[:2]) != _KINDS[socket.AddressFamily(family)][1]:
        return []
    packet = message[8:]
    header_bytes = (packet[0] & 15) * 4 if family == socket.AF_INET else _IPV6_HEADER_BYTES
    return [int.from_bytes(packet[header_bytes : header_bytes + 2])]
