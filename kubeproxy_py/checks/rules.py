"""Check rules of other programs that Service traffic traverses besides ours."""

from collections.abc import Iterator

from kubeproxy_py.checks.situation import Situation
from kubeproxy_py.checks.traffic import ESTABLISHED, NEW, Verdict, ends, judge, leads_to
from kubeproxy_py.model import kube_names
from kubeproxy_py.model.finding import Finding, Severity
from kubeproxy_py.model.host_facts import Chains
from kubeproxy_py.net import FAMILIES, Family

_PROGRAMS: dict[Family, str] = {"IPv4": "iptables", "IPv6": "ip6tables"}
_TRANSLATING = frozenset(("DNAT", "REDIRECT", "NETMAP"))


def check_input(situation: Situation) -> Iterator[Finding]:
    """Find a chain INPUT that certainly drops or rejects new connections to Services.

    Packets to Service addresses are packets to this host until IPVS gets them, after the chain INPUT.
    """
    for family in FAMILIES:
        chains = situation.facts.tables.get((family, "filter"), {})
        verdict, rule = judge("INPUT", chains, NEW)
        if verdict is Verdict.DROP:
            cause = f"it does not accept them: {rule}"
            message = "new connections to Services, which are packets to this host in IPVS mode, do not reach IPVS"
            hint = (
                "accept what matches the sets of Services before it, for example: "
                f"{_PROGRAMS[family]} -I INPUT -m set --match-set "
                f"{kube_names.CLUSTER_IP.name_in(family)} dst,dst -j ACCEPT; see docs/troubleshooting.md"
            )
            yield Finding("InputDropsServices", f"{family} filter INPUT", message, hint, cause)


def check_forward(situation: Situation) -> Iterator[Finding]:
    """Find a chain FORWARD that certainly drops the answers of endpoints, which our own chain would accept."""
    for family in FAMILIES:
        chains = situation.facts.tables.get((family, "filter"), {})
        verdict, rule = judge("FORWARD", chains, ESTABLISHED)
        if verdict is Verdict.DROP:
            cause = f"it does not accept established connections: {rule}"
            message = "answers of pods to clients of Services are not forwarded"
            hint = (
                f"let it follow the jump to {kube_names.FORWARD_CHAIN}, or accept established connections before it: "
                f"{_PROGRAMS[family]} -I FORWARD -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT"
            )
            yield Finding("ForwardDropsServices", f"{family} filter FORWARD", message, hint, cause)


_NAT_JUMPS = {
    "PREROUTING": (
        kube_names.SERVICES_CHAIN,
        "packets to Services that it takes are not masqueraded: NodePorts, load balancer addresses and externalIPs do "
        "not answer where the pod is on another node",
    ),
    "OUTPUT": (
        kube_names.SERVICES_CHAIN,
        "packets of this host to Services that it takes are not masqueraded, so pods cannot answer them",
    ),
    "POSTROUTING": (
        kube_names.POSTROUTING_CHAIN,
        "packets to Services that it takes are not masqueraded, so pods cannot answer their clients",
    ),
}
"""By built-in chain: where our jump leads, and what follows if packets skip it."""

_FILTER_JUMPS = {
    "INPUT": (
        (kube_names.ACCESS_FILTER_CHAIN, "what it accepts reaches ports of this host at Service addresses"),
        (kube_names.PROXY_FIREWALL_CHAIN, "loadBalancerSourceRanges are not enforced for what it accepts"),
    ),
    "OUTPUT": ((kube_names.OUT_FILTER_CHAIN, "what it accepts reaches ports of this host at Service addresses"),),
}
"""By built-in chain: our chains that refuse packets, and what follows if they are skipped."""


def check_nat_order(situation: Situation) -> Iterator[Finding]:
    """Find rules before our jumps that translate packets to Service addresses, or have them skip our chains."""
    for family in FAMILIES:
        chains = situation.facts.tables.get((family, "nat"), {})
        for name, (target, _) in _NAT_JUMPS.items():
            for rule in _rules_before(target, name, chains):
                if message := _nat_effect(rule, name, chains):
                    yield _finding_before("NatRuleBeforeServices", (family, "nat", name), target, rule, message)
                    break  # one line for a chain says enough


def _nat_effect(rule: str, name: str, chains: Chains) -> str:
    """Return what follows for packets to Services from *rule* before our jump in the chain *name*; "" if nothing does.

    In POSTROUTING others translate what their own pods send, and accept parts of that: only what takes all counts.
    """
    is_before_ipvs = name != "POSTROUTING"
    if is_before_ipvs and leads_to(_TRANSLATING, rule, chains, NEW):
        return "it may redirect packets to Service addresses, which are local addresses here"
    return _NAT_JUMPS[name][1] if ends(rule, chains, NEW, wide=is_before_ipvs) else ""


def check_filter_order(situation: Situation) -> Iterator[Finding]:
    """Find rules before our jumps that certainly accept what our chains are there to refuse."""
    for family in FAMILIES:
        chains = situation.facts.tables.get((family, "filter"), {})
        for name, jumps in _FILTER_JUMPS.items():
            accepting = {
                target: rule
                for target, _ in jumps
                for rule in reversed(_rules_before(target, name, chains))
                if ends(rule, chains, NEW)
            }
            if accepting:
                message = ", and ".join(message for target, message in jumps if target in accepting)
                target, rule = next(iter(accepting.items()))
                place = (family, "filter", name)
                yield _finding_before("FilterRuleBeforeServices", place, target, rule, message, "warning")


def _rules_before(target: str, name: str, chains: Chains) -> tuple[str, ...]:
    """Return the rules of the chain *name* before the jump to *target*; none if there is no such jump."""
    rules = chains[name].rules if name in chains else ()
    return rules[: next((number for number, rule in enumerate(rules) if rule.endswith(f"-j {target}")), 0)]


def _finding_before(  # noqa: PLR0913, PLR0917 - the parts of its sentence
    reason: str, place: tuple[Family, str, str], target: str, rule: str, message: str, severity: Severity = "error"
) -> Finding:
    """Return the finding *reason* that *rule* comes before the jump to *target* in a chain of a table."""
    family, table, name = place
    cause = f"this rule comes before the jump to {target}: {rule}"
    program = f"{_PROGRAMS[family]} -t {table}"
    hint = (
        f"let it follow the jump to {target}: delete it and append it again, by {program} -D {name} RULE and -A {name} "
        "RULE"
    )
    return Finding(reason, f"{family} {table} {name}", message, hint, cause, severity)
