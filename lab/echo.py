"""echo: servers that say who they are and whom they saw, in any namespace, from one thread.

Law: each conversation begins with one line, `NAME ADDRESS:PORT` (IPv6 in brackets): the server's name and the peer as
it looked to the server, which tells whether an address was translated on the way.  TCP and SCTP servers say it on
accepting and then echo what comes; UDP servers say it in reply to each datagram, from the address to which that was
sent.  Datagrams are kept (`heard`): one may arrive whose answer goes astray.
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
KINDS: dict[Protocol, tuple[int, int]] = {
    "tcp": (socket.SOCK_STREAM, socket.IPPROTO_TCP),
    "udp": (socket.SOCK_DGRAM, socket.IPPROTO_UDP),
    "sctp": (socket.SOCK_STREAM, socket.IPPROTO_SCTP),
}
# "Tell me to which address this datagram was sent", by family: level, option, type of the message that tells it.
# Source: ip(7) IP_PKTINFO; ipv6(7), RFC 3542 section 4.
_DESTINATION = {
    socket.AF_INET: (socket.IPPROTO_IP, 8, 8),
    socket.AF_INET6: (socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, socket.IPV6_PKTINFO),
}
_CHUNK_BYTES = 1 << 16
_HEARD = 1 << 14  # so many datagrams are remembered


class Listener(NamedTuple):
    """One server: its name, the machine it runs on, protocol and port (both families, all addresses)."""

    name: str
    namespace: Namespace
    protocol: Protocol
    port: int


def format_peer(peer: tuple[str, int] | tuple[str, int, int, int]) -> str:
    """A socket address as `192.168.3.175:40312` or `[fd00:3::175]:40312`."""
    return f"[{peer[0]}]:{peer[1]}" if ":" in peer[0] else f"{peer[0]}:{peer[1]}"


class Heard(NamedTuple):
    """A datagram: the server that received it, the peer as it looked there, and what was said."""

    name: str
    peer: str
    said: bytes


class EchoServers:
    """All servers of a cluster within a `with`; they listen once it is entered.

    *heard*: the latest datagrams, oldest first.
    """

    def __init__(self, listeners: Iterable[Listener]) -> None:
        self.heard: deque[Heard] = deque(maxlen=_HEARD)
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
        kind, number = KINDS[listener.protocol]
        sock = socket.socket(family, kind, number)
        self._sockets.add(sock)
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        if listener.protocol == "udp":
            level, option, _ = _DESTINATION[family]
            sock.setsockopt(level, option, 1)
        sock.bind(("", listener.port))
        if listener.protocol == "udp":
            self._watch(sock, lambda: self._answer_datagram(sock, listener.name))
        else:
            sock.listen(128)
            self._watch(sock, lambda: self._accept(sock, listener.name))

    def _watch(self, sock: socket.socket, react: Callable[[], None]) -> None:
        self._selector.register(sock, selectors.EVENT_READ, react)

    def _accept(self, sock: socket.socket, name: str) -> None:
        connection, peer = sock.accept()
        self._sockets.add(connection)
        self._watch(connection, lambda: self._echo(connection))
        connection.sendall(f"{name} {format_peer(peer)}\n".encode())

    def _answer_datagram(self, sock: socket.socket, name: str) -> None:
        said, messages, _, peer = sock.recvmsg(_CHUNK_BYTES, 256)
        self.heard.append(Heard(name, format_peer(peer), said))
        level, _, told_by = _DESTINATION[sock.family]
        # The same message sent back fixes the source address of the answer, so a host with several answers from the
        # right one.
        told = [(lvl, kind, _as_source(sock, data)) for lvl, kind, data in messages if (lvl, kind) == (level, told_by)]
        sock.sendmsg([f"{name} {format_peer(peer)}\n".encode()], told, 0, peer)

    def _echo(self, connection: socket.socket) -> None:
        try:
            chunk = connection.recv(_CHUNK_BYTES)
            connection.sendall(chunk)
        except OSError:  # reset by the peer, or slower than its own sending: that conversation is over
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
                    continue  # the peer is gone already; the next one is waiting

    def _close(self) -> None:
        for sock in self._sockets:
            sock.close()
        self._selector.close()
        os.close(self._wake_read)


def _as_source(sock: socket.socket, told: bytes) -> bytes:
    """The control message that was received, made into one to send with: no interface fixed.

    struct in_pktinfo: interface 4, local address 4, destination 4; struct in6_pktinfo: address 16, interface 4.
    """
    return b"\0" * 4 + told[8:12] + b"\0" * 4 if sock.family == socket.AF_INET else told[:16] + b"\0" * 4
