"""Checks of rules of other programs, on what iptables-save prints on real hosts."""

from __future__ import annotations

import pytest

from kubeproxy_py.checks.rules import check_filter_order, check_forward, check_input, check_nat_order
from kubeproxy_py.checks.situation import Situation
from kubeproxy_py.kernel.host_facts import parse_saved
from kubeproxy_py.model.host_facts import HostFacts
from kubeproxy_py.net import FAMILIES

OUR_INPUT = """
-A INPUT -m comment --comment "kubernetes ipvs access filter" -j KUBE-IPVS-FILTER
-A INPUT -m comment --comment "kube-proxy firewall rules" -j KUBE-PROXY-FIREWALL
-A INPUT -m comment --comment "kubernetes health check rules" -j KUBE-NODE-PORT
"""
OUR_CHAINS = """
-A KUBE-IPVS-FILTER -m set --match-set KUBE-CLUSTER-IP dst,dst -j RETURN
-A KUBE-IPVS-FILTER -m conntrack --ctstate NEW -m set --match-set KUBE-IPVS-IPS dst -j REJECT
-A KUBE-SOURCE-RANGES-FIREWALL -j DROP
-A KUBE-FORWARD -m comment --comment "kubernetes forwarding rules" -m mark --mark 0x4000/0x4000 -j ACCEPT
-A KUBE-FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
"""
RHEL = """
-A INPUT -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A INPUT -p icmp -j ACCEPT
-A INPUT -i lo -j ACCEPT
-A INPUT -p tcp -m conntrack --ctstate NEW -m tcp --dport 22 -j ACCEPT
-A INPUT -j REJECT --reject-with icmp-host-prohibited
"""
UFW = """
-A INPUT -j ufw-before-input
-A INPUT -j ufw-after-input
-A ufw-before-input -i lo -j ACCEPT
-A ufw-before-input -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A ufw-before-input -m conntrack --ctstate INVALID -j DROP
-A ufw-before-input -p icmp -m icmp --icmp-type 8 -j ACCEPT
-A ufw-before-input -p udp -m udp --sport 67 --dport 68 -j ACCEPT
-A ufw-before-input -j ufw-not-local
-A ufw-before-input -d 224.0.0.251/32 -p udp -m udp --dport 5353 -j ACCEPT
-A ufw-before-input -j ufw-user-input
-A ufw-not-local -m addrtype --dst-type LOCAL -j RETURN
-A ufw-not-local -m addrtype --dst-type MULTICAST -j RETURN
-A ufw-not-local -m limit --limit 3/min --limit-burst 10 -j LOG
-A ufw-not-local -j DROP
-A ufw-user-input -p tcp -m tcp --dport 22 -j ACCEPT
"""
FIREWALLD = """
-A INPUT -m conntrack --ctstate RELATED,ESTABLISHED,DNAT -j ACCEPT
-A INPUT -i lo -j ACCEPT
-A INPUT -j INPUT_ZONES
-A INPUT -m conntrack --ctstate INVALID -j DROP
-A INPUT -j REJECT --reject-with icmp-host-prohibited
-A INPUT_ZONES -i eth0 -g IN_public
-A INPUT_ZONES -g IN_public
-A IN_public -j IN_public_allow
-A IN_public -p icmp -j ACCEPT
-A IN_public_allow -p tcp -m tcp --dport 22 -m conntrack --ctstate NEW,UNTRACKED -j ACCEPT
"""
CALICO = """
-A INPUT -m comment --comment "cali:Cz_u1IQiXIMmKD4c" -j cali-INPUT
-A cali-INPUT -p ipencap -m comment --comment "cali:1" -j ACCEPT
-A cali-INPUT -i cali+ -m comment --comment "cali:2" -g cali-wl-to-host
-A cali-INPUT -m comment --comment "cali:3" -m mark --mark 0x10000/0x10000 -j ACCEPT
-A cali-wl-to-host -m comment --comment "Configured DefaultEndpointToHostAction" -j ACCEPT
"""


def filter_table(rules: str, *, input_policy: str = "ACCEPT", forward_policy: str = "ACCEPT") -> str:
    text = OUR_INPUT + rules + OUR_CHAINS
    chains = {line.split()[1] for line in text.splitlines() if line} - {"INPUT", "FORWARD"}
    built_in = f":INPUT {input_policy} [0:0]\n:FORWARD {forward_policy} [0:0]\n:OUTPUT ACCEPT [0:0]\n"
    return "*filter\n" + built_in + "".join(f":{chain} - [0:0]\n" for chain in sorted(chains)) + text + "COMMIT\n"


def nat_table(rules: str) -> str:
    chains = {line.split()[1] for line in rules.splitlines() if line} - {"PREROUTING", "OUTPUT", "POSTROUTING"}
    declared = "".join(f":{chain} - [0:0]\n" for chain in sorted(chains))
    built_in = "".join(f":{chain} ACCEPT [0:0]\n" for chain in ("PREROUTING", "OUTPUT", "POSTROUTING"))
    return f"*nat\n{built_in}{declared}{rules}COMMIT\n"


def situation(saved: str) -> Situation:
    tables = {(family, name): chains for family in FAMILIES[:1] for name, chains in parse_saved(saved.encode())}
    return Situation(facts=HostFacts(tables=tables))


def input_findings(rules: str, policy: str = "ACCEPT") -> list[str]:
    return [finding.cause for finding in check_input(situation(filter_table(rules, input_policy=policy)))]


@pytest.mark.parametrize(
    ("rules", "policy", "named"),
    [
        ("", "DROP", "policy DROP of INPUT"),
        (RHEL, "ACCEPT", "-A INPUT -j REJECT --reject-with icmp-host-prohibited"),
        (UFW, "DROP", "policy DROP of INPUT"),
        (FIREWALLD, "ACCEPT", "-A INPUT -j REJECT --reject-with icmp-host-prohibited"),
        ("-A INPUT -p tcp -j DROP\n", "ACCEPT", "-A INPUT -p tcp -j DROP"),
        ("-A INPUT -p tcp -m conntrack --ctstate NEW -j DROP\n", "ACCEPT", "--ctstate NEW -j DROP"),
        ("-A INPUT -p tcp -m tcp --dport 22 -j ACCEPT\n", "DROP", "policy DROP of INPUT"),
        ("-A INPUT -s 192.168.3.5/32 -j ACCEPT\n", "DROP", "policy DROP of INPUT"),
    ],
)  # fmt: skip
def test_firewall_that_does_not_accept_service_traffic_is_found(rules: str, policy: str, named: str) -> None:
    (message,) = input_findings(rules, policy)
    assert named in message


@pytest.mark.parametrize(
    ("rules", "policy"),
    [
        ("", "ACCEPT"),
        (CALICO, "DROP"),
        ("-A INPUT -j ACCEPT\n", "DROP"),
        ('-A INPUT -m comment --comment "he said \\"-j DROP\\" -p udp" -j ACCEPT\n', "DROP"),
        ("-A INPUT -m comment --comment udp -j ACCEPT\n", "DROP"),
        ("-A INPUT -m set --match-set KUBE-CLUSTER-IP dst,dst -j ACCEPT\n" + RHEL, "DROP"),
        ("-A INPUT -d 10.96.0.0/12 -j ACCEPT\n", "DROP"),
        ("-A INPUT -s 10.0.0.0/8 -j ACCEPT\n", "DROP"),
        ("-A INPUT -i cni0 -j ACCEPT\n", "DROP"),
        ("-A INPUT -p tcp -m multiport --dports 80,30000:32767 -j ACCEPT\n", "DROP"),
        ("-A INPUT -p udp -j DROP\n", "ACCEPT"),
        ("-A INPUT -p tcp -m tcp --dport 8472 -j DROP\n", "ACCEPT"),
        ("-A INPUT -s 203.0.113.0/24 -j DROP\n", "ACCEPT"),
        ("-A INPUT -m conntrack --ctstate INVALID -j DROP\n", "ACCEPT"),
        ("-A INPUT -i eth1 -j DROP\n", "ACCEPT"),
        ("-A INPUT -m unknown --something x -j RETURN\n-A INPUT -j DROP\n", "ACCEPT"),
    ],
)
def test_firewall_that_accepts_service_traffic_or_may_do_so_is_not_found(rules: str, policy: str) -> None:
    assert input_findings(rules, policy) == []


OUR_FORWARD = '-A FORWARD -m comment --comment "kubernetes forwarding rules" -j KUBE-FORWARD\n'


@pytest.mark.parametrize(
    ("rules", "policy", "found"),
    [
        (OUR_FORWARD, "DROP", False),  # Docker's policy; our chain accepts the answers
        ("", "DROP", True),
        ("", "ACCEPT", False),
        ("-A FORWARD -j DROP\n" + OUR_FORWARD, "ACCEPT", True),
        ("-A FORWARD -m conntrack --ctstate NEW -j DROP\n" + OUR_FORWARD, "ACCEPT", False),
        ("-A FORWARD -i docker0 -j DROP\n" + OUR_FORWARD, "DROP", False),
    ],
)
def test_forward_chain_that_drops_the_answers_is_found(rules: str, policy: str, found: bool) -> None:
    findings = list(check_forward(situation(filter_table(rules, forward_policy=policy))))
    assert [finding.reason for finding in findings] == ["ForwardDropsServices"] * found


OURS = '-A PREROUTING -m comment --comment "kubernetes service portals" -j KUBE-SERVICES\n'
PORTMAP = "-A PREROUTING -m addrtype --dst-type LOCAL -j CNI-HOSTPORT-DNAT\n"
PORTMAP_CHAINS = """-A CNI-HOSTPORT-DNAT -p tcp -m multiport --dports 8443 -j CNI-DN-1
-A CNI-DN-1 -s 10.244.1.6/32 -p tcp -m tcp --dport 8443 -j KUBE-MARK-MASQ
-A CNI-DN-1 -p tcp -m tcp --dport 8443 -j DNAT --to-destination 10.244.1.6:8443
"""


@pytest.mark.parametrize(
    ("rules", "found"),
    [
        (PORTMAP + OURS + PORTMAP_CHAINS, True),
        (OURS + PORTMAP + PORTMAP_CHAINS, False),
        (PORTMAP + OURS, False),  # nothing is translated yet
        ("-A PREROUTING -p tcp -m tcp --dport 80 -j REDIRECT --to-ports 8080\n" + OURS, True),
        ("-A PREROUTING -d 203.0.113.7/32 -j DNAT --to-destination 10.244.1.6\n" + OURS, False),  # a floating IP
        (
            "-A PREROUTING ! -d 10.0.0.0/8 -m addrtype ! --dst-type LOCAL -j DNAT --to-destination 10.0.0.1\n" + OURS,
            False,
        ),
        ("-A PREROUTING -i lo -j REDIRECT\n" + OURS, False),
        (OURS, False),
        ("", False),
    ],
)
def test_translation_of_local_addresses_before_our_jump_is_found(rules: str, found: bool) -> None:
    findings = list(check_nat_order(situation(nat_table(rules))))
    assert [finding.subject for finding in findings] == ["IPv4 nat PREROUTING"] * found


OURS_OUT = OURS.replace("PREROUTING", "OUTPUT")
OURS_POST = '-A POSTROUTING -m comment --comment "kubernetes postrouting rules" -j KUBE-POSTROUTING\n'
OF_CILIUM = "-A POSTROUTING -j CILIUM_POST_nat\n"
OF_CILIUM_CHAINS = "-A CILIUM_POST_nat -m mark --mark 0xe00/0xf00 -j ACCEPT\n-A CILIUM_POST_nat -j RETURN\n"
OF_ADMIN = "-A PREROUTING -j ADMIN\n"


@pytest.mark.parametrize(
    ("rules", "chain"),
    [
        ("-A PREROUTING -p tcp -j ACCEPT\n" + OURS, "PREROUTING"),
        ("-A PREROUTING -j RETURN\n" + OURS, "PREROUTING"),
        ("-A PREROUTING -i eth1 -j ACCEPT\n" + OURS, "PREROUTING"),
        ("-A PREROUTING ! -i cali+ -m addrtype --dst-type LOCAL -j ACCEPT\n" + OURS, "PREROUTING"),
        ("-A PREROUTING -s 10.0.0.0/8 -j ACCEPT\n" + OURS, "PREROUTING"),
        (OF_ADMIN + OURS + "-A ADMIN -m conntrack --ctstate NEW -j ACCEPT\n", "PREROUTING"),
        ("-A PREROUTING -g ADMIN\n" + OURS + "-A ADMIN -j LOG\n", "PREROUTING"),
        ("-A OUTPUT -j ACCEPT\n" + OURS_OUT, "OUTPUT"),
        ("-A POSTROUTING -j ACCEPT\n" + OURS_POST, "POSTROUTING"),
        (OURS + "-A PREROUTING -j ACCEPT\n", ""),
        ("-A PREROUTING -j ACCEPT\n", ""),  # our jump is to come back, to the top
        ("-A PREROUTING -p tcp -m tcp --dport 22 -j ACCEPT\n" + OURS, ""),
        ("-A PREROUTING -d 192.168.3.10/32 -j ACCEPT\n" + OURS, ""),
        ("-A PREROUTING -m mark --mark 0x1 -j ACCEPT\n" + OURS, ""),
        ("-A PREROUTING -p icmp -j ACCEPT\n" + OURS, ""),
        (OF_ADMIN + OURS + "-A ADMIN -j RETURN\n-A ADMIN -j ACCEPT\n", ""),
        (OF_CILIUM + OURS_POST + OF_CILIUM_CHAINS, ""),
        ("-A POSTROUTING -s 10.244.0.0/16 -d 10.244.0.0/16 -j RETURN\n" + OURS_POST, ""),
        ("-A POSTROUTING -s 10.244.0.0/16 ! -d 10.244.0.0/16 -j MASQUERADE\n" + OURS_POST, ""),
    ],
)
def test_acceptance_of_packets_to_services_before_our_jump_is_found(rules: str, chain: str) -> None:
    findings = list(check_nat_order(situation(nat_table(rules))))
    assert [finding.subject for finding in findings] == [f"IPv4 nat {chain}"] * bool(chain)
    assert all("not masqueraded" in finding.message for finding in findings)


RANGES, HOST_PORTS = "loadBalancerSourceRanges", "ports of this host"
OURS_FIRST, *OURS_REST = OUR_INPUT.strip().splitlines()


@pytest.mark.parametrize(
    ("before", "between", "effects"),
    [
        ("-A INPUT -j ACCEPT", "", (HOST_PORTS, RANGES)),
        ("-A INPUT -p tcp -j ACCEPT", "-A INPUT -j ACCEPT", (HOST_PORTS, RANGES)),
        ("", "-A INPUT -m conntrack --ctstate NEW,ESTABLISHED -j ACCEPT", (RANGES,)),
        ("-A INPUT -j ADMIN\n-A ADMIN -p tcp -j ACCEPT", "", (HOST_PORTS, RANGES)),
        ("-A INPUT -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT", "", ()),
        ("-A INPUT -i lo -j ACCEPT\n-A INPUT -i cni0 -j ACCEPT\n-A INPUT -s 10.0.0.0/8 -j ACCEPT", "", ()),
        ("-A INPUT -p tcp -m tcp --dport 22 -j ACCEPT", "", ()),
        (CALICO.strip(), "", ()),
        ("", "", ()),
    ],
)
def test_acceptance_of_what_our_chains_refuse_is_found(before: str, between: str, effects: tuple[str, ...]) -> None:
    rules = "\n".join((before, OURS_FIRST, between, *OURS_REST)) + OUR_CHAINS
    chains = {line.split()[1] for line in rules.splitlines() if line} - {"INPUT"}
    saved = "*filter\n:INPUT ACCEPT [0:0]\n" + "".join(f":{each} - [0:0]\n" for each in chains) + rules + "COMMIT\n"
    found = list(check_filter_order(situation(saved)))
    assert [finding.subject for finding in found] == ["IPv4 filter INPUT"] * bool(effects)
    assert tuple(each for each in (HOST_PORTS, RANGES) for finding in found if each in finding.message) == effects
