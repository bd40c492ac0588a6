"""Who this node is: its IPs, where its NodePorts answer, and how its own pods are told from others."""

from typing import Any

import pytest

from kubeproxy_py.compile.node_context import Host, NodeContext, make_node_context, node_ips
from kubeproxy_py.model.node import HostAddress, Node
from kubeproxy_py.model.services import Family
from tests.config.build import from_file

ADDRESSES = tuple(
    HostAddress(interface, address)
    for interface, address in (
        ("lo", "127.0.0.1"),
        ("lo", "::1"),
        ("lo", "203.0.113.1"),
        ("eth0", "192.168.3.10"),
        ("eth0", "fd00:3::10"),
        ("eth0", "fe80::1"),
        ("eth1", "172.16.5.10"),
        ("kube-ipvs0", "10.96.0.10"),
    )
)
EVERY_ADDRESS = ("203.0.113.1", "192.168.3.10", "172.16.5.10")
NODE = Node("node-a", addresses=("192.168.3.10", "fd00:3::10"), pod_cidrs=("10.244.1.0/24", "fd00:10:244:1::/64"))


def made(node: Node | None = NODE, **fields: Any) -> NodeContext:
    config = from_file({key.replace("__", "."): value for key, value in fields.items()}).config
    return make_node_context(config, Host("node-a"), node, ADDRESSES)


def node_at(*addresses: str) -> Node:
    return Node("node-a", addresses=addresses)


@pytest.mark.parametrize(
    ("bind_address", "node", "ipv4", "ipv6"),
    [
        ("0.0.0.0", None, "127.0.0.1", "::1"),
        ("0.0.0.0", node_at(), "127.0.0.1", "::1"),
        ("0.0.0.0", node_at("192.168.3.10"), "192.168.3.10", "::1"),
        ("0.0.0.0", node_at("192.168.3.10", "192.168.3.99", "fd00:3::10", "fd00::9"), "192.168.3.10", "fd00:3::10"),
        ("::", node_at("fd00:3::10", "192.168.3.10"), "192.168.3.10", "fd00:3::10"),
        ("172.16.5.10", node_at("192.168.3.10", "fd00:3::10"), "172.16.5.10", "fd00:3::10"),
        ("fd00:5::10", node_at("192.168.3.10"), "192.168.3.10", "fd00:5::10"),
        ("172.16.5.10", None, "172.16.5.10", "::1"),
    ],
)
def test_the_node_s_ip_is_bind_address_else_the_node_s_first_else_loopback(
    bind_address: str, node: Node | None, ipv4: str, ipv6: str
) -> None:
    assert node_ips(bind_address, node) == {"IPv4": ipv4, "IPv6": ipv6}


def test_without_a_node_there_is_no_zone_and_the_name_is_the_host_s() -> None:
    site = made(node=None)
    assert (site.node_name, site.zone) == ("node-a", "")


def test_foreign_addresses_are_those_of_all_interfaces_but_ours_loopback_and_link_local_left_out() -> None:
    assert made().foreign_addresses == {"IPv4": frozenset(EVERY_ADDRESS), "IPv6": frozenset({"fd00:3::10"})}


@pytest.mark.parametrize(
    ("configured", "ipv4", "ipv6"),
    [
        ([], EVERY_ADDRESS, ("fd00:3::10",)),
        (["all"], EVERY_ADDRESS, ("fd00:3::10",)),
        (["0.0.0.0/0"], EVERY_ADDRESS, ("fd00:3::10",)),
        (["10.96.0.0/12", "::/0"], (), ("fd00:3::10",)),
        (["172.16.5.0/24"], ("172.16.5.10",), ("fd00:3::10",)),
        (["0.0.0.0/1", "fe80::/10"], (), ("fe80::1",)),
        (["primary"], ("192.168.3.10",), ("fd00:3::10",)),
        (["primary", "172.16.5.0/24"], ("192.168.3.10", "172.16.5.10"), ("fd00:3::10",)),
        (["localhost"], (), ()),
        (["127.0.0.0/8"], (), ("fd00:3::10",)),
        (["localhost", "primary"], ("192.168.3.10",), ("fd00:3::10",)),
        (["localhost", "172.16.5.10/32"], ("172.16.5.10",), ()),
    ],
)
def test_where_node_ports_answer(configured: list[str], ipv4: tuple[str, ...], ipv6: tuple[str, ...]) -> None:
    assert made(nodePortAddresses=configured).node_port_addresses == {"IPv4": ipv4, "IPv6": ipv6}


def test_primary_is_the_bind_address_if_that_names_one() -> None:
    site = made(nodePortAddresses=["primary"], bindAddress="172.16.5.10")
    assert site.node_port_addresses == {"IPv4": ("172.16.5.10",), "IPv6": ("fd00:3::10",)}


def test_primary_means_all_addresses_while_none_is_known() -> None:
    site = made(node=None, nodePortAddresses=["primary"])
    assert site.node_port_addresses == {"IPv4": EVERY_ADDRESS, "IPv6": ("fd00:3::10",)}


@pytest.mark.parametrize(
    ("fields", "matches"),
    [
        ({}, {}),
        ({"clusterCIDR": "10.244.0.0/16"}, {"IPv4": "! -s 10.244.0.0/16"}),
        ({"clusterCIDR": "fd00::/48,10.1.0.0/16"}, {"IPv4": "! -s 10.1.0.0/16", "IPv6": "! -s fd00::/48"}),
        (
            {"detectLocalMode": "NodeCIDR", "clusterCIDR": "10.1.0.0/16"},
            {"IPv4": "! -s 10.244.1.0/24", "IPv6": "! -s fd00:10:244:1::/64"},
        ),
        (
            {"detectLocalMode": "BridgeInterface", "detectLocal__bridgeInterface": "cni0"},
            {"IPv4": "! -i cni0", "IPv6": "! -i cni0"},
        ),
        (
            {"detectLocalMode": "InterfaceNamePrefix", "detectLocal__interfaceNamePrefix": "veth"},
            {"IPv4": "! -i veth+", "IPv6": "! -i veth+"},
        ),
    ],
)
def test_how_packets_that_no_pod_of_this_node_sent_are_known(
    fields: dict[str, Any], matches: dict[Family, str]
) -> None:
    assert made(**fields).not_local == matches


def test_pod_networks_that_are_not_known_yet_are_no_way_to_tell() -> None:
    assert made(node=node_at(), detectLocalMode="NodeCIDR").not_local == {}
