"""One batching netlink socket: many requests in one send, each with its own answer.

Law: what ``execute`` reports is what happened.  Linux carries out all messages of a send before it returns, goes on
after one that fails, and answers each failure by its sequence number, wanted or not; so only the last message asks
for an acknowledgement, and when that has come, all that was not refused is done.  Where answers were lost (the
receive buffer ran over), nothing is guessed: what has no answer is sent again in parts small enough to be answered.
So messages given together must be harmless when sent twice; one given alone never is.

Not for two threads at once.  Source: include/uapi/linux/netlink.h; net/netlink/af_netlink.c; batch sizes measured.
"""

import os
import socket
from collections.abc import Iterable, Sequence
from errno import EINTR, EMSGSIZE, ENOBUFS, ENOENT, EPERM, ETIMEDOUT
from struct import pack

from kubeproxy_py.kernel.errors import KernelError
from kubeproxy_py.kernel.netlink.attributes import attributes, read_u16, text
from kubeproxy_py.kernel.netlink.messages import (
    ACK,
    CREATE,
    DUMP,
    EXCLUSIVE,
    INTERRUPTED,
    NLMSG_DONE,
    NLMSG_ERROR,
    Message,
    NetlinkError,
    batches,
    flagged,
    join,
    message,
    refusal,
    split,
)

__all__ = [  # with what messages are made of, so that a user of the socket imports one module
    "ACK",
    "CREATE",
    "EXCLUSIVE",
    "NETLINK_GENERIC",
    "NETLINK_NETFILTER",
    "NETLINK_ROUTE",
    "Message",
    "NetlinkError",
    "Socket",
    "generic_family",
    "message",
]

NETLINK_ROUTE = 0
NETLINK_NETFILTER = 12
NETLINK_GENERIC = 16

_SOL_NETLINK = 270
_NETLINK_CAP_ACK = 10
_NETLINK_EXT_ACK = 11
_SO_SNDBUFFORCE = 32
_SO_RCVBUFFORCE = 33

_SEND_BUFFER_BYTES = 4 << 20
_RECEIVE_BUFFER_BYTES = 8 << 20
_ANSWER_BYTES = 768  # what one queued answer takes of the receive buffer (its truesize, not its length)
_SEND_RESERVE_BYTES = 4096  # a send may be 32 bytes less than the buffer; be modest
_BATCH_MAX = 5000  # messages; about 15 ms, after which Python may run other threads
_PARTS = 8  # into how many parts a batch is cut whose answers were lost
_DUMP_TRIES = 10
_READ_BYTES = 128 << 10  # more than the longest answer: ipset repeats a request of up to 64 KiB

_CTRL_FAMILY = 0x10  # GENL_ID_CTRL
_CTRL_GETFAMILY = b"\x03\x01\x00\x00"
_CTRL_ATTR_FAMILY_ID = 1
_CTRL_ATTR_FAMILY_NAME = 2


class Socket:
    """A netlink socket of one protocol, in the network namespace in which it was made.

    Raises KernelError if the kernel has no such protocol.
    """

    def __init__(self, protocol: int, *, timeout_s: float = 5.0) -> None:
        try:
            self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, protocol)
        except OSError as error:
            hint = "modprobe nfnetlink, or run as root" if protocol == NETLINK_NETFILTER else ""
            raise KernelError(
                f"netlink protocol {protocol}: {error.strerror}", errno=error.errno or 0, hint=hint
            ) from None
        self._socket.bind((0, 0))
        # The kernel's own timeout: Python's would cost a poll() for each read.
        timeout = pack("@ll", int(timeout_s), int(timeout_s % 1 * 1e6))
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, timeout)
        _try_option(self._socket, _SOL_NETLINK, _NETLINK_CAP_ACK, 1)  # since Linux 4.3
        _try_option(self._socket, _SOL_NETLINK, _NETLINK_EXT_ACK, 1)  # since Linux 4.12
        self._sequence = 0
        self._buffer = bytearray(_READ_BYTES)
        self._size_to_buffers()

    def execute(self, messages: Iterable[Message]) -> dict[int, NetlinkError]:
        """Carry out *messages* in order; tell which were refused, by index.

        They are taken as they are sent, so a generator of 100,000 never has more than one batch in memory.
        Messages that got no answer, though asked alone, are refused with ETIMEDOUT.
        """
        refused: dict[int, NetlinkError] = {}
        start = 0
        for batch in batches(messages, self.batch_max, self._send_max_bytes):
            self._settle(batch, range(start, start + len(batch)), refused)
            start += len(batch)
        return refused

    def ask(self, request: Message) -> bytes:
        """The body of the one reply to *request*.  Raises KernelError with the errno if it is refused."""
        replies, _ = self._converse(flagged(request, ACK))
        if not replies:
            raise KernelError("no reply to a netlink message", errno=ENOENT)
        return replies[0]

    def dump(self, request: Message) -> list[bytes]:
        """The bodies of a whole listing, taken again if it changed under way.  Raises KernelError."""
        for _ in range(_DUMP_TRIES):
            replies, interrupted = self._converse(flagged(request, DUMP))
            if not interrupted:
                return replies
        raise KernelError(f"a netlink listing changed {_DUMP_TRIES} times while it was read", errno=EINTR)

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()

    def _size_to_buffers(self) -> None:
        """Ask for large buffers, which CAP_NET_ADMIN may have, and fit batches to what was got."""
        for forced, plain, size in (
            (_SO_SNDBUFFORCE, socket.SO_SNDBUF, _SEND_BUFFER_BYTES),
            (_SO_RCVBUFFORCE, socket.SO_RCVBUF, _RECEIVE_BUFFER_BYTES),
        ):
            if not _try_option(self._socket, socket.SOL_SOCKET, forced, size):
                self._socket.setsockopt(socket.SOL_SOCKET, plain, size)
        receive_bytes = self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)
        self.batch_max = max(1, min(_BATCH_MAX, receive_bytes // _ANSWER_BYTES - 1))
        self._send_max_bytes = self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) - _SEND_RESERVE_BYTES

    def _settle(self, batch: list[Message], indexes: Sequence[int], refused: dict[int, NetlinkError]) -> None:
        """Send *batch*, of which *indexes* are the places in the whole, until each message has its answer."""
        answers, complete = self._exchange(batch)
        refused.update((indexes[place], answer) for place, answer in answers.items() if answer.errno)
        if complete:
            return
        if len(batch) == 1:
            if not answers:
                refused[indexes[0]] = NetlinkError(ETIMEDOUT, "the kernel gave no answer")
            return
        unanswered = [place for place in range(len(batch)) if place not in answers]
        size = max(1, len(batch) // _PARTS)
        for start in range(0, len(unanswered), size):
            part = unanswered[start : start + size]
            self._settle([batch[place] for place in part], [indexes[place] for place in part], refused)

    def _exchange(self, batch: list[Message]) -> tuple[dict[int, NetlinkError], bool]:
        """Send *batch* at once: the answers by place, and whether they are all that there were."""
        batch[-1] = flagged(batch[-1], ACK)
        first = self._next_sequence(len(batch))
        last = first + len(batch) - 1
        answers: dict[int, NetlinkError] = {}
        complete, wait = True, 0
        try:
            self._socket.send(join(batch, first))
            while last - first not in answers:
                try:
                    data = self._receive(wait)
                except OSError as error:
                    if error.errno != ENOBUFS:
                        raise
                    # Answers were dropped.  Those that came before still lie there: take them, don't wait.
                    complete, wait = False, socket.MSG_DONTWAIT
                    continue
                for kind, sequence, flags, body in split(data):
                    if kind == NLMSG_ERROR and first <= sequence <= last:
                        answers[sequence - first] = refusal(flags, body)
        except BlockingIOError:
            return answers, False
        except OSError as error:
            if error.errno not in (ENOBUFS, EMSGSIZE):
                raise KernelError(f"netlink: {error.strerror}", errno=error.errno or 0) from error
            return answers, False
        return answers, complete

    def _converse(self, request: Message) -> tuple[list[bytes], bool]:
        """Send one message: the bodies of its replies, and whether they were gathered while things changed."""
        sequence = self._next_sequence(1)
        replies: list[bytes] = []
        interrupted = False
        try:
            self._socket.send(join((request,), sequence))
            while True:
                for kind, answered, flags, body in split(self._receive(0)):
                    if answered != sequence:
                        continue  # a late answer to something given up
                    interrupted = interrupted or bool(flags & INTERRUPTED)
                    if kind not in (NLMSG_ERROR, NLMSG_DONE):
                        replies.append(body)
                        continue
                    answer = refusal(flags, body)
                    if answer.errno:
                        raise KernelError(answer.text, errno=answer.errno, hint=_HINTS.get(answer.errno, ""))
                    return replies, interrupted
        except OSError as error:
            errno = ETIMEDOUT if isinstance(error, BlockingIOError) else error.errno or 0
            raise KernelError(f"netlink: {os.strerror(errno)}", errno=errno) from error

    def _receive(self, flags: int) -> bytes:
        """One read.  Raises BlockingIOError after the timeout, OSError ENOBUFS if answers were dropped."""
        while True:
            size, sender = self._socket.recvfrom_into(self._buffer, 0, flags)
            if sender[0] == 0:  # else it is another process that speaks, not the kernel
                return bytes(memoryview(self._buffer)[:size])

    def _next_sequence(self, count: int) -> int:
        if self._sequence + count > 0x7FFFFFFF:
            self._sequence = 0
        first = self._sequence + 1
        self._sequence += count
        return first


_HINTS = {EPERM: "this needs the capability NET_ADMIN"}


def generic_family(netlink: Socket, name: str) -> int:
    """The message type of the generic netlink family *name*.  Raises KernelError, ENOENT if there is none."""
    body = _CTRL_GETFAMILY + text(_CTRL_ATTR_FAMILY_NAME, name)
    return read_u16(attributes(netlink.ask(message(_CTRL_FAMILY, 0, body)), 4)[_CTRL_ATTR_FAMILY_ID])


def _try_option(sock: socket.socket, level: int, option: int, value: int) -> bool:
    try:
        sock.setsockopt(level, option, value)
    except OSError:
        return False
    return True
