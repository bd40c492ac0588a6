"""FailoverWatch: which endpoints are checked, and which fail, over time."""

import random
from collections.abc import Callable, Collection, Iterable

import pytest

from kubeproxy_py.compile.compiler import Compiler
from kubeproxy_py.failover.endpoint_health import GIVE_UP_S, Result, Rule
from kubeproxy_py.failover.watch import USED_S, FailoverWatch, Watched, rule_of, watched
from kubeproxy_py.model.conditions import Failure
from kubeproxy_py.model.events import PeerUpserted, ServiceUpserted, SliceUpserted
from kubeproxy_py.model.flows import Destination
from kubeproxy_py.model.policy_marks import MarkRange
from kubeproxy_py.model.rows import (
    SERVING,
    Connections,
    RealServer,
    RealServerCounters,
    Rows,
    Traffic,
    VirtualServer,
    VirtualServerSpec,
)
from kubeproxy_py.model.services import ServiceName
from kubeproxy_py.model.settings import ServiceSettings, Written
from kubeproxy_py.net import Protocol
from tests.builders import HERE, THERE, endpoint, endpoint_slice, name, node_context, port, service

WEB, API = name("web"), name("api")
SERVER, API_SERVER = VirtualServer("10.96.0.10", 80, "TCP"), VirtualServer("10.96.0.11", 80, "TCP")
TCP, NODES = Rule(interval_s=5.0), Rule(interval_s=5.0, only_nodes=True)
ANSWERED, REFUSED, SILENT = Result.ANSWERED, Result.REFUSED, Result.SILENT


def place(number: int) -> Destination:
    return f"10.244.2.{number}", 8080


class Simulation:
    """A watch, with machines that answer, refuse or are silent, second after second."""

    def __init__(self) -> None:
        self.now_s = 1000.0
        self.watch = FailoverWatch(random.Random(1).random)
        self.answers: Callable[[Destination], Result | None] = lambda _place: ANSWERED
        self.failing: dict[ServiceName, set[Destination]] = {}
        self.connects: list[Destination] = []
        self.used: dict[VirtualServer, int] = {}
        self.counters: dict[RealServer, Traffic] = {}

    def add(self, service_name: ServiceName, service: Watched | None) -> None:
        self.watch.replace(service_name, service, self.now_s)

    def use(self, *servers: VirtualServer) -> None:
        for server in servers:
            self.used[server] = self.used.get(server, 0) + 1
        self.watch.record_usage({server: Traffic(count) for server, count in self.used.items()}, self.now_s)

    def run(self, seconds: float, *servers: VirtualServer) -> None:
        """Let *seconds* pass, in which *servers* are used; a silent connect takes a second."""
        end_s = self.now_s + seconds
        while self.now_s < end_s:
            self.use(*servers)
            if self.counters:
                self.read()
            for one in self.watch.schedule.pop_due(self.now_s):
                self.connects.append(one)
                result = self.answers(one)
                self.watch.record_connect(one, result, self.now_s + (1.0 if result is SILENT else 0.0))
            for event in self.watch.pop_changes(self.now_s):
                self.failing[event.service] = set(event.failures)
            self.now_s += 0.5

    def read(self) -> None:
        reading = {key: RealServerCounters(1, Connections(), traffic) for key, traffic in self.counters.items()}
        self.watch.record_reading(reading, self.now_s)

    def count(self, key: RealServer, *, answered: bool) -> None:
        """Count a new connection to *key*."""
        before = self.counters.get(key, Traffic())
        self.counters[key] = Traffic(
            before.connections + 1,
            before.received_packets + 5,
            before.sent_packets + (4 if answered else 0),
            before.received_bytes + 400,
            before.sent_bytes + (800 if answered else 0),
        )

    def silence(self, *places: Destination) -> None:
        self.answers = lambda one: SILENT if one in places else ANSWERED


def endpoints(*numbers: int, node: str = "node-b") -> dict[Destination, str]:
    return {place(number): node for number in numbers}


def web(nodes: dict[Destination, str], rule: Rule = TCP, server: VirtualServer = SERVER) -> Watched:
    return Watched(rule, (server,), nodes)


def running(nodes: dict[Destination, str], rule: Rule = TCP) -> Simulation:
    """Return a simulation in which every endpoint has been reached."""
    simulation = Simulation()
    simulation.add(WEB, web(nodes, rule))
    simulation.run(rule.interval_s * (len(nodes) if rule.only_nodes else 1) + 2, SERVER)
    assert set(simulation.connects) == set(nodes)
    simulation.connects.clear()
    return simulation


def test_an_endpoint_that_is_silent_fails_within_seconds_and_returns_when_it_answers() -> None:
    simulation = running(endpoints(1, 2))
    simulation.silence(place(1))
    simulation.run(12, SERVER)
    assert simulation.failing == {WEB: {place(1)}}
    simulation.silence()
    simulation.run(12, SERVER)
    assert simulation.failing == {WEB: set()}


def test_an_endpoint_of_an_unused_service_is_not_checked() -> None:
    simulation = Simulation()
    simulation.add(WEB, web(endpoints(1)))
    simulation.run(60)
    assert simulation.connects == []
    simulation.run(8, SERVER)
    assert simulation.connects
    simulation.run(USED_S)
    simulation.connects.clear()
    simulation.run(60)
    assert simulation.connects == []


def test_a_failing_endpoint_is_checked_until_it_returns_whether_or_not_it_is_used() -> None:
    simulation = running(endpoints(1, 2))
    simulation.silence(place(1))
    simulation.run(12, SERVER)
    simulation.run(USED_S + 10)
    assert simulation.failing == {WEB: {place(1)}}
    simulation.silence()
    simulation.run(12)
    assert simulation.failing == {WEB: set()}


def test_an_endpoint_that_was_reached_before_fails_also_after_a_time_without_use() -> None:
    simulation = running(endpoints(1, 2))
    simulation.run(USED_S + 10)
    simulation.silence(place(1))
    simulation.run(15, SERVER)
    assert simulation.failing == {WEB: {place(1)}}


def test_an_endpoint_that_was_never_reached_does_not_fail() -> None:
    simulation = Simulation()
    simulation.silence(place(1))
    simulation.add(WEB, web(endpoints(1, 2)))
    simulation.run(60, SERVER)
    assert simulation.failing == {}


def test_checks_that_cannot_be_tried_are_no_failures() -> None:
    simulation = running(endpoints(1, 2))
    simulation.answers = lambda _place: None
    simulation.run(60, SERVER)
    assert simulation.failing == {}


def test_a_service_that_is_not_watched_any_more_has_no_failures() -> None:
    simulation = running(endpoints(1, 2))
    simulation.silence(place(1))
    simulation.run(12, SERVER)
    simulation.add(WEB, None)
    simulation.run(1)
    assert simulation.failing == {WEB: set()}
    assert not simulation.watch.is_watching


def test_a_service_that_is_not_watched_any_more_is_not_read() -> None:
    simulation = running(endpoints(1, 2))
    simulation.add(WEB, None)
    assert simulation.watch.servers_to_read() == []


def test_an_endpoint_that_left_is_no_failure() -> None:
    simulation = running(endpoints(1, 2))
    simulation.silence(place(1))
    simulation.run(12, SERVER)
    simulation.add(WEB, web(endpoints(2)))
    simulation.run(3, SERVER)
    assert simulation.failing == {WEB: set()}


def test_an_endpoint_of_two_services_fails_for_both_by_the_stricter_rule() -> None:
    simulation = Simulation()
    simulation.add(WEB, web(endpoints(1, 2), NODES))
    simulation.add(API, web(endpoints(1, 2), Rule(1.0, 1), API_SERVER))
    simulation.run(10, SERVER, API_SERVER)
    simulation.answers = lambda one: REFUSED if one == place(1) else ANSWERED
    simulation.run(5, SERVER, API_SERVER)
    assert simulation.failing == {WEB: {place(1)}, API: {place(1)}}


# What clients get


def keys(*numbers: int) -> list[RealServer]:
    return [RealServer(SERVER, *place(number)) for number in numbers]


def test_an_endpoint_that_answers_clients_is_not_connected_to() -> None:
    simulation = running(endpoints(1, 2))
    for second in range(60):
        simulation.count(keys(1)[0], answered=True)
        simulation.run(1, SERVER)
        if second == 1:  # the difference of two readings is known
            simulation.connects.clear()
    assert set(simulation.connects) == {place(2)}


def test_an_endpoint_that_answers_clients_does_not_fail() -> None:
    simulation = running(endpoints(1, 2))
    simulation.silence(place(1))
    for _ in range(60):
        simulation.count(keys(1)[0], answered=True)
        simulation.run(1, SERVER)
    assert simulation.failing == {}


def test_unanswered_connections_of_clients_are_failures_of_which_a_connect_is_the_proof() -> None:
    simulation = running(endpoints(1, 2), Rule(interval_s=60.0))
    simulation.silence(place(1))
    one, two = keys(1, 2)
    for _ in range(4):
        simulation.count(one, answered=False)
        simulation.count(two, answered=True)
        simulation.run(1, SERVER)
    assert simulation.failing == {WEB: {place(1)}}, "long before the interval is over"
    assert place(1) in simulation.connects


def test_several_unanswered_connections_and_one_connect_are_enough() -> None:
    simulation = running(endpoints(1, 2), Rule(interval_s=60.0))
    simulation.silence(place(1))
    one, two = keys(1, 2)
    for _ in range(2):
        for _ in range(5):
            simulation.count(one, answered=False)
            simulation.count(two, answered=True)
        simulation.run(0.5, SERVER)
    simulation.run(2, SERVER)
    assert simulation.failing == {WEB: {place(1)}}
    assert simulation.connects.count(place(1)) == 1


def test_unanswered_connections_are_no_failures_while_connects_are_answered() -> None:
    simulation = running(endpoints(1, 2))
    one, two = keys(1, 2)
    for _ in range(30):
        simulation.count(one, answered=False)
        simulation.count(two, answered=True)
        simulation.run(1, SERVER)
    assert simulation.failing == {}


def test_an_endpoint_that_only_clients_reach_fails_and_is_tried_again_after_a_while() -> None:
    simulation = Simulation()
    simulation.silence(place(1), place(2))
    simulation.add(WEB, web(endpoints(1, 2)))
    one, two = keys(1, 2)
    for _ in range(6):
        simulation.count(one, answered=False)
        simulation.count(two, answered=True)
        simulation.run(1, SERVER)
    assert simulation.failing == {WEB: {place(1)}}
    simulation.run(GIVE_UP_S, SERVER)
    assert simulation.failing == {WEB: set()}


# Nodes


def test_all_endpoints_of_a_silent_node_fail_together() -> None:
    nodes = {**endpoints(*range(1, 11)), **endpoints(11, 12, node="node-c")}
    simulation = running(nodes, NODES)
    simulation.silence(*endpoints(*range(1, 11)))
    simulation.run(12, SERVER)
    assert simulation.failing == {WEB: set(endpoints(*range(1, 11)))}


def test_one_silent_endpoint_of_a_node_is_one_failure() -> None:
    simulation = running(endpoints(*range(1, 6)), NODES)
    simulation.silence(place(1))
    simulation.run(90, SERVER)
    assert simulation.failing == {WEB: {place(1)}}


def test_a_program_that_does_not_listen_is_no_silent_node() -> None:
    simulation = running(endpoints(1, 2), NODES)
    simulation.answers = lambda _place: REFUSED
    simulation.run(60, SERVER)
    assert simulation.failing == {}


def test_endpoints_return_soon_after_one_of_their_node_has() -> None:
    simulation = running(endpoints(*range(1, 11)), NODES)
    simulation.silence(*endpoints(*range(1, 11)))
    simulation.run(15, SERVER)
    assert len(simulation.failing[WEB]) == 10
    simulation.silence()
    simulation.run(12, SERVER)
    assert simulation.failing == {WEB: set()}


def test_a_node_with_many_endpoints_is_connected_to_as_often_as_one_with_few() -> None:
    simulation = running(endpoints(*range(1, 31)), NODES)
    simulation.run(600, SERVER)
    assert 100 <= len(simulation.connects) <= 140


def test_endpoints_of_unknown_nodes_are_checked_each_by_itself() -> None:
    simulation = Simulation()
    simulation.add(WEB, web(endpoints(*range(1, 11), node=""), NODES))
    simulation.run(8, SERVER)
    assert set(simulation.connects) == set(endpoints(*range(1, 11)))
    simulation.silence(place(1))
    simulation.run(15, SERVER)
    assert simulation.failing == {WEB: {place(1)}}


# Failures that an earlier process had


def inherited() -> Simulation:
    simulation = Simulation()
    failures = {place(1): Failure(1000.0, "set aside before")}
    simulation.add(WEB, Watched(TCP, (SERVER,), endpoints(1, 2), failures))
    return simulation


def test_an_inherited_failure_ends_with_answers() -> None:
    simulation = inherited()
    simulation.run(12)
    assert simulation.failing == {WEB: set()}


def test_an_inherited_failure_is_given_up_if_nothing_is_known_of_it() -> None:
    simulation = inherited()
    simulation.silence(place(1))
    simulation.run(GIVE_UP_S - 1)
    assert simulation.failing == {}, "what the loop knows stays"
    simulation.run(2)
    assert simulation.failing == {WEB: set()}


# Which Services are watched, and as what

OPTED_OUT = (Written("health-check", "kubeproxy-py.io/health-check", "none"),)
RULES = [
    (ServiceSettings(), False, None),
    (ServiceSettings(), True, Rule(only_nodes=True)),
    (ServiceSettings(written=OPTED_OUT), True, None),
    (ServiceSettings(health_check="tcp", health_check_interval_s=2.0, health_check_threshold=4), False, Rule(2.0, 4)),
    (ServiceSettings(health_check="tcp"), True, Rule()),
]


@pytest.mark.parametrize(("settings", "watch_nodes", "rule"), RULES)
def test_rule_of_a_service_follows_from_its_setting_and_that_of_the_node(
    settings: ServiceSettings, watch_nodes: bool, rule: Rule | None
) -> None:
    assert rule_of(service(settings=settings), watch_nodes=watch_nodes) == rule


def rows(server: VirtualServer, addresses: Iterable[str]) -> Rows:
    return {server: None, **{RealServer(server, address, 8080): SERVING for address in addresses}}


@pytest.mark.parametrize(
    ("rule", "places"), [(TCP, {"10.244.1.5": "", "10.244.2.5": THERE}), (NODES, {"10.244.2.5": THERE})]
)
def test_endpoints_of_this_node_are_checked_only_if_their_service_asks_for_it(
    rule: Rule, places: dict[str, str]
) -> None:
    pods = [endpoint("10.244.1.5"), endpoint("10.244.2.5", THERE)]
    made = watched(rule, [rows(SERVER, ["10.244.1.5", "10.244.2.5"])], [endpoint_slice(endpoints=pods)], HERE, {})
    assert made.nodes == {(address, 8080): node for address, node in places.items()}


def test_udp_and_sctp_are_not_checked() -> None:
    parts = [
        rows(VirtualServer("10.96.0.10", 80, "UDP"), ["10.244.2.5"]),
        rows(VirtualServer("10.96.0.10", 80, "SCTP"), ["10.244.2.5"]),
    ]
    assert watched(TCP, parts, [], HERE, {}) == Watched(TCP, (), {})


@pytest.mark.parametrize(("scheduler", "is_watched"), [("sh", False), ("dh", False), ("wrr", True)])
def test_endpoints_that_cannot_be_set_aside_are_not_checked(scheduler: str, is_watched: bool) -> None:
    server = VirtualServer("10.96.0.10", 80, "TCP")
    parts = [{**rows(server, ["10.244.2.5"]), server: VirtualServerSpec(scheduler, 0)}]
    made = watched(TCP, parts, [], HERE, {})
    assert (bool(made.used), bool(made.nodes)) == (is_watched, is_watched)


@pytest.mark.parametrize("protocol", ["TCP", "UDP", "SCTP"])
def test_of_virtual_servers_by_mark_those_of_tcp_are_watched(protocol: Protocol) -> None:
    compiler = Compiler(lambda _node, _addresses: node_context(families=("IPv4",), policy_marks=MarkRange()))
    ports = (port(protocol=protocol),)
    compiler.handle_event(ServiceUpserted(service(ports=ports, external_ips=("198.51.100.7",), external_local=True)))
    for suffix, address in ("1", "10.244.2.5"), ("2", "10.244.2.6"):  # several slices, so parts without the spec
        part = endpoint_slice(endpoints=[endpoint(address, THERE)], protocol=protocol, suffix=suffix)
        compiler.handle_event(SliceUpserted(part))
    compiler.compile()
    parts = list(compiler.desired.parts_of(name("web")))
    (by_mark,) = {key for part in parts for key in part if isinstance(key, VirtualServer) and key.mark}
    made = watched(TCP, parts, [], HERE, {})
    is_tcp = protocol == "TCP"
    assert (by_mark in made.servers, bool(made.nodes)) == (is_tcp, is_tcp)


def test_a_service_is_used_by_clients_that_are_handed_on_too() -> None:
    """With direct server return clients outside come by a virtual server of which no answers are counted."""
    compiler = Compiler(lambda _node, _addresses: node_context(families=("IPv4",), policy_marks=MarkRange()))
    settings = ServiceSettings(direct_return="tunnel")
    given = service(type="LoadBalancer", load_balancer_ips=("203.0.113.7",), external_local=True, settings=settings)
    pods = endpoint_slice(endpoints=[endpoint("10.244.2.5", THERE), endpoint("10.244.2.6", THERE)])
    for event in (ServiceUpserted(given), SliceUpserted(pods), PeerUpserted(THERE, ("192.168.3.11",))):
        compiler.handle_event(event)
    compiler.compile()
    (outside,) = {
        key.virtual_server
        for key in compiler.desired.rows
        if isinstance(key, RealServer) and key.address == "192.168.3.11"
    }
    simulation = Simulation()
    simulation.add(WEB, watched(TCP, compiler.desired.parts_of(given.name), [pods], HERE, {}))
    simulation.run(8, outside)
    assert set(simulation.connects) == {("10.244.2.5", 8080), ("10.244.2.6", 8080)}
    assert outside not in simulation.watch.servers_to_read()


def test_all_work_is_bounded_by_what_is_used() -> None:
    simulation = Simulation()
    names: Collection[ServiceName] = [name(f"s{number}") for number in range(200)]
    for number, one in enumerate(names):
        server = VirtualServer(f"10.96.1.{number}", 80, "TCP")
        simulation.add(one, Watched(TCP, (server,), endpoints(number)))
    simulation.use(VirtualServer("10.96.1.7", 80, "TCP"))
    assert simulation.watch.servers_to_read() == [VirtualServer("10.96.1.7", 80, "TCP")]
    assert len(simulation.watch.schedule) == 1


@pytest.mark.parametrize("seed", range(10))
def test_no_failure_outlives_its_service_whatever_happens(seed: int) -> None:
    rng = random.Random(seed)
    simulation = Simulation()
    servers = {name(f"s{number}"): VirtualServer(f"10.96.2.{number}", 80, "TCP") for number in range(4)}
    simulation.answers = lambda _place: rng.choice([ANSWERED, REFUSED, SILENT, SILENT, None])
    for _ in range(60):
        one = rng.choice(list(servers))
        nodes = {place(rng.randrange(6)): rng.choice(["node-b", "node-c", ""]) for _ in range(rng.randrange(5))}
        inherited_ones = {place(rng.randrange(6)): Failure(1.0, "before")} if rng.random() < 0.3 else {}
        rule = rng.choice([TCP, NODES, Rule(0.5, 1)])
        simulation.add(one, Watched(rule, (servers[one],), nodes, inherited_ones) if rng.random() < 0.7 else None)
        for _ in range(6):
            key = RealServer(servers[rng.choice(list(servers))], *place(rng.randrange(6)))
            simulation.count(key, answered=rng.random() < 0.7)
        simulation.run(4 * rng.random(), *(server for server in servers.values() if rng.random() < 0.5))
    assert any(simulation.failing.values()) or simulation.connects
    for one in servers:
        simulation.add(one, None)
    simulation.run(2)
    assert not any(simulation.failing.values())
    assert not simulation.watch.is_watching
