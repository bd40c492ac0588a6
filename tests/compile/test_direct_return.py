"""The rows of direct server return, and when there are any."""

import pytest
from msgspec.structs import replace

from kubeproxy_py.compile.compiler import Compiler
from kubeproxy_py.diagnose.trace.objects import directory_of, known_to_compiler, objects_of
from kubeproxy_py.diagnose.trace.path import trace
from kubeproxy_py.diagnose.trace.request import parse_request
from kubeproxy_py.diagnose.trace.result import Trace
from kubeproxy_py.model.conditions import EndpointFailures, EndpointSteps, Failure
from kubeproxy_py.model.events import PeerDeleted, PeerUpserted, ServiceUpserted, SliceUpserted, TakenAddresses
from kubeproxy_py.model.peers import PeerNeeds
from kubeproxy_py.model.policy_marks import MarkRange
from kubeproxy_py.model.rows import (
    SERVING,
    Chain,
    ChainSpec,
    Ipset,
    MarkSpec,
    PolicyEntry,
    RealServer,
    RealServerSpec,
    ReturnTunnel,
    Rows,
    Spec,
    TunnelSpec,
    VirtualServer,
    VirtualServerSpec,
)
from kubeproxy_py.model.services import Endpoint, Service
from kubeproxy_py.model.settings import DirectReturn, ServiceSettings, Weight, Written
from tests.builders import HERE, THERE, endpoint, endpoint_slice, node_context, port, service
from tests.diagnose.trace.traces import HOST

VIP, PEER, THIRD_PEER = "203.0.113.7", "192.168.3.11", "192.168.3.12"
THIRD = "node-c"
NEAR, FAR, FAR_TOO, THIRD_ONE = (
    endpoint("10.244.1.5", HERE),
    endpoint("10.244.2.5", THERE),
    endpoint("10.244.2.6", THERE),
    endpoint("10.244.3.5", THIRD),
)
ALL = (NEAR, FAR, FAR_TOO, THIRD_ONE)


def handed_on(way: DirectReturn = "tunnel", **fields: object) -> Service:
    settings = ServiceSettings(direct_return=way, written=(Written("dsr", "kubeproxy-py.io/dsr", way),))
    given: dict[str, object] = {"load_balancer_ips": (VIP,), "external_local": True, "settings": settings, **fields}
    return service(type="LoadBalancer", **given)  # type: ignore[arg-type]


def compiler(
    given: Service, *endpoints: Endpoint, peers: bool = True, protocol: str = "TCP", **context: object
) -> Compiler:
    fields = {"policy_marks": MarkRange(), "if_local": {"IPv4": ("-s 10.244.1.0/24",)}, **context}
    made = Compiler(lambda _node, _addresses: node_context(**fields))
    made.handle_event(ServiceUpserted(given))
    made.handle_event(SliceUpserted(endpoint_slice(endpoints=endpoints, protocol=protocol)))  # type: ignore[arg-type]
    if peers:
        for name, address in ((HERE, "192.168.3.10"), (THERE, PEER), (THIRD, THIRD_PEER)):
            made.handle_event(PeerUpserted(name, (address, "198.51.100.1")))
    made.compile()
    return made


def rows(given: Service, *endpoints: Endpoint, **fields: object) -> Rows:
    return compiler(given, *endpoints, **fields).desired.rows  # type: ignore[arg-type]


def entries(found: Rows, name: str = "KUBE-PY-OUTSIDE") -> dict[str, Spec]:
    return {key.entry: spec for key, spec in found.items() if isinstance(key, PolicyEntry) and key.set == name}


def outside(found: Rows, name: str = "KUBE-PY-OUTSIDE") -> tuple[Spec, dict[str, Spec]]:
    """The virtual server that the set *name* leads to, and its real servers."""
    (mark,) = {spec.mark for spec in entries(found, name).values() if isinstance(spec, MarkSpec)}
    (server,) = (key for key in found if isinstance(key, VirtualServer) and key.mark == mark)
    real = {
        key.address: spec for key, spec in found.items() if isinstance(key, RealServer) and key.virtual_server == server
    }
    return found[server], real


def rules(found: Rows, name: str) -> tuple[str, ...]:
    spec = found[Chain("IPv4", "mangle", name)]
    assert isinstance(spec, ChainSpec)
    return spec.rules


def refused(given: Service, **fields: object) -> list[str]:
    return [refusal.message for refusal in compiler(given, *ALL, **fields).refusals.of(given.name)]  # type: ignore[arg-type]


@pytest.mark.parametrize("way", ["tunnel", "route"])
def test_outsiders_have_the_endpoints_here_and_each_other_node_by_the_number_of_its_endpoints(
    way: DirectReturn,
) -> None:
    name = {"tunnel": "KUBE-PY-OUTSIDE", "route": "KUBE-PY-ROUTED"}[way]
    found = rows(handed_on(way), *ALL)
    assert list(entries(found, name)) == [f"{VIP},tcp:80"]
    assert outside(found, name) == (
        VirtualServerSpec("wrr"),
        {
            "10.244.1.5": SERVING,
            PEER: RealServerSpec(2, forwarding="route" if way == "route" else "tunnel"),
            THIRD_PEER: RealServerSpec(1, forwarding="route" if way == "route" else "tunnel"),
        },
    )


def test_clients_inside_and_the_frontend_itself_are_as_without_it() -> None:
    plain = rows(handed_on(""), *ALL)
    found = rows(handed_on(), *ALL)
    assert {key: spec for key, spec in found.items() if key in plain and not isinstance(key, Chain)} == {
        key: spec for key, spec in plain.items() if not isinstance(key, Chain)
    }


def test_without_the_annotation_nothing_of_it_is_there() -> None:
    found = rows(handed_on(""), *ALL)
    assert not any(isinstance(key, ReturnTunnel) for key in found)
    assert Ipset("KUBE-PY-OUTSIDE") not in found
    assert Ipset("KUBE-PY-ROUTED") not in found
    assert "OUTSIDE" not in str(rules(found, "KUBE-PY-INPUT"))


def test_the_tunnel_takes_what_others_hand_on_also_where_nothing_is_handed_on() -> None:
    found = rows(handed_on(), NEAR)
    assert found[ReturnTunnel("IPv4")] == TunnelSpec("192.168.3.10")
    assert not entries(found)
    assert ReturnTunnel("IPv4") not in rows(handed_on("route"), *ALL)


def test_what_was_handed_on_is_not_marked_and_keeps_its_mark_on_the_way() -> None:
    by_tunnel, by_route = rows(handed_on(), *ALL), rows(handed_on("route"), *ALL)
    assert rules(by_tunnel, "KUBE-PY-INPUT")[1].startswith("! -i tunl0 -m mark ! --mark 0x2000/0x2000 -j SET")
    assert rules(by_route, "KUBE-PY-INPUT")[1].startswith("-m dscp ! --dscp 0x03 -m mark ! --mark 0x2000/0x2000 -j SET")
    assert rules(by_route, "KUBE-PY-INPUT")[2].endswith("-j DSCP --set-dscp 0x03")
    for made in (by_route, by_tunnel, rows(service("web"), *ALL)):  # it may still be handed on, without a mark
        (marks,) = (rule for rule in rules(made, "KUBE-PY-OUTPUT") if "--map-mark" in rule)
        assert marks.startswith("-m addrtype --src-type LOCAL -j SET")


def test_peers_decide_who_is_handed_on_to() -> None:
    made = compiler(handed_on(), NEAR, FAR, peers=False)
    assert made.peer_needs
    assert not entries(made.desired.rows)
    made.handle_event(PeerUpserted(THERE, (PEER,)))
    made.compile()
    assert PEER in outside(made.desired.rows)[1]
    made.handle_event(PeerUpserted(THERE, ("fd00:3::11",)))  # no address of the family
    made.compile()
    assert not entries(made.desired.rows)
    made.handle_event(PeerUpserted(THERE, (THIRD_PEER,)))
    made.handle_event(PeerDeleted(THERE))
    made.compile()
    assert not entries(made.desired.rows)


def test_nodes_are_not_needed_where_it_is_ignored() -> None:
    made = compiler(handed_on(), *ALL)
    assert made.peer_needs == PeerNeeds(addresses=True)
    udp_too = {"ports": (port(9, "SCTP"), port(53, "UDP"))}
    for fields, is_needed in (
        ({"external_local": False}, False),
        ({"load_balancer_ips": (), "type": "ClusterIP"}, False),
        ({"ports": (port(9, "SCTP"),)}, False),
        (udp_too, True),
    ):
        made.handle_event(ServiceUpserted(replace(handed_on(), **fields)))
        assert bool(made.peer_needs) is is_needed, fields
        made.compile()
        assert bool(made.peer_needs) is is_needed, fields
    assert not compiler(handed_on(), *ALL, policy_marks=None, if_local={}).peer_needs


def test_a_peer_changes_nothing_without_such_a_service() -> None:
    made = compiler(handed_on(""), *ALL)
    made.handle_event(PeerUpserted(THIRD, ("192.168.3.13",)))
    assert not made.peer_needs
    assert not made.has_work()


def test_endpoints_that_are_not_ready_do_not_count() -> None:
    away = endpoint("10.244.2.6", THERE, ready=False, serving=False)
    assert outside(rows(handed_on(), NEAR, FAR, away))[1][PEER] == RealServerSpec(1, forwarding="tunnel")


@pytest.mark.parametrize("slices", [1, 2])
def test_an_endpoint_here_that_terminates_is_used_only_if_no_node_has_a_ready_one(slices: int) -> None:
    ends = endpoint("10.244.1.5", HERE, ready=False, serving=True, terminating=True)
    ends_there = endpoint("10.244.2.5", THERE, ready=False, serving=True, terminating=True)
    tunnel = RealServerSpec(1, forwarding="tunnel")

    def found(*endpoints: Endpoint) -> dict[str, Spec]:
        made = compiler(handed_on(), *endpoints)
        if slices > 1:
            made.handle_event(SliceUpserted(endpoint_slice(endpoints=endpoints[:1])))
            made.handle_event(SliceUpserted(endpoint_slice(endpoints=endpoints[1:], suffix="2")))
            made.compile()
        return outside(made.desired.rows)[1]

    assert found(ends, FAR) == {PEER: tunnel}
    assert found(ends, ends_there) == {"10.244.1.5": SERVING, PEER: tunnel}


def test_weights_of_endpoints_add_up() -> None:
    settings = ServiceSettings(direct_return="tunnel", weights=(Weight("others", "", 3),))
    spec, real = outside(rows(handed_on(settings=settings), *ALL))
    assert spec == VirtualServerSpec("wrr")
    assert (real["10.244.1.5"], real[PEER]) == (RealServerSpec(3), RealServerSpec(6, forwarding="tunnel"))


@pytest.mark.parametrize(("scheduler", "used"), [("rr", "wrr"), ("lc", "wlc"), ("sh", "sh"), ("sed", "sed")])
def test_the_scheduler_takes_notice_of_weights(scheduler: str, used: str) -> None:
    spec, _ = outside(rows(handed_on(), *ALL, scheduler=scheduler))
    assert isinstance(spec, VirtualServerSpec)
    assert spec.scheduler == used


@pytest.mark.parametrize(
    ("failing", "weights"),
    [
        ((), (1, 2, 1)),
        ((FAR,), (1, 1, 1)),
        ((FAR, FAR_TOO), (1, 0, 1)),
        ((FAR, FAR_TOO, THIRD_ONE), (1, 0, 1)),  # the one that failed last serves
        ((NEAR, FAR, FAR_TOO), (0, 1, 1)),
        (ALL, (1, 2, 1)),
    ],
)
def test_a_node_weighs_as_much_as_its_endpoints_of_which_at_most_half_are_set_aside(
    failing: tuple[Endpoint, ...], weights: tuple[int, int, int]
) -> None:
    made = compiler(handed_on(), *ALL)
    failures = {(one.address, 8080): Failure(float(number), "silent") for number, one in enumerate(failing)}
    made.handle_event(EndpointFailures(handed_on().name, failures))
    made.compile()
    _, real = outside(made.desired.rows)
    found = (real["10.244.1.5"], real[PEER], real[THIRD_PEER])
    assert tuple(spec.weight for spec in found if isinstance(spec, RealServerSpec)) == weights


@pytest.mark.parametrize(
    ("steps", "weights"),
    [
        ({}, (10, 20, 10)),
        ({FAR: 3}, (10, 13, 10)),
        ({THIRD_ONE: 1}, (10, 20, 1)),  # the only one of its node
        ({NEAR: 1, FAR: 5}, (1, 15, 10)),
        (dict.fromkeys(ALL, 1), (10, 20, 10)),  # all are new, wherever they are
        (dict.fromkeys((NEAR, FAR, FAR_TOO), 5) | {THIRD_ONE: 1}, (10, 20, 2)),
    ],
)
def test_endpoints_start_slowly_on_each_node(steps: dict[Endpoint, int], weights: tuple[int, int, int]) -> None:
    slow = ServiceSettings(scheduler="wrr", slow_start_s=30.0, direct_return="tunnel")
    made = compiler(handed_on(settings=slow), *ALL)
    made.handle_event(EndpointSteps(handed_on().name, {(one.address, 8080): step for one, step in steps.items()}))
    made.compile()
    _, real = outside(made.desired.rows)
    found = (real["10.244.1.5"], real[PEER], real[THIRD_PEER])
    assert tuple(spec.weight for spec in found if isinstance(spec, RealServerSpec)) == weights


def test_clients_that_are_hashed_because_of_affinity_do_not_move_while_an_endpoint_starts() -> None:
    slow = ServiceSettings(scheduler="wrr", slow_start_s=30.0, direct_return="tunnel")
    made = compiler(handed_on(settings=slow, affinity_timeout_s=10800), *ALL)
    before = outside(made.desired.rows)
    assert isinstance(before[0], VirtualServerSpec)
    assert before[0].scheduler == "sh"
    made.handle_event(EndpointSteps(handed_on().name, {("10.244.1.5", 8080): 3}))
    made.compile()
    assert outside(made.desired.rows) == before


def test_nodes_keep_their_weight_with_a_scheduler_that_does_not_pass_over_those_without() -> None:
    made = compiler(handed_on(), *ALL, scheduler="dh")
    failures = {(one.address, 8080): Failure(1.0, "silent") for one in (FAR, FAR_TOO)}
    made.handle_event(EndpointFailures(handed_on().name, failures))
    made.compile()
    assert outside(made.desired.rows)[1][PEER] == RealServerSpec(2, forwarding="tunnel")


def test_it_is_for_external_addresses_and_for_tcp_and_udp() -> None:
    many = handed_on(external_ips=("198.51.100.9",), ports=(port(80, node_port=30080),))
    assert sorted(entries(rows(many, *ALL))) == ["198.51.100.9,tcp:80", f"{VIP},tcp:80"]
    assert list(entries(rows(handed_on(ports=(port(53, "UDP"),)), *ALL, protocol="UDP"))) == [f"{VIP},udp:53"]
    assert not entries(rows(handed_on(ports=(port(9, "SCTP"),)), *ALL, protocol="SCTP"))


def test_where_it_does_not_fit_it_is_named_and_ignored() -> None:
    assert refused(handed_on()) == []
    assert "needs exact policies" in refused(handed_on(), policy_marks=None, if_local={})[0]
    assert "externalTrafficPolicy" in refused(handed_on(external_local=False))[0]
    assert "TCP or UDP port" in refused(handed_on(ports=(port(9, "SCTP"),)))[0]
    by_node_port = replace(handed_on(ports=(port(80, node_port=30080),)), type="NodePort")
    assert refused(by_node_port) == []  # it is no LoadBalancer any more, but has the address yet
    assert "without a load balancer's address or externalIP" in refused(replace(by_node_port, load_balancer_ips=()))[0]
    assert refused(handed_on(load_balancer_ips=())) == []  # it gets one yet
    lacking = {"missing_extensions": {"IPv4": frozenset({"DSCP"})}}
    assert "xt_DSCP" in refused(handed_on("route"), **lacking)[0]
    assert refused(handed_on("tunnel"), **lacking) == []
    assert not entries(rows(handed_on("route"), *ALL, **lacking), "KUBE-PY-ROUTED")


@pytest.mark.parametrize("way", ["tunnel", "route"])
@pytest.mark.parametrize("kind", ["load_balancer_ips", "external_ips"])
@pytest.mark.parametrize("owner", ["this node", "another machine"])
def test_nothing_is_handed_on_at_the_address_of_a_machine(way: DirectReturn, kind: str, owner: str) -> None:
    def made(*addresses: str) -> Compiler:
        own = frozenset({PEER}) if owner == "this node" else frozenset[str]()
        given = handed_on(way, **{"load_balancer_ips": (), kind: addresses})
        made = compiler(given, *ALL, foreign_addresses={"IPv4": own})
        if owner != "this node":
            made.handle_event(TakenAddresses("neighbours", {PEER: "the address of a machine"}))
            made.compile()
        return made

    name = {"tunnel": "KUBE-PY-OUTSIDE", "route": "KUBE-PY-ROUTED"}[way]
    only = made(PEER)
    assert not entries(only.desired.rows, name)
    assert ReturnTunnel("IPv4") not in only.desired.rows
    (refusal,) = (one for one in only.refusals if one.subject.endswith(f"dsr={way}"))
    assert refusal.message == f"has no effect at addresses that a machine has ({PEER}); ignored"
    beside = made(PEER, VIP)
    assert list(entries(beside.desired.rows, name)) == [f"{VIP},tcp:80"]
    assert not [one for one in beside.refusals if one.subject.endswith(f"dsr={way}")]


def traced(way: DirectReturn) -> Trace:
    made = compiler(handed_on(way), *ALL)
    known = known_to_compiler(made)
    request = parse_request("192.168.3.175", f"{VIP}:80", "eth0", directory_of(known))
    return trace(made.desired.rows, HOST, request, objects_of(known))


@pytest.mark.parametrize("way", ["tunnel", "route"])
def test_trace_says_which_nodes_answer_the_client_themselves(way: DirectReturn) -> None:
    outcome = traced(way).outcomes[0]
    assert outcome.fate == "served"
    handed = {one.address: one.handed_on for branch in outcome.branches for one in branch.real_servers}
    assert handed == {"10.244.1.5": "", PEER: way, THIRD_PEER: way}
    guard = {"tunnel": "arrives by tunl0", "route": "has DSCP 0x03"}[way]
    assert (
        f"{PEER} is a node, handed the packet as it is by {way}; "
        f"it answers the client itself, and hands on nothing that {guard}"
    ) in outcome.notes
    assert not any("its answer is lost" in note for note in outcome.notes)
