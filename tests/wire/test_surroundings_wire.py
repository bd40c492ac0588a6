"""Decoding what the kernel lists about routes, neighbours and sockets."""

import struct
from socket import AF_INET, AF_INET6, inet_pton

import pytest

from kubeproxy_py.kernel.address.neighbours import parse_neighbour
from kubeproxy_py.kernel.address.routes import parse_gateways
from kubeproxy_py.kernel.host.listening import ListeningSocket, parse_socket
from kubeproxy_py.kernel.netlink.attributes import attribute
from kubeproxy_py.model.node import Neighbour

_MAIN, _UNICAST, _BLACKHOLE = 254, 1, 6
_OIF, _GATEWAY, _MULTIPATH = 4, 5, 9


def route(family: int, *attributes: bytes, kind: int = _UNICAST) -> bytes:
    return struct.pack("=8BI", family, 0, 0, 0, _MAIN, 3, 0, kind, 0) + b"".join(attributes)


def nexthop(index: int, *attributes: bytes) -> bytes:
    content = b"".join(attributes)
    return struct.pack("=HBBi", 8 + len(content), 0, 0, index) + content


def via(address: str) -> bytes:
    return attribute(_GATEWAY, inet_pton(AF_INET6 if ":" in address else AF_INET, address))


@pytest.mark.parametrize(
    ("body", "gateways"),
    [
        (route(AF_INET, attribute(_OIF, struct.pack("=I", 2)), via("192.168.3.1")), [("192.168.3.1", 2)]),
        (route(AF_INET6, via("fd00:3::1"), attribute(_OIF, struct.pack("=I", 3))), [("fd00:3::1", 3)]),
        (route(AF_INET, attribute(_OIF, struct.pack("=I", 2))), []),
        (route(AF_INET, attribute(_OIF, struct.pack("=I", 2)), via("192.168.3.1"), kind=_BLACKHOLE), []),
        (
            route(
                AF_INET,
                attribute(_MULTIPATH, nexthop(2, via("192.168.3.1")) + nexthop(3) + nexthop(4, via("10.0.0.1"))),
            ),
            [("192.168.3.1", 2), ("10.0.0.1", 4)],
        ),
        (route(AF_INET, attribute(_MULTIPATH, b"\0" * 8)), []),  # a length that would never end
    ],
)
def test_gateways_of_all_nexthops_are_found(body: bytes, gateways: list[tuple[str, int]]) -> None:
    assert list(parse_gateways(body)) == gateways


def neighbour(state: int, *, mac: bytes = bytes.fromhex("52540000000b"), index: int = 7) -> bytes:
    header = struct.pack("=BxxxiHBB", AF_INET, index, state, 0, 0)
    return header + attribute(1, inet_pton(AF_INET, "192.168.3.11")) + (attribute(2, mac) if mac else b"")


@pytest.mark.parametrize(
    ("body", "is_found"),
    [
        *((neighbour(state), True) for state in (0x02, 0x04, 0x08, 0x10, 0x80)),  # reachable to permanent
        *((neighbour(state), False) for state in (0x00, 0x01, 0x20, 0x40)),  # none, incomplete, failed, no ARP
        (neighbour(0x02, mac=b""), False),
        (neighbour(0x02, mac=bytes(4)), False),  # of a tunnel
        (neighbour(0x02, index=8), False),
    ],
)
def test_neighbour_is_one_that_has_answered(body: bytes, is_found: bool) -> None:
    expected = Neighbour("eth0", "192.168.3.11", "52:54:00:00:00:0b") if is_found else None
    assert parse_neighbour(body, {7: "eth0"}) == expected


def diag(family: int, address: str, port: int, *attributes: bytes) -> bytes:
    packed = inet_pton(family, address).ljust(16, b"\0")
    header = struct.pack("=BBBB", family, 10, 0, 0) + port.to_bytes(2, "big") + bytes(2) + packed
    return header.ljust(72, b"\0") + b"".join(attributes)


@pytest.mark.parametrize(
    ("body", "sockets"),
    [
        (diag(AF_INET, "192.168.3.10", 22), [("IPv4", "192.168.3.10")]),
        (diag(AF_INET6, "::1", 22), [("IPv6", "::1")]),
        (diag(AF_INET6, "::", 22), [("IPv6", "::"), ("IPv4", "0.0.0.0")]),
        (diag(AF_INET6, "::", 22, attribute(11, b"\1")), [("IPv6", "::")]),
    ],
)
def test_socket_of_both_families_is_two(body: bytes, sockets: list[tuple[str, str]]) -> None:
    expected = [ListeningSocket("TCP", family, address, 22) for family, address in sockets]  # type: ignore[arg-type]
    assert list(parse_socket("TCP", body)) == expected
