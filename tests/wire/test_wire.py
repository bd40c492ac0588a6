"""What is encoded is what is decoded, and what Linux 6.1 answered is understood."""

from ipaddress import IPv4Address, IPv6Address
from socket import AF_INET, AF_INET6, inet_pton
from struct import pack

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubeproxy_py.kernel.ipset.wire import (
    as_listed,
    decode_entries,
    decode_spec,
    encode_create,
    encode_entries,
    encode_entry,
    parcels,
    refused_line,
)
from kubeproxy_py.kernel.ipvs.decode import NOT_MASQUERADING, decode_dest, decode_service
from kubeproxy_py.kernel.netlink.attributes import attribute, attributes, big16, nest, text, u16, u32
from kubeproxy_py.model.rows import Connections, IpsetSpec, RealServer, RealServerSpec, VirtualServer, VirtualServerSpec
from kubeproxy_py.model.services import Family, Protocol
from kubeproxy_py.model.steps import Step
from tests.wire.messages import ipvs_body

V4 = st.builds(lambda n: str(IPv4Address(n)), st.integers(0, 2**32 - 1))
# As glibc prints it: an address that embeds an IPv4 one is told with dots, which Python's ipaddress doesn't.
V6 = st.builds(lambda n: str(IPv6Address(n)), st.integers(1 << 112, 2**128 - 1))
PORTS = st.integers(0, 65535)
PROTOCOLS: st.SearchStrategy[Protocol] = st.sampled_from(["TCP", "UDP", "SCTP"])
SERVERS = st.builds(VirtualServer, V4 | V6, PORTS, PROTOCOLS)
SPECS = st.builds(
    VirtualServerSpec,
    st.sampled_from(["rr", "wlc", "mh", "sh", "a-fifteen-chars"]),
    st.integers(0, 0x3F).map(lambda flags: flags & ~0x2),  # 0x2 is the kernel's own
    st.integers(0, 10**6),
)


@st.composite
def entries(draw: st.DrawFn) -> str:
    """An entry of any of our set types."""
    address = draw(addresses := draw(st.sampled_from([V4, V6])))
    port = f"{draw(st.sampled_from(['tcp', 'udp', 'sctp', '47']))}:{draw(PORTS)}"
    length = draw(st.integers(1, (128 if ":" in address else 32) - 1))
    shapes = [str(draw(PORTS)), address, f"{address},{port}", f"{address},{port},{draw(addresses)}"]
    return draw(st.sampled_from([*shapes, f"{address},{port},{draw(addresses)}/{length}"]))


@given(SERVERS, SPECS)
def test_a_virtual_server_is_read_as_written(key: VirtualServer, spec: VirtualServerSpec) -> None:
    assert decode_service(ipvs_body(Step("add", key, spec))) == (key, spec)


@given(SERVERS, SPECS)
def test_the_kernels_own_flag_is_not_told(key: VirtualServer, spec: VirtualServerSpec) -> None:
    hashed = VirtualServerSpec(spec.scheduler, spec.flags | 0x2, spec.persistence_s)
    assert decode_service(ipvs_body(Step("add", key, hashed))) == (key, spec)


@given(SERVERS, SPECS, st.binary(max_size=24))
def test_a_virtual_server_is_read_as_listed_by_linux_in_order_or_with_more_between(
    key: VirtualServer, spec: VirtualServerSpec, more: bytes
) -> None:
    family = AF_INET6 if ":" in key.address else AF_INET
    name = [
        *(u16(1, family), u16(2, {"TCP": 6, "UDP": 17, "SCTP": 132}[key.protocol])),
        *(attribute(3, inet_pton(family, key.address).ljust(16, b"\0")), big16(4, key.port)),
        text(6, spec.scheduler),
    ]
    rest = [attribute(7, pack("=II", spec.flags | 2, 0xFFFFFFFF)), u32(8, spec.persistence_s), u32(9, 0xFFFFFFFF)]
    counters = attribute(10, bytes(80))
    for fields in ([*name, *rest, counters], [*name, attribute(11, more), *rest, counters], [*rest, *name]):
        assert decode_service(b"\x01\x01\0\0" + nest(1, *fields)) == (key, spec)


def test_a_service_by_firewall_mark_is_nobodys_virtual_server() -> None:
    assert decode_service(b"\x01\x01\x00\x00" + nest(1, u32(5, 7))) is None


@given(entries())
def test_an_entry_is_read_as_written(entry: str) -> None:
    assert list(decode_entries(encode_entries("KUBE-X", [encode_entry(entry, 1)]))) == [entry]


@pytest.mark.parametrize("entry", ["", "x", "10.0.0.1,tcp", "10.0.0.1,tcp:x", "10.0.0.1,:80", "10.0.0.1,tcp:80,x/8"])
def test_what_is_no_entry_is_refused_before_it_is_sent(entry: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        encode_entry(entry, 1)


@given(st.lists(entries(), min_size=1, max_size=20))
def test_each_entry_carries_its_line(some: list[str]) -> None:
    encoded = [encode_entry(entry, line) for line, entry in enumerate(some, 1)]
    assert [int.from_bytes(data[-4:], "little") for data in encoded] == list(range(1, len(some) + 1))


@given(st.lists(st.sampled_from([40, 52, 4000]).map(bytes), max_size=6000))
def test_parcels_hold_every_entry_and_fit_a_nest(encoded: list[bytes]) -> None:
    sizes = list(parcels(encoded))
    start, lengths = 0, []
    for size in sizes:
        lengths.append(sum(map(len, encoded[start : start + size])))
        start += size
    assert (start, max(lengths, default=0) + 4 <= 0xFFFF, 0 in sizes) == (len(encoded), True, False)


def test_a_full_message_holds_some_1600_ipv4_entries() -> None:
    assert next(iter(parcels([encode_entry("10.0.0.1,tcp:80", 1)] * 5000))) == 1636


def test_the_refused_line_is_found_in_the_request_that_came_back() -> None:
    body = bytearray(encode_entries("KUBE-X", [encode_entry("10.0.0.1,tcp:80", 1)]))
    place = body.index(b"\x08\x00\x09\x00") + 4
    body[place : place + 4] = (1234).to_bytes(4, "little")  # as the kernel does
    assert refused_line(bytes(16) + bytes(body)) == 1234


@pytest.mark.parametrize("family", ["IPv4", "IPv6"])
@pytest.mark.parametrize("set_type", ["hash:ip", "hash:ip,port", "hash:ip,port,ip", "hash:ip,port,net"])
def test_a_header_is_read_as_written(family: Family, set_type: str) -> None:
    spec = IpsetSpec(set_type, family, maxelem=1234)
    assert decode_spec(encode_create("KUBE-X", spec, 6)) == spec


def test_a_hash_size_that_grew_is_no_difference() -> None:
    grown = IpsetSpec("hash:ip", "IPv4", hashsize=8192)
    assert decode_spec(encode_create("KUBE-X", grown, 6)) == as_listed(grown) == IpsetSpec("hash:ip", "IPv4")


# 11.0.0.9:8080 of a virtual server, weight 1, masquerading, as Linux 6.1 listed it; ACTIVE_CONNS made 3, INACT_CONNS 2
LISTED = bytes.fromhex(
    "05010000 7c010200 14000100 0b000009 00000000 00000000 00000000 06000200 1f900000 08000300 00000000 08000400"
    "01000000 05000d00 00000000 06000e00 00000000 06000f00 00000000 08000500 00000000 08000600 00000000 08000700"
    "03000000 08000800 02000000 08000900 00000000 06000b00 02000000 64000a00 08000100 00000000 08000200 00000000"
    "08000300 00000000 04000b00 0c000400 00000000 00000000 04000b00 0c000500 00000000 00000000 08000600 00000000"
    "08000700 00000000 08000800 00000000 08000900 00000000 08000a00 00000000 a0000c00 0c000100 00000000 00000000"
    "04000b00 0c000200 00000000 00000000 04000b00 0c000300 00000000 00000000 04000b00 0c000400 00000000 00000000"
    "04000b00 0c000500 00000000 00000000 04000b00 0c000600 00000000 00000000 04000b00 0c000700 00000000 00000000"
    "04000b00 0c000800 00000000 00000000 04000b00 0c000900 00000000 00000000 04000b00 0c000a00 00000000 00000000"
)
SERVER = VirtualServer("10.96.0.10", 80, "TCP")


def test_a_listed_real_server_is_understood() -> None:
    state = decode_dest(LISTED, SERVER)
    assert (state.key, state.spec) == (RealServer(SERVER, "11.0.0.9", 8080), RealServerSpec(1))
    assert state.connections == Connections(active=3, inactive=2)


def test_a_listing_of_another_layout_means_the_same() -> None:
    found = attributes(attributes(LISTED, 4)[2])
    without_tunnels = nest(2, *(nest(kind, data) for kind, data in found.items() if kind not in (13, 14, 15)))
    assert decode_dest(LISTED[:4] + without_tunnels, SERVER) == decode_dest(LISTED, SERVER)


def test_a_real_server_that_does_not_masquerade_is_not_as_anybody_wants_it() -> None:
    direct = LISTED.replace(bytes.fromhex("0800030000000000"), bytes.fromhex("0800030003000000"), 1)
    assert decode_dest(direct, SERVER).spec == NOT_MASQUERADING
