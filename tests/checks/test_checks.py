"""Checks of the host: what is found, and what is not."""

from __future__ import annotations

import pytest

from kubeproxy_py.checks.all_checks import REASONS, run_checks
from kubeproxy_py.checks.bridges import check_bridges
from kubeproxy_py.checks.conntrack import check_conntrack
from kubeproxy_py.checks.identity import check_identity
from kubeproxy_py.checks.situation import Situation
from kubeproxy_py.model.host_facts import ConntrackFacts, HostFacts
from kubeproxy_py.model.node import HostAddress, Node

HERE = (
    HostAddress("cni0", "10.244.1.1"),
    HostAddress("cni0", "fd00:10:244:1::1"),
    HostAddress("docker0", "172.17.0.1"),
    HostAddress("eth0", "192.168.3.10"),
    HostAddress("kube-ipvs0", "192.168.3.11"),
)
PODS = ("10.244.0.0/16", "fd00:10:244::/56")
BOTH_BRIDGES = ("cni0", "docker0")


def situation(**facts: object) -> Situation:
    return Situation(facts=HostFacts(addresses=HERE, **facts), pod_networks=PODS)  # type: ignore[arg-type]


def test_nothing_is_found_without_facts() -> None:
    assert run_checks(Situation(facts=HostFacts())) == ()


@pytest.mark.parametrize(
    ("seen", "subjects"),
    [
        ({"IPv4": True, "IPv6": True}, []),
        ({"IPv4": False, "IPv6": True}, ["bridge cni0, IPv4"]),
        ({"IPv4": False, "IPv6": False}, ["bridge cni0, IPv4", "bridge cni0, IPv6"]),
        ({"IPv4": False}, ["bridge cni0, IPv4"]),  # IPv6 is not served
    ],
)
def test_bridge_with_pods_that_iptables_does_not_see_is_found(seen: dict[str, bool], subjects: list[str]) -> None:
    findings = list(check_bridges(situation(bridges=BOTH_BRIDGES, bridge_netfilter=seen)))
    assert [finding.subject for finding in findings] == subjects
    assert {finding.reason for finding in findings} <= {"BridgeNetfilterOff"}


def test_bridge_finding_names_the_sysctl_of_the_family() -> None:
    facts = situation(bridges=("cni0",), bridge_netfilter={"IPv4": False, "IPv6": False})
    hints = [finding.hint for finding in check_bridges(facts)]
    assert ["bridge-nf-call-iptables=1" in hints[0], "bridge-nf-call-ip6tables=1" in hints[1]] == [True, True]


def test_bridge_without_ports_or_without_pods_is_not_found() -> None:
    off = {"IPv4": False, "IPv6": False}
    assert list(check_bridges(situation(bridges=("docker0",), bridge_netfilter=off))) == []
    assert list(check_bridges(situation(bridges=(), bridge_netfilter=off))) == []


@pytest.mark.parametrize(
    ("count", "maximum", "drops", "reasons"),
    [
        (90, 100, 5, []),
        (91, 100, 5, ["ConntrackTableFull"]),
        (91, 0, 5, []),  # no limit
        (10, 100, 6, ["ConntrackDrops"]),
        (100, 100, 6, ["ConntrackTableFull", "ConntrackDrops"]),
    ],
)
def test_full_or_dropping_conntrack_table_is_found(count: int, maximum: int, drops: int, reasons: list[str]) -> None:
    before = HostFacts(conntrack=ConntrackFacts(10, 100, 5))
    now = HostFacts(conntrack=ConntrackFacts(count, maximum, drops))
    assert [finding.reason for finding in check_conntrack(Situation(facts=now, before=before))] == reasons


def test_drops_before_the_first_check_are_not_found() -> None:
    now = HostFacts(conntrack=ConntrackFacts(10, 100, 12345))
    assert list(check_conntrack(Situation(facts=now))) == []


@pytest.mark.parametrize(
    ("addresses", "found"),
    [
        (("192.168.3.10",), False),
        (("192.168.3.10", "203.0.113.7"), False),  # an address of the cloud's NAT
        (("192.168.3.11",), True),  # on kube-ipvs0 only, so another node's
        (("192.168.3.12", "fd00:3::12"), True),
        ((), False),
    ],
)
def test_node_none_of_whose_addresses_is_here_is_found(addresses: tuple[str, ...], found: bool) -> None:
    node = Node("node-b", addresses=addresses)
    findings = list(check_identity(Situation(facts=HostFacts(addresses=HERE), node=node)))
    assert [finding.subject for finding in findings] == ["Node node-b"] * found
    assert all("hostnameOverride" in finding.hint for finding in findings)


def test_unknown_node_and_unread_addresses_are_not_found() -> None:
    assert list(check_identity(Situation(facts=HostFacts(addresses=HERE)))) == []
    assert list(check_identity(Situation(facts=HostFacts(), node=Node("a", addresses=("192.0.2.1",))))) == []


def test_reasons_are_words_of_camel_case() -> None:
    assert all(reason.isalpha() and reason[0].isupper() for reason in REASONS)
