"""The rules of the chains, where they depend on the capabilities of the host."""

import pytest

from kubeproxy_py.compile.chains import NonEmptySets, compile_chains
from kubeproxy_py.model.rows import Chain, ChainSpec
from kubeproxy_py.net import FAMILIES, Family
from tests.builders import node_context

CLOSED = NonEmptySets(frozenset({"KUBE-LOAD-BALANCER-FW", "KUBE-6-LOAD-BALANCER-FW"}), ("203.0.113.9,tcp:80",))


@pytest.mark.parametrize("family", FAMILIES)
def test_without_the_ipvs_match_only_the_rules_that_need_it_are_omitted(family: Family) -> None:
    complete, without = (
        compile_chains(family, CLOSED, node_context(match_ipvs=has_match)) for has_match in (True, False)
    )
    out_filter = Chain(family, "filter", "KUBE-IPVS-OUT-FILTER")
    assert complete.items() - without.items() == {(out_filter, complete[out_filter])}
    assert "-m ipvs" in str(complete[out_filter].rules)  # type: ignore[union-attr]
    assert without[out_filter] == ChainSpec(())


@pytest.mark.parametrize("family", FAMILIES)
def test_port_of_the_health_server_is_let_through_for_tcp_only_and_before_the_rejection(family: Family) -> None:
    access_filter = Chain(family, "filter", "KUBE-IPVS-FILTER")
    without, complete = (compile_chains(family, NonEmptySets(), node_context(health_port=port)) for port in (0, 10256))
    assert complete.items() - without.items() == {(access_filter, complete[access_filter])}
    rules = complete[access_filter].rules  # type: ignore[union-attr]
    assert rules[-2] == "-p tcp -m tcp --dport 10256 -j RETURN"
    assert (*rules[:-2], rules[-1]) == without[access_filter].rules  # type: ignore[union-attr]
