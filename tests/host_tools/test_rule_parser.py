"""The rule parser: every rule that can be compiled is parsed without loss, and every other rule is rejected."""

from collections.abc import Iterator

import pytest

from kubeproxy_py.compile.chains import NonEmptySets, compile_chains
from kubeproxy_py.compile.node_context import NodeContext
from kubeproxy_py.kernel.iptables.rule_parser import NOT, Line, Option, ParsedRule, parse_restore, parse_rule
from kubeproxy_py.model import kube_names as tables
from kubeproxy_py.model.policy_marks import MarkRange
from kubeproxy_py.model.rows import ChainSpec
from kubeproxy_py.net import FAMILIES, Family
from tests.host_tools.recorded_tables import recorded_rows

_ADDRESS: dict[Family, str] = {"IPv4": "203.0.113.9", "IPv6": "2001:db8::9"}
_NODE: dict[Family, str] = {"IPv4": "192.168.3.10", "IPv6": "fd00:3::10"}
_NETWORK: dict[Family, str] = {"IPv4": "10.244.0.0/16", "IPv6": "fd00:10:244::/56"}
_SERVICES: dict[Family, str] = {"IPv4": "10.96.0.0/16", "IPv6": "fd00:10:96::/108"}


def _contexts(family: Family) -> Iterator[NodeContext]:
    for not_local in ("", f"! -s {_NETWORK[family]}", "! -i cni0", "! -i cali+"):
        yield NodeContext(if_not_local={family: not_local} if not_local else {})
    yield NodeContext(masquerade_all=True, random_fully=False, masquerade_mark=1)
    yield NodeContext(masquerade_mark=1 << 31)
    yield NodeContext(
        missing_extensions={family: frozenset({"addrtype"})}, node_port_addresses={family: (_NODE[family],)}
    )
    yield NodeContext(missing_extensions={family: frozenset({"REJECT", "physdev"})})
    yield NodeContext(more_local_networks={family: (_NETWORK[family],)}, health_port=10256)
    for missing in (frozenset[str](), frozenset({"addrtype"})):
        yield NodeContext(
            policy_marks=MarkRange(),
            if_local={family: (f"-s {_NETWORK[family]}", "-i cni0", "-i cali+")},
            service_networks={family: (_SERVICES[family],)},
            missing_extensions={family: missing},
        )


def _compiled_rules(family: Family) -> set[str]:
    """Return every rule that can be compiled, for all node contexts."""
    non_empty = tables.POLICY_SETS.union(key.name for key in tables.ipsets(family))
    closed_to_node = tuple(f"{_ADDRESS[family]},{protocol}:65535" for protocol in ("tcp", "udp", "sctp"))
    specs = [
        spec
        for context in _contexts(family)
        for spec in compile_chains(family, NonEmptySets(non_empty, closed_to_node), context).values()
    ]
    return {rule for spec in specs if isinstance(spec, ChainSpec) for rule in spec.rules}


def _text(rule: ParsedRule) -> str:
    """Return the rule as iptables-save prints it."""
    parts = [_field("-i", rule.in_interface), _field("-s", rule.source)]
    parts += [_field("-d", rule.destination), _field("-p", rule.protocol)]
    parts += [f"-m {name} {_options(options)}" for name, options in rule.matches]
    parts += [f"-j {rule.target}", _options(rule.target_options)]
    return " ".join(filter(None, parts))


def _field(letter: str, value: str) -> str:
    inverted = f"{NOT} " if value.startswith(NOT) else ""
    return f"{inverted}{letter} {value.removeprefix(NOT)}" if value else ""


def _options(options: tuple[Option, ...]) -> str:
    return " ".join(_option(name, values) for name, values in options)


def _option(name: str, values: tuple[str, ...]) -> str:
    if name == "comment":
        escaped = values[0].replace("'", "\\'")
        return f'--comment "{escaped}"'
    inverted = values[:1] == (NOT,)
    return " ".join([*[NOT] * inverted, f"--{name}", *values[inverted:]])


@pytest.mark.parametrize("family", FAMILIES)
def test_every_compiled_rule_is_parsed_completely(family: Family) -> None:
    rules = _compiled_rules(family)
    assert len(rules) > 40
    assert {_text(parse_rule(rule, family)) for rule in rules} == rules


@pytest.mark.parametrize("family", FAMILIES)
def test_every_jump_is_parsed_completely(family: Family) -> None:
    rules = set(tables.jumps(family, policies=True).values())
    assert {_text(parse_rule(rule, family)) for rule in rules} == rules


@pytest.mark.parametrize("family", FAMILIES)
def test_every_recorded_rule_of_kube_proxy_is_parsed_completely(family: Family) -> None:
    specs = [spec for spec in recorded_rows(family).values() if isinstance(spec, ChainSpec)]
    rules = {rule for spec in specs for rule in spec.rules}
    assert {_text(parse_rule(rule, family)) for rule in rules} == rules


_SET = "-m set --match-set KUBE-CLUSTER-IP"


@pytest.mark.parametrize(
    ("rule", "word"),
    [
        ("-m set --match-set NO-SUCH-SET dst,dst -j RETURN", "NO-SUCH-SET"),
        ("-m set --match-set KUBE-6-CLUSTER-IP dst,dst -j RETURN", "KUBE-6-CLUSTER-IP"),
        (f"{_SET} dst,dstx -j RETURN", "dst,dstx"),
        (f"{_SET} dst, -j RETURN", "dst,"),
        (f"{_SET} dst,dst,dst,dst -j RETURN", "dst,dst,dst,dst"),
        ("-m conntrack --ctstate ESTABLISHT -j RETURN", "ESTABLISHT"),
        ("-m conntrack --ctstatus NONE -j RETURN", "--ctstatus"),
        ("-p tcp -m tcp --dport 080 -j RETURN", "080"),
        ("-m mark --mark 0x4000 -j RETURN", "0x4000"),
        ("-m addrtype --dst-type REMOTE -j RETURN", "REMOTE"),
        ("-m ipvs --vproto 6 --vaddr fd00::1 --vport 80 -j DROP", "fd00::1"),
        ("-m ipvs --vproto 6 --vaddr 10.0.0.01 --vport 80 -j DROP", "10.0.0.01"),
        ("-m ipvs --vport 0 -j DROP", "0"),
        ("-m owner --uid-owner 0 -j ACCEPT", "owner"),
        (f'-m comment --comment "{"x" * 256}" -j ACCEPT', "x" * 256),
        ("-s 10.0.0.1/8 -j RETURN", "10.0.0.1/8"),
        ("-s fd00::/8 -j RETURN", "fd00::/8"),
        ("-s everywhere -j RETURN", "everywhere"),
        ("-i a-name-too-long-for-one -j RETURN", "a-name-too-long-for-one"),
        ("-p icmp -j RETURN", "icmp"),
        ("! -p tcp -j RETURN", "-p"),
        ("! -m mark --mark 0x1/0x1 -j RETURN", "-m"),
        ("-d 10.0.0.1/8 -j RETURN", "10.0.0.1/8"),
        ("-o eth0 -j RETURN", "-o"),
        ("-j NOWHERE", "NOWHERE"),
        ("-j MARK --or-mark 0x4000", "--or-mark"),
        ("-j REJECT --reject-with tcp-reset", "tcp-reset"),
        ("-j RETURN -j DROP", "-j"),
        ("-j RETURN !", "!"),
        ("-j", ""),
        ("-p tcp", ""),
        ("", ""),
    ],
)
def test_a_word_that_is_not_ours_is_rejected_and_named(rule: str, word: str) -> None:
    with pytest.raises(ValueError, match="is not accepted in the rule") as caught:
        parse_rule(rule, "IPv4")
    assert str(caught.value).startswith(f"{word!r} ")


def test_set_names_returns_the_sets_that_a_rule_matches_on() -> None:
    assert parse_rule(f"{_SET} dst,dst -m set --match-set KUBE-IPVS-IPS dst -j DROP", "IPv4").set_names() == {
        "KUBE-CLUSTER-IP",
        "KUBE-IPVS-IPS",
    }


def test_parse_restore_keeps_the_order_of_lines() -> None:
    text = b"*nat\n:KUBE-SERVICES - [0:0]\n-A KUBE-SERVICES -j RETURN\nCOMMIT\n*filter\n-X KUBE-FORWARD\nCOMMIT\n"
    assert parse_restore(text, "IPv4") == {
        "nat": [Line(":", "KUBE-SERVICES"), Line("-A", "KUBE-SERVICES", ParsedRule(target="RETURN"))],
        "filter": [Line("-X", "KUBE-FORWARD")],
    }
