"""Allowed destinations of UDP flows: serving endpoints, and at least those that IPVS uses."""

from hypothesis import given
from hypothesis import strategies as st

from kubeproxy_py.compile.compiler import Compiler
from kubeproxy_py.compile.service import compile_service
from kubeproxy_py.compile.udp_destinations import allowed_destinations, serving_destinations, udp_servers
from kubeproxy_py.model.events import ServiceDeleted, ServiceUpserted, SliceUpserted
from kubeproxy_py.model.rows import RealServer, VirtualServer
from kubeproxy_py.model.services import Endpoint, Service
from tests.builders import HERE, THERE, endpoint, endpoint_slice, name, node_context, port, service

DNS = VirtualServer("10.96.0.10", 53, "UDP")
POD = ("10.244.1.5", 8080)


def dns(text: str = "web", **fields: object) -> Service:
    return service(text, ports=(port(53, "UDP"), port(80, "TCP", "http")), **fields)  # type: ignore[arg-type]


def allowed(*endpoints: Endpoint, **fields: object) -> frozenset[tuple[str, int]]:
    slices = [endpoint_slice("web", endpoints, protocol="UDP")]
    return serving_destinations(dns(**fields), slices, node_context())[DNS]  # type: ignore[arg-type]


def test_serving_endpoint_that_is_not_ready_is_allowed() -> None:
    assert allowed(endpoint(ready=False)) == {POD}


def test_serving_terminating_endpoint_is_allowed_beside_ready_ones() -> None:
    terminating = endpoint("10.244.1.6", ready=False, terminating=True)
    assert allowed(endpoint(), terminating) == {POD, ("10.244.1.6", 8080)}


def test_endpoint_that_is_neither_serving_nor_ready_is_not_allowed() -> None:
    assert allowed(endpoint(), endpoint("10.244.1.6", ready=False, serving=False)) == {POD}


def test_ready_endpoint_that_is_not_serving_is_allowed() -> None:
    assert allowed(endpoint(serving=False)) == {POD}


def test_policy_and_topology_do_not_restrict_destinations() -> None:
    elsewhere = endpoint("10.244.2.5", node=THERE, zone_hints=("zone-b",))
    here = endpoint(zone_hints=("zone-a",))
    assert allowed(here, elsewhere, internal_local=True) == {POD, ("10.244.2.5", 8080)}


def test_every_udp_frontend_has_destinations_and_no_other() -> None:
    ports = (port(53, "UDP", node_port=30053), port(80, "TCP", "http"))
    web = service("web", ("10.96.0.10", "fd00:10:96::a"), ports, type="NodePort")
    destinations = serving_destinations(web, [endpoint_slice("web", protocol="UDP")], node_context())
    assert destinations == {
        DNS: {POD},
        VirtualServer("192.168.3.10", 30053, "UDP"): {POD},
        VirtualServer("fd00:10:96::a", 53, "UDP"): frozenset(),
        VirtualServer("fd00:3::10", 30053, "UDP"): frozenset(),
    }


def test_external_addresses_have_destinations() -> None:
    web = dns(external_ips=("203.0.113.7",), load_balancer_ips=("198.51.100.7",))
    destinations = serving_destinations(web, [], node_context())
    assert set(destinations) == {DNS, VirtualServer("203.0.113.7", 53, "UDP"), VirtualServer("198.51.100.7", 53, "UDP")}


def test_ports_with_the_same_frontend_share_their_destinations() -> None:
    both = service(ports=(port(53, "UDP", "a", 30053), port(30053, "UDP", "b")), external_ips=("192.168.3.10",))
    slices = [
        endpoint_slice("web", protocol="UDP", label="a"),
        endpoint_slice("web", ["10.244.1.6"], protocol="UDP", label="b", suffix="2"),
    ]
    destinations = serving_destinations(both, slices, node_context())
    assert destinations[VirtualServer("192.168.3.10", 30053, "UDP")] == {POD, ("10.244.1.6", 8080)}


_ENDPOINTS = st.builds(
    Endpoint,
    st.sampled_from([f"10.244.1.{n}" for n in range(1, 6)]),
    ready=st.booleans(),
    serving=st.booleans(),
    terminating=st.booleans(),
    node=st.sampled_from(["", HERE, THERE]),
    zone_hints=st.sampled_from([(), ("zone-a",), ("zone-b",)]),
)


@given(st.lists(st.lists(_ENDPOINTS, max_size=4), max_size=3), st.booleans(), st.booleans())
def test_every_real_server_is_an_allowed_destination(
    endpoints: list[list[Endpoint]], internal: bool, external: bool
) -> None:
    web = service(
        ports=(port(53, "UDP", node_port=30053),), type="NodePort", internal_local=internal, external_local=external
    )
    slices = [endpoint_slice("web", part, protocol="UDP", suffix=str(n)) for n, part in enumerate(endpoints) if part]
    used = [key for key in compile_service(web, slices, node_context()) if isinstance(key, RealServer)]
    allowed_for = serving_destinations(web, slices, node_context())
    assert [key for key in used if (key.address, key.port) not in allowed_for[key.virtual_server]] == []


def compiler_with(*services: Service) -> Compiler:
    compiler = Compiler(lambda _node, _addresses: node_context())
    for given_service in services:
        compiler.handle_event(ServiceUpserted(given_service))
    return compiler


def test_udp_servers_are_the_udp_virtual_servers_that_services_want() -> None:
    compiler = compiler_with(dns(), service("api", ("10.96.0.11",)))
    compiler.compile()
    assert list(udp_servers([name("web"), name("api"), name("nobody")], compiler)) == [DNS]


def test_shared_virtual_server_allows_the_endpoints_of_its_holder() -> None:
    shared = VirtualServer("203.0.113.7", 53, "UDP")
    compiler = compiler_with(
        dns("a", external_ips=("203.0.113.7",)), dns("b", cluster_ips=("10.96.0.11",), external_ips=("203.0.113.7",))
    )
    compiler.handle_event(SliceUpserted(endpoint_slice("a", protocol="UDP")))
    compiler.handle_event(SliceUpserted(endpoint_slice("b", ["10.244.1.6"], protocol="UDP")))
    compiler.compile()
    assert allowed_destinations([shared], compiler) == {shared: {POD}}


def test_virtual_server_that_no_service_wants_allows_nothing() -> None:
    compiler = compiler_with(dns())
    compiler.handle_event(SliceUpserted(endpoint_slice("web", protocol="UDP")))
    compiler.compile()
    compiler.handle_event(ServiceDeleted(name("web")))
    compiler.compile()
    assert allowed_destinations([DNS], compiler) == {DNS: frozenset()}
