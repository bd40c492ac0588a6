"""Whose rows are, also those that no Service wants any more."""

import pytest

from kubeproxy_py.commands.row_owners import RowOwners
from kubeproxy_py.compile.compiler import Compiler
from kubeproxy_py.model.events import ServiceUpserted, SliceUpserted
from kubeproxy_py.model.policy_marks import MarkRange
from kubeproxy_py.model.rows import IpsetEntry, Key, PolicyEntry, RealServer, ReturnTunnel, Rows, VirtualServer
from kubeproxy_py.model.services import Service
from kubeproxy_py.plan.plan import make_plan
from kubeproxy_py.plan.render import group_by_service
from tests.builders import HERE, THERE, endpoint, endpoint_slice, node_context, port, service

SHARED = "203.0.113.7"  # the address of two Services
FORMER = "Exact policies of Services that do not ask for them any more, or are gone"


def local(text: str, number: int, *, is_local: bool) -> Service:
    cluster_ip = f"10.96.0.{number % 200}"
    return service(text, [cluster_ip], [port(number)], external_ips=(SHARED,), external_local=is_local)


def compiled(*services: Service) -> Compiler:
    made = Compiler(lambda _node, _addresses: node_context(families=("IPv4",), policy_marks=MarkRange()))
    for one in services:
        made.handle_event(ServiceUpserted(one))
        pods = [endpoint("10.244.1.5", HERE), endpoint("10.244.2.5", THERE)]
        made.handle_event(SliceUpserted(endpoint_slice(one.name.name, pods)))
    made.compile()
    return made


def of_policies(rows: Rows) -> list[Key]:
    def is_by_mark(key: Key) -> bool:
        server = key.virtual_server if isinstance(key, RealServer) else key
        return isinstance(server, VirtualServer) and server.mark > 0

    return [key for key in rows if isinstance(key, PolicyEntry) or is_by_mark(key)]


BEFORE = compiled(local("web", 80, is_local=True), local("api", 81, is_local=True)).desired.rows


def test_rows_of_exact_policies_that_a_service_had_are_named_for_it_by_the_frontends_that_led_there() -> None:
    now = compiled(local("web", 80, is_local=False), local("api", 81, is_local=True))
    owners = RowOwners(now.desired, BEFORE)
    former = [key for key in of_policies(BEFORE) if key not in now.desired.rows]
    kinds = sorted(type(key).__name__ for key in former)
    assert kinds == ["PolicyEntry", "RealServer", "RealServer", "VirtualServer"]
    assert {owners(key) for key in former} == {("shop/web",)}
    assert FORMER not in dict(group_by_service(make_plan(now.desired.rows, BEFORE), owners))


def test_mark_that_rests_is_named_for_the_service_that_had_it_though_its_entry_is_gone() -> None:
    agent = compiled(local("web", 80, is_local=True))
    (server,) = (key for key in agent.desired.rows if isinstance(key, VirtualServer) and key.mark)
    agent.handle_event(ServiceUpserted(local("web", 80, is_local=False)))
    agent.compile()
    assert server in agent.marks.resting
    owners = RowOwners(agent.desired, {}, agent.holder_of)
    assert owners(RealServer(server, "10.244.1.5", 8080)) == ("shop/web",)
    agent.end_rest(lambda _server: False)
    assert owners(server) == ()


def test_rows_of_exact_policies_of_a_deleted_service_are_described() -> None:
    now = compiled(local("api", 81, is_local=True))
    gone = service("gone", ["10.96.0.9"], external_ips=("203.0.113.9",), external_local=True)
    before = compiled(gone, local("api", 81, is_local=True)).desired.rows
    groups = dict(group_by_service(make_plan(now.desired.rows, before), RowOwners(now.desired, before)))
    assert {type(step.key) for step in groups[FORMER]} == {VirtualServer, RealServer, PolicyEntry}
    assert not {step.key for step in groups["No Service"]} & {*of_policies(before)}


@pytest.mark.parametrize(
    "entry", [IpsetEntry("KUBE-EXTERNAL-IP", f"{SHARED},tcp:80"), VirtualServer(SHARED, 80, "TCP")]
)
def test_entry_that_no_service_wants_belongs_to_the_service_with_its_port_if_several_have_the_address(
    entry: Key,
) -> None:
    owners = RowOwners(compiled(local("web", 80, is_local=True), local("api", 81, is_local=True)).desired)
    assert owners(entry) == ("shop/web",)
    assert owners(IpsetEntry("KUBE-EXTERNAL-IP", f"{SHARED},tcp:9")) == ()


def test_device_of_returned_answers_is_for_all_services_when_none_wants_it() -> None:
    steps = make_plan({}, {ReturnTunnel("IPv4"): None})
    assert [heading for heading, _ in group_by_service(steps, lambda _key: ())] == ["All Services"]
