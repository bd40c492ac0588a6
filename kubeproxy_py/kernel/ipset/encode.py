"""ipset commands and entries as bytes.

Layout: a message's body is the nfnetlink header, the protocol version and the name of the set, then the attributes of
the command.  Numbers inside DATA are big-endian and flagged so, except LINENO, which userspace chooses and the kernel
returns unchanged.

Protocol 6 is used: every kernel since 2.6.39 supports it, and 7 adds nothing that is needed.

Source: include/uapi/linux/netfilter/ipset/ip_set.h; net/netfilter/ipset/ip_set_core.c, ip_set_hash_*.c.
"""

from collections.abc import Iterable, Iterator
from functools import lru_cache
from socket import inet_pton
from struct import Struct

from kubeproxy_py.kernel.ipset.constants import (
    ATTR_ADT,
    ATTR_CADT_FLAGS,
    ATTR_CIDR2,
    ATTR_DATA,
    ATTR_FAMILY,
    ATTR_FLAGS,
    ATTR_HASHSIZE,
    ATTR_IP,
    ATTR_IP2,
    ATTR_IPADDR_IPV4,
    ATTR_IPADDR_IPV6,
    ATTR_LINENO,
    ATTR_MAXELEM,
    ATTR_PORT,
    ATTR_PORT_TO,
    ATTR_PROTO,
    ATTR_PROTOCOL,
    ATTR_REVISION,
    ATTR_SETNAME,
    ATTR_SETNAME2,
    ATTR_SKBMARK,
    ATTR_TYPENAME,
    ENTRY_PROTOCOL_NUMBERS,
    FLAG_LIST_HEADER,
    FLAG_WITH_SKBINFO,
    NFNL_SUBSYS_IPSET,
    PORT_RANGE,
    SKBINFO,
)
from kubeproxy_py.kernel.netlink.attributes import (
    NESTED,
    NET_BYTE_ORDER,
    attr_header,
    attribute,
    be16,
    be32,
    nested,
    string,
    u8,
    u32,
)
from kubeproxy_py.kernel.netlink.families import AF_INET, AF_INET6, AF_NUMBERS, AF_UNSPEC, family_number
from kubeproxy_py.model.rows import IpsetSpec, MarkSpec
from kubeproxy_py.net import Family

_NFGENMSG = bytes((AF_INET, 0, 0, 0))  # family (ignored), version, resource
_PROTOCOL_6 = u8(ATTR_PROTOCOL, 6)

_U16 = Struct(">H")
_MARK = Struct(">II")
_LINE = Struct("=I")
_MESSAGE_MAX = 0xFFFF - 64  # the length of a nested attribute has 16 bits; 64 for what precedes it

_PORT_HEADER = attr_header(ATTR_PORT | NET_BYTE_ORDER, 2)
_PROTO_HEADER = attr_header(ATTR_PROTO, 1)
_LINE_HEADER = attr_header(ATTR_LINENO, _LINE.size)
_ADDRESS_HEADERS = {
    (outer, family): attr_header(outer | NESTED, 4 + size) + attr_header(inner | NET_BYTE_ORDER, size)
    for outer in (ATTR_IP, ATTR_IP2)
    for family, inner, size in ((AF_INET, ATTR_IPADDR_IPV4, 4), (AF_INET6, ATTR_IPADDR_IPV6, 16))
}


def message_type(command: int) -> int:
    """Return the nlmsg_type of an ipset command."""
    return NFNL_SUBSYS_IPSET << 8 | command


def encode_set_name(name: str) -> bytes:
    """Return the body of DESTROY, with which the bodies of all commands on a set begin."""
    return _NFGENMSG + _PROTOCOL_6 + string(ATTR_SETNAME, name)


def encode_list(name: str, *, header_only: bool = False) -> bytes:
    """Return the body of LIST for one set."""
    return encode_set_name(name) + (be32(ATTR_FLAGS, FLAG_LIST_HEADER, NET_BYTE_ORDER) if header_only else b"")


def encode_list_headers() -> bytes:
    """Return the body of LIST for all sets, without their entries."""
    return _NFGENMSG + _PROTOCOL_6 + be32(ATTR_FLAGS, FLAG_LIST_HEADER, NET_BYTE_ORDER)


def encode_swap(name: str, other: str) -> bytes:
    """Return the body of SWAP: the sets exchange their names, and references follow the name."""
    return encode_set_name(name) + string(ATTR_SETNAME2, other)


def encode_type(spec: IpsetSpec) -> bytes:
    """Return the body of TYPE, which requests the revisions of a set type that the kernel supports."""
    return (
        _NFGENMSG
        + _PROTOCOL_6
        + string(ATTR_TYPENAME, kernel_type(spec))
        + u8(ATTR_FAMILY, _family_number(spec.family))
    )


def kernel_type(spec: IpsetSpec) -> str:
    """Return the type of a set as the kernel knows it, without our options."""
    return spec.type.partition(" ")[0]


def encode_create(name: str, spec: IpsetSpec, revision: int) -> bytes:
    """Return the body of CREATE.  A bitmap:port spans all ports; a hash has the sizes of *spec*."""
    sizes: tuple[bytes, ...]
    if spec.type == "bitmap:port":
        first, last = PORT_RANGE
        sizes = (be16(ATTR_PORT, first, NET_BYTE_ORDER), be16(ATTR_PORT_TO, last, NET_BYTE_ORDER))
    else:
        sizes = (
            be32(ATTR_HASHSIZE, spec.hashsize, NET_BYTE_ORDER),
            be32(ATTR_MAXELEM, spec.maxelem, NET_BYTE_ORDER),
        )
        if spec.type.endswith(SKBINFO):
            sizes = (*sizes, be32(ATTR_CADT_FLAGS, FLAG_WITH_SKBINFO, NET_BYTE_ORDER))
    return b"".join(
        (
            encode_set_name(name),
            string(ATTR_TYPENAME, kernel_type(spec)),
            u8(ATTR_REVISION, revision),
            u8(ATTR_FAMILY, _family_number(spec.family)),
            nested(ATTR_DATA, *sizes),
        )
    )


def encode_entry(entry: str, line: int, mark: MarkSpec | None = None) -> bytes:
    """Return one DATA element; an error names its *line* (from 1).

    Layout: IP, then PORT and PROTO, then IP2 and CIDR2, as far as *entry* has them; a bitmap entry has PORT only; then
    with *mark* SKBMARK: mark and mask.
    32 bytes for hash:ip,port and 8 for the line.

    Raises:
        ValueError: *entry* is not an entry.
    """
    first, _, remainder = entry.partition(",")
    if first.isdigit():
        family, packed = AF_UNSPEC, _encode_port(first)
    else:
        family = family_number(first)
        packed = _pack_address(family, first)
    extra = attribute(ATTR_SKBMARK | NET_BYTE_ORDER, _MARK.pack(mark.mark, mark.mask)) if mark else b""
    before, after = _entry_template(family, len(packed), remainder, extra)
    return before + packed + after + _LINE.pack(line)


def encode_entries(name: str, entries: Iterable[bytes]) -> bytes:
    """Return the body of ADD or DEL for encoded *entries*, of as many as ``batch_sizes`` allows."""
    # The outer LINENO only makes the kernel write the line of a refused entry into it, in the error it sends.
    return encode_set_name(name) + u32(ATTR_LINENO, 0) + attribute(ATTR_ADT | NESTED, b"".join(entries))


def batch_sizes(entries: Iterable[bytes]) -> Iterator[int]:
    """Yield how many of the encoded *entries* each message contains, in order."""
    count = size = 0
    for entry in entries:
        if size + len(entry) > _MESSAGE_MAX:
            yield count
            count = size = 0
        count += 1
        size += len(entry)
    if count:
        yield count


def _family_number(family: Family | None) -> int:
    return AF_NUMBERS[family] if family else AF_UNSPEC


@lru_cache(maxsize=1024)  # nearly always a protocol and a port follow, of which Services have few different ones
def _entry_template(family: int, size: int, remainder: str, extra: bytes) -> tuple[bytes, bytes]:
    """Return what precedes the first address of a DATA element, and what follows it up to the line.

    Args:
        family: Of the address; AF_UNSPEC if a complete PORT attribute takes its place.
        size: Of the address in bytes.
        remainder: The text of the entry after the address.
        extra: Attributes that follow.
    """
    before = _ADDRESS_HEADERS[ATTR_IP, family] if family else b""
    after = _encode_remainder(remainder) + extra + _LINE_HEADER
    return attr_header(ATTR_DATA | NESTED, len(before) + size + len(after) + _LINE.size) + before, after


def _encode_remainder(text: str) -> bytes:
    """Return the attributes for the text of an entry after its first address, which may be empty."""
    protocol_and_port, _, second = text.partition(",")
    address, _, length = second.partition("/")
    encoded = _encode_protocol_and_port(protocol_and_port) if protocol_and_port else b""
    if address:
        family = family_number(address)
        encoded += _ADDRESS_HEADERS[ATTR_IP2, family] + _pack_address(family, address)
    return encoded + (u8(ATTR_CIDR2, int(length)) if length else b"")


def _encode_protocol_and_port(text: str) -> bytes:
    protocol, _, port = text.rpartition(":")
    number = ENTRY_PROTOCOL_NUMBERS.get(protocol) or int(protocol)
    return _encode_port(port) + _PROTO_HEADER + bytes((number, 0, 0, 0))


def _encode_port(port: str) -> bytes:
    return _PORT_HEADER + _U16.pack(int(port)) + b"\0\0"


def _pack_address(family: int, address: str) -> bytes:
    try:
        return inet_pton(family, address)
    except OSError:
        raise ValueError(f"{address!r} is not an address") from None
