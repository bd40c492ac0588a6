"""Where UDP flows may go: to what serves, and at least to what IPVS uses."""

from hypothesis import given
from hypothesis import strategies as st

from kubeproxy_py.compile.compiler import Compiler
from kubeproxy_py.compile.service import compile_service
from kubeproxy_py.compile.udp_destinations import allowed_destinations, serving_destinations, udp_servers
from kubeproxy_py.model.events import ServiceDeleted, ServiceUpserted, SliceUpserted
from kubeproxy_py.model.rows import RealServer, VirtualServer
from kubeproxy_py.model.services import Endpoint, Service
from tests.builders import HERE, THERE, endpoint, endpoint_slice, name, port, service, site

DNS = VirtualServer("10.96.0.10", 53, "UDP")
POD = ("10.244.1.5", 8080)


def dns(text: str = "web", **fields: object) -> Service:
    return service(text, ports=(port(53, "UDP"), port(80, "TCP", "http")), **fields)  # type: ignore[arg-type]


def allowed(*endpoints: Endpoint, **fields: object) -> frozenset[tuple[str, int]]:
    slices = [endpoint_slice("web", endpoints, protocol="UDP")]
    return serving_destinations(dns(**fields), slices, site())[DNS]  # type: ignore[arg-type]


def test_an_endpoint_that_is_not_ready_but_serves_may_have_flows() -> None:
    assert allowed(endpoint(ready=False)) == {POD}


def test_an_endpoint_that_terminates_and_serves_may_have_flows_beside_ready_ones() -> None:
    leaving = endpoint("10.244.1.6", ready=False, terminating=True)
    assert allowed(endpoint(), leaving) == {POD, ("10.244.1.6", 8080)}


def test_an_endpoint_that_neither_serves_nor_is_ready_may_have_none() -> None:
    assert allowed(endpoint(), endpoint("10.244.1.6", ready=False, serving=False)) == {POD}


def test_a_ready_endpoint_may_have_flows_though_it_does_not_serve() -> None:
    assert allowed(endpoint(serving=False)) == {POD}


def test_policy_and_topology_cut_no_flow() -> None:
    elsewhere = endpoint("10.244.2.5", node=THERE, zone_hints=("zone-b",))
    here = endpoint(zone_hints=("zone-a",))
    assert allowed(here, elsewhere, internal_local=True) == {POD, ("10.244.2.5", 8080)}


def test_every_udp_front_is_told_and_no_other() -> None:
    ports = (port(53, "UDP", node_port=30053), port(80, "TCP", "http"))
    web = service("web", ("10.96.0.10", "fd00:10:96::a"), ports, type="NodePort")
    told = serving_destinations(web, [endpoint_slice("web", protocol="UDP")], site())
    assert told == {
        DNS: {POD},
        VirtualServer("192.168.3.10", 30053, "UDP"): {POD},
        VirtualServer("fd00:10:96::a", 53, "UDP"): frozenset(),
        VirtualServer("fd00:3::10", 30053, "UDP"): frozenset(),
    }


def test_outside_addresses_are_told() -> None:
    web = dns(external_ips=("203.0.113.7",), load_balancer_ips=("198.51.100.7",))
    told = serving_destinations(web, [], site())
    assert set(told) == {DNS, VirtualServer("203.0.113.7", 53, "UDP"), VirtualServer("198.51.100.7", 53, "UDP")}


def test_ports_at_one_front_share_their_destinations() -> None:
    both = service(ports=(port(53, "UDP", "a", 30053), port(30053, "UDP", "b")), external_ips=("192.168.3.10",))
    slices = [
        endpoint_slice("web", protocol="UDP", label="a"),
        endpoint_slice("web", ["10.244.1.6"], protocol="UDP", label="b", suffix="2"),
    ]
    told = serving_destinations(both, slices, site())
    assert told[VirtualServer("192.168.3.10", 30053, "UDP")] == {POD, ("10.244.1.6", 8080)}


_CONDITIONS = st.builds(
    Endpoint,
    st.sampled_from([f"10.244.1.{n}" for n in range(1, 6)]),
    ready=st.booleans(),
    serving=st.booleans(),
    terminating=st.booleans(),
    node=st.sampled_from(["", HERE, THERE]),
    zone_hints=st.sampled_from([(), ("zone-a",), ("zone-b",)]),
)


@given(st.lists(st.lists(_CONDITIONS, max_size=4), max_size=3), st.booleans(), st.booleans())
def test_whatever_ipvs_uses_may_have_flows(parts: list[list[Endpoint]], internal: bool, external: bool) -> None:
    web = service(
        ports=(port(53, "UDP", node_port=30053),), type="NodePort", internal_local=internal, external_local=external
    )
    slices = [endpoint_slice("web", part, protocol="UDP", suffix=str(n)) for n, part in enumerate(parts) if part]
    used = [key for key in compile_service(web, slices, site()) if isinstance(key, RealServer)]
    may = serving_destinations(web, slices, site())
    assert [key for key in used if (key.address, key.port) not in may[key.virtual_server]] == []


def compiler(*services: Service) -> Compiler:
    made = Compiler(lambda _node, _addresses: site())
    for each in services:
        made.handle_event(ServiceUpserted(each))
    return made


def test_the_udp_virtual_servers_of_a_service_are_those_that_it_wants() -> None:
    made = compiler(dns(), service("api", ("10.96.0.11",)))
    made.compile()
    assert list(udp_servers([name("web"), name("api"), name("nobody")], made)) == [DNS]


def test_of_a_shared_virtual_server_the_holder_s_endpoints_are_allowed() -> None:
    shared = VirtualServer("203.0.113.7", 53, "UDP")
    made = compiler(
        dns("a", external_ips=("203.0.113.7",)), dns("b", cluster_ips=("10.96.0.11",), external_ips=("203.0.113.7",))
    )
    made.handle_event(SliceUpserted(endpoint_slice("a", protocol="UDP")))
    made.handle_event(SliceUpserted(endpoint_slice("b", ["10.244.1.6"], protocol="UDP")))
    made.compile()
    assert allowed_destinations([shared], made) == {shared: {POD}}


def test_a_virtual_server_that_nobody_wants_allows_nothing() -> None:
    made = compiler(dns())
    made.handle_event(SliceUpserted(endpoint_slice("web", protocol="UDP")))
    made.compile()
    made.handle_event(ServiceDeleted(name("web")))
    made.compile()
    assert allowed_destinations([DNS], made) == {DNS: frozenset()}
