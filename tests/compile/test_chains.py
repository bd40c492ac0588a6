"""The rules of our chains, where they depend on what the host can do."""

import pytest

from kubeproxy_py.compile.chains import NonEmptySets, compile_chains
from kubeproxy_py.model.rows import Chain, ChainSpec
from kubeproxy_py.model.services import FAMILIES, Family
from tests.builders import site

SHUT = NonEmptySets(frozenset({"KUBE-LOAD-BALANCER-FW", "KUBE-6-LOAD-BALANCER-FW"}), ("203.0.113.9,tcp:80",))


@pytest.mark.parametrize("family", FAMILIES)
def test_without_a_match_for_ipvs_only_the_rules_that_need_it_are_left_out(family: Family) -> None:
    whole, without = (compile_chains(family, SHUT, site(match_ipvs=can)) for can in (True, False))
    out_filter = Chain(family, "filter", "KUBE-IPVS-OUT-FILTER")
    assert whole.items() - without.items() == {(out_filter, whole[out_filter])}
    assert "-m ipvs" in str(whole[out_filter].rules)  # type: ignore[union-attr]
    assert without[out_filter] == ChainSpec(())
