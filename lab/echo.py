"""Echo servers for TCP, UDP and SCTP in any network namespace, served by one thread.

Invariants:
  - The first line of each answer is `NAME ADDRESS:PORT` (IPv6 in brackets): the server's name and the client's address
    as the server sees it, which shows whether an address was translated on the way.
  - TCP and SCTP servers send the line when they accept a connection and echo what they receive afterwards.
  - UDP servers send it in reply to each datagram, from the address to which the datagram was sent.
  - Datagrams are recorded in `received`: a datagram may arrive although its answer is lost.
"""

from __future__ import annotations

import os
import selectors
import socket
import threading
from collections import deque
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Literal, NamedTuple, Self

from lab.namespace import Namespace

Protocol = Literal["tcp", "udp", "sctp"]
PROTOCOLS: tuple[Protocol, ...] = ("tcp", "udp", "sctp")
FAMILIES = (socket.AF_INET, socket.AF_INET6)
SOCKET_TYPES: dict[Protocol, tuple[int, int]] = {
    "tcp": (socket.SOCK_STREAM, socket.IPPROTO_TCP),
    "udp": (socket.SOCK_DGRAM, socket.IPPROTO_UDP),
    "sctp": (socket.SOCK_STREAM, socket.IPPROTO_SCTP),
}
# Socket option that reports the destination address of a datagram, by family: level, option, type of the control
# message.  Source: ip(7) IP_PKTINFO; ipv6(7), RFC 3542 section 4.
_PKTINFO = {
    socket.AF_INET: (socket.IPPROTO_IP, 8, 8),
    socket.AF_INET6: (socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, socket.IPV6_PKTINFO),
}
_CHUNK_BYTES = 1 << 16
_RECEIVED_MAX = 1 << 14  # number of datagrams that are recorded


class Listener(NamedTuple):
    """One server: its name, namespace, protocol and port; it listens on all addresses of both families."""

    name: str
    namespace: Namespace
    protocol: Protocol
    port: int


def format_peer(peer: tuple[str, int] | tuple[str, int, int, int]) -> str:
    """Return a socket address as `192.168.3.175:40312` or `[fd00:3::175]:40312`."""
    return f"[{peer[0]}]:{peer[1]}" if ":" in peer[0] else f"{peer[0]}:{peer[1]}"


class ReceivedDatagram(NamedTuple):
    """A datagram: the server that received it, the client's address as seen there, and the content."""

    name: str
    peer: str
    payload: bytes


class EchoServers:
    """All servers of a cluster; they listen within the `with`.

    received: the latest datagrams, oldest first.
    """

    def __init__(self, listeners: Iterable[Listener]) -> None:
        self.received: deque[ReceivedDatagram] = deque(maxlen=_RECEIVED_MAX)
        self._selector = selectors.DefaultSelector()
        self._wake_read, self._wake_write = os.pipe()
        self._sockets: set[socket.socket] = set()
        self._thread = threading.Thread(target=self._serve, name="echo", daemon=True)
        try:
            for listener in listeners:
                with listener.namespace.inside():
                    for family in FAMILIES:
                        self._listen(listener, family)
        except BaseException:
            self._close()
            raise

    def __enter__(self) -> Self:
        self._selector.register(self._wake_read, selectors.EVENT_READ)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._wake_write)
        self._thread.join(5)
        self._close()

    def _listen(self, listener: Listener, family: socket.AddressFamily) -> None:
        kind, number = SOCKET_TYPES[listener.protocol]
        sock = socket.socket(family, kind, number)
        self._sockets.add(sock)
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        if listener.protocol == "udp":
            level, option, _ = _PKTINFO[family]
            sock.setsockopt(level, option, 1)
        sock.bind(("", listener.port))
        if listener.protocol == "udp":
            self._register(sock, lambda: self._answer_datagram(sock, listener.name))
        else:
            sock.listen(128)
            self._register(sock, lambda: self._accept(sock, listener.name))

    def _register(self, sock: socket.socket, handler: Callable[[], None]) -> None:
        self._selector.register(sock, selectors.EVENT_READ, handler)

    def _accept(self, sock: socket.socket, name: str) -> None:
        connection, peer = sock.accept()
        self._sockets.add(connection)
        self._register(connection, lambda: self._echo(connection))
        connection.sendall(f"{name} {format_peer(peer)}\n".encode())

    def _answer_datagram(self, sock: socket.socket, name: str) -> None:
        payload, messages, _, peer = sock.recvmsg(_CHUNK_BYTES, 256)
        self.received.append(ReceivedDatagram(name, format_peer(peer), payload))
        level, _, pktinfo = _PKTINFO[sock.family]
        # Sending the control message back fixes the source address of the answer on a host that has several.
        source = [
            (lvl, kind, _as_source(sock, data)) for lvl, kind, data in messages if (lvl, kind) == (level, pktinfo)
        ]
        sock.sendmsg([f"{name} {format_peer(peer)}\n".encode()], source, 0, peer)

    def _echo(self, connection: socket.socket) -> None:
        try:
            chunk = connection.recv(_CHUNK_BYTES)
            connection.sendall(chunk)
        except OSError:  # reset by the peer, or the peer does not read what it is sent: close the connection
            chunk = b""
        if not chunk:
            self._selector.unregister(connection)
            self._sockets.discard(connection)
            connection.close()

    def _serve(self) -> None:
        while True:
            for key, _ in self._selector.select():
                if key.fileobj == self._wake_read:
                    return
                try:
                    key.data()
                except OSError:
                    continue  # the peer has already closed the connection; serve the next one

    def _close(self) -> None:
        for sock in self._sockets:
            sock.close()
        self._selector.close()
        os.close(self._wake_read)


def _as_source(sock: socket.socket, pktinfo: bytes) -> bytes:
    """Return the control message for sending that uses the received destination address as source, on any interface.

    struct in_pktinfo: interface 4, local address 4, destination 4; struct in6_pktinfo: address 16, interface 4.
    """
    if sock.family == socket.AF_INET:
        return b"\0" * 4 + pktinfo[8:12] + b"\0" * 4
    return pktinfo[:16] + b"\0" * 4
