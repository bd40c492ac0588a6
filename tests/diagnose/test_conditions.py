"""Documents say which endpoints this node has set aside, why, and which start slowly."""

from collections.abc import Callable

import pytest

from kubeproxy_py.compile.compiler import Compiler
from kubeproxy_py.diagnose.document import EndpointState, RealServerState
from kubeproxy_py.diagnose.objects import decode_objects, encode_objects
from kubeproxy_py.diagnose.snapshot import Snapshot
from kubeproxy_py.diagnose.status_text import real_cells, status_text
from kubeproxy_py.model.conditions import EndpointFailures, Failure
from kubeproxy_py.model.events import PeerUpserted, SliceUpserted
from kubeproxy_py.model.policy_marks import MarkRange
from kubeproxy_py.model.services import Service
from kubeproxy_py.model.settings import ServiceSettings
from kubeproxy_py.sources.decode.settings import PREFIX, read_settings
from tests.builders import HERE, THERE, endpoint, endpoint_slice, name, node_context, port, service
from tests.diagnose.view import agent_with, explained, only_server, only_service, snapshot_of, state_of
from tests.reconcile.harness import AgentHarness

ONE, TWO, THREE, FAR = "10.244.1.5", "10.244.1.6", "10.244.1.7", "10.244.2.5"
REASON = "3 TCP connects got no answer"
SINCE = "2023-11-14T22:13:10.000Z"  # ten seconds before the snapshot


def observed(*failing: str, one: Service | None = None) -> Snapshot:
    """Return a snapshot of a Service with three endpoints, of which *failing* fail."""
    harness = agent_with(one or service(), endpoint_slice(endpoints=(ONE, TWO, THREE)))
    failures = {(address, 8080): Failure(harness.now_s - 10, REASON) for address in failing}
    harness.handle(EndpointFailures(name("web"), failures))
    return snapshot_of(harness)


def real_servers(snapshot: Snapshot) -> dict[str, RealServerState]:
    return {real.address: real for real in only_server(snapshot).real_servers or ()}


def test_endpoint_that_is_set_aside_has_the_reason_and_since_when() -> None:
    real = real_servers(observed(ONE))[ONE]
    assert (real.status, real.weight, real.condition) == ("set aside", 0, f"set aside: {REASON}, since {SINCE}")
    assert real_cells(real)[-1] == real.condition


def test_endpoints_that_are_set_aside_are_counted_apart() -> None:
    server = only_server(observed(ONE))
    assert (server.serving, server.aside, server.draining, server.status) == (2, 1, 0, "serving")


def test_endpoint_that_fails_and_serves_says_why() -> None:
    real = real_servers(observed(ONE, TWO))[TWO]
    assert (real.status, real.weight) == ("serving", 1)
    assert (
        real.condition
        == f"fails ({REASON}, since {SINCE}), and serves: at most half are set aside, and none if all fail"
    )


def starting() -> Snapshot:
    """Return a snapshot of a Service in which TWO is at the third of ten steps."""
    harness = agent_with(service(settings=ServiceSettings(scheduler="wrr", slow_start_s=27)), endpoint_slice())
    harness.advance(30)
    harness.handle(SliceUpserted(endpoint_slice(endpoints=(ONE, TWO))))
    harness.advance(6)
    return snapshot_of(harness)


def test_endpoint_that_starts_slowly_says_how_far_it_is() -> None:
    real = real_servers(starting())[TWO]
    assert (real.status, real.weight, real.condition) == ("serving", 3, "starts slowly: step 3 of 10")


def test_explain_names_what_is_set_aside_as_wrong() -> None:
    explanation = explained(observed(ONE), "shop/web")
    assert explanation.problems == (f"shop/web: endpoint {ONE}:8080: set aside: {REASON}, since {SINCE}",)
    reasons = {endpoint.address: endpoint.reason for endpoint in explanation.services[0].endpoints}
    assert reasons == {ONE: f"ready; set aside: {REASON}, since {SINCE}", TWO: "ready", THREE: "ready"}
    assert [endpoint.serves for endpoint in explanation.services[0].endpoints] == [(), ("ClusterIP",), ("ClusterIP",)]


def test_explain_of_an_endpoint_that_is_set_aside_says_that_it_gets_no_connections() -> None:
    problems = explained(observed(ONE), ONE).problems
    assert any("gets no new connections" in problem for problem in problems)


def test_kind_at_which_it_is_not_set_aside_is_served() -> None:
    one = service(ports=[port(80, node_port=30080)], type="NodePort", external_local=True)
    endpoints = explained(observed(ONE, one=one), "shop/web").services[0].endpoints
    assert endpoints[0].serves == ()
    assert endpoints[1].serves == ("ClusterIP", "NodePort")


@pytest.mark.parametrize("make", [starting, lambda: observed(ONE)])
def test_commands_get_the_conditions_with_the_objects(make: Callable[[], Snapshot]) -> None:
    snapshot = make()
    compiler = Compiler(lambda _node, _addresses: snapshot.context)
    for event in decode_objects(b"".join(encode_objects(snapshot)), ""):
        compiler.handle_event(event)  # type: ignore[arg-type]
    compiler.compile()
    assert compiler.desired.rows == snapshot.desired_rows()


def test_endpoint_that_only_clients_of_this_node_would_reach_is_counted_where_it_is_set_aside() -> None:
    compiler = Compiler(lambda _node, _addresses: node_context(families=("IPv4",), policy_marks=MarkRange()))
    pods = [endpoint(ONE), endpoint(TWO, THERE), endpoint(THREE, THERE)]
    ports = (port(80), port(81))
    one = service(external_ips=("198.51.100.7",), ports=ports, external_local=True, internal_local=True)
    harness = agent_with(one, endpoint_slice(endpoints=pods), harness=AgentHarness(compiler=compiler))
    harness.handle(EndpointFailures(name("web"), {(TWO, 8080): Failure(1.0, REASON)}))
    state = only_service(snapshot_of(harness))
    counted = {(server.kind, server.port): (server.serving, server.aside) for server in state.virtual_servers}
    assert counted == {
        ("ClusterIP", 80): (1, 0),
        ("ClusterIP", 81): (1, 0),
        ("externalIP", 80): (1, 1),
        ("externalIP", 81): (1, 1),
    }
    assert "1, 1 set aside" in status_text(state_of(snapshot_of(harness)))
    (explained_service,) = explained(snapshot_of(harness), "198.51.100.7:81").services
    assert [server.aside for server in explained_service.service.virtual_servers] == [1]


def test_endpoint_that_is_set_aside_for_all_clients_is_counted_once() -> None:
    compiler = Compiler(lambda _node, _addresses: node_context(families=("IPv4",), policy_marks=MarkRange()))
    one = service(external_ips=("198.51.100.7",), external_local=True)
    pods = [endpoint(ONE), endpoint(TWO), endpoint(THREE, THERE)]
    harness = agent_with(one, endpoint_slice(endpoints=pods), harness=AgentHarness(compiler=compiler))
    harness.handle(EndpointFailures(name("web"), {(TWO, 8080): Failure(1.0, REASON)}))
    servers = only_service(snapshot_of(harness)).virtual_servers
    assert {server.kind: server.aside for server in servers} == {"ClusterIP": 1, "externalIP": 1}


# Weights

WEIGHTS = "address/10.244.1.6=5, node/node-x=7, pool=large:4, zone/z=3"


def weighed(annotations: dict[str, str], *failing: str) -> dict[str, EndpointState]:
    """Return the endpoints of a Service with *annotations*; those that are not ONE and TWO are new."""
    settings = read_settings({PREFIX + key: value for key, value in annotations.items()})
    four = [endpoint(ONE, HERE), endpoint(TWO, HERE), endpoint(FAR, THERE), endpoint(THREE, "node-c", zone="z")]
    harness = agent_with(service(settings=settings), endpoint_slice(endpoints=four[:2]))
    harness.handle(PeerUpserted(THERE, (), ("pool=large",)))
    harness.advance(30)
    harness.handle(SliceUpserted(endpoint_slice(endpoints=four)))
    harness.advance(6)
    harness.handle(EndpointFailures(name("web"), {(address, 8080): Failure(1.0, "silent") for address in failing}))
    return {one.address: one for one in explained(snapshot_of(harness), "shop/web").services[0].endpoints}


def test_explain_says_which_of_the_weights_gave_an_endpoint_its_own() -> None:
    found = weighed({"weights": WEIGHTS})
    assert {address: (one.weight, one.weight_by, one.ipvs_weights) for address, one in found.items()} == {
        ONE: (1, "", (1,)),
        TWO: (5, "address/10.244.1.6=5", (5,)),
        FAR: (4, "pool=large:4", (4,)),
        THREE: (3, "zone/z=3", (3,)),
    }
    assert [one.reason for one in found.values()] == [
        "ready; weight 1, as none fits",
        "ready; weight 5 by address/10.244.1.6=5",
        "ready; weight 4 by pool=large:4",
        "ready; weight 3 by zone/z=3",
    ]
    assert weighed({"weights": "own-node=2, others=3"})[ONE].weight_by == "own-node=2"
    assert weighed({"weights": "own-node=2, others=3"})[FAR].reason == "ready; weight 3 by others=3"


def test_explain_says_what_slow_start_and_failover_make_of_a_weight() -> None:
    found = weighed({"weights": WEIGHTS, "slow-start": "27s"}, TWO)
    assert {address: one.ipvs_weights for address, one in found.items()} == {
        ONE: (10,),
        TWO: (0,),
        FAR: (12,),
        THREE: (9,),
    }
    assert found[ONE].reason == "ready; weight 1, as none fits, in IPVS 10 of 10"
    assert found[TWO].reason.endswith("; weight 5 by address/10.244.1.6=5, in IPVS 0 of 50")
    assert found[FAR].reason == "ready; starts slowly: step 3 of 10; weight 4 by pool=large:4, in IPVS 12 of 40"
    aside = weighed({"weights": WEIGHTS}, TWO)[TWO]
    assert (aside.weight, aside.weight_by, aside.ipvs_weights) == (5, "address/10.244.1.6=5", (0,))
    assert aside.reason.endswith("; weight 5 by address/10.244.1.6=5, in IPVS 0")
    assert weighed({"scheduler": "wrr", "slow-start": "27s"})[FAR].reason.endswith("; weight 1, in IPVS 3 of 10")


def test_explain_says_nothing_of_weights_that_are_not_in_force_or_of_an_endpoint_that_serves_nothing() -> None:
    assert {one.reason for one in weighed({}).values()} == {"ready"}
    assert {one.reason for one in weighed({"weights": WEIGHTS, "scheduler": "rr"}).values()} == {"ready"}
    settings = read_settings({PREFIX + "weights": "others=3"})
    away = endpoint(TWO, ready=False, serving=False)
    (one,) = explained(
        snapshot_of(agent_with(service(settings=settings), endpoint_slice(endpoints=[away]))), "shop/web"
    ).services
    assert [(each.weight, each.reason) for each in one.endpoints] == [(None, "not ready")]
