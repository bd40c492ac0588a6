"""Explanations: owner, rows, endpoints with the reason each is in or out, claims, problems, and what to do next."""

from __future__ import annotations

from errno import EINVAL
from typing import Any

import pytest
from msgspec.structs import replace

from kubeproxy_py.compile.compiler import Compiler
from kubeproxy_py.diagnose.explain_text import explain_text
from kubeproxy_py.diagnose.targets import (
    AddressTarget,
    PortTarget,
    ServiceTarget,
    TargetFormError,
    UnknownTargetError,
    parse_target,
)
from kubeproxy_py.model.conditions import EndpointFailures, Failure
from kubeproxy_py.model.events import NodeUpserted, PeerUpserted, ServiceUpserted, SliceUpserted
from kubeproxy_py.model.node import Node
from kubeproxy_py.model.policy_marks import MarkRange
from kubeproxy_py.model.rows import VirtualServer
from kubeproxy_py.model.services import Endpoint, EndpointSlice
from kubeproxy_py.model.settings import ServiceSettings
from tests.builders import HERE, THERE, endpoint, endpoint_slice, name, node_context, port, service
from tests.diagnose.view import agent_with, explained, snapshot_of, snapshot_with
from tests.reconcile.harness import AgentHarness


@pytest.mark.parametrize(
    ("text", "target"),
    [
        ("shop/web", ServiceTarget(name("shop/web"))),
        ("web", ServiceTarget(name("default/web"))),
        ("shop/web:http", ServiceTarget(name("shop/web"), "http")),
        ("10.96.0.10", AddressTarget("10.96.0.10")),
        ("10.96.0.10:80", AddressTarget("10.96.0.10", 80)),
        ("10.96.0.10:53/udp", AddressTarget("10.96.0.10", 53, "UDP")),
        ("fd00::10", AddressTarget("fd00::10")),
        ("[fd00::10]:80/TCP", AddressTarget("fd00::10", 80, "TCP")),
        ("[FD00:0::10]", AddressTarget("fd00::10")),
    ],
)
def test_targets(text: str, target: object) -> None:
    assert parse_target(text) == target


def test_service_that_is_well() -> None:
    explanation = explained(snapshot_with(service(), endpoint_slice()), "shop/web")
    assert (explanation.verdict, explanation.problems) == ("well", ())
    (one,) = explanation.services
    assert {row.kind for row in one.rows} == {"Address", "IpsetEntry", "RealServer", "VirtualServer"}
    assert all(row.in_kernel and row.status == "present" for row in one.rows)
    (state,) = one.endpoints
    assert (state.serves, state.reason) == (("ClusterIP",), "ready")
    assert "trace --from pod --to 10.96.0.10:80/TCP" in explanation.next[0]
    assert "Well: every address is served" in explain_text(explanation)


def reasons(endpoints: list[Endpoint], **fields: Any) -> list[str]:
    snapshot = snapshot_with(service(**fields), endpoint_slice(endpoints=endpoints))
    (one,) = explained(snapshot, "shop/web").services
    return [state.reason for state in one.endpoints]


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"ready": False, "serving": False}, "not ready"),
        ({"ready": False, "serving": False, "terminating": True}, "terminating, and not serving any more"),
        ({"ready": False, "serving": True, "terminating": True}, "terminating, and others are ready"),
    ],
)
def test_endpoint_that_is_out_by_its_conditions(fields: dict[str, Any], reason: str) -> None:
    assert reasons([endpoint("10.244.1.5"), endpoint("10.244.1.6", **fields)]) == ["ready", reason]


def test_endpoint_that_serves_although_it_terminates() -> None:
    terminating: dict[str, Any] = {"ready": False, "serving": True, "terminating": True}
    assert reasons([endpoint(**terminating)]) == ["terminating, used since nothing is ready"]


def test_endpoint_of_another_zone_is_out_by_its_hints() -> None:
    harness = AgentHarness()
    here, there = (endpoint(f"10.244.1.{n}", zone_hints=(f"zone-{zone}",)) for n, zone in ((5, "a"), (6, "b")))
    agent_with(service(), endpoint_slice(endpoints=(here, there)), harness=harness)
    (one,) = explained(snapshot_of(harness), "shop/web").services
    assert [state.reason for state in one.endpoints] == [
        "ready, and hinted for this zone",
        "hinted for zone zone-b, this node is in zone-a",
    ]


def test_endpoint_of_another_node_is_out_under_policy_local() -> None:
    local = [endpoint("10.244.1.5"), endpoint("10.244.2.5", node=THERE)]
    assert reasons(local, internal_local=True) == [
        "ready on this node",
        "on node node-b, and policy Local uses endpoints of this node only",
    ]


def test_endpoint_that_serves_inside_and_not_outside() -> None:
    exposed = service(type="NodePort", external_local=True, ports=(port(node_port=30_080),))
    part = endpoint_slice(endpoints=[endpoint("10.244.1.5"), endpoint("10.244.2.5", node=THERE)])
    (one,) = explained(snapshot_with(exposed, part), "shop/web").services
    local, remote = one.endpoints
    assert (local.serves, remote.serves) == (("ClusterIP", "NodePort"), ("ClusterIP",))
    assert remote.reason == (
        "ready; not for NodePort: on node node-b, and policy Local uses endpoints of this node only"
    )


@pytest.mark.parametrize(
    ("part", "reason"),
    [
        (endpoint_slice(label="web"), 'no port "http" in its slice (it has: web)'),
        (endpoint_slice(label="http", protocol="UDP"), "its port is of protocol UDP, the Service port is TCP"),
        (endpoint_slice(endpoints=("fd00::5",), label="http"), "the Service has no IPv6 address"),
    ],
)
def test_endpoint_that_does_not_fit_the_service_port(part: EndpointSlice, reason: str) -> None:
    asked = service(ports=(port(label="http"),))
    explanation = explained(snapshot_with(asked, part), "shop/web")
    (state,) = explanation.services[0].endpoints
    assert (state.serves, state.reason) == ((), reason)
    assert explanation.verdict == "wrong"
    assert any("get endpointslices" in command for command in explanation.next)


def test_address_names_its_owner_and_only_its_rows() -> None:
    both = service(ports=(port(80, label="http"), port(443, label="https")))
    snapshot = snapshot_with(both, endpoint_slice(label="http"), endpoint_slice(label="https", suffix="2"))
    explanation = explained(snapshot, "10.96.0.10:443/tcp")
    assert explanation.summary == "10.96.0.10:443/TCP is ClusterIP of Service shop/web"
    (one,) = explanation.services
    assert [server.port for server in one.service.virtual_servers] == [443]
    assert {row.key for row in one.rows if row.kind == "VirtualServer"} == {"10.96.0.10:443/TCP"}


def test_contested_address_lists_all_claims() -> None:
    other = service("other", ("10.96.0.11",), external_ips=("10.96.0.10",))
    snapshot = snapshot_with(service(), endpoint_slice(), other, endpoint_slice("other"))
    explanation = explained(snapshot, "10.96.0.10:80")
    assert [one.service.name for one in explanation.services] == ["web", "other"]
    claims = explanation.services[1].claims
    assert [(claim.service, claim.kind, claim.holds) for claim in claims] == [
        ("shop/web", "ClusterIP", True),
        ("shop/other", "externalIP", False),
    ]
    assert "shop/other as externalIP, does not get it" in explain_text(explanation)


def test_endpoint_names_its_services_and_why_it_gets_nothing() -> None:
    out = endpoint("10.244.1.6", ready=False, serving=False)
    snapshot = snapshot_with(service(), endpoint_slice(endpoints=[endpoint(), out]))
    well, wrong = (explained(snapshot, address) for address in ("10.244.1.5:8080", "10.244.1.6"))
    assert (well.summary, well.verdict) == ("10.244.1.5:8080 is an endpoint of shop/web", "well")
    assert wrong.problems == ("shop/web: the endpoint gets no new connections: not ready",)


def test_row_that_failed_has_error_retry_and_what_it_waits_for() -> None:
    harness = AgentHarness()
    harness.kernel.fault = lambda step: EINVAL if isinstance(step.key, VirtualServer) else 0
    agent_with(service(), endpoint_slice(), harness=harness)
    explanation = explained(snapshot_of(harness), "shop/web")
    (server,) = (row for row in explanation.services[0].rows if row.kind == "VirtualServer")
    assert (server.status, server.in_kernel, server.failures) == ("failing", False, 1)
    assert explanation.verdict == "wrong"
    assert "failing, is not in the kernel" in explain_text(explanation)


@pytest.mark.parametrize(
    ("target", "message", "nearest"),
    [
        ("shop/wbe", "no Service shop/wbe is known", ("shop/web",)),
        ("other/web", "no Service other/web is known", ("shop/web",)),
        ("shop/web:htp", "Service shop/web has no port 'htp'", ("shop/web:80",)),
        ("10.96.0.10:81", "shop/web has the address with other ports", ("10.96.0.10:80/TCP",)),
        ("127.0.0.1:80", "127.0.0.1 is a loopback address", ()),
        ("0.0.0.0", "0.0.0.0 is an unspecified address", ()),
        ("10.99.0.1", "no Service and no endpoint has 10.99.0.1", ()),
    ],
)
def test_unknown_target_says_what_is_known_and_what_is_like_it(
    target: str, message: str, nearest: tuple[str, ...]
) -> None:
    with pytest.raises(UnknownTargetError, match=message) as raised:
        explained(snapshot_with(service(), endpoint_slice()), target)
    assert raised.value.nearest == nearest


def test_agent_that_waits_for_lists_is_a_problem() -> None:
    harness = AgentHarness(synced=False)
    for event in (NodeUpserted(Node(HERE)), ServiceUpserted(service()), SliceUpserted(endpoint_slice())):
        harness.agent.handle_event(event, harness.now_s)
    harness.agent.compiler.compile()
    assert (
        "the initial lists of node, services, slices were not received yet"
        in explained(snapshot_of(harness), "shop/web").problems
    )


@pytest.mark.parametrize("target", ["shop/web", "10.96.0.10", "10.244.1.5"])
def test_agent_that_waits_for_lists_does_not_know_what_there_is(target: str) -> None:
    with pytest.raises(UnknownTargetError, match="; the initial lists of node, services, slices were not received yet"):
        explained(snapshot_of(AgentHarness(synced=False)), target)


def test_service_that_is_meant_to_have_no_address_is_well() -> None:
    explanation = explained(snapshot_with(service(cluster_ips=()), endpoint_slice()), "shop/web")
    assert explanation.verdict == "well"
    assert "  ! it has no ClusterIP (headless): there is nothing to serve" in explain_text(explanation)
    assert "Well" not in explain_text(explanation)


def test_reason_that_many_node_ports_have_is_named_once() -> None:
    harness = AgentHarness()
    addresses = tuple(f"192.168.3.{n}" for n in range(10, 15))
    harness.agent.compiler.reconfigure(
        lambda _node, _addresses: node_context(families=("IPv4",), node_port_addresses={"IPv4": addresses})
    )
    agent_with(service(type="NodePort", ports=(port(node_port=30_080),)), harness=harness)
    problems = explained(snapshot_of(harness), "shop/web").problems
    assert "and 2 more: no EndpointSlice" in problems[1]
    assert len(problems) == 2


# Forms of a target


@pytest.mark.parametrize(
    ("text", "target"),
    [
        ("30004", PortTarget(30004)),
        (":30004", PortTarget(30004)),
        ("30004/udp", PortTarget(30004, "UDP")),
        ("http://10.96.0.10", AddressTarget("10.96.0.10", 80)),
        ("https://10.96.0.10/path?query#part", AddressTarget("10.96.0.10", 443)),
        ("HTTP://me:secret@10.96.0.10:8080/", AddressTarget("10.96.0.10", 8080)),
        ("https://[fd00::10]", AddressTarget("fd00::10", 443)),
        ("https://[fd00::10]:8443/x:80", AddressTarget("fd00::10", 8443)),
        ("udp://10.96.0.10:53", AddressTarget("10.96.0.10", 53, "UDP")),
        ("redis://10.96.0.10", AddressTarget("10.96.0.10")),
        ("http://web.shop", ServiceTarget(name("shop/web"), "80")),
        ("https://web.shop.svc.cluster.local:8443/a.b", ServiceTarget(name("shop/web"), "8443")),
        ("web.shop.svc", ServiceTarget(name("shop/web"))),
        ("Web.Shop.svc.cluster.local.", ServiceTarget(name("shop/web"))),
        ("web.shop:http", ServiceTarget(name("shop/web"), "http")),
        ("web.shop:53/udp", ServiceTarget(name("shop/web"), "53", "UDP")),
        ("shop/web:53/udp", ServiceTarget(name("shop/web"), "53", "UDP")),
        ("shop/web/udp", ServiceTarget(name("shop/web"), None, "UDP")),
        ("web/tcp", ServiceTarget(name("web/tcp"))),
        (" shop/web\n", ServiceTarget(name("shop/web"))),
        ("10.96.0.10/32", AddressTarget("10.96.0.10")),
        ("fd00::10/128", AddressTarget("fd00::10")),
    ],
)
def test_forms_in_which_people_name_a_target(text: str, target: object) -> None:
    assert parse_target(text) == target


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "names nothing"),
        ("   ", "names nothing"),
        ("/web", "names nothing"),
        ("shop/", "names nothing"),
        ("shop/web:", "names nothing"),
        ("a/b/c", "names nothing"),
        ("http://", "names nothing"),
        ("0", "not a port"),
        ("70000", "not a port"),
        ("9" * 5000, "not a port"),
        ("10.96.0.10:99999", "not a port"),
        ("10.96.0.10:x", "not a port"),
        ("10.96.0", "not an address"),
        ("10.96.0.300:80", "not an address"),
        ("10.96.0.0/16", "not an address"),
        ("[fd00", "not an address"),
        ("fd00::x", "not an address"),
        ("x" * 100_000, "longer than any name"),
    ],
)
def test_what_can_name_nothing_says_how_targets_are_written(text: str, message: str) -> None:
    with pytest.raises(TargetFormError, match=message) as refused:
        parse_target(text)
    assert len(str(refused.value)) < 300


NODE_PORTS = service(type="NodePort", ports=(port(node_port=30004),))


def test_bare_number_is_a_node_port_first() -> None:
    same_port = service("other", ("10.96.0.11",), ports=(port(number=30004),))
    explanation = explained(snapshot_with(NODE_PORTS, endpoint_slice(), same_port), "30004")
    assert explanation.summary == "30004 is the NodePort of Service shop/web"
    (one,) = explanation.services
    assert [(server.kind, server.address) for server in one.service.virtual_servers] == [("NodePort", "192.168.3.10")]


def test_bare_number_is_a_port_of_services_or_of_endpoints_next() -> None:
    snapshot = snapshot_with(NODE_PORTS, endpoint_slice(), service("other", ("10.96.0.11",)))
    assert explained(snapshot, "80").summary == "80 is a port of Service shop/web, shop/other"
    assert len(explained(snapshot, "80").services) == 2
    assert explained(snapshot, "8080/tcp").summary == "8080/TCP is a port of the endpoints of Service shop/web"
    for unknown in ("8080/UDP", "30005"):
        with pytest.raises(UnknownTargetError, match=rf"no Service and no endpoint has the port {unknown} \(2 "):
            explained(snapshot, unknown)


def test_node_port_that_this_node_does_not_serve_is_found() -> None:
    of_another_proxy = replace(NODE_PORTS, proxy_name="other")
    explanation = explained(snapshot_with(of_another_proxy, endpoint_slice()), "30004")
    assert explanation.summary == "30004 is a NodePort, not served by this node, of Service shop/web"


def test_port_of_many_services_names_the_first_ones() -> None:
    many = [service(f"web-{number}", (f"10.96.1.{number}",)) for number in range(1, 26)]
    explanation = explained(snapshot_with(*many), "80")
    assert len(explanation.services) == 20
    assert explanation.summary.endswith(" and 5 more")
    assert all(len(one.service.virtual_servers) == 1 for one in explanation.services)


def test_port_of_a_service_is_narrowed_by_its_protocol() -> None:
    dns = service("dns", ports=(port(53, "UDP", "dns"), port(53, "TCP", "dns-tcp")))
    snapshot = snapshot_with(dns)
    (one,) = explained(snapshot, "shop/dns:53/udp").services
    assert [server.protocol for server in one.service.virtual_servers] == ["UDP"]
    (both,) = explained(snapshot, "shop/dns:53").services
    assert len(both.service.virtual_servers) == 2
    with pytest.raises(UnknownTargetError, match="Service shop/dns has no port '53' of SCTP"):
        explained(snapshot, "shop/dns:53/sctp")


def test_pod_is_explained_by_its_name() -> None:
    part = endpoint_slice()
    named = EndpointSlice(part.name, part.service, part.family, part.endpoints, part.ports, "web-7d9f")
    explanation = explained(snapshot_with(service(), named), "shop/web-7d9f")
    assert explanation.summary == "Pod shop/web-7d9f (10.244.1.5) is an endpoint of shop/web"
    assert [state.address for one in explanation.services for state in one.endpoints] == ["10.244.1.5"]
    with pytest.raises(UnknownTargetError, match="no Service shop/web-7d9 is known"):
        explained(snapshot_with(service(), named), "shop/web-7d9")


def test_rows_of_exact_policies_belong_to_the_service_whose_frontends_lead_there() -> None:
    compiler = Compiler(lambda _node, _addresses: node_context(families=("IPv4",), policy_marks=MarkRange()))
    harness = agent_with(
        service(external_ips=("198.51.100.7",), external_local=True),
        endpoint_slice(endpoints=[endpoint(), endpoint("10.244.2.5", THERE)]),
        harness=AgentHarness(compiler=compiler),
    )
    (one,) = explained(snapshot_of(harness), "shop/web").services
    marked = {row.kind: row.key for row in one.rows if "fwmark" in row.key and row.kind != "RealServer"}
    real_servers = [row.key for row in one.rows if row.kind == "RealServer" and "fwmark" in row.key]
    assert marked.keys() == {"VirtualServer"}
    assert len(real_servers) == 2
    assert [row.desired for row in one.rows if row.kind == "PolicyEntry"] == [
        f"skbmark {marked['VirtualServer'].partition('fwmark ')[2]}"
    ]
    (address,) = explained(snapshot_of(harness), "198.51.100.7").services
    assert "PolicyEntry" in {row.kind for row in address.rows}
    (inner,) = explained(snapshot_of(harness), "10.96.0.10").services
    assert "PolicyEntry" not in {row.kind for row in inner.rows}


def test_endpoint_that_only_clients_of_this_node_reach_is_explained_as_such() -> None:
    compiler = Compiler(lambda _node, _addresses: node_context(families=("IPv4",), policy_marks=MarkRange()))
    one = service(
        external_ips=("198.51.100.7",),
        external_local=True,
        internal_local=True,
        settings=ServiceSettings(health_check="tcp"),
    )
    pods = [endpoint(), endpoint("10.244.2.5", THERE)]
    harness = agent_with(one, endpoint_slice(endpoints=pods), harness=AgentHarness(compiler=compiler))
    explanation = explained(snapshot_of(harness), "10.244.2.5")
    assert explanation.problems == ()
    (far,) = explanation.services[0].endpoints
    assert far.serves == ("external addresses from this node",)
    assert "RealServer" in {row.kind for row in explanation.services[0].rows}

    harness.handle(EndpointFailures(name("web"), {("10.244.2.5", 8080): Failure(1.0, "silent")}))
    for target in ("shop/web", "10.244.2.5"):
        problems = explained(snapshot_of(harness), target).problems
        assert any("endpoint 10.244.2.5:8080: set aside: silent" in problem for problem in problems), target
    assert not any("set aside" in problem for problem in explained(snapshot_of(harness), "10.96.0.10").problems)


def test_endpoint_that_is_set_aside_is_explained_where_only_one_port_has_a_node_port() -> None:
    """The number of a virtual server by mark is 0, as the NodePort of a Service port that has none."""
    addresses = {"IPv4": ("192.168.3.10",)}
    context = node_context(families=("IPv4",), policy_marks=MarkRange(), node_port_addresses=addresses)
    given = service(
        type="LoadBalancer",
        load_balancer_ips=("198.51.100.7",),
        external_local=True,
        ports=(port(80, node_port=30080), replace(port(81), name="more")),
        settings=ServiceSettings(health_check="tcp"),
    )
    pods = [endpoint(), endpoint("10.244.1.6"), endpoint("10.244.2.5", THERE)]
    slices = [
        endpoint_slice(endpoints=pods),
        endpoint_slice("web", pods, 8081, label="more", suffix="2"),
    ]
    harness = agent_with(given, *slices, harness=AgentHarness(compiler=Compiler(lambda _node, _addresses: context)))
    harness.handle(EndpointFailures(name("web"), {("10.244.1.6", 8081): Failure(1.0, "silent")}))
    problems = explained(snapshot_of(harness), "shop/web").problems
    assert any("endpoint 10.244.1.6:8081: set aside: silent" in problem for problem in problems)


@pytest.mark.parametrize(
    ("peers", "node_port", "unserved"),
    [(("192.168.3.11",), 0, set()), (("192.168.3.11",), 30080, {"NodePort"}), ((), 0, {"LoadBalancer"})],
)
def test_frontend_that_is_handed_on_answers_clients_outside(
    peers: tuple[str, ...], node_port: int, unserved: set[str]
) -> None:
    context = node_context(families=("IPv4",), policy_marks=MarkRange())
    compiler = Compiler(lambda _node, _addresses: context)
    compiler.handle_event(PeerUpserted(THERE, peers))
    given = service(
        type="LoadBalancer",
        load_balancer_ips=("203.0.113.7",),
        external_local=True,
        ports=(port(80, node_port=node_port),),
        settings=ServiceSettings(direct_return="tunnel"),
    )
    pods = endpoint_slice(endpoints=[endpoint("10.244.2.5", THERE)])
    explanation = explained(snapshot_of(agent_with(given, pods, harness=AgentHarness(compiler=compiler))), "shop/web")
    states = explanation.services[0].service.virtual_servers
    assert {one.kind for one in states if one.status == "unserved"} == unserved
    assert explanation.verdict == ("wrong" if unserved else "well")
