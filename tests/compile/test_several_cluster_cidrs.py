"""Several networks of one family in clusterCIDR."""

from __future__ import annotations

from kubeproxy_py.compile.chains import NonEmptySets, compile_chains
from kubeproxy_py.compile.node_context import NodeContext, make_node_context
from kubeproxy_py.config.load import load
from kubeproxy_py.model.host import HostInfo
from kubeproxy_py.model.rows import Chain, ChainSpec
from kubeproxy_py.net import Family

SETS = NonEmptySets(frozenset(("KUBE-CLUSTER-IP", "KUBE-LOAD-BALANCER", "KUBE-6-CLUSTER-IP")))


def context(cidrs: str, **flags: str) -> NodeContext:
    return make_node_context(load({"cluster-cidr": cidrs, **flags}).config, HostInfo("node-a"), None, ())


def services_rules(node: NodeContext, family: Family = "IPv4") -> list[str]:
    spec = compile_chains(family, SETS, node)[Chain(family, "nat", "KUBE-SERVICES")]
    assert isinstance(spec, ChainSpec)
    return [rule for rule in spec.rules if "CLUSTER-IP" in rule and "ACCEPT" not in rule]


def test_what_comes_from_the_further_networks_is_unmarked_after_it_was_marked() -> None:
    rules = services_rules(context("10.244.0.0/16,10.200.0.0/16,10.201.0.0/16,fd00:10:244::/56"))
    assert rules[0].startswith("! -s 10.244.0.0/16 ")
    assert rules[0].endswith("--match-set KUBE-CLUSTER-IP dst,dst -j KUBE-MARK-MASQ")
    assert rules[1:] == [
        f"-s {network} -m set --match-set KUBE-CLUSTER-IP dst,dst -j MARK --set-xmark 0x0/0x4000"
        for network in ("10.200.0.0/16", "10.201.0.0/16")
    ]


def test_mark_of_a_load_balancer_address_is_not_taken_away() -> None:
    spec = compile_chains("IPv4", SETS, context("10.244.0.0/16,10.200.0.0/16"))[Chain("IPv4", "nat", "KUBE-SERVICES")]
    assert isinstance(spec, ChainSpec)
    unmark = next(n for n, rule in enumerate(spec.rules) if "--set-xmark" in rule)
    load_balancer = next(n for n, rule in enumerate(spec.rules) if rule.endswith("-j KUBE-LOAD-BALANCER"))
    assert unmark < load_balancer


def test_one_network_of_a_family_gives_the_rules_of_kube_proxy() -> None:
    for family in ("IPv4", "IPv6"):
        one = services_rules(context("10.244.0.0/16,fd00:10:244::/56"), family)
        assert len(one) == 1
    assert context("10.244.0.0/16,fd00:10:244::/56").more_local_networks == {}


def test_networks_given_twice_and_other_modes_have_no_further_networks() -> None:
    assert context("10.244.0.0/16,10.244.0.0/16").more_local_networks == {}
    assert context("10.244.0.0/16,10.200.0.0/16", **{"detect-local-mode": "NodeCIDR"}).more_local_networks == {}


def test_masquerade_all_marks_whatever_the_network() -> None:
    flags = {"masquerade-all": "true"}
    (rule,) = services_rules(context("10.244.0.0/16,10.200.0.0/16", **flags))
    assert rule.startswith("-m comment")
