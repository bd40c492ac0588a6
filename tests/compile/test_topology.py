"""Which endpoints serve: the rules of section 2 of upstream's behaviour, one claim a test."""

import pytest

from kubeproxy_py.compile.topology import Backend, NodeLocation, SelectionRule, SliceEndpoints, backends, choose
from kubeproxy_py.model.services import Endpoint, EndpointSlice, ObjectName, SlicePort
from tests.builders import HERE, THERE, endpoint, endpoint_slice, port


def chosen(*endpoints: Endpoint, zone: str = "zone-a") -> tuple[list[str], list[str]]:
    """(cluster set, local set) by address; the same whether they are one share or one each."""
    made = [Backend(e.address, 8080, e) for e in endpoints]
    together, apart = (
        [SliceEndpoints(made, NodeLocation(HERE, zone))],
        [SliceEndpoints([each], NodeLocation(HERE, zone)) for each in made],
    )
    choice = choose(together, cluster=True, local=True)
    assert choose(apart, cluster=True, local=True) == choice
    sets = [[b.address for b in together[0].chosen(rule)] for rule in (choice.cluster, choice.local)]
    assert [[b.address for each in apart for b in each.chosen(rule)] for rule in (choice.cluster, choice.local)] == sets
    return sets[0], sets[1]


def used(*endpoints: Endpoint, zone: str = "zone-a") -> list[str]:
    """The cluster set."""
    return chosen(*endpoints, zone=zone)[0]


READY = endpoint("10.0.0.1")
NOT_READY = endpoint("10.0.0.2", ready=False, serving=False)
ENDING = endpoint("10.0.0.3", ready=False, serving=True, terminating=True)
DEAD = endpoint("10.0.0.4", ready=False, serving=False, terminating=True)


def test_only_ready_endpoints_are_used_while_there_is_one() -> None:
    assert used(READY, NOT_READY, ENDING, DEAD) == [READY.address]


def test_terminating_endpoints_that_still_serve_are_the_fallback() -> None:
    assert used(NOT_READY, ENDING, DEAD) == [ENDING.address]


def test_ready_while_terminating_counts_as_ready() -> None:
    assert used(endpoint("10.0.0.9", ready=True, terminating=True), ENDING) == ["10.0.0.9"]


@pytest.mark.parametrize(
    ("hints", "zone", "pass_"),
    [
        ([("zone-a",), ("zone-b",)], "zone-a", [True, False]),
        ([("zone-a", "zone-b"), ("zone-b",)], "zone-b", [True, True]),
        ([("zone-a",), ()], "zone-a", [True, True]),  # one without hints: nobody's count
        ([("zone-b",), ("zone-b",)], "zone-a", [True, True]),  # none for our zone
        ([("zone-a",), ("zone-b",)], "", [True, True]),  # our zone is not known
    ],
)
def test_zone_hints_count_only_if_all_have_them_and_one_names_our_zone(
    hints: list[tuple[str, ...]], zone: str, pass_: list[bool]
) -> None:
    made = [endpoint(f"10.0.0.{i}", zone_hints=each) for i, each in enumerate(hints, 1)]
    assert used(*made, zone=zone) == [each.address for each, passes in zip(made, pass_, strict=True) if passes]


def test_node_hints_come_before_zone_hints() -> None:
    here = endpoint("10.0.0.1", node_hints=(HERE,), zone_hints=("zone-b",))
    there = endpoint("10.0.0.2", node_hints=(THERE,), zone_hints=("zone-a",))
    assert used(here, there) == [here.address]


def test_zone_hints_are_tried_where_node_hints_fail() -> None:
    far = endpoint("10.0.0.1", node_hints=(THERE,), zone_hints=("zone-b",))
    near = endpoint("10.0.0.2", node_hints=(THERE,), zone_hints=("zone-a",))
    assert used(far, near) == [near.address]


def test_hints_of_endpoints_that_are_not_ready_do_not_matter() -> None:
    hinted = endpoint("10.0.0.1", zone_hints=("zone-a",))
    assert used(hinted, NOT_READY) == [hinted.address]
    assert used(endpoint("10.0.0.9", zone_hints=("zone-b",)), hinted, NOT_READY) == [hinted.address]


def test_the_local_set_ignores_hints() -> None:
    assert chosen(
        endpoint("10.0.0.1", zone_hints=("zone-b",)), endpoint("10.0.0.2", THERE, zone_hints=("zone-a",))
    ) == (
        ["10.0.0.2"],
        ["10.0.0.1"],
    )


def test_the_local_set_falls_back_by_itself() -> None:
    ending_here = endpoint("10.0.0.3", ready=False, serving=True, terminating=True)
    assert chosen(ending_here, endpoint("10.0.0.2", THERE)) == (["10.0.0.2"], ["10.0.0.3"])


def test_an_endpoint_without_a_node_is_not_local() -> None:
    assert chosen(endpoint("10.0.0.1", node="")) == (["10.0.0.1"], [])


def test_a_policy_for_local_takes_the_clusters_where_there_is_none() -> None:
    far = SliceEndpoints([Backend("10.0.0.2", 80, endpoint("10.0.0.2", THERE))], NodeLocation(HERE, ""))
    choice = choose([far], cluster=True, local=True)
    assert choice.for_policy(local_wanted=True) == choice.cluster == SelectionRule.READY


def test_ports_match_by_name_and_protocol_and_bring_their_number() -> None:
    part = EndpointSlice(
        ObjectName("shop", "web-1"),
        ObjectName("shop", "web"),
        "IPv4",
        (endpoint("10.0.0.1"),),
        (SlicePort("http", "TCP", 8080), SlicePort("http", "UDP", 9), SlicePort("other", "TCP", 7)),
    )
    found = backends([part], "IPv4", port(80, "TCP", "http"))
    assert [(b.address, b.port) for b in found] == [("10.0.0.1", 8080)]


def test_one_port_may_have_different_numbers_in_different_slices() -> None:
    slices = [endpoint_slice(number=8080), endpoint_slice(endpoints=["10.0.0.7"], number=9090, suffix="2")]
    assert [(b.address, b.port) for b in backends(slices, "IPv4", port())] == [("10.244.1.5", 8080), ("10.0.0.7", 9090)]


def test_of_one_address_in_two_slices_the_one_that_is_not_terminating_holds() -> None:
    going = endpoint_slice(endpoints=[endpoint(ready=False, terminating=True)], suffix="2")
    staying = endpoint_slice(suffix="1")
    for order in ([staying, going], [going, staying]):
        found = backends(order, "IPv4", port())
        assert [b.endpoint.ready for b in found] == [True]


def test_slices_of_the_other_family_do_not_count() -> None:
    assert backends([endpoint_slice(endpoints=["fd00::5"])], "IPv4", port()) == []
