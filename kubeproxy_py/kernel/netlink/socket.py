"""A batching netlink socket: many messages in one send, each with its own answer.

Invariants:
- The errors that ``execute`` returns are what happened.  Linux carries out all messages of a send before the send
  returns, continues after one that fails, and answers each failure by its sequence number whether or not an answer was
  requested.  So only the last message requests an acknowledgement: once that has arrived, every message without an
  error has been carried out.
- Where answers were lost (the receive buffer overflowed) nothing is guessed: messages without an answer are sent again
  in parts small enough to be answered.  So messages passed together must be harmless when sent twice; a single message
  is never sent twice.

A socket is not thread-safe.

Source: include/uapi/linux/netlink.h; net/netlink/af_netlink.c; batch sizes were measured.
"""

import socket
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from errno import EINTR, EMSGSIZE, ENOBUFS, ENOENT, EPERM, ETIMEDOUT
from itertools import accumulate, islice
from struct import pack

from kubeproxy_py.kernel.errors import KernelError, decoding, errno_text
from kubeproxy_py.kernel.netlink.attributes import parse_attributes, read_u16, string
from kubeproxy_py.kernel.netlink.messages import (
    NLM_F_ACK,
    NLM_F_CREATE,
    NLM_F_DUMP,
    NLM_F_DUMP_INTR,
    NLM_F_EXCL,
    NLMSG_DONE,
    NLMSG_ERROR,
    Message,
    NetlinkError,
    decode_answers,
    decode_error,
    encode_batch,
    encode_request,
    message,
    split_messages,
)

__all__ = [  # including what messages are made of, so that a user of the socket imports one module
    "NETLINK_GENERIC",
    "NETLINK_NETFILTER",
    "NETLINK_ROUTE",
    "NLM_F_ACK",
    "NLM_F_CREATE",
    "NLM_F_EXCL",
    "Message",
    "NetlinkError",
    "Socket",
    "batches",
    "generic_family_id",
    "message",
]

NETLINK_ROUTE = 0
NETLINK_NETFILTER = 12
NETLINK_GENERIC = 16

_SOL_NETLINK = 270
_NETLINK_CAP_ACK = 10
_NETLINK_EXT_ACK = 11
_NETLINK_GET_STRICT_CHK = 12
_SO_SNDBUFFORCE = 32
_SO_RCVBUFFORCE = 33

_SEND_BUFFER_BYTES = 4 << 20
_RECEIVE_BUFFER_BYTES = 8 << 20
_ANSWER_BYTES = 768  # of the receive buffer, for one queued answer (its truesize, not its length)
_SEND_RESERVE_BYTES = 4096  # the longest send is 32 bytes less than the buffer; this leaves a margin
_BATCH_MAX = 5000  # messages; about 15 ms, after which Python may run other threads
_RESEND_PARTS = 8  # into how many parts a batch is split whose answers were lost
_DUMP_TRIES = 10
_READ_BYTES = 128 << 10  # more than the longest answer: ipset repeats a request of up to 64 KiB
_SEQUENCE_MAX = 0x7FFFFFFF

_GENL_ID_CTRL = 0x10
_CTRL_GETFAMILY = b"\x03\x01\x00\x00"  # genlmsghdr: command, version, two reserved bytes
_CTRL_ATTR_FAMILY_ID = 1
_CTRL_ATTR_FAMILY_NAME = 2
_GENLMSGHDR_SIZE = 4

_HINTS = {EPERM: "this needs the capability NET_ADMIN"}


class Socket:
    """A netlink socket of one protocol, in the network namespace in which it was created.

    Raises:
        KernelError: The kernel does not have the protocol.
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
        """Carry out *messages* in order and return the errors of those that failed, by index.

        Messages are consumed as they are sent, so a generator of 100,000 never has more than one batch in memory.
        A message that got no answer even when sent alone fails with ETIMEDOUT.

        Raises:
            KernelError: The socket failed.
        """
        errors: dict[int, NetlinkError] = {}
        start = 0
        for batch in batches(messages, self.batch_max, self._send_max_bytes):
            errors.update((start + index, error) for index, error in self._execute_batch(batch).items())
            start += len(batch)
        return errors

    def request(self, request: Message) -> bytes:
        """Return the body of the one reply to *request*.  Raises KernelError with the errno if it fails."""
        replies, _ = self._round_trip(request, NLM_F_ACK)
        if not replies:
            raise KernelError("no reply to a netlink message", errno=ENOENT)
        return replies[0]

    def dump(self, request: Message, key_of: Callable[[bytes], Hashable] | None = None) -> list[bytes]:
        """Return the bodies of a complete listing, repeated if it changed meanwhile.  Raises KernelError.

        *key_of* returns from a body what only one object has.  It is necessary where the kernel continues a listing by
        position and does not flag that objects moved: then some are listed twice, and as many are missing.
        """
        for _ in range(_DUMP_TRIES):
            replies, interrupted = self._round_trip(request, NLM_F_DUMP)
            if not interrupted and not (key_of and has_duplicates(map(key_of, replies))):
                return replies
        raise KernelError(f"a netlink listing changed {_DUMP_TRIES} times while it was read", errno=EINTR)

    def request_filtering(self) -> None:
        """Have ``dump`` return only what the request describes; kernels before 4.20 return everything."""
        _try_option(self._socket, _SOL_NETLINK, _NETLINK_GET_STRICT_CHK, 1)

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()

    def _size_to_buffers(self) -> None:
        """Request large buffers, which takes CAP_NET_ADMIN, and fit batches to the buffers that were granted."""
        for forced, plain, size in (
            (_SO_SNDBUFFORCE, socket.SO_SNDBUF, _SEND_BUFFER_BYTES),
            (_SO_RCVBUFFORCE, socket.SO_RCVBUF, _RECEIVE_BUFFER_BYTES),
        ):
            if not _try_option(self._socket, socket.SOL_SOCKET, forced, size):
                self._socket.setsockopt(socket.SOL_SOCKET, plain, size)
        receive_bytes = self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)
        self.batch_max = max(1, min(_BATCH_MAX, receive_bytes // _ANSWER_BYTES - 1))
        self._send_max_bytes = self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) - _SEND_RESERVE_BYTES

    def _execute_batch(self, batch: Sequence[Message]) -> dict[int, NetlinkError]:
        """Send *batch* until each message has its answer; return errors by index."""
        answers, complete = self._send_batch(batch)
        errors = {index: answer for index, answer in answers.items() if answer.errno}
        if complete:
            return errors
        if len(batch) == 1:
            return errors if answers else {0: NetlinkError(ETIMEDOUT, "the kernel gave no answer")}
        unanswered = [index for index in range(len(batch)) if index not in answers]
        size = max(1, len(batch) // _RESEND_PARTS)
        for start in range(0, len(unanswered), size):
            indexes = unanswered[start : start + size]
            resent = self._execute_batch([batch[index] for index in indexes])
            errors.update((indexes[index], error) for index, error in resent.items())
        return errors

    def _send_batch(self, batch: Sequence[Message]) -> tuple[dict[int, NetlinkError], bool]:
        """Send *batch* once; return the answers by index, and whether no answer was lost."""
        first = self._next_sequence(len(batch))
        last = first + len(batch) - 1
        answers: dict[int, NetlinkError] = {}
        complete, receive_flags = True, 0
        try:
            self._socket.send(encode_batch(batch, first))
            while last - first not in answers:
                try:
                    data = self._receive(receive_flags)
                except OSError as error:
                    if error.errno != ENOBUFS:
                        raise
                    # Answers were dropped.  Those that came before are still queued: read them without waiting.
                    complete, receive_flags = False, socket.MSG_DONTWAIT
                    continue
                answers.update((n - first, answer) for n, answer in decode_answers(data) if first <= n <= last)
        except BlockingIOError:
            return answers, False
        except OSError as error:
            if error.errno not in (ENOBUFS, EMSGSIZE):
                raise KernelError(f"netlink: {error.strerror}", errno=error.errno or 0) from error
            return answers, False
        return answers, complete

    def _round_trip(self, request: Message, flags: int) -> tuple[list[bytes], bool]:
        """Send *request* with *flags*; return the bodies of its replies, and whether they changed meanwhile."""
        sequence = self._next_sequence(1)
        replies: list[bytes] = []
        interrupted = False
        try:
            self._socket.send(encode_request(request, flags, sequence))
            while True:
                for message_type, reply_to, reply_flags, body in split_messages(self._receive(0)):
                    if reply_to != sequence:
                        continue  # a late answer to an earlier request that timed out
                    interrupted = interrupted or bool(reply_flags & NLM_F_DUMP_INTR)
                    if message_type not in (NLMSG_ERROR, NLMSG_DONE):
                        replies.append(body)
                        continue
                    answer = decode_error(reply_flags, body)
                    if answer.errno:
                        raise KernelError(answer.text, errno=answer.errno, hint=_HINTS.get(answer.errno, ""))
                    return replies, interrupted
        except OSError as error:
            errno = ETIMEDOUT if isinstance(error, BlockingIOError) else error.errno or 0
            raise KernelError(f"netlink: {errno_text(errno)}", errno=errno) from error

    def _receive(self, flags: int) -> bytes:
        """Return one read.  Raises BlockingIOError after the timeout, OSError ENOBUFS if answers were dropped."""
        while True:
            size, sender = self._socket.recvfrom_into(self._buffer, 0, flags)
            if sender[0] == 0:  # the kernel; other ports are other processes
                return bytes(memoryview(self._buffer)[:size])

    def _next_sequence(self, count: int) -> int:
        """Reserve *count* sequence numbers and return the first."""
        if self._sequence + count > _SEQUENCE_MAX:
            self._sequence = 0
        first = self._sequence + 1
        self._sequence += count
        return first


def batches(messages: Iterable[Message], max_count: int, max_bytes: int) -> Iterator[list[Message]]:
    """Split *messages* into lists of at most *max_count* and at most *max_bytes*, or of one longer message."""
    remaining = iter(messages)
    while batch := list(islice(remaining, max_count)):
        while sum(map(len, batch)) > max_bytes and len(batch) > 1:
            ends = accumulate(map(len, batch))
            count = max(1, sum(end <= max_bytes for end in ends))
            yield batch[:count]
            del batch[:count]
        yield batch


def has_duplicates(values: Iterable[Hashable]) -> bool:
    """Return whether two of *values* are equal."""
    listed = list(values)
    return len(set(listed)) < len(listed)


def generic_family_id(netlink: Socket, name: str) -> int:
    """Return the message type of the generic netlink family *name*.  Raises KernelError, ENOENT if there is none."""
    reply = netlink.request(message(_GENL_ID_CTRL, 0, _CTRL_GETFAMILY + string(_CTRL_ATTR_FAMILY_NAME, name)))
    return decode_family_id(reply)


def decode_family_id(reply: bytes) -> int:
    """Return the message type in the *reply* about a generic netlink family.  Raises KernelError."""
    with decoding("the reply about a generic netlink family"):
        return read_u16(parse_attributes(reply, _GENLMSGHDR_SIZE)[_CTRL_ATTR_FAMILY_ID])


def _try_option(sock: socket.socket, level: int, option: int, value: int) -> bool:
    try:
        sock.setsockopt(level, option, value)
    except OSError:
        return False
    return True
