"""Netlink attributes: the type-length-value lists that every netlink message is made of.

Law: pure; bytes in, values out.  An attribute is a header of two 16-bit words in host order (length with the header,
type) and its payload, padded to four bytes; the length doesn't count the padding.  Attributes may hold attributes.

Source: include/uapi/linux/netlink.h, struct nlattr.
"""

from collections.abc import Iterator
from struct import Struct

HEADER_SIZE = 4
NESTED = 0x8000  # NLA_F_NESTED
NET_BYTE_ORDER = 0x4000  # NLA_F_NET_BYTEORDER: the payload is big-endian
LENGTH_MAX = 0xFFFF

_TYPE_MASK = 0x3FFF  # NLA_TYPE_MASK
_HEADER = Struct("=HH")
_U16 = Struct("=H")
_U32 = Struct("=I")


def head(kind: int, size: int) -> bytes:
    """The header of an attribute whose payload, of *size* bytes, the caller puts behind it."""
    return _HEADER.pack(HEADER_SIZE + size, kind)


def attribute(kind: int, payload: bytes) -> bytes:
    """One attribute, padded."""
    return head(kind, len(payload)) + payload + bytes(-len(payload) & 3)


def nest(kind: int, *attributes: bytes) -> bytes:
    """An attribute of attributes; marked as such, as kernels since 5.2 ask of new interfaces."""
    return attribute(kind | NESTED, b"".join(attributes))


def u8(kind: int, value: int) -> bytes:
    """One byte."""
    return attribute(kind, bytes((value,)))


def u16(kind: int, value: int) -> bytes:
    """16 bits in host order."""
    return attribute(kind, _U16.pack(value))


def u32(kind: int, value: int) -> bytes:
    """32 bits in host order."""
    return attribute(kind, _U32.pack(value))


def big16(kind: int, value: int, flag: int = 0) -> bytes:
    """16 bits in network order; *flag* is NET_BYTE_ORDER where the interface wants it said."""
    return attribute(kind | flag, value.to_bytes(2, "big"))


def big32(kind: int, value: int, flag: int = 0) -> bytes:
    """32 bits in network order."""
    return attribute(kind | flag, value.to_bytes(4, "big"))


def text(kind: int, value: str) -> bytes:
    """A string with its final NUL."""
    return attribute(kind, value.encode() + b"\0")


def read_u16(payload: bytes) -> int:
    """16 bits in host order."""
    return int(_U16.unpack_from(payload)[0])


def read_u32(payload: bytes) -> int:
    """32 bits in host order."""
    return int(_U32.unpack_from(payload)[0])


def read_text(payload: bytes) -> str:
    """A string, with or without its final NUL."""
    return payload.split(b"\0", 1)[0].decode("ascii", "replace")


def elements(data: bytes, offset: int = 0) -> Iterator[tuple[int, bytes]]:
    """Each attribute's type, without flags, and payload, in order; a damaged tail ends it."""
    end = len(data)
    while offset + HEADER_SIZE <= end:
        length, kind = _HEADER.unpack_from(data, offset)
        if length < HEADER_SIZE or offset + length > end:
            return
        yield kind & _TYPE_MASK, data[offset + HEADER_SIZE : offset + length]
        offset += (length + 3) & ~3


def attributes(data: bytes, offset: int = 0) -> dict[int, bytes]:
    """Attributes by type; the last wins where one stands twice."""
    return dict(elements(data, offset))
