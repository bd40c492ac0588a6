"""Without an API server and without a Node manifest, the host itself takes the place of its Node."""

from __future__ import annotations

from kubeproxy_py.compile.node_context import NodeContext, make_node_context
from kubeproxy_py.config.load import load
from kubeproxy_py.model.host import HostInfo
from kubeproxy_py.model.node import HostAddress, Node

ADDRESSES = (
    HostAddress("cni0", "10.244.1.1"),
    HostAddress("eth0", "192.168.3.10"),
    HostAddress("eth0", "fd00:3::10"),
    HostAddress("kube-ipvs0", "10.96.0.1"),
    HostAddress("lo", "127.0.0.1"),
)
HOST = HostInfo("node-a", outgoing_addresses=("192.168.3.10", "fd00:3::10"))


def context(
    node: Node | None = None, host: HostInfo = HOST, addresses: tuple[HostAddress, ...] = ADDRESSES, **flags: str
) -> NodeContext:
    loaded = load(flags)
    return make_node_context(loaded.config, host, node, addresses, loaded.agent)


def test_addresses_of_the_host_are_the_node_ips_beginning_with_the_one_it_sends_from() -> None:
    assert context(manifests="/x").node_ips == {"IPv4": "192.168.3.10", "IPv6": "fd00:3::10"}


def test_any_own_address_serves_if_the_one_that_it_sends_from_is_unknown_or_gone() -> None:
    gone = HostInfo("node-a", outgoing_addresses=("192.0.2.7", "10.96.0.1"))
    assert context(host=gone, manifests="/x").node_ips == {"IPv4": "10.244.1.1", "IPv6": "fd00:3::10"}


def test_host_without_addresses_has_loopback() -> None:
    assert context(addresses=(), manifests="/x").node_ips == {"IPv4": "127.0.0.1", "IPv6": "::1"}


def test_node_manifest_and_api_server_are_not_replaced() -> None:
    node = Node("node-a", addresses=("192.0.2.9",))
    assert context(node, manifests="/x").node_ips["IPv4"] == "192.0.2.9"
    assert context().node_ips == {"IPv4": "127.0.0.1", "IPv6": "::1"}
    assert (context().needs_node, context(manifests="/x").needs_node) == (True, False)


def health_port(*flags: tuple[str, str]) -> int:
    loaded = load(dict(flags))
    return make_node_context(loaded.config, HOST, None, (), loaded.agent).health_port


def test_port_of_the_health_server_is_let_through_only_if_asked_for_and_on_all_addresses() -> None:
    asked = ("healthz-at-service-addresses", "true")
    assert health_port() == 0
    assert health_port(asked) == 10256
    assert health_port(asked, ("healthz-bind-address", "[::]:1234")) == 1234
    assert health_port(asked, ("healthz-bind-address", "192.168.3.10:10256")) == 0
    assert health_port(asked, ("healthz-port", "0")) == 0
