"""Netlink frames: messages in one send, messages in one read, and what an answer says.

Law: pure.  A frame is a header in host order (length with the header, type, flags, sequence number, port) and a body;
frames follow each other at multiples of four bytes.  Who makes a message makes it whole, but for the number by which
it will be answered: a first sync has 140,000, and each is put together once.

Source: include/uapi/linux/netlink.h, struct nlmsghdr, struct nlmsgerr.
"""

import os
from array import array
from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate, islice
from struct import Struct

import msgspec

from kubeproxy_py.kernel.netlink.attributes import attributes, read_text

REQUEST = 0x1
ACK = 0x4
DUMP = 0x300  # NLM_F_ROOT | NLM_F_MATCH
EXCLUSIVE = 0x200
CREATE = 0x400
INTERRUPTED = 0x10  # NLM_F_DUMP_INTR: what is being listed changed meanwhile

NLMSG_ERROR = 2  # also the acknowledgement, then with errno 0
NLMSG_DONE = 3

Message = bytes
"""A header that asks for something, its sequence number still 0, and the body."""

_CAPPED = 0x100  # in an error: the request isn't repeated
_TLVS = 0x200  # in an error: attributes follow
_HEADER = Struct("=IHHII")
HEADER_SIZE = 16
_FLAGS_AT, _SEQUENCE_AT = 6, 8
_WORD = 4
_FLAGS = Struct("=H")
_SEQUENCE = Struct("=I")
_ERRNO = Struct("=i")
_WORDS = 1  # NLMSGERR_ATTR_MSG


class NetlinkError(msgspec.Struct, frozen=True, gc=False):
    """The kernel's no to one message: a positive errno, words for people, and the request where it was repeated."""

    errno: int
    text: str
    request: bytes = b""


def message(kind: int, flags: int, body: bytes) -> Message:
    """The message of type *kind* with *flags* besides REQUEST; the length of *body* is a multiple of four."""
    return header(kind, flags, len(body)) + body


def header(kind: int, flags: int, size: int) -> bytes:
    """What stands before a body of *size* bytes."""
    return _HEADER.pack(HEADER_SIZE + size, kind, flags | REQUEST, 0, 0)


def flagged(message: Message, flags: int) -> Message:
    """*message* with these *flags* besides its own."""
    (own,) = _FLAGS.unpack_from(message, _FLAGS_AT)
    return message[:_FLAGS_AT] + _FLAGS.pack(own | flags) + message[_SEQUENCE_AT:]


def batches(messages: Iterable[Message], most: int, most_bytes: int) -> Iterator[list[Message]]:
    """Cut *messages* into lists of at most *most* messages and, where they are more than one, *most_bytes* each."""
    rest = iter(messages)
    while batch := list(islice(rest, most)):
        while sum(map(len, batch)) > most_bytes and len(batch) > 1:
            fit = _fitting(batch, most_bytes)
            yield batch[:fit]
            del batch[:fit]
        yield batch


def _fitting(batch: Sequence[Message], most_bytes: int) -> int:
    """How many of the first messages have *most_bytes* together; at least one."""
    ends = accumulate(map(len, batch))
    return max(1, sum(end <= most_bytes for end in ends))


def join(batch: Sequence[Message], first: int) -> bytearray:
    """One send: the messages one behind the other, numbered from *first*.

    Nearly all batches have messages of one length, whose numbers are written in one go.
    """
    data = bytearray().join(batch)
    size = len(batch[0]) if batch else 0
    if size and size % _WORD == 0 and set(map(len, batch)) == {size}:
        words = memoryview(data).cast("I")
        words[_SEQUENCE_AT // _WORD :: size // _WORD] = array("I", range(first, first + len(batch)))
        return data
    number, at = _SEQUENCE.pack_into, _SEQUENCE_AT
    for sequence, each in enumerate(batch, first):
        number(data, at, sequence)
        at += len(each)
    return data


def split(data: bytes) -> Iterator[tuple[int, int, int, bytes]]:
    """(type, sequence number, flags, body) of each message in one read."""
    offset, end = 0, len(data)
    while offset + HEADER_SIZE <= end:
        length, kind, flags, sequence, _ = _HEADER.unpack_from(data, offset)
        if length < HEADER_SIZE:
            return
        yield kind, sequence, flags, data[offset + HEADER_SIZE : offset + length]
        offset += (length + 3) & ~3


def refusal(flags: int, body: bytes) -> NetlinkError:
    """What an NLMSG_ERROR or NLMSG_DONE says: errno 0 is yes.

    Layout: the negative errno, then (errors only) the header of the request, the rest of it unless CAPPED, then
    attributes, of which the first may be words.
    """
    errno = -_ERRNO.unpack_from(body)[0] if len(body) >= _ERRNO.size else 0
    if errno <= 0:
        return _DONE
    request = body[_ERRNO.size :]
    words = ""
    if flags & _TLVS and len(request) >= HEADER_SIZE:
        length = HEADER_SIZE if flags & _CAPPED else (_HEADER.unpack_from(request)[0] + 3) & ~3
        words = read_text(attributes(request, length).get(_WORDS, b""))
    return NetlinkError(errno, words or os.strerror(errno), request)


_DONE = NetlinkError(0, "done")
