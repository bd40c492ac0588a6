"""ipset on the wire: sets and entries to bytes and back.

Law: pure.  A message's body is the nfnetlink header, the protocol version and the set's name, then what the command
needs.  Numbers inside DATA are big-endian and say so by a flag on their type, except LINENO, which is ours to choose
and comes back as we wrote it.  An entry's text is the one that ``ipset save`` prints, and decode(encode(text)) is it.

Protocol 6 is spoken: every kernel since 2.6.39 takes it, and nothing we need came with 7.

Source: include/uapi/linux/netfilter/ipset/ip_set.h; net/netfilter/ipset/ip_set_core.c, ip_set_hash_*.c.
"""

from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from socket import inet_ntop, inet_pton, ntohs
from struct import Struct

from kubeproxy_py.kernel.netlink.attributes import (
    HEADER_SIZE,
    NESTED,
    NET_BYTE_ORDER,
    attribute,
    attributes,
    big16,
    big32,
    elements,
    head,
    nest,
    read_text,
    read_u32,
    text,
    u8,
    u32,
)
from kubeproxy_py.kernel.netlink.families import AF_INET, AF_INET6, family_number
from kubeproxy_py.model.rows import IpsetSpec
from kubeproxy_py.model.services import Family

CREATE, DESTROY, SWAP, LIST, ADD, DELETE, TYPE = 2, 3, 6, 7, 9, 10, 13  # IPSET_CMD_*

ERR_TYPE_MISMATCH = 4102  # swap: the sets differ in family or in what their entries are made of
ERROR_TEXTS = {  # the error numbers of ipset's own
    4097: "not an entry for this set: other family, or parts missing",
    4098: "the kernel has no such set type, or not in this revision",
    4099: "the kernel holds no more sets",
    4100: "the set is in use",
    4101: "a set of that name exists already",
    ERR_TYPE_MISMATCH: "the sets differ in type or family",
    4103: "it exists already, or is missing",
    4104: "not a usable prefix length",
    4105: "not a usable netmask",
    4106: "the type has no such family",
    4108: "the set is in use",
    4109: "not an IPv4 address",
    4110: "not an IPv6 address",
    4352: "the set is full",
}
ENTRY_TYPES = frozenset(("hash:ip", "hash:ip,port", "hash:ip,port,ip", "hash:ip,port,net", "bitmap:port"))
"""The types whose entries can be told; tables.SET_KINDS has no other."""

_SUBSYSTEM = 6 << 8  # NFNL_SUBSYS_IPSET, the high byte of a message's type
_NFGENMSG = bytes((AF_INET, 0, 0, 0))  # family (not looked at), version, resource

_PROTOCOL, _SETNAME, _TYPENAME, _REVISION, _FAMILY, _FLAGS, _DATA, _ADT, _LINENO = range(1, 10)
_SETNAME2 = _TYPENAME
_FLAG_LIST_HEADER = 1 << 2

_IP, _IP_TO, _CIDR, _PORT, _PORT_TO, _TIMEOUT, _PROTO = range(1, 8)
_HASHSIZE, _MAXELEM, _NETMASK = range(18, 21)
_IP2, _CIDR2 = 20, 21
_IPV4, _IPV6 = 1, 2

_PROTOCOL_6 = u8(_PROTOCOL, 6)
_FAMILY_NUMBERS: dict[Family | None, int] = {"IPv4": AF_INET, "IPv6": AF_INET6, None: 0}
_FAMILIES: dict[int, Family | None] = {number: family for family, number in _FAMILY_NUMBERS.items()}
_PROTOCOL_NUMBERS = {"tcp": 6, "udp": 17, "sctp": 132, "udplite": 136}
_PROTOCOL_NAMES = {number: name for name, number in _PROTOCOL_NUMBERS.items()}
_PORTS = (0, 65535)
_MAXELEM_DEFAULT = 65536

_U16 = Struct(">H")
_U32 = Struct(">I")
_MESSAGE_MAX = 0xFFFF - 64  # a nest's length has 16 bits; room for what stands before it


def message_type(command: int) -> int:
    """The nlmsg_type of an ipset command."""
    return _SUBSYSTEM | command


def encode_named(name: str) -> bytes:
    """The body of DESTROY."""
    return _NFGENMSG + _PROTOCOL_6 + text(_SETNAME, name)


def encode_list(name: str, *, header_only: bool = False) -> bytes:
    """The body of LIST for one set."""
    return encode_named(name) + (big32(_FLAGS, _FLAG_LIST_HEADER, NET_BYTE_ORDER) if header_only else b"")


def encode_swap(name: str, other: str) -> bytes:
    """The body of SWAP: each set takes the other's name, and what refers to the name follows."""
    return encode_named(name) + text(_SETNAME2, other)


def encode_type(spec: IpsetSpec) -> bytes:
    """The body of TYPE, which asks for the revisions that the kernel has of a set type."""
    return _NFGENMSG + _PROTOCOL_6 + text(_TYPENAME, spec.type) + u8(_FAMILY, _FAMILY_NUMBERS[spec.family])


def decode_revision(body: bytes) -> int:
    """The highest revision of the reply to TYPE; those above what we know add what we don't ask for."""
    return attributes(body, 4)[_REVISION][0]


def encode_create(name: str, spec: IpsetSpec, revision: int) -> bytes:
    """The body of CREATE.  A bitmap:port spans all ports; a hash has the sizes of *spec*."""
    if spec.type == "bitmap:port":
        sizes = (big16(_PORT, _PORTS[0], NET_BYTE_ORDER), big16(_PORT_TO, _PORTS[1], NET_BYTE_ORDER))
    else:
        sizes = (big32(_HASHSIZE, spec.hashsize, NET_BYTE_ORDER), big32(_MAXELEM, spec.maxelem, NET_BYTE_ORDER))
    return b"".join(
        (
            encode_named(name),
            text(_TYPENAME, spec.type),
            u8(_REVISION, revision),
            u8(_FAMILY, _FAMILY_NUMBERS[spec.family]),
            nest(_DATA, *sizes),
        )
    )


def decode_spec(body: bytes) -> IpsetSpec:
    """The header of a set, from the first message of its listing."""
    found = attributes(body, 4)
    data = attributes(found[_DATA])
    type_name = read_text(found[_TYPENAME])
    odd = []
    if _TIMEOUT in data:
        odd.append(f"timeout {_U32.unpack(data[_TIMEOUT])[0]}")
    if _NETMASK in data:
        odd.append(f"netmask {data[_NETMASK][0]}")
    if (
        type_name == "bitmap:port"
        and (ports := (_U16.unpack(data[_PORT])[0], _U16.unpack(data[_PORT_TO])[0])) != _PORTS
    ):
        odd.append("range {}-{}".format(*ports))
    maxelem = _U32.unpack(data[_MAXELEM])[0] if _MAXELEM in data else _MAXELEM_DEFAULT
    return listed_spec(type_name, _FAMILIES.get(found[_FAMILY][0]), maxelem, odd)


def listed_spec(type_name: str, family: Family | None, maxelem: int, odd: Sequence[str]) -> IpsetSpec:
    """The spec of a set that was found.

    *odd* is what we never ask for but changes what the set does (a default timeout, a netmask, less than all
    ports); it is told in the type, which then is none of ours.  The hash size grows with the entries and can't be
    asked back, so it is told as the one that we make sets with.
    """
    return IpsetSpec(" ".join((type_name, *odd)), None if type_name == "bitmap:port" else family, maxelem=maxelem)


def as_listed(spec: IpsetSpec) -> IpsetSpec:
    """What a set made with *spec* reads back as."""
    return listed_spec(spec.type, spec.family, _MAXELEM_DEFAULT if spec.type == "bitmap:port" else spec.maxelem, ())


def encode_entry(entry: str, line: int) -> bytes:
    """One DATA element; *line* (from 1) is what an error names.

    Layout: IP, then PORT and PROTO, then IP2 and CIDR2, as far as *entry* has them; a bitmap's has PORT alone.
    32 bytes for hash:ip,port and 8 for the line.  Raises ValueError if *entry* is none.
    """
    first, _, rest = entry.partition(",")
    family = AF_INET6 if ":" in first else 0 if first.isdigit() else AF_INET
    packed = _packed(family, first) if family else _port(first)
    before, behind = _around_first(family, len(packed), rest)
    return before + packed + behind + _LINE.pack(line)


def encode_entries(name: str, entries: Iterable[bytes]) -> bytes:
    """The body of ADD or DELETE for as many encoded *entries* as ``parcels`` puts together."""
    # The outer LINENO only makes the kernel write the line of a refused entry into it, in the error it sends.
    return encode_named(name) + u32(_LINENO, 0) + attribute(_ADT | NESTED, b"".join(entries))


def parcels(entries: Iterable[bytes]) -> Iterator[int]:
    """How many of the encoded *entries* go into each message."""
    count = size = 0
    for entry in entries:
        if size + len(entry) > _MESSAGE_MAX:
            yield count
            count = size = 0
        count += 1
        size += len(entry)
    if count:
        yield count


def refused_line(request: bytes) -> int:
    """The line of the entry at which the kernel stopped, from the request that it sent back; 0: not told."""
    found = attributes(request, 20) if len(request) > 20 else {}
    return read_u32(found[_LINENO]) if _LINENO in found else 0


def decode_entries(body: bytes) -> Iterator[str]:
    """The entries in one message of a listing, as ``ipset save`` prints them."""
    listed = attributes(body, 4).get(_ADT, b"")
    if known := _as_always_listed(listed):
        yield from known
        return
    for _, data in elements(listed):
        yield _entry_text(attributes(data))


def _as_always_listed(listed: bytes) -> list[str]:
    """The entries of the two sorts that are many, IPv4 address and IPv4 address with port; none if there is another.

    Taken apart in one go where all headers stand as foreseen, in a fifth of the time.
    """
    if listed and len(listed) % _ADDRESS_LAYOUT.size == 0:
        headers, addresses = zip(*_ADDRESS_LAYOUT.iter_unpack(listed), strict=True)
        if set(headers) == {_BEFORE_ADDRESS[_ADDRESS_LAYOUT]}:
            return [inet_ntop(AF_INET, address) for address in addresses]
    if listed and len(listed) % _FRONT_LAYOUT.size == 0:
        headers, addresses, *rest = zip(*_FRONT_LAYOUT.iter_unpack(listed), strict=True)
        before_port, ports, before_protocol, numbers = rest
        as_foreseen = {_BEFORE_ADDRESS[_FRONT_LAYOUT]}, {_PORT_HEADER}, {_PROTO_HEADER}
        if (set(headers), set(before_port), set(before_protocol)) == as_foreseen:
            names = (f"{_protocol_name(number)}:{ntohs(port)}" for number, port in zip(numbers, ports, strict=True))
            return [f"{inet_ntop(AF_INET, address)},{name}" for address, name in zip(addresses, names, strict=True)]
    return []


def _protocol_name(number: int) -> str | int:
    return _PROTOCOL_NAMES.get(number, number)


def _entry_text(found: dict[int, bytes]) -> str:
    parts = [_address_text(found[_IP])] if _IP in found else []
    if _PORT in found:
        port = str(_U16.unpack(found[_PORT])[0])
        number = found[_PROTO][0] if _PROTO in found else 0
        parts.append(f"{_protocol_name(number)}:{port}" if _PROTO in found else port)
    if _IP2 in found:
        parts.append(_address_text(found[_IP2], found.get(_CIDR2)))
    return ",".join(parts)


@lru_cache(maxsize=1024)  # behind it nearly always a protocol and a port, of which Services have few different ones
def _around_first(family: int, size: int, rest: str) -> tuple[bytes, bytes]:
    """What of a DATA element comes before the first address (of *size* bytes), and what behind it, up to the line.

    *rest* is the text of the entry behind it; *family* is 0 where a port stands in the place of the address.
    """
    before = _ADDRESS_HEADERS[_IP, family] if family else b""
    behind = _fields(rest) + _LINE_HEADER
    return head(_DATA | NESTED, len(before) + size + len(behind) + _LINE.size) + before, behind


def _fields(text: str) -> bytes:
    """What of an entry follows its first address; *text* may be empty."""
    front, _, second = text.partition(",")
    address, _, length = second.partition("/")
    fields = _protocol_and_port(front) if front else b""
    if address:
        family = family_number(address)
        fields += _ADDRESS_HEADERS[_IP2, family] + _packed(family, address)
    return fields + (u8(_CIDR2, int(length)) if length else b"")


def _protocol_and_port(text: str) -> bytes:
    protocol, _, port = text.rpartition(":")
    number = _PROTOCOL_NUMBERS.get(protocol) or int(protocol)
    return _port(port) + _PROTO_HEADER + bytes((number, 0, 0, 0))


def _port(port: str) -> bytes:
    return _PORT_HEADER + _U16.pack(int(port)) + b"\0\0"


def _packed(family: int, address: str) -> bytes:
    try:
        return inet_pton(family, address)
    except OSError:
        raise ValueError(f"{address!r} is no address") from None


def _address_text(payload: bytes, length: bytes | None = None) -> str:
    """The address in an IP or IP2 attribute, with its prefix length unless that names one host."""
    ((kind, packed),) = elements(payload)
    address = inet_ntop(AF_INET if kind == _IPV4 else AF_INET6, packed)
    return address if length is None or length[0] == len(packed) * 8 else f"{address}/{length[0]}"


_PORT_HEADER = head(_PORT | NET_BYTE_ORDER, 2)
_PROTO_HEADER = head(_PROTO, 1)
_LINE = Struct("=I")
_LINE_HEADER = head(_LINENO, _LINE.size)
# Entries as Linux lists them: the headers of DATA, IP and IPV4, the address; then perhaps those of PORT and PROTO.
_ADDRESS_LAYOUT, _FRONT_LAYOUT = Struct("=12s4s"), Struct("=12s4s4sH2x4sB3x")
_BEFORE_ADDRESS = {
    layout: head(_DATA | NESTED, layout.size - HEADER_SIZE) + head(_IP | NESTED, 8) + head(_IPV4, 4)
    for layout in (_ADDRESS_LAYOUT, _FRONT_LAYOUT)
}
_ADDRESS_HEADERS = {
    (kind, family): head(kind | NESTED, 4 + size) + head(inner | NET_BYTE_ORDER, size)
    for kind in (_IP, _IP2)
    for family, inner, size in ((AF_INET, _IPV4, 4), (AF_INET6, _IPV6, 16))
}
