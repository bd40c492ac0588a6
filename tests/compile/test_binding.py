"""Which addresses of a Service are served, and which kube-ipvs0 gets."""

from collections.abc import Iterator
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

import pytest

from kubeproxy_py.compile.binding import FrontendKind, bind
from kubeproxy_py.compile.compiler import Compiler
from kubeproxy_py.compile.node_context import NodeContext, broadcast_addresses
from kubeproxy_py.compile.taken import Taken
from kubeproxy_py.model.events import (
    HostAddresses,
    ServiceUpserted,
    SliceDeleted,
    SliceUpserted,
    TakenAddresses,
)
from kubeproxy_py.model.node import HostAddress
from kubeproxy_py.model.refusal import Refusal
from kubeproxy_py.model.rows import Address, IpsetEntry, VirtualServer
from kubeproxy_py.model.services import Service
from kubeproxy_py.net import SocketAddress, parse_ip, special_use
from tests.builders import endpoint_slice, name, node_context, port, service

OTHER_NODE, OTHER_NODE_6, VIP, GATEWAY = "192.168.3.11", "fd00:3::11", "203.0.113.7", "192.168.3.1"
FORBIDDEN = [
    "127.0.0.1",
    "127.1.2.3",
    "0.0.0.0",
    "169.254.169.254",
    "224.0.0.5",
    "239.255.255.255",
    "255.255.255.255",
    "192.168.3.255",
    "::1",
    "::",
    "fe80::1",
    "febf::1",
    "ff02::1",
]
BOTH = ("10.96.0.10", "fd00:96::10")


def compiler(**context: object) -> Compiler:
    fields = {"broadcast_addresses": frozenset({"192.168.3.255"}), **context}
    return Compiler(lambda _node, _addresses: node_context(**fields))


def compiled(*services: Service, of: Compiler | None = None) -> Compiler:
    of = of or compiler()
    for given in services:
        of.handle_event(ServiceUpserted(given))
    of.compile()
    return of


def traces(of: Compiler, address: str) -> list[object]:
    """The rows in which *address* is."""
    return [
        key
        for key in of.desired.rows
        if (isinstance(key, Address | VirtualServer) and key.address == address)
        or (isinstance(key, IpsetEntry) and key.entry.split(",")[0] == address)
    ]


def bound(of: Compiler) -> set[str]:
    return {key.address for key in of.desired.rows if isinstance(key, Address)}


@pytest.mark.parametrize("address", FORBIDDEN)
@pytest.mark.parametrize("field", ["external_ips", "load_balancer_ips"])
def test_forbidden_external_address_is_left_out_and_the_service_is_served(address: str, field: str) -> None:
    given = service(cluster_ips=BOTH, type="LoadBalancer", **{field: (address, VIP)})  # type: ignore[arg-type]
    of = compiled(given)
    assert traces(of, address) == []
    assert bound(of) == {*BOTH, VIP}
    (refusal,) = of.refusals
    assert (refusal.reason, refusal.service, refusal.subject) == ("ForbiddenAddress", given.name, address)


@pytest.mark.parametrize("address", FORBIDDEN)
def test_forbidden_cluster_ip_of_a_manifest_is_left_out(address: str) -> None:
    other = BOTH[0] if ":" in address else BOTH[1]
    of = compiled(service(cluster_ips=(address, other), external_ips=(VIP, "2001:db8::7")))
    assert traces(of, address) == []
    assert bound(of) == {other, VIP, "2001:db8::7"}


@pytest.mark.parametrize(
    "address", [VIP, "10.0.0.0", "128.0.0.1", "169.253.0.1", "223.1.1.1", "240.0.0.1", "fec0::1", "fd00::1"]
)
def test_ordinary_address_has_no_special_use(address: str) -> None:
    assert special_use(address) == ""


@pytest.mark.parametrize("text", ["::ffff:127.0.0.1", "::ffff:224.0.0.5", "127.000.000.001"])
def test_special_use_does_not_depend_on_how_an_address_is_written(text: str) -> None:
    assert special_use(parse_ip(text)) in ("loopback", "multicast")


def test_broadcast_addresses_are_those_of_the_networks_of_other_interfaces() -> None:
    addresses = (
        HostAddress("eth0", "192.168.3.10", 24),
        HostAddress("eth1", "172.16.5.10", 31),
        HostAddress("kube-ipvs0", "10.96.0.10", 24),
        HostAddress("eth2", "198.51.100.1"),  # of unknown length
        HostAddress("eth3", "fd00:3::10", 64),
    )
    assert broadcast_addresses(addresses) == {"192.168.3.255"}


def test_node_port_at_a_link_local_address_of_the_node_is_served() -> None:
    assert bind(name("web"), FrontendKind.NODE_PORT, "169.254.1.1", NodeContext()).is_served


@pytest.mark.parametrize("field", ["external_ips", "load_balancer_ips"])
@pytest.mark.parametrize("address", [OTHER_NODE, OTHER_NODE_6])
def test_address_of_an_endpoint_is_served_but_not_bound(address: str, field: str) -> None:
    given = service(cluster_ips=BOTH, type="LoadBalancer", **{field: (address, VIP)})  # type: ignore[arg-type]
    of = compiler()
    of.handle_event(SliceUpserted(endpoint_slice("default/kubernetes", [address], 6443)))
    compiled(given, of=of)
    assert address not in bound(of)
    assert VirtualServer(address, 80, "TCP") in of.desired.rows
    assert not [key for key in traces(of, address) if isinstance(key, IpsetEntry) and "IPVS-IPS" in key.set]
    assert [(refusal.reason, refusal.subject) for refusal in of.refusals] == [("AddressInUse", address)]


def test_cluster_ip_is_bound_even_if_an_endpoint_has_the_address() -> None:
    of = compiler()
    of.handle_event(SliceUpserted(endpoint_slice("malicious/slice", ["10.96.0.10"])))
    of.handle_event(TakenAddresses("gateways", {"10.96.0.10": "a gateway"}))
    compiled(service(), of=of)
    assert "10.96.0.10" in bound(of)
    assert list(of.refusals) == []


def test_address_that_becomes_taken_is_released_and_bound_again_when_it_is_free() -> None:
    of = compiled(service(external_ips=(VIP,)))
    assert VIP in bound(of)
    for suffix in ("1", "2"):
        of.handle_event(SliceUpserted(endpoint_slice("nginx", [VIP], suffix=suffix)))
    assert Address(VIP) in of.compile()
    assert VIP not in bound(of)
    of.handle_event(SliceDeleted(name("nginx-1")))
    of.compile()
    assert VIP not in bound(of)  # another slice has it still
    of.handle_event(SliceDeleted(name("nginx-2")))
    of.compile()
    assert VIP in bound(of)
    assert list(of.refusals) == []


def test_only_services_with_the_address_are_compiled_when_it_becomes_taken() -> None:
    of = compiled(service("web", external_ips=(VIP,)), service("api", ("10.96.0.11",)))
    of.pop_states()
    of.handle_event(TakenAddresses("gateways", {VIP: "the gateway of this node on eth0"}))
    of.compile()
    assert [str(state.name) for state in of.pop_states()] == ["shop/web"]
    (refusal,) = of.refusals
    assert "the gateway of this node on eth0" in refusal.message


def test_report_of_one_source_replaces_only_its_own() -> None:
    of = compiled(service(external_ips=(VIP, GATEWAY)))
    of.handle_event(TakenAddresses("gateways", {GATEWAY: "a gateway"}))
    of.handle_event(TakenAddresses("neighbours", {VIP: "a neighbour"}))
    of.compile()
    assert bound(of) == {"10.96.0.10"}
    of.handle_event(TakenAddresses("neighbours"))
    of.compile()
    assert bound(of) == {"10.96.0.10", VIP}


def test_the_same_report_again_makes_no_service_dirty() -> None:
    of = compiled(service(external_ips=(VIP,)))
    of.handle_event(TakenAddresses("gateways", {VIP: "a gateway"}))
    of.compile()
    of.pop_states()
    of.handle_event(TakenAddresses("gateways", {VIP: "a gateway"}))
    assert of.compile() == []
    assert of.pop_states() == ()


API = (SocketAddress(OTHER_NODE, 6443), SocketAddress("10.96.0.1", 443), SocketAddress("192.168.3.10", 30443))


def test_frontend_at_the_api_server_is_not_served() -> None:
    of = compiler()
    of.handle_event(TakenAddresses("API server", api_servers=API))
    ports = (port(6443, label="a"), port(6444, label="b"), port(6443, "UDP", label="c"))
    compiled(service(type="LoadBalancer", load_balancer_ips=(OTHER_NODE,), ports=ports), of=of)
    served = {str(key) for key in of.desired.rows if isinstance(key, VirtualServer) and key.address == OTHER_NODE}
    assert served == {f"{OTHER_NODE}:6444/TCP", f"{OTHER_NODE}:6443/UDP"}
    assert OTHER_NODE not in bound(of)
    assert not [key for key in traces(of, OTHER_NODE) if "tcp:6443" in str(key)]
    assert [refusal.subject for refusal in of.refusals] == [OTHER_NODE, f"{OTHER_NODE}:6443/TCP"]


def test_cluster_ip_is_served_where_the_api_server_is_reached() -> None:
    of = compiler()
    of.handle_event(TakenAddresses("API server", api_servers=API))
    compiled(service("default/kubernetes", ("10.96.0.1",), (port(443),)), of=of)
    assert VirtualServer("10.96.0.1", 443, "TCP") in of.desired.rows
    assert "10.96.0.1" in bound(of)


def test_node_port_at_the_api_server_is_not_served_as_soon_as_it_is_known() -> None:
    of = compiled(service(type="NodePort", ports=(port(80, node_port=30443),)), service("api", ("10.96.0.11",)))
    server = VirtualServer("192.168.3.10", 30443, "TCP")
    assert server in of.desired.rows
    of.pop_states()
    of.handle_event(TakenAddresses("API server", api_servers=API))
    assert server in of.compile()
    assert server not in of.desired.rows
    assert [str(state.name) for state in of.pop_states()] == ["shop/web"]


def test_refusals_follow_the_addresses_of_the_node() -> None:
    def make_context(_node: object, addresses: tuple[HostAddress, ...]) -> NodeContext:
        return node_context(broadcast_addresses=broadcast_addresses(addresses))

    of = compiled(service(external_ips=("192.168.7.255",)), of=Compiler(make_context))
    assert "192.168.7.255" in bound(of)
    of.handle_event(HostAddresses((HostAddress("eth1", "192.168.7.1", 24),)))
    of.compile()
    assert "192.168.7.255" not in bound(of)
    assert [refusal.reason for refusal in of.refusals] == ["ForbiddenAddress"]


def test_refusal_is_printed_with_service_subject_and_remedy() -> None:
    refusal = Refusal("AddressInUse", name("web"), VIP, "not bound", "use another")
    assert str(refusal) == f"Service shop/web: {VIP}: not bound (use another)"


def test_taken_words_of_a_report_come_before_those_of_an_endpoint() -> None:
    taken = Taken()
    taken.start(())
    taken.replace_slice(None, endpoint_slice("web", [GATEWAY]))
    assert taken.owner_text(GATEWAY) == "the address of an endpoint"
    assert taken.replace_report(TakenAddresses("gateways", {GATEWAY: "a gateway"})) == [GATEWAY]
    assert taken.owner_text(GATEWAY) == "a gateway"


SPECIAL_NETWORKS = {
    "loopback": ("127.0.0.0/8", "::1/128"),
    "multicast": ("224.0.0.0/4", "ff00::/8"),
    "link-local": ("169.254.0.0/16", "fe80::/10"),
    "unspecified": ("0.0.0.0/32", "::/128"),
    "broadcast": ("255.255.255.255/32",),
}


def edges_of(network: IPv4Network | IPv6Network) -> Iterator[str]:
    """Yield the first and last address of *network*, and those before and after it."""
    first, last, highest = int(network[0]), int(network[-1]), 2**network.max_prefixlen - 1
    make = IPv4Address if network.version == 4 else IPv6Address
    yield from (str(make(number)) for number in (first - 1, first, last, last + 1) if 0 <= number <= highest)


BESIDE_SPECIAL_NETWORKS = sorted(
    {parse_ip(edge) for texts in SPECIAL_NETWORKS.values() for text in texts for edge in edges_of(ip_network(text))}
    | {parse_ip(f"{byte}.0.0.1") for byte in range(256)}
    | {parse_ip(f"{group:x}::1") for group in (0x00FE, 0x00FF, 0x0FE8, 0x2001, 0xFE00, 0xFE7F, 0xFEC0, 0xFEFF)}
    | {"::2", "::10.0.0.1", "::fe80:0:0:0", "0:1::", "169.25.4.1", "1.127.0.1", "22.4.0.1"}
)


@pytest.mark.parametrize("address", BESIDE_SPECIAL_NETWORKS)
def test_special_use_is_that_of_the_network_which_contains_the_address(address: str) -> None:
    expected = [
        use
        for use, texts in SPECIAL_NETWORKS.items()
        if any(ip_address(parse_ip(address)) in ip_network(text) for text in texts)
    ]
    assert [use for use in [special_use(parse_ip(address))] if use] == expected
