"""make_node_context: node IPs, addresses of NodePorts, and the match for packets not sent by local pods."""

from typing import Any

import pytest

from kubeproxy_py.compile.config_warnings import service_network_warnings
from kubeproxy_py.compile.node_context import NodeContext, make_node_context, node_ips
from kubeproxy_py.config.types import AgentSettings
from kubeproxy_py.model.host import HostInfo
from kubeproxy_py.model.node import HostAddress, Node
from kubeproxy_py.model.policy_marks import MarkRange
from kubeproxy_py.model.rows import LoopbackSpec
from kubeproxy_py.net import FAMILIES, LOOPBACK_IP, Family
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
ALL_ADDRESSES = ("203.0.113.1", "192.168.3.10", "172.16.5.10")
NODE = Node("node-a", addresses=("192.168.3.10", "fd00:3::10"), pod_cidrs=("10.244.1.0/24", "fd00:10:244:1::/64"))


def context(node: Node | None = NODE, **fields: Any) -> NodeContext:
    config = from_file({key.replace("__", "."): value for key, value in fields.items()}).config
    return make_node_context(config, HostInfo("node-a"), node, ADDRESSES)


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
def test_node_ip_is_bind_address_else_first_node_address_else_loopback(
    bind_address: str, node: Node | None, ipv4: str, ipv6: str
) -> None:
    assert node_ips(bind_address, node) == {"IPv4": ipv4, "IPv6": ipv6}


def test_without_a_node_object_the_zone_is_empty_and_the_name_is_the_host_s() -> None:
    found = context(node=None)
    assert (found.node_name, found.zone) == ("node-a", "")


def test_foreign_addresses_exclude_kube_ipvs0_loopback_and_link_local() -> None:
    assert context().foreign_addresses == {"IPv4": frozenset(ALL_ADDRESSES), "IPv6": frozenset({"fd00:3::10"})}


@pytest.mark.parametrize(
    ("configured", "ipv4", "ipv6"),
    [
        ([], ALL_ADDRESSES, ("fd00:3::10",)),
        (["all"], ALL_ADDRESSES, ("fd00:3::10",)),
        (["0.0.0.0/0"], ALL_ADDRESSES, ("fd00:3::10",)),
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
def test_node_port_addresses(configured: list[str], ipv4: tuple[str, ...], ipv6: tuple[str, ...]) -> None:
    assert context(nodePortAddresses=configured).node_port_addresses == {"IPv4": ipv4, "IPv6": ipv6}


def test_primary_is_the_bind_address_if_specified() -> None:
    found = context(nodePortAddresses=["primary"], bindAddress="172.16.5.10")
    assert found.node_port_addresses == {"IPv4": ("172.16.5.10",), "IPv6": ("fd00:3::10",)}


def test_primary_means_all_addresses_while_the_node_ip_is_unknown() -> None:
    found = context(node=None, nodePortAddresses=["primary"])
    assert found.node_port_addresses == {"IPv4": ALL_ADDRESSES, "IPv6": ("fd00:3::10",)}


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
def test_match_for_packets_not_sent_by_local_pods(fields: dict[str, Any], matches: dict[Family, str]) -> None:
    assert context(**fields).if_not_local == matches


def test_without_pod_cidrs_there_is_no_match_for_local_pods() -> None:
    assert context(node=node_at(), detectLocalMode="NodeCIDR").if_not_local == {}


@pytest.mark.parametrize(
    ("fields", "node", "expected"),
    [
        ({"clusterCIDR": "10.244.0.0/16,fd00:10:244::/56"}, NODE, ("-s 10.244.1.0/24", "-s fd00:10:244:1::/64")),
        ({"clusterCIDR": "10.244.0.0/16"}, Node("node-a"), ("-s 10.244.0.0/16",)),
        # The Node's podCIDRs are not those that pods have here.
        ({"clusterCIDR": "10.10.0.0/16,10.11.0.0/16"}, NODE, ("-s 10.10.0.0/16", "-s 10.11.0.0/16")),
        ({"detectLocalMode": "NodeCIDR"}, NODE, ("-s 10.244.1.0/24", "-s fd00:10:244:1::/64")),
        ({"detectLocalMode": "NodeCIDR"}, None, ()),
        (
            {"detectLocalMode": "BridgeInterface", "detectLocal.bridgeInterface": "cni0"},
            NODE,
            ("-i cni0", "-i cni0"),
        ),
        (
            {"detectLocalMode": "InterfaceNamePrefix", "detectLocal.interfaceNamePrefix": "veth"},
            NODE,
            ("-i veth+", "-i veth+"),
        ),
        ({}, NODE, ()),
    ],
)
def test_exact_policies_are_for_pods_of_this_node(
    fields: dict[str, Any], node: Node | None, expected: tuple[str, ...]
) -> None:
    config, host = from_file(fields).config, HostInfo("node-a")
    exact = make_node_context(config, host, node, ADDRESSES, AgentSettings(policies="exact"))
    assert tuple(match for family in FAMILIES for match in exact.if_local.get(family, ())) == expected
    assert exact.policy_marks == MarkRange()
    usual = make_node_context(config, host, node, ADDRESSES)
    assert (usual.policy_marks, usual.if_local) == (None, {})


EXACT = AgentSettings(policies="exact", service_cidr=("10.96.0.0/16", "fd00:10:96::/108", "10.97.0.0/16"))


@pytest.mark.parametrize(
    ("addresses", "families"),
    [
        (["localhost"], FAMILIES),
        (["primary", "localhost"], FAMILIES),
        (["127.0.0.0/8"], ("IPv4",)),
        (["::1/128", "192.168.3.0/24"], ("IPv6",)),
        (["primary"], ()),
        ([], ()),
        (["0.0.0.0/0", "::/0"], ()),
    ],
)
def test_node_ports_are_served_at_loopback_addresses_with_exact_policies_only(
    addresses: list[str], families: tuple[Family, ...]
) -> None:
    config, host = from_file({"nodePortAddresses": addresses}).config, HostInfo("node-a")
    exact = make_node_context(config, host, NODE, ADDRESSES, EXACT)
    served = {family: LOOPBACK_IP[family] in exact.node_port_addresses[family] for family in FAMILIES}
    assert served == {family: family in families for family in FAMILIES}
    expected = {family: LoopbackSpec(exact.node_ips[family], "30000-32767") for family in families}
    assert exact.loopback_paths == expected
    usual = make_node_context(config, host, NODE, ADDRESSES)
    assert usual.loopback_paths == {}
    assert not any(LOOPBACK_IP[family] in usual.node_port_addresses[family] for family in FAMILIES)


def test_node_without_an_address_of_a_family_has_no_path_to_its_loopback_address() -> None:
    config = from_file({"nodePortAddresses": ["localhost"]}).config
    exact = make_node_context(config, HostInfo("node-a"), Node("node-a"), (), EXACT)
    assert exact.loopback_paths == {}


@pytest.mark.parametrize(
    ("node", "kept"),
    [
        (Node("node-a"), True),
        (Node("node-a", addresses=("10.96.3.4", "10.96.3.5")), False),
        (Node("node-a", addresses=("192.168.3.10", "10.96.3.4")), True),  # NodeLocal DNSCache has one of a Service
        (Node("node-a", pod_cidrs=("fd00:1::/64", "10.96.8.0/24")), False),
        (Node("node-a", addresses=("fd00:10:96::1",), pod_cidrs=("10.0.0.0/8",)), True),
    ],
)
def test_service_network_with_the_node_or_its_pods_is_left_out_and_named(node: Node, kept: bool) -> None:
    settings = AgentSettings(policies="exact", service_cidr=("10.96.0.0/16",))
    context = make_node_context(from_file({}).config, HostInfo("node-a"), node, ADDRESSES, settings)
    assert context.service_networks == ({"IPv4": ("10.96.0.0/16",)} if kept else {})
    warnings = service_network_warnings(settings, node)
    assert bool(warnings) is not kept
    assert all("10.96.0.0/16 ignored: it has 10.96." in warning for warning in warnings)
    assert service_network_warnings(AgentSettings(service_cidr=("10.96.0.0/16",)), node) == ()


def test_service_networks_are_those_of_service_cidr_with_exact_policies_only() -> None:
    config, host = from_file({}).config, HostInfo("node-a")
    networks = {"IPv4": ("10.96.0.0/16", "10.97.0.0/16"), "IPv6": ("fd00:10:96::/108",)}
    assert make_node_context(config, host, NODE, ADDRESSES, EXACT).service_networks == networks
    usual = AgentSettings(service_cidr=EXACT.service_cidr)
    assert make_node_context(config, host, NODE, ADDRESSES, usual).service_networks == {}
