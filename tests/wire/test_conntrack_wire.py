"""conntrack messages, against bytes that Linux 6.1 and 6.18 have sent."""

import sys

import pytest

from kubeproxy_py.kernel.conntrack.wire import encode_delete, encode_list, encode_list_udp, flows_in, index_servers
from kubeproxy_py.kernel.netlink.messages import message
from kubeproxy_py.model.flows import Flow
from kubeproxy_py.model.rows import VirtualServer
from kubeproxy_py.net import FAMILIES

pytestmark = pytest.mark.skipif(sys.byteorder == "big", reason="the bytes are those of little-endian hosts")

DNS, DNS_6 = VirtualServer("10.96.0.53", 53, "UDP"), VirtualServer("fd00:10:96::53", 53, "UDP")

# 192.168.3.175:5001 -> 10.96.0.53:53, replies 10.244.2.5:8080 -> 192.168.3.10:7071, as `conntrack -I` created it.
ORIGINAL = bytes.fromhex(
    "34000180 14000180 08000100c0a803af 080002000a600035"  # TUPLE_ORIG, IP, SRC, DST
    "1c000280 0500010011000000 0600020013890000 0600030000350000"  # PROTO, NUM 17, ports
)
REPLY = bytes.fromhex(
    "34000280 14000180 080001000af40205 08000200c0a8030a1c000280 0500010011000000 060002001f900000 060003001b9f0000"
)
ID, ZONE = bytes.fromhex("08000c00db26706a"), bytes.fromhex("0600120000070000")
STATUS = bytes.fromhex("0800030000000008 0800080000000000")
IPV4, IPV6 = bytes.fromhex("02000000"), bytes.fromhex("0a000000")
ENTRY = IPV4 + ORIGINAL + REPLY + STATUS + ID
ENTRY_IN_A_ZONE = IPV4 + ORIGINAL + REPLY + ZONE + STATUS + ID

ORIGINAL_6 = bytes.fromhex(
    "4c000180 2c000180 14000300fd000003000000000000000000000175 14000400fd000010009600000000000000000053"
    "1c000280 0500010011000000 0600020013890000 0600030000350000"
)
REPLY_6 = bytes.fromhex(
    "4c000280 2c000180 14000300fd000010024400020000000000000005 14000400fd000003000000000000000000000010"
    "1c000280 0500010011000000 060002001f900000 060003001b9f0000"
)
ENTRY_6 = IPV6 + ORIGINAL_6 + REPLY_6 + STATUS + ID

ICMP = IPV4 + bytes.fromhex(
    "3c000180 14000180 08000100c0a803af 080002000a600035"
    "24000280 0500010001000000 06000400004d0000 0500050008000000 0500060000000000"
)


def parsed_flows(*entries: bytes) -> list[Flow]:
    servers = {**index_servers([DNS, DNS_6], "IPv4"), **index_servers([DNS, DNS_6], "IPv6")}
    return flows_in(entries, servers)


@pytest.mark.parametrize(
    ("entry", "server", "destination"),
    [(ENTRY, DNS, ("10.244.2.5", 8080)), (ENTRY_6, DNS_6, ("fd00:10:244:2::5", 8080))],
)
def test_a_flow_has_the_virtual_server_it_was_sent_to_and_the_source_of_its_replies(
    entry: bytes, server: VirtualServer, destination: tuple[str, int]
) -> None:
    assert parsed_flows(entry) == [Flow(server, destination, entry)]


def test_a_flow_to_another_address_is_ignored() -> None:
    assert parsed_flows(ENTRY.replace(b"\x0a\x60\x00\x35", b"\x0a\x60\x00\x36")) == []


def test_a_flow_to_another_port_is_ignored() -> None:
    assert parsed_flows(ENTRY.replace(bytes.fromhex("0600030000350000"), bytes.fromhex("0600030000360000"))) == []


def test_a_tcp_connection_to_the_same_address_and_port_is_ignored() -> None:
    assert parsed_flows(ENTRY.replace(bytes.fromhex("0500010011"), bytes.fromhex("0500010006"))) == []


def test_icmp_which_has_no_ports_is_ignored() -> None:
    assert parsed_flows(ICMP) == []


def test_flows_are_found_between_other_entries() -> None:
    assert [flow.virtual_server for flow in parsed_flows(ICMP, ENTRY, ICMP, ENTRY_6)] == [DNS, DNS_6]


def test_a_tuple_with_attributes_in_another_order_is_parsed() -> None:
    reordered = ORIGINAL[:24].replace(
        bytes.fromhex("08000100c0a803af080002000a600035"), bytes.fromhex("080002000a60003508000100c0a803af")
    )
    entry = ENTRY.replace(ORIGINAL[:24], reordered)
    assert entry != ENTRY
    assert parsed_flows(entry) == [Flow(DNS, ("10.244.2.5", 8080), entry)]


def test_a_tuple_with_a_zone_is_parsed() -> None:
    # A zone of one direction is in that direction's tuple (CTA_TUPLE_ZONE).
    zoned = bytes.fromhex("3c000180") + ORIGINAL[4:] + bytes.fromhex("0600030000070000")
    entry = IPV4 + zoned + REPLY + STATUS + ID
    assert parsed_flows(entry) == [Flow(DNS, ("10.244.2.5", 8080), entry)]


def test_the_server_index_has_one_family() -> None:
    assert list(index_servers([DNS, DNS_6], "IPv6").values()) == [DNS_6]


@pytest.mark.parametrize(
    ("entry", "body"),
    [
        (ENTRY, IPV4 + ORIGINAL + ID),
        (ENTRY_IN_A_ZONE, IPV4 + ORIGINAL + ZONE + ID),
        (ENTRY_6, IPV6 + ORIGINAL_6 + ID),
    ],
    ids=["IPv4", "in a zone", "IPv6"],
)
def test_a_delete_has_the_original_tuple_the_zone_and_the_id(entry: bytes, body: bytes) -> None:
    assert encode_delete(Flow(DNS, ("10.244.2.5", 8080), entry)) == message(0x102, 0, body)


def test_encoding_a_delete_of_a_flow_without_tuple_raises() -> None:
    with pytest.raises(KeyError):  # a delete without a tuple would flush the table
        encode_delete(Flow(DNS, ("10.244.2.5", 8080), IPV4 + ID))


def test_udp_is_listed_by_a_filter_on_the_protocol_of_the_original_tuple() -> None:
    body = bytes.fromhex("02000000 10000180 0c000280 0500010011000000 0c001980 0800010008000000")
    assert encode_list_udp("IPv4") == message(0x101, 0, body)


def test_a_listing_requests_one_family() -> None:
    assert [encode_list(family) for family in FAMILIES] == [message(0x101, 0, IPV4), message(0x101, 0, IPV6)]
