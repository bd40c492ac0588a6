"""Of a Service with several slices, only what follows from a changed slice is computed again."""

from __future__ import annotations

import pytest

from kubeproxy_py.compile.compiler import Compiler
from kubeproxy_py.compile.service import compile_parts, compile_service
from kubeproxy_py.compile.slice_cache import CompileCache
from kubeproxy_py.model.events import ServiceDeleted, ServiceUpserted, SliceUpserted
from kubeproxy_py.model.rows import RealServer, Rows
from kubeproxy_py.model.services import EndpointSlice
from tests.builders import HERE, THERE, endpoint, endpoint_slice, node_context, port, service

WEB = service(ports=[port(node_port=30080)])
ONE = endpoint_slice(endpoints=["10.244.1.5", "10.244.1.6"], suffix="1")
TWO = endpoint_slice(endpoints=["10.244.2.5"], suffix="2")
TWO_CHANGED = endpoint_slice(endpoints=["10.244.2.6"], suffix="2")


def real_servers(parts: list[Rows]) -> dict[frozenset[str], int]:
    """The identity of each part with real servers, by the set of these."""
    by_servers = {frozenset(str(key) for key in part if isinstance(key, RealServer)): id(part) for part in parts}
    return {servers: identity for servers, identity in by_servers.items() if servers}


def test_parts_of_an_unchanged_slice_are_the_same_dicts() -> None:
    cache = CompileCache(WEB)
    before = real_servers(compile_parts(WEB, [ONE, TWO], node_context(), cache))
    after = real_servers(compile_parts(WEB, [ONE, TWO_CHANGED], node_context(), cache))
    assert len(before) == len(after) == 4  # two frontends, ClusterIP and NodePort, by two slices
    assert len(before.items() & after.items()) == 2
    assert not before.keys() - after.keys() <= before.items() & after.items()


def test_part_is_computed_again_when_another_selection_rule_applies() -> None:
    elsewhere = [endpoint("10.244.2.7", zone_hints=("zone-b",))]
    hinted_here = endpoint_slice(endpoints=[endpoint("10.244.1.5", zone_hints=("zone-a",))], suffix="1")
    hinted_elsewhere = endpoint_slice(endpoints=elsewhere, suffix="2")
    cache, context = CompileCache(WEB), node_context(zone="zone-a")
    compile_parts(WEB, [hinted_here, TWO], context, cache)
    after = compile_parts(WEB, [hinted_here, hinted_elsewhere], context, cache)
    joined = {key: spec for part in after for key, spec in part.items()}
    assert joined == compile_service(WEB, [hinted_here, hinted_elsewhere], context)
    assert {key.address for key in joined if isinstance(key, RealServer)} == {"10.244.1.5"}


@pytest.mark.parametrize(
    "slices",
    [
        pytest.param([ONE], id="one slice"),
        pytest.param([ONE, endpoint_slice(endpoints=["10.244.1.6"], suffix="2")], id="an endpoint in two slices"),
        pytest.param([ONE, endpoint_slice(endpoints=["fd00::5"], suffix="6")], id="one of each family"),
    ],
)
def test_slices_with_common_endpoints_are_not_cached(slices: list[EndpointSlice]) -> None:
    parts = compile_parts(WEB, slices, node_context(), CompileCache(WEB))
    assert len([part for part in parts if part]) == 1


def test_no_two_parts_have_a_key_in_common() -> None:
    other_port = endpoint_slice(endpoints=["10.244.1.5"], suffix="3", number=9)
    parts = compile_parts(WEB, [ONE, TWO, other_port], node_context(), CompileCache(WEB))
    assert sum(map(len, parts)) == len(set().union(*parts))


def test_changed_slice_changes_only_its_own_keys() -> None:
    compiler = Compiler(lambda _node, _addresses: node_context())
    slices = [endpoint_slice(endpoints=[f"10.244.{n}.5", f"10.244.{n}.6"], suffix=str(n)) for n in range(1, 6)]
    compiler.handle_event(ServiceUpserted(WEB))
    for each_slice in slices:
        compiler.handle_event(SliceUpserted(each_slice))
    compiler.compile()
    compiler.handle_event(SliceUpserted(endpoint_slice(endpoints=["10.244.3.5", "10.244.3.7"], suffix="3")))
    changed = {key.address for key in compiler.compile() if isinstance(key, RealServer)}
    assert changed == {"10.244.3.6", "10.244.3.7"}


def test_changed_node_context_invalidates_the_cache() -> None:
    where = [HERE]
    compiler = Compiler(lambda _node, _addresses: node_context(node_name=where[0]))
    local = service(internal_local=True)
    for event in (
        ServiceUpserted(local),
        SliceUpserted(endpoint_slice(endpoints=[endpoint("10.0.0.1", HERE)], suffix="1")),
    ):
        compiler.handle_event(event)
    compiler.handle_event(SliceUpserted(endpoint_slice(endpoints=[endpoint("10.0.0.2", THERE)], suffix="2")))
    compiler.compile()
    where[0] = THERE
    compiler.reconfigure(lambda _node, _addresses: node_context(node_name=where[0]))
    compiler.compile()
    assert {key.address for key in compiler.desired.rows if isinstance(key, RealServer)} == {"10.0.0.2"}


def test_cache_of_a_deleted_service_is_dropped() -> None:
    compiler = Compiler(lambda _node, _addresses: node_context())
    compiler.handle_event(ServiceUpserted(WEB))
    compiler.handle_event(SliceUpserted(ONE))
    compiler.handle_event(SliceUpserted(TWO))
    compiler.compile()
    assert compiler._caches
    compiler.handle_event(ServiceDeleted(WEB.name))
    compiler.compile()
    assert not compiler._caches
