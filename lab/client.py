"""Query an echo server (`echo.py`) once and classify the result.

Each kind of packet filter rule has its own result: an Answer; Refused, a TCP reset or SCTP abort of the host;
Unreachable, an ICMP error on the way or from a REJECT rule; NoAnswer, the packet was dropped.
"""

from __future__ import annotations

import errno
import itertools
import select
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

from lab.echo import SOCKET_TYPES, Protocol
from lab.namespace import Namespace

PATIENT_S = 10.0
"""The timeout of a request that is sure to be answered, on a busy machine."""

_LINE_BYTES = 4096
_ICMP_WAIT_MS = 500
# Below Linux's ephemeral ports and the NodePorts (from 30000), above the ports of the agent's servers (10249, 10256).
# They begin again only when all were used, by then in another cluster.
_source_ports = itertools.cycle(range(11000, 29900))
_TOTAL_RETRANS = 100  # offset of tcpi_total_retrans in struct tcp_info, linux/tcp.h
# Socket option that queues ICMP errors so that they can be read, by family: level and option.  Source: ip(7), ipv6(7).
_RECVERR = {socket.AF_INET: (socket.IPPROTO_IP, 11), socket.AF_INET6: (socket.IPPROTO_IPV6, 25)}
_ICMP_ORIGINS = (2, 3)  # SO_EE_ORIGIN_ICMP, SO_EE_ORIGIN_ICMP6, linux/errqueue.h
_UNREACHABLE_ERRNOS = frozenset(
    (errno.EHOSTUNREACH, errno.ENETUNREACH, errno.EACCES, errno.EPROTO, errno.ENOPROTOOPT, errno.EPERM)
)


class Answer(NamedTuple):
    """The server's name, and the client's address and port as the server saw them, as `192.168.3.175:40312`."""

    name: str
    peer: str

    @property
    def peer_address(self) -> str:
        """The client's address as the server saw it."""
        return self.peer.rpartition(":")[0].strip("[]")

    @property
    def peer_port(self) -> int:
        """The client's port as the server saw it."""
        return int(self.peer.rpartition(":")[2])


class QueryError(Exception):
    """There was no answer; the subclass is the reason."""


class Refused(QueryError):  # noqa: N818 - a result of the packet, read at `raises(Refused)`
    """The peer refused: TCP reset or SCTP abort."""


class Unreachable(QueryError):  # noqa: N818 - as Refused
    """An ICMP error was received; *icmp* is its (type, code) if the kernel passed it on."""

    def __init__(self, text: str, icmp: tuple[int, int] | None) -> None:
        super().__init__(text if icmp is None else f"{text}, ICMP type {icmp[0]} code {icmp[1]}")
        self.icmp = icmp


class NoAnswer(QueryError):  # noqa: N818 - as Refused
    """Nothing was received within the timeout."""


def query(
    namespace: Namespace,
    protocol: Protocol,
    address: str,
    port: int,
    timeout_s: float | None = None,
    source_port: int | None = None,
    payload: bytes = b"who are you?\n",
    source_address: str = "",
) -> Answer:
    """Query the echo server at *address* from *namespace*.

    Args:
        namespace: The namespace of the client.
        protocol: tcp, udp or sctp.
        address: Address of the server.
        port: Port of the server.
        timeout_s: Seconds to wait for the connection and for the answer; None: PATIENT_S, and the first SYN of a TCP
            connection must be answered, which a client would send again after a second.
        source_port: The client's port; None: the next one of this process, see `next_source_port`; 0: chosen by the
            kernel.
        payload: The datagram to send; TCP and SCTP only connect.
        source_address: The client's address; "": chosen by the kernel.

    Raises:
        Refused: See the module.
        Unreachable: See the module.
        NoAnswer: See the module.
    """
    connected = connect(namespace, protocol, address, port, timeout_s, source_port, source_address)
    with connected as sock, _classified_errors(sock):
        if protocol == "udp":
            sock.send(payload)
        return read_answer(sock)


@contextmanager
def connect(
    namespace: Namespace,
    protocol: Protocol,
    address: str,
    port: int,
    timeout_s: float | None = None,
    source_port: int | None = None,
    source_address: str = "",
) -> Iterator[socket.socket]:
    """Yield a connected socket of *namespace*, for connections that stay open; the arguments are those of `query`.

    Raises:
        Refused: See the module.
        Unreachable: See the module.
        NoAnswer: See the module.
    """
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with namespace.inside():
        sock = socket.socket(family, *SOCKET_TYPES[protocol])
    with sock:
        sock.settimeout(PATIENT_S if timeout_s is None else timeout_s)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if protocol != "sctp":
            sock.setsockopt(*_RECVERR[family], 1)
        with _classified_errors(sock):
            _bind(sock, source_address, source_port)
            sock.connect((address, port))
            if timeout_s is None and protocol == "tcp" and _retransmissions(sock):
                raise NoAnswer("the first SYN was not answered")
        yield sock


def next_source_port() -> int:
    """Return a port from which this process has sent nothing yet.

    A port that the kernel chooses may be one of an earlier request.  Then IPVS and conntrack may still have that flow,
    and IPVS sends a datagram to the same real server again, out of the turn of the scheduler; or they are connections
    by two frontends to one pod, whose answers IPVS mixes up (tests/e2e/test_same_source_port.py).
    """
    return next(_source_ports)


def _bind(sock: socket.socket, address: str, port: int | None) -> None:
    while port is None:
        try:
            sock.bind((address, next_source_port()))
        except OSError as error:
            if error.errno != errno.EADDRINUSE:  # a program of this machine listens there
                raise
        else:
            return
    if port or address:
        sock.bind((address, port))


def _retransmissions(sock: socket.socket) -> int:
    """Return how many segments TCP has sent again."""
    info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TOTAL_RETRANS + 4)
    return int(struct.unpack_from("=I", info, _TOTAL_RETRANS)[0])


def read_answer(sock: socket.socket) -> Answer:
    """Read the server's first line."""
    line = b""
    while not line.endswith(b"\n"):
        chunk = sock.recv(_LINE_BYTES)
        if not chunk:
            raise Refused("the connection was closed before the answer")
        line += chunk
    name, _, peer = line.decode().strip().partition(" ")
    return Answer(name, peer)


@contextmanager
def _classified_errors(sock: socket.socket) -> Iterator[None]:
    try:
        yield
    except TimeoutError as error:
        raise NoAnswer(str(error)) from error
    except OSError as error:
        if error.errno == errno.EPERM:
            _await_icmp(sock)
        icmp = _queued_icmp(sock)
        if icmp or error.errno in _UNREACHABLE_ERRNOS:
            raise Unreachable(str(error), icmp) from error
        if error.errno in (errno.ECONNREFUSED, errno.ECONNRESET, errno.ECONNABORTED, errno.EPIPE):
            raise Refused(str(error)) from error
        raise


def _await_icmp(sock: socket.socket) -> None:
    """Wait a moment for a queued ICMP error.

    IPVS rejects a datagram of this host with an ICMP error over loopback and with EPERM; under load EPERM is first.
    """
    poll = select.poll()
    poll.register(sock, 0)  # POLLERR is always reported
    poll.poll(_ICMP_WAIT_MS)


def _queued_icmp(sock: socket.socket) -> tuple[int, int] | None:
    """Return the type and code of the ICMP error that was queued on *sock*; None if there is none.

    struct sock_extended_err: errno 4, origin 1, type 1, code 1, ...
    """
    sock.setblocking(False)  # with MSG_DONTWAIT Python would still wait for its own timeout
    try:
        _, messages, _, _ = sock.recvmsg(512, 512, socket.MSG_ERRQUEUE)
    except OSError:
        return None
    for level, kind, data in messages:
        if (level, kind) == _RECVERR[sock.family]:
            _, origin, icmp_type, code = struct.unpack_from("=IBBB", data)
            return (icmp_type, code) if origin in _ICMP_ORIGINS else None
    return None
