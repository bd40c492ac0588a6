"""Netlink bytes as text that people can check against a header file.

Invariants:
- The first column is the complete message, byte for byte; the text after ``|`` only explains it.
- Every attribute has its own line: header (length, type with flags), payload, padding.
"""

from collections.abc import Iterator, Mapping
from struct import unpack_from

Names = Mapping[int, "str | tuple[str, Names]"]

IPVS: Names = {
    1: (
        "SERVICE",
        {
            1: "AF",
            2: "PROTOCOL",
            3: "ADDR",
            4: "PORT",
            5: "FWMARK",
            6: "SCHED_NAME",
            7: "FLAGS (flags, mask)",
            8: "TIMEOUT",
            9: "NETMASK",
            10: "STATS",
            12: "STATS64",
        },
    ),
    2: (
        "DEST",
        {
            1: "ADDR",
            2: "PORT",
            3: "FWD_METHOD",
            4: "WEIGHT",
            5: "U_THRESH",
            6: "L_THRESH",
            7: "ACTIVE_CONNS",
            8: "INACT_CONNS",
            9: "PERSIST_CONNS",
            10: "STATS",
            11: "ADDR_FAMILY",
            12: "STATS64",
            13: "TUN_TYPE",
            14: "TUN_PORT",
            15: "TUN_FLAGS",
        },
    ),
    4: "TIMEOUT_TCP",
    5: "TIMEOUT_TCP_FIN",
    6: "TIMEOUT_UDP",
}
_ADDRESS: Names = {1: "IPADDR_IPV4", 2: "IPADDR_IPV6"}
_IPSET_DATA: Names = {
    1: ("IP", _ADDRESS),
    4: "PORT",
    5: "PORT_TO",
    7: "PROTO",
    9: "LINENO",
    18: "HASHSIZE",
    19: "MAXELEM",
    20: ("IP2", _ADDRESS),
    21: "CIDR2",
}
IPSET: Names = {
    1: "PROTOCOL",
    2: "SETNAME",
    3: "TYPENAME / SETNAME2",
    4: "REVISION",
    5: "FAMILY",
    6: "FLAGS",
    7: ("DATA", _IPSET_DATA),
    8: ("ADT", {7: ("DATA", _IPSET_DATA)}),
    9: "LINENO",
}
LINK: Names = {3: "IFNAME", 18: ("LINKINFO", {1: "KIND"})}
NEIGHBOUR: Names = {1: "DST"}
ADDRESS: Names = {1: "ADDRESS", 2: "LOCAL", 6: "CACHEINFO (preferred, valid lifetime)"}

_NESTED, _TYPE_MASK = 0x8000, 0x3FFF


def annotate(body: bytes, fixed_size: int, names: Names) -> list[str]:
    """Return the lines for *body*, whose first *fixed_size* bytes are not attributes."""
    lines = [_line(body[:fixed_size], 0, "header")]
    lines += _attributes(body[fixed_size:], names, 0)
    return lines


def read_back(lines: list[str]) -> bytes:
    """Return the bytes that were passed to ``annotate``."""
    return bytes.fromhex("".join(line.split("|")[0] for line in lines))


def _attributes(data: bytes, names: Names, depth: int) -> Iterator[str]:
    offset = 0
    while offset < len(data):
        length, attr_type = unpack_from("=HH", data, offset)
        assert length >= 4, f"a damaged attribute in {data[offset:].hex()}"
        padded = data[offset : offset + ((length + 3) & ~3)]
        name = names.get(attr_type & _TYPE_MASK, f"attribute {attr_type & _TYPE_MASK}")
        if attr_type & _NESTED and isinstance(name, tuple):
            yield _line(padded[:4], depth, f"{name[0]}:")
            yield from _attributes(padded[4:], name[1], depth + 1)
        else:
            yield _line(padded, depth, name if isinstance(name, str) else name[0])
        offset += len(padded)


def _line(data: bytes, depth: int, explanation: str) -> str:
    return f"{'  ' * depth + data.hex(' ', 4):<56}| {explanation}"
