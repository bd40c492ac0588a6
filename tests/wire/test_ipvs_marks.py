"""Marks of virtual servers from bytes: equal whatever the counters and the order are."""

from socket import htons
from struct import pack

import pytest

from kubeproxy_py.kernel.ipvs.marks import Ipv6Marks, configurations, decode_configurations, ipv4_mark
from kubeproxy_py.kernel.netlink.attributes import attribute, nested, string
from kubeproxy_py.model.rows import VirtualServer, VirtualServerSpec

WEB, DNS = b"\x0a\x60\x00\x0a", b"\x0a\x60\x00\x35"


def entry(
    address: bytes = WEB,
    scheduler: bytes = b"rr",
    flags: int = 2,
    real_servers: int = 1,
    packets: int = 0,
    netmask: bytes = b"\xff\xff\xff\xff",
) -> bytes:
    """Return a struct ip_vs_service_entry."""
    configuration = pack("=H2x4sH2xI16sII4sI", 6, address, htons(80), 0, scheduler, flags, 0, netmask, real_servers)
    return pack("=48s56x", configuration)[:-8] + pack("=Q", packets)


def answer(*entries: bytes) -> bytes:
    return pack("=I4x", len(entries)) + b"".join(entries)


REST = attribute(7, bytes(8)), attribute(8, bytes(4)), attribute(9, bytes(4))  # flags, timeout, netmask


def body_key(address: int) -> tuple[bytes, ...]:
    return attribute(2, pack("=H", 6)), attribute(3, bytes(15) + bytes([address])), attribute(4, pack("=H", htons(80)))


def body(address: int, scheduler: str = "rr", packets: int = 0, family: int = 10) -> bytes:
    """Return a virtual server of a listing by netlink."""
    numbers = (
        attribute(1, pack("=H", family)),
        *body_key(address),
        string(6, scheduler),
        attribute(7, bytes(8)),
        attribute(8, bytes(4)),
        attribute(9, bytes(4)),
    )
    return bytes(4) + nested(1, *numbers, nested(10, attribute(2, pack("=Q", packets))))


@pytest.mark.parametrize(
    "other",
    [answer(entry(packets=7), entry(DNS)), answer(entry(DNS), entry())],
    ids=["other counters", "another order"],
)
def test_the_mark_does_not_depend_on_counters_and_order(other: bytes) -> None:
    assert ipv4_mark(other) == ipv4_mark(answer(entry(), entry(DNS)))


@pytest.mark.parametrize("other", [entry(scheduler=b"wlc"), entry(flags=3), entry(real_servers=2), entry(DNS)], ids=str)
def test_the_mark_changes_with_the_configuration(other: bytes) -> None:
    assert ipv4_mark(answer(other)) != ipv4_mark(answer(entry()))


def test_the_mark_counts_virtual_and_real_servers() -> None:
    mark = ipv4_mark(answer(entry(real_servers=3), entry(DNS, real_servers=4)))
    assert mark.counts == (("IPv4 virtual servers", 2), ("IPv4 real servers", 7))


def test_the_mark_of_ipv6_does_not_depend_on_counters_and_lengths_of_names_before() -> None:
    marks = Ipv6Marks()
    one, other = [body(1), body(2, "wlc"), body(3)], [body(3, packets=9), body(1, packets=8), body(2, "wlc", packets=7)]
    before = marks.mark(one)
    assert marks.mark([*other, body(4, family=2)]) == before
    assert before.counts == (("IPv6 virtual servers", 3),)
    after = marks.mark([body(1), body(2), body(3)])
    assert after.value != before.value
    assert after.changed == ((VirtualServer("::2", 80, "TCP"), VirtualServerSpec("rr", flags=0, persistence_s=0)),)


def test_configurations_are_the_rows_that_netlink_lists() -> None:
    servers = configurations(answer(entry(b"\x0a\x60\x00\x0a", b"wlc", flags=3, packets=7)))
    assert list(decode_configurations(servers)) == [
        (VirtualServer("10.96.0.10", 80, "TCP"), VirtualServerSpec("wlc", flags=1, persistence_s=0))
    ]
    servers = configurations(answer(entry(flags=3, netmask=b"\xff\xff\xff\0")))
    [(_, spec)] = decode_configurations(servers)
    assert spec == VirtualServerSpec("rr", flags=1, persistence_s=0, netmask="255.255.255.0")
