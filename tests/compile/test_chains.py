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
