"""ipset replies: set headers, entries and errors from bytes.

An entry's text is the one that ``ipset save`` prints; decoding an encoded entry returns its text.

A reply that cannot be decoded is a KernelError as a whole: what was left out would look like what is missing.

Source: as encode.py.
"""

from collections.abc import Iterator, Sequence
from functools import partial
from socket import inet_ntop, ntohs
from struct import Struct

from kubeproxy_py.kernel.errors import decoding
from kubeproxy_py.kernel.ipset.constants import (
    ATTR_ADT,
    ATTR_CADT_FLAGS,
    ATTR_CIDR2,
    ATTR_DATA,
    ATTR_ELEMENTS,
    ATTR_FAMILY,
    ATTR_IP,
    ATTR_IP2,
    ATTR_IPADDR_IPV4,
    ATTR_LINENO,
    ATTR_MAXELEM,
    ATTR_NETMASK,
    ATTR_PORT,
    ATTR_PORT_TO,
    ATTR_PROTO,
    ATTR_REVISION,
    ATTR_REVISION_MIN,
    ATTR_SETNAME,
    ATTR_SKBMARK,
    ATTR_TIMEOUT,
    ATTR_TYPENAME,
    ENTRY_PROTOCOL_NAMES,
    ENTRY_TYPES,
    FLAG_WITH_SKBINFO,
    PORT_RANGE,
    SKBINFO,
)
from kubeproxy_py.kernel.netlink.attributes import (
    HEADER_SIZE,
    NESTED,
    NET_BYTE_ORDER,
    attr_header,
    iter_attributes,
    parse_attributes,
    read_string,
    read_u32,
)
from kubeproxy_py.kernel.netlink.families import AF_INET, AF_INET6, AF_NUMBERS
from kubeproxy_py.model.kube_names import POLICY_SETS, entry_key
from kubeproxy_py.model.rows import Ipset, IpsetEntry, IpsetSpec, MarkSpec, Rows
from kubeproxy_py.net import Family

_NFGENMSG_SIZE = 4  # family, version, resource (2 bytes)
_ERROR_ATTRIBUTES_OFFSET = 16 + _NFGENMSG_SIZE  # after the nlmsghdr of the request that an error repeats
_FAMILIES: dict[int, Family] = {number: family for family, number in AF_NUMBERS.items()}
_MAXELEM_DEFAULT = IpsetSpec("", None).maxelem

_U16 = Struct(">H")
_U32 = Struct(">I")
_MARK = Struct(">II")  # mark, mask

# Entries as Linux lists them: the headers of DATA, IP and IPV4, the address; then, with a port, PORT and PROTO.
_IP_LAYOUT, _IP_PORT_LAYOUT = Struct("=12s4s"), Struct("=12s4s4sH2x4sB3x")
_HEADERS_BEFORE_ADDRESS = {
    layout: attr_header(ATTR_DATA | NESTED, layout.size - HEADER_SIZE)
    + attr_header(ATTR_IP | NESTED, 8)
    + attr_header(ATTR_IPADDR_IPV4, 4)
    for layout in (_IP_LAYOUT, _IP_PORT_LAYOUT)
}
_PORT_HEADER = attr_header(ATTR_PORT | NET_BYTE_ORDER, 2)
_PROTO_HEADER = attr_header(ATTR_PROTO, 1)


def decode_revisions(body: bytes) -> range:
    """Return the revisions of the type in the reply to TYPE that the kernel supports, at least one.

    Raises KernelError.
    """
    attrs = parse_attributes(body, _NFGENMSG_SIZE)
    with decoding("the revisions of a set type"):
        highest = attrs[ATTR_REVISION][0]
        lowest = attrs[ATTR_REVISION_MIN][0] if ATTR_REVISION_MIN in attrs else highest
        if lowest > highest:
            raise ValueError(f"{lowest} to {highest}")
    return range(lowest, highest + 1)


def decode_set(name: str, bodies: Sequence[bytes]) -> Rows:
    """Return the set *name* from its listing, with its entries if we create sets of its type.  Raises KernelError."""
    if not bodies:
        return {}
    with decoding(f"the listing of the set {name}"):
        spec = decode_spec(bodies[0])
        rows: Rows = {Ipset(name): spec}
        if spec.type in ENTRY_TYPES:
            if spec.type.endswith(SKBINFO):
                marked = (item for body in bodies for item in decode_marked_entries(body))
                rows.update((entry_key(name, entry), mark) for entry, mark in marked)
            else:
                new_key = partial(entry_key if name in POLICY_SETS else IpsetEntry, name)
                rows.update((new_key(entry), None) for body in bodies for entry in decode_entries(body))
    return rows


def decode_header(bodies: Sequence[bytes]) -> IpsetSpec | None:
    """Return the header of a set from its listing; None if it does not exist.  Raises KernelError."""
    with decoding("the header of a set"):
        return decode_spec(bodies[0]) if bodies else None


def decode_spec(body: bytes) -> IpsetSpec:
    """Return the header of a set, from the first message of its listing.  Raises one of MALFORMED."""
    attrs = parse_attributes(body, _NFGENMSG_SIZE)
    data = parse_attributes(attrs[ATTR_DATA])
    type_name = read_string(attrs[ATTR_TYPENAME])
    deviations = []
    if ATTR_TIMEOUT in data:
        deviations.append(f"timeout {_U32.unpack(data[ATTR_TIMEOUT])[0]}")
    if ATTR_NETMASK in data:
        deviations.append(f"netmask {data[ATTR_NETMASK][0]}")
    if type_name == "bitmap:port":
        ports = (_U16.unpack(data[ATTR_PORT])[0], _U16.unpack(data[ATTR_PORT_TO])[0])
        if ports != PORT_RANGE:
            deviations.append("range {}-{}".format(*ports))
    if ATTR_CADT_FLAGS in data and _U32.unpack(data[ATTR_CADT_FLAGS])[0] & FLAG_WITH_SKBINFO:
        deviations.append(SKBINFO)
    maxelem = _U32.unpack(data[ATTR_MAXELEM])[0] if ATTR_MAXELEM in data else _MAXELEM_DEFAULT
    return spec_as_read(type_name, _FAMILIES.get(attrs[ATTR_FAMILY][0]), maxelem, deviations)


def decode_set_name(body: bytes) -> str:
    """Return the name of a set, from a message of its listing."""
    return read_string(parse_attributes(body, _NFGENMSG_SIZE)[ATTR_SETNAME])


def decode_element_count(body: bytes) -> int | None:
    """Return the number of entries of a set, from the first message of its listing; None before Linux 4.10."""
    count = parse_attributes(parse_attributes(body, _NFGENMSG_SIZE)[ATTR_DATA]).get(ATTR_ELEMENTS)
    return None if count is None else int(_U32.unpack(count)[0])


def spec_as_read(type_name: str, family: Family | None, maxelem: int, deviations: Sequence[str]) -> IpsetSpec:
    """Return the spec of a set that was read.

    The hash size grows with the entries and its initial value cannot be read, so the spec has the default.

    Args:
        type_name: The set type.
        family: Of its entries.
        maxelem: Its capacity.
        deviations: Options that are never desired and change what the set does (a default timeout, a netmask, less
            than all ports), or of one set of ours only (marks); they become part of the type.
    """
    is_bitmap = type_name == "bitmap:port"
    return IpsetSpec(" ".join((type_name, *deviations)), None if is_bitmap else family, maxelem=maxelem)


def as_read_back(spec: IpsetSpec) -> IpsetSpec:
    """Return what a set created with *spec* reads back as."""
    return spec_as_read(spec.type, spec.family, _MAXELEM_DEFAULT if spec.type == "bitmap:port" else spec.maxelem, ())


def failed_line(request: bytes) -> int:
    """Return the line of the entry at which the kernel stopped, from the *request* in its error; 0 if missing."""
    attrs = parse_attributes(request, _ERROR_ATTRIBUTES_OFFSET) if len(request) > _ERROR_ATTRIBUTES_OFFSET else {}
    line = attrs.get(ATTR_LINENO, b"")
    return read_u32(line) if len(line) == _U32.size else 0


def decode_entries(body: bytes) -> Iterator[str]:
    """Yield the entries in one message of a listing, as ``ipset save`` prints them.  Raises one of MALFORMED."""
    listed = parse_attributes(body, _NFGENMSG_SIZE).get(ATTR_ADT, b"")
    if entries := _decode_ipv4_entries(listed):
        yield from entries
        return
    for _, data in iter_attributes(listed):
        yield _entry_text(parse_attributes(data))


def decode_marked_entries(body: bytes) -> Iterator[tuple[str, MarkSpec | None]]:
    """Yield the entries in one message of a listing as ``decode_entries``, each with its mark.

    Raises one of MALFORMED.
    """
    listed = parse_attributes(body, _NFGENMSG_SIZE).get(ATTR_ADT, b"")
    for _, data in iter_attributes(listed):
        attrs = parse_attributes(data)
        mark = MarkSpec(*_MARK.unpack(attrs[ATTR_SKBMARK])) if ATTR_SKBMARK in attrs else None
        yield _entry_text(attrs), mark


def _decode_ipv4_entries(listed: bytes) -> list[str]:
    """Return the entries if all are IPv4 addresses, or all are IPv4 addresses with a port; else nothing.

    Nearly all entries are.  Unpacking all in one step, where all headers have the expected values, takes a fifth of the
    time.
    """
    if listed and len(listed) % _IP_LAYOUT.size == 0:
        headers, addresses = zip(*_IP_LAYOUT.iter_unpack(listed), strict=True)
        if set(headers) == {_HEADERS_BEFORE_ADDRESS[_IP_LAYOUT]}:
            return [inet_ntop(AF_INET, address) for address in addresses]
    if listed and len(listed) % _IP_PORT_LAYOUT.size == 0:
        unpacked = zip(*_IP_PORT_LAYOUT.iter_unpack(listed), strict=True)
        headers, addresses, port_headers, ports, proto_headers, numbers = unpacked
        expected = {_HEADERS_BEFORE_ADDRESS[_IP_PORT_LAYOUT]}, {_PORT_HEADER}, {_PROTO_HEADER}
        if (set(headers), set(port_headers), set(proto_headers)) == expected:
            texts = (f"{_protocol_text(number)}:{ntohs(port)}" for number, port in zip(numbers, ports, strict=True))
            return [f"{inet_ntop(AF_INET, address)},{text}" for address, text in zip(addresses, texts, strict=True)]
    return []


def _entry_text(attrs: dict[int, bytes]) -> str:
    texts = [_address_text(attrs[ATTR_IP])] if ATTR_IP in attrs else []
    if ATTR_PORT in attrs:
        port = str(_U16.unpack(attrs[ATTR_PORT])[0])
        texts.append(f"{_protocol_text(attrs[ATTR_PROTO][0])}:{port}" if ATTR_PROTO in attrs else port)
    if ATTR_IP2 in attrs:
        texts.append(_address_text(attrs[ATTR_IP2], attrs.get(ATTR_CIDR2)))
    return ",".join(texts)


def _protocol_text(number: int) -> str | int:
    return ENTRY_PROTOCOL_NAMES.get(number, number)


def _address_text(payload: bytes, prefix_length: bytes | None = None) -> str:
    """Return the address in an IP or IP2 attribute, with its prefix length unless that is a single host's."""
    ((attr_type, packed),) = iter_attributes(payload)
    address = inet_ntop(AF_INET if attr_type == ATTR_IPADDR_IPV4 else AF_INET6, packed)
    if prefix_length is None or prefix_length[0] == len(packed) * 8:
        return address
    return f"{address}/{prefix_length[0]}"
