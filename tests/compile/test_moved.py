"""Services of which more than endpoints may have changed: checks of the Service itself run for these only."""

from kubeproxy_py.compile.compiler import Compiler
from kubeproxy_py.compile.node_context import NodeContext
from kubeproxy_py.model.events import HostAddresses, ServiceDeleted, ServiceUpserted, SliceUpserted
from kubeproxy_py.model.node import HostAddress, Node
from tests.builders import endpoint, endpoint_slice, host, name, node_context, service


def context_of(_node: Node | None, addresses: tuple[HostAddress, ...]) -> NodeContext:
    return node_context(foreign_addresses={"IPv4": frozenset(address.address for address in addresses)})


def moved_by(compiler: Compiler, *events: object) -> list[str]:
    for event in events:
        compiler.handle_event(event)  # type: ignore[arg-type]
    compiler.compile()
    return [moved.name for moved in compiler.pop_moved()]


def test_service_is_moved_by_itself_and_by_the_node_but_not_by_its_endpoints() -> None:
    compiler = Compiler(context_of)
    assert moved_by(compiler, ServiceUpserted(service()), SliceUpserted(endpoint_slice())) == ["web"]
    assert moved_by(compiler) == []
    assert moved_by(compiler, SliceUpserted(endpoint_slice(endpoints=(endpoint("10.244.0.99"),)))) == []
    assert moved_by(compiler, HostAddresses(host("192.0.2.1"))) == ["web"]
    assert moved_by(compiler, ServiceUpserted(service(external_ips=("192.0.2.7",)))) == ["web"]
    assert moved_by(compiler, ServiceDeleted(name("web"))) == ["web"]


def test_service_is_moved_by_an_endpoint_that_takes_one_of_its_addresses() -> None:
    compiler = Compiler(context_of)
    moved_by(compiler, ServiceUpserted(service(external_ips=("192.0.2.7",))))
    taking = endpoint_slice("other", endpoints=(endpoint("192.0.2.7"),))
    assert moved_by(compiler, SliceUpserted(taking)) == ["web"]


def test_moved_services_add_up_until_they_are_asked_for() -> None:
    compiler = Compiler(context_of)
    compiler.handle_event(ServiceUpserted(service("a", cluster_ips=("10.96.0.1",))))
    compiler.compile()
    assert moved_by(compiler, ServiceUpserted(service("b", cluster_ips=("10.96.0.2",)))) == ["a", "b"]
