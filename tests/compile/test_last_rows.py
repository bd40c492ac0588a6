"""The last rows of a Service that cannot be compiled: what it keeps where another Service is served by now."""

from collections.abc import Iterator
from contextlib import contextmanager
from unittest import mock

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from kubeproxy_py.compile import compiler as module
from kubeproxy_py.compile.compiler import Compiler
from kubeproxy_py.compile.last_rows import without_frontends
from kubeproxy_py.compile.service import compile_service
from kubeproxy_py.model.events import ObjectEvent, ServiceDeleted, ServiceUpserted, SliceUpserted
from kubeproxy_py.model.rows import Address, IpsetEntry, RealServer, Rows, VirtualServer
from kubeproxy_py.model.services import Service
from kubeproxy_py.net import Protocol
from tests.builders import endpoint_slice, node_context, port, service
from tests.laws.histories import batches

SHARED, SHARED_6, NODE = "203.0.113.7", "2001:db8::7", "192.168.3.10"
WEB_POD, API_POD = "10.244.1.5", "10.244.1.6"
WEB = service(created_s=1.0)
OWN = VirtualServer("10.96.0.10", 80, "TCP")


@contextmanager
def bug_in(function: str) -> Iterator[None]:
    """Have *function* of the compiler raise for the Service web."""
    original = getattr(module, function)

    def call_or_fail(given_service: Service, *arguments: object, **options: object) -> object:
        if given_service.name == WEB.name:
            raise RuntimeError("a bug")
        return original(given_service, *arguments, **options)

    with mock.patch.object(module, function, call_or_fail):
        yield


def with_address(text: str, address: str, kind: str, **fields: object) -> Service:
    """The Service *text* with *address*, as the *kind* of address that ``Service`` calls so."""
    return service(text, type="LoadBalancer", **{kind: (address,)}, **fields)  # type: ignore[arg-type]


def compiled(*events: ObjectEvent, of: Compiler | None = None) -> Compiler:
    of = of or Compiler(lambda _node, _addresses: node_context())
    for event in events:
        of.handle_event(event)
    of.compile()
    return of


def slices(protocol: Protocol = "TCP") -> list[ObjectEvent]:
    pods = {"web": WEB_POD, "api": API_POD}
    return [SliceUpserted(endpoint_slice(text, [pod], protocol=protocol)) for text, pod in pods.items()]


def without_real_servers(rows: Rows) -> Rows:
    return {key: spec for key, spec in rows.items() if not isinstance(key, RealServer)}


def pods(of: Compiler, server: VirtualServer) -> set[str]:
    return {key.address for key in of.desired.rows if isinstance(key, RealServer) and key.virtual_server == server}


@given(history=batches, data=st.data())
def test_rows_that_stay_are_those_that_the_service_would_have_without_the_lost_frontends(
    history: list[list[ObjectEvent]], data: st.DataObject
) -> None:
    of = compiled(*(event for batch in history for event in batch))
    for name, given_service in of.cluster.services.items():
        objects = (given_service, of.cluster.slices_of(name), of.context)
        rows = compile_service(*objects)
        servers = [key for key in rows if isinstance(key, VirtualServer)]
        lost = data.draw(st.sets(st.sampled_from(servers))) if servers else set()
        kept = without_frontends(rows, lost)
        # Without external frontends, other endpoints of a ClusterIP may be selected; the last ones stay.
        assert without_real_servers(kept) == without_real_servers(compile_service(*objects, lost=lost))
        assert {key.virtual_server for key in kept if isinstance(key, RealServer)}.isdisjoint(lost)


@pytest.mark.parametrize("address", [SHARED, SHARED_6])
@pytest.mark.parametrize("kind", ["external_ips", "load_balancer_ips"])
@pytest.mark.parametrize("protocol", ["TCP", "UDP", "SCTP"])
@pytest.mark.parametrize("function", ["compile_parts", "claims_of"])
def test_frontend_is_lost_to_the_service_that_holds_it_by_now(
    function: str, protocol: Protocol, kind: str, address: str
) -> None:
    ips = {"web": ("10.96.0.10", "fd00:96::10"), "api": ("10.96.0.20", "fd00:96::20")}
    ports = (port(protocol=protocol),)
    web = with_address("web", address, kind, cluster_ips=ips["web"], ports=ports, created_s=2.0)
    api = with_address("api", address, kind, cluster_ips=ips["api"], ports=ports, created_s=1.0, external_local=True)
    pods_6 = {"web": "fd00:10:244:1::5", "api": "fd00:10:244:1::6"}
    slices_6 = [SliceUpserted(endpoint_slice(t, [pod], protocol=protocol, suffix="6")) for t, pod in pods_6.items()]
    of = compiled(ServiceUpserted(web), *slices(protocol), *slices_6)
    server = VirtualServer(address, 80, protocol)
    before = of.desired.rows_of(web.name)
    assert server in before
    with bug_in(function):
        compiled(ServiceUpserted(replace(web, affinity_timeout_s=9)), of=of)
        assert of.desired.rows_of(web.name) == before
        compiled(ServiceUpserted(api), of=of)
    assert pods(of, server) == {API_POD if address == SHARED else pods_6["api"]}
    kept = of.desired.rows_of(web.name)
    assert {VirtualServer(ip, 80, protocol) for ip in ips["web"]} <= kept.keys()
    assert not [key for key in kept if isinstance(key, Address) and key.address == address]
    assert not [key for key in kept if isinstance(key, IpsetEntry) and key.entry.startswith(address)]
    alone = compiled(ServiceUpserted(api), *slices(protocol), *slices_6)
    assert of.desired.rows.items() >= alone.desired.rows_of(api.name).items()


def test_node_port_is_lost_at_the_one_address_that_another_service_has() -> None:
    web = service(ports=(port(node_port=30080),), type="NodePort")
    api = service("api", ("10.96.0.20",), (port(30080),), external_ips=(NODE,))
    two = {"node_port_addresses": {"IPv4": (NODE, "198.51.100.9")}}
    of = compiled(ServiceUpserted(web), *slices(), of=Compiler(lambda _node, _addresses: node_context(**two)))
    with bug_in("compile_parts"):
        compiled(ServiceUpserted(replace(web, affinity_timeout_s=9)), ServiceUpserted(api), of=of)
    assert pods(of, VirtualServer(NODE, 30080, "TCP")) == {API_POD}
    assert pods(of, VirtualServer("198.51.100.9", 30080, "TCP")) == {WEB_POD}
    assert IpsetEntry("KUBE-NODE-PORT-TCP", "30080") in of.desired.rows_of(web.name)


@pytest.mark.parametrize("is_first", [True, False])
def test_frontend_that_the_service_no_longer_asks_for_is_kept_until_another_service_does(is_first: bool) -> None:
    web = with_address("web", SHARED, "external_ips", created_s=1.0)
    api = with_address("api", SHARED, "external_ips", cluster_ips=("10.96.0.20",), created_s=2.0)
    server = VirtualServer(SHARED, 80, "TCP")
    of = compiled(ServiceUpserted(web), *slices())
    with bug_in("compile_parts"):
        if is_first:
            compiled(ServiceUpserted(api), of=of)
        compiled(ServiceUpserted(WEB), of=of)
        if not is_first:
            assert pods(of, server) == {WEB_POD}
            compiled(ServiceUpserted(api), of=of)
        assert pods(of, server) == {API_POD}
        compiled(ServiceDeleted(api.name), of=of)
        assert server not in of.desired.rows
    assert OWN in of.desired.rows


def test_frontend_comes_back_when_the_service_can_be_compiled_again() -> None:
    web = with_address("web", SHARED, "external_ips", created_s=1.0)
    api = with_address("api", SHARED, "load_balancer_ips", cluster_ips=("10.96.0.20",))
    of = compiled(ServiceUpserted(web), *slices())
    before = dict(of.desired.rows_of(web.name))
    with bug_in("compile_parts"):
        compiled(ServiceUpserted(api), of=of)
        assert of.failed.keys() == {web.name}
    compiled(ServiceDeleted(api.name), of=of)
    assert of.desired.rows_of(web.name) == before
    assert of.failed == {}


def test_claims_that_failed_are_made_again_with_the_next_change_of_an_endpoint() -> None:
    of = compiled(ServiceUpserted(WEB), *slices())
    with bug_in("claims_of"):
        compiled(ServiceUpserted(with_address("web", SHARED, "external_ips")), of=of)
        compiled(SliceUpserted(endpoint_slice("web", ["10.244.1.9"])), of=of)
        assert pods(of, OWN) == {WEB_POD}
    compiled(SliceUpserted(endpoint_slice("web", ["10.244.1.8"])), of=of)
    assert pods(of, OWN) == {"10.244.1.8"}
    assert of.claims.holder(VirtualServer(SHARED, 80, "TCP")) == WEB.name


def test_predecessor_s_rows_at_a_frontend_of_another_service_are_not_kept() -> None:
    web = with_address("web", SHARED, "external_ips", created_s=2.0)
    api = with_address("api", SHARED, "external_ips", cluster_ips=("10.96.0.20",), created_s=1.0)
    kernel_rows = dict(compiled(ServiceUpserted(web), *slices()).desired.rows)
    of = Compiler(lambda _node, _addresses: node_context())
    with bug_in("compile_parts"):
        compiled(ServiceUpserted(web), ServiceUpserted(api), *slices(), of=of)
        of.keep_last_rows(kernel_rows)
    assert pods(of, VirtualServer(SHARED, 80, "TCP")) == {API_POD}
    assert pods(of, OWN) == {WEB_POD}
