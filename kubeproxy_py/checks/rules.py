"""Check rules of other programs that Service traffic traverses besides ours."""

from collections.abc import Iterator

from kubeproxy_py.checks.situation import Situation
from kubeproxy_py.checks.traffic import ESTABLISHED, NEW, Verdict, judge, leads_to
from kubeproxy_py.model import kube_names
from kubeproxy_py.model.finding import Finding
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


def check_nat_order(situation: Situation) -> Iterator[Finding]:
    """Find rules before our jump that translate packets to local addresses, which Service addresses are here."""
    for family in FAMILIES:
        chains = situation.facts.tables.get((family, "nat"), {})
        for name in ("PREROUTING", "OUTPUT"):
            rules = chains[name].rules if name in chains else ()
            ours = next((n for n, rule in enumerate(rules) if rule.endswith(f"-j {kube_names.SERVICES_CHAIN}")), 0)
            for rule in rules[:ours]:
                if leads_to(_TRANSLATING, rule, chains, NEW):
                    cause = f"this rule comes before the jump to {kube_names.SERVICES_CHAIN}: {rule}"
                    message = "it may redirect packets to Service addresses, which are local addresses here"
                    hint = (
                        f"let it follow the jump to {kube_names.SERVICES_CHAIN}: delete it and append it again, by "
                        f"{_PROGRAMS[family]} -t nat -D {name} RULE and -A {name} RULE"
                    )
                    yield Finding("NatRuleBeforeServices", f"{family} nat {name}", message, hint, cause)
                    break  # one line for a chain says enough
