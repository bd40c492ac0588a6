"""The rules of the chains, where they depend on the capabilities of the host."""

import re

import pytest

from kubeproxy_py.compile.base import base_rows
from kubeproxy_py.compile.chains import NonEmptySets, compile_chains
from kubeproxy_py.model import kube_names
from kubeproxy_py.model.extensions import EXTENSIONS, used_extensions
from kubeproxy_py.model.policy_marks import MarkRange
from kubeproxy_py.model.rows import Chain, ChainSpec, JumpSpec, Rows
from kubeproxy_py.net import FAMILIES, Family
from tests.builders import node_context

CLOSED = NonEmptySets(frozenset({"KUBE-LOAD-BALANCER-FW", "KUBE-6-LOAD-BALANCER-FW"}), ("203.0.113.9,tcp:80",))
OPTIONAL = [name for name, extension in EXTENSIONS.items() if extension.without]


def all_sets(family: Family) -> NonEmptySets:
    definitions = (*kube_names.IPSET_DEFINITIONS, *kube_names.POLICY_DIRECT_DEFINITIONS)
    names = frozenset(definition.name_in(family) for definition in definitions)
    return NonEmptySets(names, CLOSED.closed_to_node)


EXACT = {"policy_marks": MarkRange(), "if_local": {"IPv4": ("-s 10.244.1.0/24",), "IPv6": ("-i cni0",)}}


def chains_without(family: Family, *names: str) -> Rows:
    context = node_context(missing_extensions={family: frozenset(names)}, **EXACT)
    return compile_chains(family, all_sets(family), context)


def rules_of(rows: Rows) -> set[str]:
    return {rule for spec in rows.values() if isinstance(spec, ChainSpec) for rule in spec.rules}


def test_every_match_and_target_that_rules_use_is_listed_as_an_extension() -> None:
    rules = {rule for family in FAMILIES for rule in rules_of(chains_without(family))}
    matches = {name for rule in rules for name in re.findall(r"-m (\S+)", rule)}
    targets = {name for rule in rules for name in re.findall(r"-j (\S+)", rule) if not name.startswith("KUBE-")}
    assert (matches | targets) - {"ACCEPT", "DROP", "RETURN"} == EXTENSIONS.keys()


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("name", OPTIONAL)
def test_no_rule_uses_an_extension_that_is_missing_and_can_be_done_without(family: Family, name: str) -> None:
    used = used_extensions(rules_of(chains_without(family, name)))
    assert EXTENSIONS[name] not in used
    assert EXTENSIONS[name] in used_extensions(rules_of(chains_without(family)))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("name", OPTIONAL)
def test_a_missing_extension_of_one_family_leaves_the_other_family_unchanged(family: Family, name: str) -> None:
    (other,) = (other for other in FAMILIES if other != family)
    context = node_context(missing_extensions={other: frozenset({name})}, **EXACT)
    assert compile_chains(family, all_sets(family), context) == chains_without(family)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("name", OPTIONAL)
def test_every_drop_and_reject_stays_without_an_extension_except_those_of_the_ipvs_match(
    family: Family, name: str
) -> None:
    def closing(rows: Rows) -> list[str]:
        rules = (rule for rule in rules_of(rows) if re.search("-j (DROP|REJECT)", rule))
        return sorted(rule.partition(" -j ")[0] for rule in rules if "-m ipvs" not in rule)

    assert closing(chains_without(family, name)) == closing(chains_without(family))


@pytest.mark.parametrize("family", FAMILIES)
def test_without_physdev_one_accept_rule_is_left_out_and_the_one_for_local_addresses_stays(family: Family) -> None:
    complete, without = rules_of(chains_without(family)), rules_of(chains_without(family, "physdev"))
    assert without < complete
    assert all("physdev" in rule for rule in complete - without)
    assert [rule for rule in without if "EXTERNAL-IP" in rule and "--dst-type LOCAL -j ACCEPT" in rule]


@pytest.mark.parametrize(("family", "address"), [("IPv4", "192.168.3.10/32"), ("IPv6", "fd00:3::10/128")])
def test_without_addrtype_node_ports_have_one_rule_for_each_address(family: Family, address: str) -> None:
    assert f"-d {address} -j KUBE-NODE-PORT" in rules_of(chains_without(family, "addrtype"))


@pytest.mark.parametrize("family", FAMILIES)
def test_without_comments_jumps_have_none_either(family: Family) -> None:
    rows = base_rows(FAMILIES, {}, without_comments=(family,))
    jumps = {spec.rule for key, spec in rows.items() if isinstance(spec, JumpSpec) and key in kube_names.jumps(family)}
    assert jumps == {f"-j {jump.target}" for jump in kube_names.jumps(family)}


@pytest.mark.parametrize("family", FAMILIES)
def test_without_the_ipvs_match_only_the_rules_that_need_it_are_omitted(family: Family) -> None:
    complete, without = (
        compile_chains(family, CLOSED, node_context(missing_extensions={family: frozenset(missing)}))
        for missing in ((), ("ipvs",))
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


NO_ENTRIES = NonEmptySets()


def policy_rules(
    name: str, family: Family = "IPv4", sets: NonEmptySets = NO_ENTRIES, **fields: object
) -> tuple[str, ...]:
    """The rules of one chain with exact policies, where only *sets* have entries."""
    rows = compile_chains(family, sets, node_context(**EXACT, **fields))
    (spec,) = (spec for key, spec in rows.items() if isinstance(key, Chain) and key.name == name)
    assert isinstance(spec, ChainSpec)
    return spec.rules


def test_without_addrtype_what_is_handed_on_by_route_keeps_its_mark_by_a_rule_of_its_own() -> None:
    routed, without = NonEmptySets(frozenset({"KUBE-PY-ROUTED"})), {"IPv4": frozenset({"addrtype"})}
    first, *others = policy_rules("KUBE-PY-OUTPUT", sets=routed, missing_extensions=without)
    assert first.endswith("-m set --match-set KUBE-PY-ROUTED dst,dst -j RETURN")
    assert tuple(others) == policy_rules("KUBE-PY-OUTPUT", missing_extensions=without)
    assert "KUBE-PY-ROUTED" not in str(policy_rules("KUBE-PY-OUTPUT", sets=routed))


def test_exact_policies_drop_what_is_forwarded_or_sent_to_the_service_network() -> None:
    networks = {"IPv4": ("10.96.0.0/16", "10.97.0.0/16")}
    drops = tuple(f"-d {network} -m conntrack --ctstate NEW -j DROP" for network in networks["IPv4"])
    assert policy_rules("KUBE-PY-FORWARD", service_networks=networks) == drops
    assert policy_rules("KUBE-PY-FORWARD", "IPv6", service_networks=networks) == ()
    sent = [rule for rule in policy_rules("KUBE-PY-OUTPUT", service_networks=networks) if rule.startswith("-d ")]
    assert sent == [drop.replace("-m conntrack", "-m addrtype ! --dst-type LOCAL -m conntrack") for drop in drops]


def test_exact_policies_apply_source_ranges_to_the_node_before_all_else() -> None:
    first, *_ = policy_rules("KUBE-PY-OUTPUT")
    assert first == "-m set --match-set KUBE-LOAD-BALANCER-FW dst,dst -j KUBE-PY-SOURCE-RANGES"
    *returns, last = policy_rules("KUBE-PY-SOURCE-RANGES")
    assert [rule.endswith("dst,dst,src -j RETURN") for rule in returns] == [True, True]
    assert last == "-j DROP"


def test_exact_policies_admit_only_tcp_to_health_check_node_ports_and_reject_what_is_not_tracked() -> None:
    usual = compile_chains("IPv4", all_sets("IPv4"), node_context())[Chain("IPv4", "filter", "KUBE-IPVS-FILTER")]
    exact = compile_chains("IPv4", all_sets("IPv4"), node_context(**EXACT))[Chain("IPv4", "filter", "KUBE-IPVS-FILTER")]
    assert isinstance(usual, ChainSpec)
    assert isinstance(exact, ChainSpec)
    differing = [(one, other) for one, other in zip(usual.rules, exact.rules, strict=True) if one != other]
    health, reject = differing
    assert health[1] == f"-p tcp {health[0]}"
    assert reject[1] == reject[0].replace("--ctstate NEW", "--ctstate NEW,UNTRACKED")


def test_exact_policies_accept_what_goes_to_a_service_address_before_it_is_taken_for_a_node_port() -> None:
    usual = compile_chains("IPv4", all_sets("IPv4"), node_context())[Chain("IPv4", "nat", "KUBE-SERVICES")]
    exact = policy_rules("KUBE-SERVICES", sets=all_sets("IPv4"))
    assert isinstance(usual, ChainSpec)
    *others, node_ports, cluster_ips, load_balancers = usual.rules
    assert exact == (*others, cluster_ips, load_balancers, node_ports)
    assert node_ports.endswith("-j KUBE-NODE-PORT")
    assert (cluster_ips, load_balancers) == tuple(
        f"-m set --match-set {name} dst,dst -j ACCEPT" for name in ("KUBE-CLUSTER-IP", "KUBE-LOAD-BALANCER")
    )
