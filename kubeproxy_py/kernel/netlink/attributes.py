"""Netlink attributes: the type-length-value lists that make up netlink messages.

Layout: two 16-bit words in host order (length including this header, type), then the payload, padded to four bytes;
the length does not count the padding.  A nested attribute has attributes as its payload.

Source: include/uapi/linux/netlink.h, struct nlattr.
"""

from collections.abc import Iterator
from struct import Struct

HEADER_SIZE = 4
NESTED = 0x8000  # NLA_F_NESTED
NET_BYTE_ORDER = 0x4000  # NLA_F_NET_BYTEORDER: the payload is big-endian

_TYPE_MASK = 0x3FFF  # NLA_TYPE_MASK
_HEADER = Struct("=HH")
_U16 = Struct("=H")
_U32 = Struct("=I")


def attr_header(attr_type: int, size: int) -> bytes:
    """Return the header of an attribute whose payload of *size* bytes the caller appends."""
    return _HEADER.pack(HEADER_SIZE + size, attr_type)


def attribute(attr_type: int, payload: bytes) -> bytes:
    """Return one attribute, padded."""
    return attr_header(attr_type, len(payload)) + payload + bytes(-len(payload) & 3)


def nested(attr_type: int, *attributes: bytes) -> bytes:
    """Return an attribute of attributes, flagged NESTED, which kernels since 5.2 require for new interfaces."""
    return attribute(attr_type | NESTED, b"".join(attributes))


def u8(attr_type: int, value: int) -> bytes:
    """Return an attribute of one byte."""
    return attribute(attr_type, bytes((value,)))


def u16(attr_type: int, value: int) -> bytes:
    """Return an attribute of 16 bits in host order."""
    return attribute(attr_type, _U16.pack(value))


def u32(attr_type: int, value: int) -> bytes:
    """Return an attribute of 32 bits in host order."""
    return attribute(attr_type, _U32.pack(value))


def be16(attr_type: int, value: int, flag: int = 0) -> bytes:
    """Return an attribute of 16 bits in network order; *flag* is NET_BYTE_ORDER where the interface requires it."""
    return attribute(attr_type | flag, value.to_bytes(2, "big"))


def be32(attr_type: int, value: int, flag: int = 0) -> bytes:
    """Return an attribute of 32 bits in network order; *flag* as for ``be16``."""
    return attribute(attr_type | flag, value.to_bytes(4, "big"))


def string(attr_type: int, value: str) -> bytes:
    """Return an attribute of a string with its final NUL."""
    return attribute(attr_type, value.encode() + b"\0")


def read_u16(payload: bytes) -> int:
    """Return the first 16 bits of *payload*, in host order."""
    return int(_U16.unpack_from(payload)[0])


def read_u32(payload: bytes) -> int:
    """Return the first 32 bits of *payload*, in host order."""
    return int(_U32.unpack_from(payload)[0])


def read_string(payload: bytes) -> str:
    """Return a string, with or without its final NUL."""
    return payload.split(b"\0", 1)[0].decode("ascii", "replace")


def iter_attributes(data: bytes, offset: int = 0) -> Iterator[tuple[int, bytes]]:
    """Yield the type, without flags, and the payload of each attribute in order; stop at a damaged one."""
    end = len(data)
    while offset + HEADER_SIZE <= end:
        length, attr_type = _HEADER.unpack_from(data, offset)
        if length < HEADER_SIZE or offset + length > end:
            return
        yield attr_type & _TYPE_MASK, data[offset + HEADER_SIZE : offset + length]
        offset += (length + 3) & ~3


def parse_attributes(data: bytes, offset: int = 0) -> dict[int, bytes]:
    """Return payloads by attribute type; of duplicates the last."""
    return dict(iter_attributes(data, offset))
