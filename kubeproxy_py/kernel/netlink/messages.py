"""Netlink messages as bytes.

A message is encoded once, with sequence number 0; ``encode_batch`` and ``encode_request`` number it when it is sent.

Layout: a header in host order (length including the header, type, flags, sequence number, port), then the body;
messages follow each other at multiples of four bytes.

Source: include/uapi/linux/netlink.h, struct nlmsghdr, struct nlmsgerr.
"""

from collections.abc import Iterator, Sequence
from struct import Struct

import msgspec

from kubeproxy_py.kernel.errors import errno_text
from kubeproxy_py.kernel.netlink.attributes import parse_attributes, read_string

NLM_F_REQUEST = 0x1
NLM_F_ACK = 0x4
NLM_F_DUMP_INTR = 0x10  # what is being listed changed meanwhile
NLM_F_REPLACE = 0x100  # of what exists already
NLM_F_EXCL = 0x200
NLM_F_DUMP = 0x300  # NLM_F_ROOT | NLM_F_MATCH
NLM_F_CREATE = 0x400

NLMSG_ERROR = 2  # also the acknowledgement, then with errno 0
NLMSG_DONE = 3

NLMSGHDR = Struct("=IHHII")  # length, type, flags, sequence number, port
HEADER_SIZE = NLMSGHDR.size

Message = bytes
"""A header with sequence number 0, and a body whose length is a multiple of four."""

_NLM_F_CAPPED = 0x100  # in an error: only the header of the request is repeated
_NLM_F_ACK_TLVS = 0x200  # in an error: attributes follow the request
_NLMSGERR_ATTR_MSG = 1
_FLAGS_OFFSET, _SEQUENCE_OFFSET = 6, 8
_FLAGS = Struct("=H")
_SEQUENCE = Struct("=I")
_ERRNO = Struct("=i")


class NetlinkError(msgspec.Struct, frozen=True, gc=False):
    """The kernel's answer to one message.

    ``errno`` is positive, or 0 for an acknowledgement; ``text`` is for people; ``request`` is the message as the
    kernel sent it back, or empty.
    """

    errno: int
    text: str
    request: bytes = b""


_ACKNOWLEDGED = NetlinkError(0, "done")


def message(message_type: int, flags: int, body: bytes) -> Message:
    """Return a message with *flags* besides NLM_F_REQUEST; the length of *body* is a multiple of four."""
    return message_header(message_type, flags, len(body)) + body


def message_header(message_type: int, flags: int, size: int) -> bytes:
    """Return the header of a message whose body of *size* bytes the caller appends."""
    return NLMSGHDR.pack(HEADER_SIZE + size, message_type, flags | NLM_F_REQUEST, 0, 0)


def with_flags(message: Message, flags: int) -> Message:
    """Return *message* with *flags* besides its own."""
    (own_flags,) = _FLAGS.unpack_from(message, _FLAGS_OFFSET)
    return message[:_FLAGS_OFFSET] + _FLAGS.pack(own_flags | flags) + message[_SEQUENCE_OFFSET:]


def encode_request(request: Message, flags: int, sequence: int) -> bytearray:
    """Return what to send for one *request* with *flags* besides its own, numbered *sequence*."""
    return join_messages((with_flags(request, flags),), sequence)


def encode_batch(batch: Sequence[Message], first_sequence: int) -> bytearray:
    """Return what to send for *batch*, numbered from *first_sequence*; only the last message requests an ACK."""
    return join_messages((*batch[:-1], with_flags(batch[-1], NLM_F_ACK)), first_sequence)


def join_messages(batch: Sequence[Message], first_sequence: int) -> bytearray:
    """Return the messages of *batch* one after the other, numbered from *first_sequence*."""
    data = bytearray().join(batch)
    offset = _SEQUENCE_OFFSET
    for sequence, message in enumerate(batch, first_sequence):
        _SEQUENCE.pack_into(data, offset, sequence)
        offset += len(message)
    return data


def split_messages(data: bytes) -> Iterator[tuple[int, int, int, bytes]]:
    """Yield the type, sequence number, flags and body of each message in *data*, which is one read."""
    offset, end = 0, len(data)
    while offset + HEADER_SIZE <= end:
        length, message_type, flags, sequence, _ = NLMSGHDR.unpack_from(data, offset)
        if length < HEADER_SIZE:
            return
        yield message_type, sequence, flags, data[offset + HEADER_SIZE : offset + length]
        offset += (length + 3) & ~3


def decode_answers(data: bytes) -> Iterator[tuple[int, NetlinkError]]:
    """Yield the sequence number and content of each error or acknowledgement in *data*, which is one read."""
    for message_type, sequence, flags, body in split_messages(data):
        if message_type == NLMSG_ERROR:
            yield sequence, decode_error(flags, body)


def decode_error(flags: int, body: bytes) -> NetlinkError:
    """Return the content of an NLMSG_ERROR or NLMSG_DONE; errno 0 is success.

    Layout: the negative errno, then (errors only) the header of the request, the rest of it unless CAPPED, then
    attributes, which may include a text.
    """
    errno = -_ERRNO.unpack_from(body)[0] if len(body) >= _ERRNO.size else 0
    if errno <= 0:
        return _ACKNOWLEDGED
    request = body[_ERRNO.size :]
    text = ""
    if flags & _NLM_F_ACK_TLVS and len(request) >= HEADER_SIZE:
        length = HEADER_SIZE if flags & _NLM_F_CAPPED else (NLMSGHDR.unpack_from(request)[0] + 3) & ~3
        text = read_string(parse_attributes(request, length).get(_NLMSGERR_ATTR_MSG, b""))
    return NetlinkError(errno, text or errno_text(errno), request)
