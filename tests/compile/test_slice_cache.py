"""Of a Service with several slices only what follows from a changed slice is made anew."""

from __future__ import annotations

import pytest

from kubeproxy_py.compile.compiler import Compiler
from kubeproxy_py.compile.service import compile_parts, compile_service
from kubeproxy_py.compile.slice_cache import CompileCache
from kubeproxy_py.model.events import ServiceDeleted, ServiceUpserted, SliceUpserted
from kubeproxy_py.model.rows import RealServer, Rows
from kubeproxy_py.model.services import EndpointSlice
from tests.builders import HERE, THERE, endpoint, endpoint_slice, port, service, site

WEB = service(ports=[port(node_port=30080)])
ONE = endpoint_slice(endpoints=["10.244.1.5", "10.244.1.6"], suffix="1")
TWO = endpoint_slice(endpoints=["10.244.2.5"], suffix="2")
TWO_CHANGED = endpoint_slice(endpoints=["10.244.2.6"], suffix="2")


def real_servers(parts: list[Rows]) -> dict[frozenset[str], int]:
    """The parts that have real servers, by these, with their identity."""
    found = {frozenset(str(key) for key in part if isinstance(key, RealServer)): id(part) for part in parts}
    return {servers: place for servers, place in found.items() if servers}


def test_the_parts_of_a_slice_that_did_not_change_are_the_same_dicts() -> None:
    memo = CompileCache(WEB)
    before = real_servers(compile_parts(WEB, [ONE, TWO], site(), memo))
    after = real_servers(compile_parts(WEB, [ONE, TWO_CHANGED], site(), memo))
    assert len(before) == len(after) == 4  # two fronts, ClusterIP and NodePort, by two slices
    assert len(before.items() & after.items()) == 2
    assert not before.keys() - after.keys() <= before.items() & after.items()


def test_a_part_that_follows_from_a_rule_is_made_anew_when_another_rule_is_in_force() -> None:
    hinted = [endpoint("10.244.2.7", zone_hints=("zone-b",))]
    everyone_hinted = endpoint_slice(endpoints=[endpoint("10.244.1.5", zone_hints=("zone-a",))], suffix="1")
    somebody_else = endpoint_slice(endpoints=hinted, suffix="2")
    memo, here = CompileCache(WEB), site(zone="zone-a")
    compile_parts(WEB, [everyone_hinted, TWO], here, memo)
    after = compile_parts(WEB, [everyone_hinted, somebody_else], here, memo)
    joined = {key: spec for part in after for key, spec in part.items()}
    assert joined == compile_service(WEB, [everyone_hinted, somebody_else], here)
    assert {key.address for key in joined if isinstance(key, RealServer)} == {"10.244.1.5"}


@pytest.mark.parametrize(
    "slices",
    [
        pytest.param([ONE], id="one slice"),
        pytest.param([ONE, endpoint_slice(endpoints=["10.244.1.6"], suffix="2")], id="an endpoint in two slices"),
        pytest.param([ONE, endpoint_slice(endpoints=["fd00::5"], suffix="6")], id="one of each family"),
    ],
)
def test_nothing_is_kept_of_slices_that_can_not_be_told_apart(slices: list[EndpointSlice]) -> None:
    parts = compile_parts(WEB, slices, site(), CompileCache(WEB))
    assert len([part for part in parts if part]) == 1


def test_no_two_parts_have_a_key_in_common() -> None:
    other_port = endpoint_slice(endpoints=["10.244.1.5"], suffix="3", number=9)
    parts = compile_parts(WEB, [ONE, TWO, other_port], site(), CompileCache(WEB))
    assert sum(map(len, parts)) == len(set().union(*parts))


def test_one_changed_slice_of_many_changes_its_own_keys_alone() -> None:
    made = Compiler(lambda _node, _addresses: site())
    many = [endpoint_slice(endpoints=[f"10.244.{n}.5", f"10.244.{n}.6"], suffix=str(n)) for n in range(1, 6)]
    made.handle_event(ServiceUpserted(WEB))
    for part in many:
        made.handle_event(SliceUpserted(part))
    made.compile()
    made.handle_event(SliceUpserted(endpoint_slice(endpoints=["10.244.3.5", "10.244.3.7"], suffix="3")))
    changed = {key.address for key in made.compile() if isinstance(key, RealServer)}
    assert changed == {"10.244.3.6", "10.244.3.7"}


def test_another_node_makes_all_anew() -> None:
    where = [HERE]
    made = Compiler(lambda _node, _addresses: site(node_name=where[0]))
    local = service(internal_local=True)
    for event in (
        ServiceUpserted(local),
        SliceUpserted(endpoint_slice(endpoints=[endpoint("10.0.0.1", HERE)], suffix="1")),
    ):
        made.handle_event(event)
    made.handle_event(SliceUpserted(endpoint_slice(endpoints=[endpoint("10.0.0.2", THERE)], suffix="2")))
    made.compile()
    where[0] = THERE
    made.reconfigure(lambda _node, _addresses: site(node_name=where[0]))
    made.compile()
    assert {key.address for key in made.desired.rows if isinstance(key, RealServer)} == {"10.0.0.2"}


def test_nothing_is_kept_of_a_service_that_is_gone() -> None:
    made = Compiler(lambda _node, _addresses: site())
    made.handle_event(ServiceUpserted(WEB))
    made.handle_event(SliceUpserted(ONE))
    made.handle_event(SliceUpserted(TWO))
    made.compile()
    assert made._memos
    made.handle_event(ServiceDeleted(WEB.name))
    made.compile()
    assert not made._memos
