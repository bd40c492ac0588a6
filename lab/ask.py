"""ask: one question to an echo server, and what became of it.

The four fates of a packet are told apart, since each rule has its own: an Answer; Refused, the host's own no (TCP
reset, SCTP abort); Unreachable, an ICMP error on the way or from a REJECT rule; NoAnswer, dropped somewhere.
"""

from __future__ import annotations

import errno
import select
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

from lab.echo import KINDS, Protocol
from lab.namespace import Namespace

_LINE_BYTES = 4096
_LOOPED_BACK_MS = 500
# "Queue ICMP errors, so that they can be read": by family, level and option.  Source: ip(7), ipv6(7).
_RECVERR = {socket.AF_INET: (socket.IPPROTO_IP, 11), socket.AF_INET6: (socket.IPPROTO_IPV6, 25)}
_FROM_ICMP = (2, 3)  # SO_EE_ORIGIN_ICMP, SO_EE_ORIGIN_ICMP6, linux/errqueue.h
_UNREACHABLE = {errno.EHOSTUNREACH, errno.ENETUNREACH, errno.EACCES, errno.EPROTO, errno.ENOPROTOOPT, errno.EPERM}


class Answer(NamedTuple):
    """What the server said: its name, and the address and port from which it saw us come, as `192.168.3.175:40312`."""

    name: str
    peer: str

    @property
    def peer_address(self) -> str:
        return self.peer.rpartition(":")[0].strip("[]")

    @property
    def peer_port(self) -> int:
        return int(self.peer.rpartition(":")[2])


class AskError(Exception):
    """No answer came, for the reason that the subclass names."""


class Refused(AskError):  # noqa: N818  # a fate of the packet, read at `raises(Refused)`
    """The peer itself said no: TCP reset or SCTP abort."""


class Unreachable(AskError):  # noqa: N818
    """An ICMP error came back; *icmp* is its (type, code) if the kernel passed it on."""

    def __init__(self, text: str, icmp: tuple[int, int] | None) -> None:
        super().__init__(text if icmp is None else f"{text}, ICMP type {icmp[0]} code {icmp[1]}")
        self.icmp = icmp


class NoAnswer(AskError):  # noqa: N818
    """Nothing came back in time."""


def ask(
    namespace: Namespace,
    protocol: Protocol,
    address: str,
    port: int,
    timeout_s: float = 1.0,
    source_port: int | None = None,
    said: bytes = b"who are you?\n",
    source_address: str = "",
) -> Answer:
    """Ask the echo server at *address* from *namespace*; see the module for Refused, Unreachable and NoAnswer.

    *said*: the datagram that asks; of TCP and SCTP the connection is the question.  *source_address*: the client's own;
    "": as the kernel chooses.
    """
    asking = connect(namespace, protocol, address, port, timeout_s, source_port, source_address)
    with asking as sock, _told_apart(sock):
        if protocol == "udp":
            sock.send(said)
        return read_answer(sock)


@contextmanager
def connect(
    namespace: Namespace,
    protocol: Protocol,
    address: str,
    port: int,
    timeout_s: float = 1.0,
    source_port: int | None = None,
    source_address: str = "",
) -> Iterator[socket.socket]:
    """A connected socket of *namespace*, closed at the end; for conversations that stay open.  Raises as `ask`."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with namespace.inside():
        sock = socket.socket(family, *KINDS[protocol])
    with sock:
        sock.settimeout(timeout_s)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if protocol != "sctp":
            sock.setsockopt(*_RECVERR[family], 1)
        with _told_apart(sock):
            if source_port is not None or source_address:
                sock.bind((source_address, source_port or 0))
            sock.connect((address, port))
        yield sock


def read_answer(sock: socket.socket) -> Answer:
    """The line with which a conversation begins."""
    line = b""
    while not line.endswith(b"\n"):
        chunk = sock.recv(_LINE_BYTES)
        if not chunk:
            raise Refused("closed before it answered")
        line += chunk
    name, _, peer = line.decode().strip().partition(" ")
    return Answer(name, peer)


@contextmanager
def _told_apart(sock: socket.socket) -> Iterator[None]:
    try:
        yield
    except TimeoutError as error:
        raise NoAnswer(str(error)) from error
    except OSError as error:
        if error.errno == errno.EPERM:
            _await_icmp(sock)
        icmp = _queued_icmp(sock)
        if icmp or error.errno in _UNREACHABLE:
            raise Unreachable(str(error), icmp) from error
        if error.errno in (errno.ECONNREFUSED, errno.ECONNRESET, errno.ECONNABORTED, errno.EPIPE):
            raise Refused(str(error)) from error
        raise


def _await_icmp(sock: socket.socket) -> None:
    """Wait a moment for a queued ICMP error.

    IPVS refuses this host's own datagram by an ICMP error that loops back, and by EPERM; under load EPERM is first.
    """
    poll = select.poll()
    poll.register(sock, 0)  # POLLERR is always told
    poll.poll(_LOOPED_BACK_MS)


def _queued_icmp(sock: socket.socket) -> tuple[int, int] | None:
    """The type and code of the ICMP error that broke *sock*, if one did.

    struct sock_extended_err: errno 4, origin 1, type 1, code 1, ...
    """
    sock.setblocking(False)  # not MSG_DONTWAIT, which Python's own timeout would wait around
    try:
        _, messages, _, _ = sock.recvmsg(512, 512, socket.MSG_ERRQUEUE)
    except OSError:
        return None
    for level, kind, data in messages:
        if (level, kind) == _RECVERR[sock.family]:
            _, origin, icmp_type, code = struct.unpack_from("=IBBB", data)
            return (icmp_type, code) if origin in _FROM_ICMP else None
    return None
