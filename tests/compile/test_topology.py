"""Which endpoints serve, as CategorizeEndpoints of kube-proxy's pkg/proxy/topology.go selects them; one rule a test."""

import pytest

from kubeproxy_py.compile.topology import Backend, SelectionRule, SliceEndpoints, backends, select_rules
from kubeproxy_py.model.services import Endpoint, EndpointSlice, ObjectName, SlicePort
from tests.builders import HERE, THERE, endpoint, endpoint_slice, node_context, port


def selected_addresses(*endpoints: Endpoint, zone: str = "zone-a") -> tuple[list[str], list[str]]:
    """Addresses selected for policies Cluster and Local; the same whether in one slice or in one slice each."""
    all_backends = [Backend(e.address, 8080, e) for e in endpoints]
    context = node_context(node_name=HERE, zone=zone)
    one_slice = [SliceEndpoints(all_backends, context)]
    many_slices = [SliceEndpoints([backend], context) for backend in all_backends]
    rules = select_rules(one_slice, cluster=True, local=True)
    assert select_rules(many_slices, cluster=True, local=True) == rules
    cluster, local = ([b.address for b in one_slice[0].selected(rule)] for rule in (rules.cluster, rules.local))
    assert [b.address for part in many_slices for b in part.selected(rules.cluster)] == cluster
    assert [b.address for part in many_slices for b in part.selected(rules.local)] == local
    return cluster, local


def for_cluster(*endpoints: Endpoint, zone: str = "zone-a") -> list[str]:
    """Addresses selected for policy Cluster."""
    return selected_addresses(*endpoints, zone=zone)[0]


READY = endpoint("10.0.0.1")
NOT_READY = endpoint("10.0.0.2", ready=False, serving=False)
TERMINATING = endpoint("10.0.0.3", ready=False, serving=True, terminating=True)
DEAD = endpoint("10.0.0.4", ready=False, serving=False, terminating=True)


def test_only_ready_endpoints_are_used_if_there_is_any() -> None:
    assert for_cluster(READY, NOT_READY, TERMINATING, DEAD) == [READY.address]


def test_terminating_endpoints_that_still_serve_are_the_fallback() -> None:
    assert for_cluster(NOT_READY, TERMINATING, DEAD) == [TERMINATING.address]


def test_ready_while_terminating_counts_as_ready() -> None:
    assert for_cluster(endpoint("10.0.0.9", ready=True, terminating=True), TERMINATING) == ["10.0.0.9"]


@pytest.mark.parametrize(
    ("hints", "zone", "expected"),
    [
        ([("zone-a",), ("zone-b",)], "zone-a", [True, False]),
        ([("zone-a", "zone-b"), ("zone-b",)], "zone-b", [True, True]),
        ([("zone-a",), ()], "zone-a", [True, True]),  # one without hints: all are ignored
        ([("zone-b",), ("zone-b",)], "zone-a", [True, True]),  # none for the zone of this node
        ([("zone-a",), ("zone-b",)], "", [True, True]),  # the zone of this node is unknown
    ],
)
def test_zone_hints_count_only_if_all_have_them_and_one_names_the_zone_of_this_node(
    hints: list[tuple[str, ...]], zone: str, expected: list[bool]
) -> None:
    endpoints = [endpoint(f"10.0.0.{i}", zone_hints=zones) for i, zones in enumerate(hints, 1)]
    assert for_cluster(*endpoints, zone=zone) == [
        e.address for e, is_used in zip(endpoints, expected, strict=True) if is_used
    ]


def test_node_hints_take_precedence_over_zone_hints() -> None:
    here = endpoint("10.0.0.1", node_hints=(HERE,), zone_hints=("zone-b",))
    there = endpoint("10.0.0.2", node_hints=(THERE,), zone_hints=("zone-a",))
    assert for_cluster(here, there) == [here.address]


def test_zone_hints_are_used_where_node_hints_do_not_apply() -> None:
    far = endpoint("10.0.0.1", node_hints=(THERE,), zone_hints=("zone-b",))
    near = endpoint("10.0.0.2", node_hints=(THERE,), zone_hints=("zone-a",))
    assert for_cluster(far, near) == [near.address]


def test_hints_of_endpoints_that_are_not_ready_are_ignored() -> None:
    hinted = endpoint("10.0.0.1", zone_hints=("zone-a",))
    assert for_cluster(hinted, NOT_READY) == [hinted.address]
    assert for_cluster(endpoint("10.0.0.9", zone_hints=("zone-b",)), hinted, NOT_READY) == [hinted.address]


def test_local_endpoints_are_selected_without_hints() -> None:
    assert selected_addresses(
        endpoint("10.0.0.1", zone_hints=("zone-b",)), endpoint("10.0.0.2", THERE, zone_hints=("zone-a",))
    ) == (
        ["10.0.0.2"],
        ["10.0.0.1"],
    )


def test_local_endpoints_fall_back_to_terminating_independently() -> None:
    ending_here = endpoint("10.0.0.3", ready=False, serving=True, terminating=True)
    assert selected_addresses(ending_here, endpoint("10.0.0.2", THERE)) == (["10.0.0.2"], ["10.0.0.3"])


def test_endpoint_without_a_node_is_not_local() -> None:
    assert selected_addresses(endpoint("10.0.0.1", node="")) == (["10.0.0.1"], [])


def test_policy_local_falls_back_to_the_cluster_rule_without_local_endpoints() -> None:
    far = SliceEndpoints([Backend("10.0.0.2", 80, endpoint("10.0.0.2", THERE))], node_context(zone=""))
    rules = select_rules([far], cluster=True, local=True)
    assert rules.for_policy(is_local=True) == rules.cluster == SelectionRule.READY


def test_slice_ports_match_by_name_and_protocol_and_give_the_number() -> None:
    endpoint_slice = EndpointSlice(
        ObjectName("shop", "web-1"),
        ObjectName("shop", "web"),
        "IPv4",
        (endpoint("10.0.0.1"),),
        (SlicePort("http", "TCP", 8080), SlicePort("http", "UDP", 9), SlicePort("other", "TCP", 7)),
    )
    found = backends([endpoint_slice], "IPv4", port(80, "TCP", "http"))
    assert [(b.address, b.port) for b in found] == [("10.0.0.1", 8080)]


def test_port_may_have_different_numbers_in_different_slices() -> None:
    slices = [endpoint_slice(number=8080), endpoint_slice(endpoints=["10.0.0.7"], number=9090, suffix="2")]
    assert [(b.address, b.port) for b in backends(slices, "IPv4", port())] == [("10.244.1.5", 8080), ("10.0.0.7", 9090)]


def test_of_an_address_in_two_slices_the_one_that_is_not_terminating_counts() -> None:
    terminating = endpoint_slice(endpoints=[endpoint(ready=False, terminating=True)], suffix="2")
    ready = endpoint_slice(suffix="1")
    for order in ([ready, terminating], [terminating, ready]):
        found = backends(order, "IPv4", port())
        assert [b.endpoint.ready for b in found] == [True]


def test_slices_of_the_other_family_are_ignored() -> None:
    assert backends([endpoint_slice(endpoints=["fd00::5"])], "IPv4", port()) == []
