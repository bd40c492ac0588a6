"""The way of a packet: who answers, with which source, or which rule ends it."""

from typing import NoReturn

import pytest
from msgspec.structs import replace

from kubeproxy_py.diagnose.trace.lookup import RowLookup
from kubeproxy_py.diagnose.trace.objects import directory_of, known_to_compiler
from kubeproxy_py.diagnose.trace.packet import Host, Route
from kubeproxy_py.diagnose.trace.path import trace
from kubeproxy_py.diagnose.trace.request import Request, TraceError, parse_request
from kubeproxy_py.diagnose.trace.result import Outcome
from kubeproxy_py.model.node import HostAddress
from kubeproxy_py.model.rows import (
    DRAINING,
    FLAG_SCHED_1,
    Address,
    IpsetEntry,
    Key,
    RealServer,
    ReturnTunnel,
    Rows,
    Spec,
    Sysctl,
    TunnelSpec,
    VirtualServer,
    VirtualServerSpec,
)
from tests.diagnose.trace.traces import (
    ADDRESSES,
    CLIENT,
    CLUSTER_IP,
    COMPILER,
    EXTERNAL_IP,
    HOST,
    LB_IP,
    NODE_IP,
    OTHER_POD,
    POD,
    REMOTE_POD,
    ROWS,
    compiler,
    traced,
    with_foreign,
)

WEB = VirtualServer(CLUSTER_IP, 80, "TCP")


def only(source: str, target: str, **fields: object) -> Outcome:
    result = traced(source, target, **fields)  # type: ignore[arg-type]
    assert result.is_certain
    return result.outcomes[0]


def sources(outcome: Outcome) -> dict[str, str]:
    """The source that each real server sees."""
    return {choice.address: branch.source for branch in outcome.branches for choice in branch.real_servers}


@pytest.mark.parametrize(
    ("source", "target", "seen"),
    [
        (CLIENT, f"{CLUSTER_IP}:80", {POD: "10.244.1.1", REMOTE_POD: NODE_IP}),
        ("node", f"{CLUSTER_IP}:80", {POD: "10.244.1.1", REMOTE_POD: NODE_IP}),
        (OTHER_POD, f"{CLUSTER_IP}:80", {POD: OTHER_POD, REMOTE_POD: OTHER_POD}),
        (POD, f"{CLUSTER_IP}:80", {POD: "10.244.1.1", REMOTE_POD: POD}),  # to itself by KUBE-LOOP-BACK
        (OTHER_POD, f"{NODE_IP}:30080", {POD: "10.244.1.1", REMOTE_POD: NODE_IP}),
        ("192.0.2.9", f"{LB_IP}:443", {POD: "10.244.1.1", REMOTE_POD: NODE_IP}),
        (CLIENT, f"{EXTERNAL_IP}:80", {POD: CLIENT}),
        ("node", f"{EXTERNAL_IP}:80", {POD: EXTERNAL_IP}),
        (NODE_IP, f"{EXTERNAL_IP}:80", {POD: NODE_IP}),
        (OTHER_POD, "10.96.0.53:53/udp", {POD: OTHER_POD}),
    ],
)
def test_real_servers_see_the_source(source: str, target: str, seen: dict[str, str]) -> None:
    routed = replace(
        HOST, route_to=lambda address: Route("cni0", "10.244.1.1") if ".1." in address else Route("eth0", NODE_IP)
    )
    outcome = only(source, target, host=routed)
    assert (outcome.fate, sources(outcome)) == ("served", seen)


@pytest.mark.parametrize(
    ("source", "target", "fate", "reason"),
    [
        (
            CLIENT,
            f"{LB_IP}:443",
            "dropped",
            f"source {CLIENT} is not in loadBalancerSourceRanges of shop/shop (192.0.2.0/24, 198.18.0.0/15)",
        ),
        (
            CLIENT,
            f"{CLUSTER_IP}:81",
            "rejected",
            f"{CLUSTER_IP} is a Service address without a port 81/tcp; its ports are 80/tcp",
        ),
        (
            CLIENT,
            "10.96.0.53:53/tcp",
            "rejected",
            "10.96.0.53 is a Service address without a port 53/tcp; that port is udp",
        ),
        (CLIENT, f"{CLUSTER_IP}/icmp", "rejected", "a ping is never answered"),
        ("node", f"{CLUSTER_IP}:81", "rejected", "without a port 81/tcp"),
        (
            CLIENT,
            "10.96.0.40:80",
            "refused",
            "IPVS has no endpoint for 10.96.0.40:80/TCP: no EndpointSlice",
        ),
        ("node", "10.96.0.40:80", "refused", "no EndpointSlice"),
        (CLIENT, f"{NODE_IP}:22", "host", "a program of this node has to answer"),
        (CLIENT, f"{NODE_IP}/icmp", "host", "this node itself answers an echo request"),
        ("node", "127.0.0.1:30080", "host", "NodePorts are not served at 127.0.0.1"),
        (CLIENT, "10.96.9.9:80", "forwarded", "is not an address of this node or of a Service served here"),
        (OTHER_POD, "198.51.100.99:80", "forwarded", "is routed on"),
        ("node", "198.51.100.99:80", "forwarded", "is routed on"),
    ],
)
def test_what_is_not_answered_by_a_real_server_has_its_reason(source: str, target: str, fate: str, reason: str) -> None:
    outcome = only(source, target)
    assert outcome.fate == fate
    assert reason in outcome.reason


@pytest.mark.parametrize(
    ("source", "target", "status"),
    [
        (CLIENT, f"{CLUSTER_IP}:80", 0),
        (CLIENT, f"{NODE_IP}:22", 0),
        (CLIENT, f"{LB_IP}:443", 2),
        (CLIENT, "10.96.0.40:80", 2),
    ],
)
def test_exit_status_tells_whether_it_is_answered(source: str, target: str, status: int) -> None:
    assert traced(source, target).exit_status == status


def test_node_that_source_ranges_exclude_is_dropped_after_ipvs() -> None:
    outcome = only("node", f"{LB_IP}:443")
    assert outcome.fate == "dropped"
    ranges = "(192.0.2.0/24, 198.18.0.0/15)"
    assert outcome.reason == f"no address of this node is in loadBalancerSourceRanges of shop/shop {ranges}"


def test_draining_real_server_gets_no_new_connection() -> None:
    rows = {**ROWS, RealServer(WEB, POD, 8080): DRAINING}
    (outcome,) = trace(rows, HOST, Request(CLIENT, CLUSTER_IP, 80, "TCP")).outcomes
    assert [choice.address for choice in outcome.real_servers] == [REMOTE_POD]
    assert [choice.address for choice in outcome.draining] == [POD]


def test_virtual_server_with_draining_real_servers_only_refuses() -> None:
    rows = {**ROWS, RealServer(WEB, POD, 8080): DRAINING, RealServer(WEB, REMOTE_POD, 8080): DRAINING}
    (outcome,) = trace(rows, HOST, Request(CLIENT, CLUSTER_IP, 80, "TCP")).outcomes
    reason = f"IPVS has no endpoint for {WEB}: its 2 real servers drain, or are set aside"
    assert (outcome.fate, outcome.reason) == ("refused", reason)


def test_address_that_is_not_bound_is_served_to_this_node_only() -> None:
    rows = {key: spec for key, spec in ROWS.items() if key != Address(CLUSTER_IP)}
    (outside,) = trace(rows, HOST, Request(CLIENT, CLUSTER_IP, 80, "TCP")).outcomes
    assert (outside.fate, "is not bound to kube-ipvs0" in outside.reason) == ("forwarded", True)
    (own,) = trace(rows, HOST, Request("node", CLUSTER_IP, 80, "TCP")).outcomes
    assert own.fate == "served"


def test_endpoint_that_is_this_node_is_not_masqueraded_for_a_client_of_the_network() -> None:
    assert sources(only(CLIENT, "10.96.0.70:80")) == {NODE_IP: CLIENT}


def test_without_connection_tracking_nothing_is_masqueraded() -> None:
    rows = {**ROWS, Sysctl("net/ipv4/vs/conntrack"): "0"}
    (outcome,) = trace(rows, HOST, Request(CLIENT, CLUSTER_IP, 80, "TCP")).outcomes
    assert set(sources(outcome).values()) == {CLIENT}
    assert "net.ipv4.vs.conntrack is 0" in outcome.notes[0]


def test_scheduler_and_affinity_are_named() -> None:
    rows = {**ROWS, WEB: VirtualServerSpec("sh", persistence_s=600), RealServer(WEB, POD, 8080): DRAINING}
    (outcome,) = trace(rows, HOST, Request(CLIENT, CLUSTER_IP, 80, "TCP")).outcomes
    assert outcome.scheduler == "sh, by the client's address; one for each client for 600 s"
    assert "assigns to a draining real server are refused" in outcome.notes[-1]


@pytest.mark.parametrize(
    ("scheduler", "flags", "refuses"),
    [("sh", 0, True), ("mh", 0, True), ("dh", FLAG_SCHED_1, True), ("sh", FLAG_SCHED_1, False), ("wrr", 0, False)],
)
def test_scheduler_that_assigns_clients_to_draining_real_servers_is_named(
    scheduler: str, flags: int, refuses: bool
) -> None:
    rows = {**ROWS, WEB: VirtualServerSpec(scheduler, flags), RealServer(WEB, POD, 8080): DRAINING}
    (outcome,) = trace(rows, HOST, Request(CLIENT, CLUSTER_IP, 80, "TCP")).outcomes
    assert any("assigns to a draining real server are refused" in note for note in outcome.notes) is refuses
    (effect,) = (step.effect + step.because for step in outcome.steps if step.kind == "server")
    assert "1 draining or set aside" in effect


def test_answer_of_another_node_to_the_clients_own_address_may_be_lost() -> None:
    (note,) = only("10.244.3.3", f"{CLUSTER_IP}:80").notes
    assert f"{REMOTE_POD} is on another node and sees the client's own address" in note


@pytest.mark.parametrize(
    ("is_heard", "fate", "reason"),
    [
        (True, "host", "a program of this node listens there"),
        (False, "refused", "no program of this node listens there"),
        (None, "host", "a program of this node has to answer"),
    ],
)
def test_port_of_this_node_on_which_nobody_listens_refuses(is_heard: bool | None, fate: str, reason: str) -> None:
    outcome = only(CLIENT, f"{NODE_IP}:22", host=replace(HOST, listens=lambda _packet: is_heard))
    assert (outcome.fate, outcome.reason) == (fate, f"no virtual server has {NODE_IP}:22/tcp, and {reason}")


# Who sends it


def test_pod_is_one_that_the_packet_cannot_be_sent_to() -> None:
    own = Host(ADDRESSES, pods=lambda _family: (POD, OTHER_POD))
    result = traced("pod", f"{CLUSTER_IP}:80", host=own)
    assert result.packet.source == OTHER_POD
    assert f"{OTHER_POD} is assumed for --from pod" in result.notes[0]


def test_pod_is_known_from_hairpin_entries_without_objects() -> None:
    assert traced("pod", f"{CLUSTER_IP}:80").packet.source == POD


def test_client_outside_is_nobodys_address() -> None:
    result = traced("outside", f"{CLUSTER_IP}:80")
    assert result.packet.source == "192.0.2.1"
    assert result.notes


def test_client_arrives_by_the_interface_of_the_route_back() -> None:
    assert traced(OTHER_POD, f"{CLUSTER_IP}:80").packet.in_interface == "cni0"
    assert traced(OTHER_POD, f"{CLUSTER_IP}:80", "eth7").packet.in_interface == "eth7"


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("fd00::1", "are of different IP families"),
        ("pod", "--from pod: no IPv4 pod of this node is known; give --from ADDRESS"),
        ("node", "--from node: no IPv4 address of this node is known; give --from ADDRESS"),
    ],
)
def test_sender_that_does_not_fit_is_an_error(source: str, message: str) -> None:
    with pytest.raises(TraceError, match=message):
        trace({}, Host(), Request(source, CLUSTER_IP, 80, "TCP"))


# What is not certain


def test_unknown_interface_leaves_masquerading_open() -> None:
    bridged = compiler(if_not_local={"IPv4": "! -i cni0"})
    result = traced("10.244.7.7", f"{CLUSTER_IP}:80", of=bridged)
    assert not result.is_certain
    assert {branch.is_masqueraded for outcome in result.outcomes for branch in outcome.branches} == {True, False}
    assert result.exit_status == 0  # it is answered in any case
    assert traced("10.244.7.7", f"{CLUSTER_IP}:80", "cni0", of=bridged).is_certain


@pytest.mark.parametrize(
    ("rules", "fates"),
    [
        (["*filter", ":INPUT ACCEPT", f"-A INPUT -s {CLIENT}/32 -j DROP"], ["dropped"]),
        (["*filter", ":INPUT ACCEPT", "-A INPUT -p udp -m recent --set -j DROP"], ["served"]),
        (["*filter", ":INPUT ACCEPT", "-A INPUT -m recent --set -j DROP"], ["served", "dropped"]),
        (["*filter", ":INPUT ACCEPT", "-A INPUT -j NFQUEUE --queue-num 0"], ["served", "unknown"]),
        (["*filter", ":INPUT DROP"], ["dropped"]),
        (
            ["*filter", ":OUTPUT ACCEPT", "-A OUTPUT -d 10.244.0.0/16 -j REJECT --reject-with icmp-port-unreachable"],
            ["rejected"],
        ),
        (
            ["*nat", ":PREROUTING ACCEPT", f"-A PREROUTING -d {CLUSTER_IP}/32 -j DNAT --to-destination {OTHER_POD}:99"],
            ["forwarded"],
        ),
        (["*filter", ":X -", ":INPUT ACCEPT", "-A INPUT -j X", "-A X -j RETURN", "-A X -j DROP"], ["served"]),
        (["*filter", ":X -", ":INPUT ACCEPT", "-A INPUT -g X", "-A INPUT -j DROP", "-A X -j LOG"], ["served"]),
    ],
)
def test_rules_of_other_programs_are_followed(rules: list[str], fates: list[str]) -> None:
    result = traced(CLIENT, f"{CLUSTER_IP}:80", ruleset=with_foreign(*rules))
    assert sorted(outcome.fate for outcome in result.outcomes) == sorted(fates)
    assert result.is_certain == (len(fates) == 1)


def test_foreign_accept_before_the_firewall_lets_an_excluded_client_in() -> None:
    rules = ("*filter", ":INPUT ACCEPT", f"-A INPUT -s {CLIENT} -j ACCEPT")
    (outcome,) = traced(CLIENT, f"{LB_IP}:443", ruleset=with_foreign(*rules)).outcomes
    assert outcome.fate == "served"
    assert [step.rule for step in outcome.steps if step.foreign] == [f"-s {CLIENT} -j ACCEPT"]


def test_many_uncertain_rules_stay_cheap() -> None:
    marks = [f"-A PREROUTING -m recent --set -j MARK --set-xmark {1 << bit:#x}/{1 << bit:#x}" for bit in range(13)]
    rules = with_foreign("*mangle", ":PREROUTING ACCEPT", *marks)
    result = traced(CLIENT, f"{CLUSTER_IP}:80", ruleset=rules)
    assert {outcome.fate for outcome in result.outcomes} == {"served"}


class Counting(RowLookup):
    """Counts what is asked for."""

    def __init__(self, rows: Rows) -> None:
        super().__init__(rows)
        self.asked = 0

    def __contains__(self, key: Key) -> bool:
        self.asked += 1
        return super().__contains__(key)

    def get(self, key: Key) -> Spec:
        self.asked += 1
        return super().get(key)

    def entries(self, name: str, prefix: str) -> NoReturn:
        raise AssertionError(f"all entries of {name} are read")


def test_cost_does_not_follow_the_number_of_rows() -> None:
    """Only real servers are searched for; 0.1 s among 490,000 rows was measured."""
    more: Rows = {IpsetEntry("KUBE-CLUSTER-IP", f"10.97.0.{number},tcp:80"): None for number in range(200)}
    asked = []
    for rows in (ROWS, {**ROWS, **more}):
        lookup = Counting(rows)
        assert trace(lookup, HOST, Request(CLIENT, CLUSTER_IP, 80, "TCP")).exit_status == 0
        asked.append(lookup.asked)
    assert asked[0] == asked[1]


def test_interface_that_the_host_does_not_have_is_an_error_that_lists_those_it_has() -> None:
    host = replace(HOST, interfaces=lambda: ("lo", "eth0", "cni0"))
    assert traced(OTHER_POD, f"{CLUSTER_IP}:80", "eth0", host=host).packet.in_interface == "eth0"
    with pytest.raises(TraceError, match=r'--in-iface "eth7": this host has no such interface; it has cni0, eth0, lo'):
        traced(OTHER_POD, f"{CLUSTER_IP}:80", "eth7", host=host)


@pytest.mark.parametrize("source", ["node", NODE_IP])
def test_interface_of_a_packet_that_this_node_sends_is_an_error(source: str) -> None:
    with pytest.raises(TraceError, match='--in-iface "eth0": what this node sends arrives by no interface'):
        traced(source, f"{CLUSTER_IP}:80", "eth0")


TUNNELS: Rows = {ReturnTunnel("IPv4"): TunnelSpec(NODE_IP), ReturnTunnel("IPv6"): TunnelSpec("fd00:3::10")}
OWN_TUNNELS = (
    *ADDRESSES,
    HostAddress("tunl0", NODE_IP, 32),
    HostAddress("ip6tnl0", "fe80::5efe", 64),
)


def by_tunnel(target: str, *more: HostAddress, rows: Rows = TUNNELS) -> Outcome:
    source, device = ("2001:db8:9::9", "ip6tnl0") if target.startswith("[") else (CLIENT, "tunl0")
    request = parse_request(source, target, device, directory_of(known_to_compiler(COMPILER)))
    (outcome,) = trace({**ROWS, **rows}, Host((*OWN_TUNNELS, *more)), request).outcomes
    return outcome


@pytest.mark.parametrize("target", ["192.0.2.99:80", "[2001:db8::99]:80"])
def test_what_another_node_handed_on_is_not_routed_on(target: str) -> None:
    outcome = by_tunnel(target)
    assert (outcome.fate, outcome.steps[-1].effect) == ("dropped", "dropped")
    assert "arrives by" in outcome.reason


def test_what_another_node_handed_on_is_served_at_an_address_of_this_node() -> None:
    assert by_tunnel(f"{LB_IP}:443").fate != "forwarded"


@pytest.mark.parametrize(
    ("target", "address"),
    [
        ("192.0.2.99:80", HostAddress("tunl0", "10.244.9.1", 32)),
        ("[2001:db8::99]:80", HostAddress("ip6tnl0", "fd00:9::1")),
    ],
)
def test_tunnel_that_another_program_uses_is_routed_on(target: str, address: HostAddress) -> None:
    assert by_tunnel(target, address).fate == "forwarded"


@pytest.mark.parametrize("rows", [{}, {ReturnTunnel("IPv4"): TunnelSpec(NODE_IP, is_complete=False)}], ids=str)
def test_tunnel_that_is_not_set_up_is_routed_on(rows: Rows) -> None:
    assert by_tunnel("192.0.2.99:80", rows=rows).fate == "forwarded"
