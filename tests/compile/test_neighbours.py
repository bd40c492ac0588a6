"""Which addresses that neighbours answer for are their own."""

from collections.abc import Collection

import pytest

from kubeproxy_py.compile.neighbours import find_owners, interfaces_to, own_networks
from kubeproxy_py.model.node import HostAddress, Neighbour

VIP, VIP_6 = "192.168.3.200", "fd00:3::200"
NODE, OTHER_NODE = "52:54:00:00:00:0b", "52:54:00:00:00:0c"
VRRP, VRRP_6 = "00:00:5e:00:01:07", "00:00:5e:00:02:07"


def on_link(*pairs: str, interface: str = "eth0") -> list[Neighbour]:
    """Return neighbours from ``address mac``."""
    return [Neighbour(interface, *pair.split()) for pair in pairs]


@pytest.mark.parametrize(
    ("neighbours", "asked", "known", "owned"),
    [
        pytest.param([], [VIP], [], [], id="nobody answers"),
        pytest.param([f"{VIP} {NODE}"], [VIP], [], [VIP], id="a machine that has no other address"),
        pytest.param([f"{VIP_6} {NODE}"], [VIP_6], [], [VIP_6], id="the same in IPv6"),
        pytest.param([f"{VIP} {VRRP}"], [VIP], [], [], id="keepalived with a virtual MAC address"),
        pytest.param([f"{VIP_6} {VRRP_6}"], [VIP_6], [], [], id="the same in IPv6"),
        pytest.param([f"{VIP} {NODE}", f"192.168.3.11 {NODE}"], [VIP], [], [], id="MetalLB on a node"),
        pytest.param([f"{VIP_6} {NODE}", f"fd00:3::11 {NODE}"], [VIP_6], [], [], id="the same in IPv6"),
        pytest.param(
            [f"{VIP_6} {NODE}", f"fe80::11 {NODE}"], [VIP_6], [], [VIP_6], id="a link-local address is no other address"
        ),
        pytest.param([f"{VIP} {NODE}", f"fd00:3::11 {NODE}"], [VIP], [], [VIP], id="nor is one of the other family"),
        pytest.param(
            [f"{VIP} {NODE}", f"192.168.3.11 {NODE}"],
            [VIP, "192.168.3.11"],
            [],
            [VIP, "192.168.3.11"],
            id="two addresses of one machine that Services ask for",
        ),
        pytest.param(
            [f"{VIP} {NODE}", f"192.168.3.11 {NODE}"],
            [VIP, "192.168.3.11"],
            ["192.168.3.11"],
            ["192.168.3.11"],
            id="one of them is known to be the machine's, so it announces the other",
        ),
        pytest.param(
            [f"{VIP} {NODE}", f"192.168.3.12 {OTHER_NODE}"], [VIP], [], [VIP], id="another machine is no matter"
        ),
        pytest.param(
            [f"192.168.3.{number} {NODE}" for number in (1, 30, 31, 200)], [VIP], [], [], id="a router with proxy ARP"
        ),
        pytest.param([f"192.168.3.201 {NODE}"], [VIP], [], [], id="an answer for something else"),
    ],
)
def test_answer_decides_whether_an_address_is_a_machine_s_own(
    neighbours: list[str], asked: Collection[str], known: Collection[str], owned: list[str]
) -> None:
    found = find_owners(asked, on_link(*neighbours), known)
    assert sorted(found) == sorted(owned)
    assert {neighbour.address for neighbour in found.values()} == set(owned)


def test_addresses_on_another_link_say_nothing_about_a_mac_address() -> None:
    neighbours = on_link(f"{VIP} {NODE}") + on_link(f"192.168.3.11 {NODE}", interface="eth1")
    assert list(find_owners([VIP], neighbours)) == [VIP]


@pytest.mark.parametrize(
    ("address", "interfaces"),
    [
        ("192.168.3.200", ("eth0", "bond0")),
        ("172.16.5.1", ("eth1",)),
        ("fd00:3::200", ("eth0",)),
        ("10.96.0.10", ()),
        ("192.0.2.7", ()),
        ("fe80::200", ()),
        ("127.0.0.2", ()),
    ],
)
def test_address_is_asked_for_on_the_interfaces_of_its_network(address: str, interfaces: tuple[str, ...]) -> None:
    networks = own_networks(
        (
            HostAddress("eth0", "192.168.3.10", 24),
            HostAddress("bond0", "192.168.3.12", 24),
            HostAddress("eth1", "172.16.5.10", 24),
            HostAddress("eth0", "fd00:3::10", 64),
            HostAddress("eth0", "fe80::10", 64),
            HostAddress("eth0", "192.0.2.7", 32),
            HostAddress("lo", "127.0.0.1", 8),
            HostAddress("lo", "10.96.0.1", 12),
            HostAddress("kube-ipvs0", "10.96.0.10", 24),
            HostAddress("eth2", "203.0.113.1", 0),
        )
    )
    assert interfaces_to(address, networks) == interfaces
