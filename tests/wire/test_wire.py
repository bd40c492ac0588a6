"""What is encoded is what is decoded, and what Linux 6.1 answered is understood."""

from errno import EBADMSG
from ipaddress import IPv4Address, IPv6Address
from socket import AF_INET, AF_INET6, inet_pton
from struct import pack

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubeproxy_py.kernel.errors import KernelError
from kubeproxy_py.kernel.ipset.decode import (
    as_read_back,
    decode_entries,
    decode_marked_entries,
    decode_spec,
    failed_line,
)
from kubeproxy_py.kernel.ipset.encode import batch_sizes, encode_create, encode_entries, encode_entry
from kubeproxy_py.kernel.ipvs.decode import (
    FOREIGN_FORWARDING,
    decode_all_traffic,
    decode_dest,
    decode_service,
    decode_services,
)
from kubeproxy_py.kernel.netlink.attributes import attribute, be16, nested, parse_attributes, string, u16, u32
from kubeproxy_py.model.rows import (
    FLAG_PERSISTENT,
    Connections,
    IpsetSpec,
    MarkSpec,
    RealServer,
    RealServerSpec,
    VirtualServer,
    VirtualServerSpec,
    mark_server,
)
from kubeproxy_py.model.steps import Step
from kubeproxy_py.net import FAMILIES, Family, Protocol
from tests.wire.messages import ipvs_body

V4 = st.builds(lambda n: str(IPv4Address(n)), st.integers(0, 2**32 - 1))
# Addresses that embed an IPv4 one are left out: glibc prints them with dots, Python's ipaddress does not.
V6 = st.builds(lambda n: str(IPv6Address(n)), st.integers(1 << 112, 2**128 - 1))
PORTS = st.integers(0, 65535)
PROTOCOLS: st.SearchStrategy[Protocol] = st.sampled_from(["TCP", "UDP", "SCTP"])
SERVERS = st.builds(VirtualServer, V4 | V6, PORTS, PROTOCOLS)
SPECS = st.builds(
    VirtualServerSpec,
    st.sampled_from(["rr", "wlc", "mh", "sh", "a-fifteen-chars"]),
    st.integers(0, 0x3F).map(lambda flags: flags & ~0x2),  # 0x2 is set by the kernel
    st.integers(0, 10**6),
)
NETMASKS = {AF_INET: st.sampled_from(["", "255.255.255.0", "240.0.0.0"]), AF_INET6: st.sampled_from(["", "64", "1"])}


@st.composite
def entries(draw: st.DrawFn) -> str:
    """An entry of any of our set types."""
    address = draw(addresses := draw(st.sampled_from([V4, V6])))
    port = f"{draw(st.sampled_from(['tcp', 'udp', 'sctp', '47']))}:{draw(PORTS)}"
    length = draw(st.integers(1, (128 if ":" in address else 32) - 1))
    shapes = [str(draw(PORTS)), address, f"{address},{port}", f"{address},{port},{draw(addresses)}"]
    return draw(st.sampled_from([*shapes, f"{address},{port},{draw(addresses)}/{length}"]))


@given(SERVERS, SPECS)
def test_a_virtual_server_decodes_to_what_was_encoded(key: VirtualServer, spec: VirtualServerSpec) -> None:
    assert decode_service(ipvs_body(Step("add", key, spec))) == (key, spec)


@given(SERVERS, SPECS, st.data())
def test_a_netmask_decodes_to_what_was_encoded(
    key: VirtualServer, spec: VirtualServerSpec, data: st.DataObject
) -> None:
    netmask = data.draw(NETMASKS[AF_INET6 if ":" in key.address else AF_INET])
    masked = VirtualServerSpec(spec.scheduler, spec.flags | FLAG_PERSISTENT, 600, netmask)
    assert decode_service(ipvs_body(Step("add", key, masked))) == (key, masked)


MARK_SERVERS = st.builds(mark_server, st.sampled_from(FAMILIES), st.integers(1, 2**32 - 1))


@given(MARK_SERVERS, SPECS)
def test_a_virtual_server_by_mark_decodes_to_what_was_encoded_if_asked_for(
    key: VirtualServer, spec: VirtualServerSpec
) -> None:
    body = ipvs_body(Step("add", key, spec))
    assert decode_service(body, marks=True) == (key, spec)
    assert decode_service(body) is None


@given(SERVERS, SPECS)
def test_the_hashed_flag_of_the_kernel_is_ignored(key: VirtualServer, spec: VirtualServerSpec) -> None:
    hashed = VirtualServerSpec(spec.scheduler, spec.flags | 0x2, spec.persistence_s)
    assert decode_service(ipvs_body(Step("add", key, hashed))) == (key, spec)


@given(SERVERS, SPECS, st.binary(max_size=24))
def test_a_virtual_server_decodes_in_the_usual_layout_and_in_others(
    key: VirtualServer, spec: VirtualServerSpec, extra: bytes
) -> None:
    family = AF_INET6 if ":" in key.address else AF_INET
    identity = [
        *(u16(1, family), u16(2, {"TCP": 6, "UDP": 17, "SCTP": 132}[key.protocol])),
        *(attribute(3, inet_pton(family, key.address).ljust(16, b"\0")), be16(4, key.port)),
        string(6, spec.scheduler),
    ]
    spec_attributes = [
        attribute(7, pack("=II", spec.flags | 2, 0xFFFFFFFF)),
        u32(8, spec.persistence_s),
        u32(9, 128 if family == AF_INET6 else 0xFFFFFFFF),
    ]
    counters = attribute(10, bytes(80))
    for fields in (
        [*identity, *spec_attributes, counters],
        [*identity, attribute(11, extra), *spec_attributes, counters],
        [*spec_attributes, *identity],
    ):
        assert decode_service(b"\x01\x01\0\0" + nested(1, *fields)) == (key, spec)


def test_a_service_by_firewall_mark_is_ignored() -> None:
    assert decode_service(b"\x01\x01\x00\x00" + nested(1, u32(5, 7))) is None


@given(SERVERS, SPECS)
def test_a_service_of_a_protocol_that_no_service_has_is_ignored(key: VirtualServer, spec: VirtualServerSpec) -> None:
    usual = ipvs_body(Step("add", key, spec))
    number = {"TCP": 6, "UDP": 17, "SCTP": 132}[key.protocol]
    esp = usual.replace(u16(2, number), u16(2, 50), 1)
    assert decode_services([usual, esp]) == {key: spec}
    assert list(decode_all_traffic([usual, esp])) == [key]


@pytest.mark.parametrize(
    ("address", "usual", "other", "text"),
    [
        ("10.96.0.10", b"\xff\xff\xff\xff", b"\xff\xff\0\0", "255.255.0.0"),
        ("fd00::10", pack("=I", 128), pack("=I", 64), "64"),
    ],
)
@pytest.mark.parametrize("end", [b"", u16(99, 1)], ids=["usual layout", "another"])
def test_netmask_of_clients_that_share_a_real_server_is_in_the_spec(
    address: str, usual: bytes, other: bytes, text: str, end: bytes
) -> None:
    def decoded(spec: VirtualServerSpec, netmask: bytes) -> VirtualServerSpec:
        body = ipvs_body(Step("add", VirtualServer(address, 80, "TCP"), spec))
        start, attributes = body[:4], parse_attributes(body[4:])[1]
        service = decode_service(start + nested(1, attributes[: -len(netmask)], netmask, end))
        assert service
        return service[1]

    persistent, plain = VirtualServerSpec("rr", 1, 10800), VirtualServerSpec("rr")
    assert decoded(persistent, usual) == persistent
    assert decoded(persistent, other) == VirtualServerSpec("rr", 1, 10800, text) != persistent
    assert str(decoded(persistent, other)) == f"rr persistent 10800 netmask {text}"
    assert decoded(plain, other) == plain  # it has no effect


@pytest.mark.parametrize("size", range(0, 60, 4))
def test_a_listing_of_which_a_part_is_missing_is_an_error(size: int) -> None:
    complete = ipvs_body(Step("add", VirtualServer("10.96.0.10", 80, "TCP"), VirtualServerSpec()))
    with pytest.raises(KernelError, match="a listing of virtual servers cannot be decoded") as caught:
        decode_services([complete, complete[:size]])
    assert caught.value.errno == EBADMSG


@given(entries())
def test_an_ipset_entry_decodes_to_what_was_encoded(entry: str) -> None:
    assert list(decode_entries(encode_entries("KUBE-X", [encode_entry(entry, 1)]))) == [entry]


@given(entries(), st.builds(MarkSpec, st.integers(1, 2**32 - 1), st.integers(1, 2**32 - 1)))
def test_an_ipset_entry_with_a_mark_decodes_to_what_was_encoded(entry: str, mark: MarkSpec) -> None:
    body = encode_entries("KUBE-X", [encode_entry(entry, 1, mark), encode_entry(entry, 2)])
    assert list(decode_marked_entries(body)) == [(entry, mark), (entry, None)]


@pytest.mark.parametrize("entry", ["", "x", "10.0.0.1,tcp", "10.0.0.1,tcp:x", "10.0.0.1,:80", "10.0.0.1,tcp:80,x/8"])
def test_encoding_a_malformed_ipset_entry_raises(entry: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        encode_entry(entry, 1)


@given(st.lists(entries(), min_size=1, max_size=20))
def test_each_ipset_entry_has_its_line(texts: list[str]) -> None:
    encoded = [encode_entry(entry, line) for line, entry in enumerate(texts, 1)]
    assert [int.from_bytes(data[-4:], "little") for data in encoded] == list(range(1, len(texts) + 1))


@given(st.lists(st.sampled_from([40, 52, 4000]).map(bytes), max_size=6000))
def test_batch_sizes_cover_every_entry_and_fit_a_nested_attribute(encoded: list[bytes]) -> None:
    sizes = list(batch_sizes(encoded))
    start, lengths = 0, []
    for size in sizes:
        lengths.append(sum(map(len, encoded[start : start + size])))
        start += size
    assert (start, max(lengths, default=0) + 4 <= 0xFFFF, 0 in sizes) == (len(encoded), True, False)


def test_a_full_ipset_message_has_some_1600_ipv4_entries() -> None:
    assert next(iter(batch_sizes([encode_entry("10.0.0.1,tcp:80", 1)] * 5000))) == 1636


def test_the_failed_line_is_read_from_the_request_in_the_error() -> None:
    body = bytearray(encode_entries("KUBE-X", [encode_entry("10.0.0.1,tcp:80", 1)]))
    offset = body.index(b"\x08\x00\x09\x00") + 4
    body[offset : offset + 4] = (1234).to_bytes(4, "little")  # as the kernel does
    assert failed_line(bytes(16) + bytes(body)) == 1234


@pytest.mark.parametrize("family", ["IPv4", "IPv6"])
@pytest.mark.parametrize("set_type", ["hash:ip", "hash:ip,port", "hash:ip,port,ip", "hash:ip,port,net"])
def test_a_set_header_decodes_to_what_was_encoded(family: Family, set_type: str) -> None:
    spec = IpsetSpec(set_type, family, maxelem=1234)
    assert decode_spec(encode_create("KUBE-X", spec, 6)) == spec


def test_a_hash_size_that_grew_is_ignored() -> None:
    grown = IpsetSpec("hash:ip", "IPv4", hashsize=8192)
    assert decode_spec(encode_create("KUBE-X", grown, 6)) == as_read_back(grown) == IpsetSpec("hash:ip", "IPv4")


# 11.0.0.9:8080 of a virtual server, weight 1, masquerading, as Linux 6.1 listed it;
# ACTIVE_CONNS was changed to 3, INACT_CONNS to 2
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


def test_a_real_server_decodes_as_linux_lists_it() -> None:
    state = decode_dest(LISTED, SERVER)
    assert (state.key, state.spec) == (RealServer(SERVER, "11.0.0.9", 8080), RealServerSpec(1))
    assert state.connections == Connections(active=3, inactive=2)


@given(SERVERS, st.integers(0, 65535), st.integers(0, 2**31 - 1), st.integers(0, 2**31 - 1))
def test_a_real_server_decodes_to_what_was_encoded(server: VirtualServer, weight: int, upper: int, lower: int) -> None:
    key, spec = RealServer(server, "10.244.1.5", 8080), RealServerSpec(weight, upper, lower)
    dest = parse_attributes(parse_attributes(ipvs_body(Step("add", key, spec)), 4)[2])
    listed = {**dest, 1: dest[1].ljust(16, b"\0"), 7: bytes(4), 8: bytes(4), 9: bytes(4), 11: pack("=H", AF_INET)}
    body = bytes(4) + nested(2, *(attribute(kind, data) for kind, data in listed.items()))
    assert decode_dest(body, server).spec == spec


def test_thresholds_are_decoded_as_linux_lists_them() -> None:
    limited = LISTED.replace(bytes.fromhex("08000500000000000800060000000000"), u32(5, 100) + u32(6, 90))
    assert limited != LISTED
    assert decode_dest(limited, SERVER).spec == RealServerSpec(1, 100, 90)
    assert str(decode_dest(limited, SERVER).spec) == "weight 1 connections 100, again below 90"


def test_a_real_server_decodes_in_another_layout() -> None:
    attrs = parse_attributes(parse_attributes(LISTED, 4)[2])
    without_tunnels = nested(2, *(nested(kind, data) for kind, data in attrs.items() if kind not in (13, 14, 15)))
    assert decode_dest(LISTED[:4] + without_tunnels, SERVER) == decode_dest(LISTED, SERVER)


def test_a_real_server_that_does_not_masquerade_has_a_spec_that_is_never_desired() -> None:
    direct = LISTED.replace(bytes.fromhex("0800030000000000"), bytes.fromhex("0800030003000000"), 1)
    assert decode_dest(direct, SERVER).spec == FOREIGN_FORWARDING
