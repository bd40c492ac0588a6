"""The same cluster, served by API servers of Kubernetes 1.20 to 1.36, means the same to the agent."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from msgspec.structs import replace

from kubeproxy_py import cli
from kubeproxy_py.commands import plan as plan_module
from kubeproxy_py.model.node import Node
from kubeproxy_py.model.services import Endpoint, EndpointSlice, ObjectName, Service, ServicePort, SlicePort
from kubeproxy_py.sources.decode.objects import Value, decode
from lab.job import REPOSITORY
from tests.apiserver import ApiServer
from tests.apiserver.objects import Json
from tests.sources.api_fields import MINORS
from tests.sources.api_versions import FIRST_WITH_SLICES, objects_of
from tests.sources.conftest import PATIENCE_S
from tests.support import api_page

_WITH_SLICES = [minor for minor in MINORS if minor >= FIRST_WITH_SLICES]
_CREATED_S = 1767256200.0  # of the Service web; each later one in the file is a minute younger
_KUBERNETES = ObjectName("default", "kubernetes")
_WEB, _EDGE, _DB, _MAIL, _LEGACY = (ObjectName("shop", name) for name in ("web", "edge", "db", "mail", "legacy"))


def services(minor: int) -> list[Service]:
    """Return the Services of Kubernetes 1.*minor*."""
    count = 1 if minor < 21 else 2  # of families of a Service
    return [
        Service(
            _KUBERNETES, "ClusterIP", ("192.0.2.129",), (ServicePort("https", "TCP", 443),), created_s=1767254390.0
        ),
        Service(
            _WEB,
            "LoadBalancer",
            ("192.0.2.140",),
            (ServicePort("http", "TCP", 80, 30080),),
            external_ips=("203.0.113.80",),
            load_balancer_ips=("203.0.113.7",),
            source_ranges=("203.0.113.0/24",),
            affinity_timeout_s=10800,
            created_s=_CREATED_S,
        ),
        Service(
            _EDGE,
            "LoadBalancer",
            ("192.0.2.150", "2001:db8:5::150")[:count],
            (ServicePort("dns", "UDP", 53, 30053), ServicePort("dns-tcp", "TCP", 53, 30054))[: _protocols(minor)],
            load_balancer_ips=("203.0.113.8", "2001:db8:cb::8")[:count],
            external_local=True,
            health_check_node_port=30100,
            created_s=_CREATED_S + 60,
        ),
        Service(_DB, "ClusterIP", (), (ServicePort("", "TCP", 5432),), created_s=_CREATED_S + 120),
        Service(_MAIL, "ExternalName", created_s=_CREATED_S + 180),
        Service(_LEGACY, "ClusterIP", ("192.0.2.160",), (ServicePort("", "TCP", 25),), created_s=_CREATED_S + 240),
    ]


def slices(minor: int) -> list[EndpointSlice]:
    """Return the EndpointSlices of Kubernetes 1.*minor*; that of the headless Service is of no use."""
    zones = ("zone-1",) if minor >= 24 else ()
    edge_zones, edge_nodes = (("zone-1",), ("node-a",)) if minor >= 34 else ((), ())
    terminating = minor >= 22  # unknown before, so that a pod that terminates is one that is not ready
    web = (
        Endpoint("198.51.100.11", node="node-a", zone_hints=zones, zone="zone-1"),
        Endpoint("198.51.100.75", node="node-b", zone_hints=zones, zone="zone-1"),
        Endpoint("198.51.100.139", ready=False, terminating=terminating, node="node-c", zone="zone-2"),
        Endpoint("198.51.100.140", ready=False, serving=not terminating, node="node-c", zone="zone-2"),
    )
    edge = Endpoint("198.51.100.12", node="node-a", zone_hints=edge_zones, node_hints=edge_nodes, zone="zone-1")
    dns = (SlicePort("dns", "UDP", 1053), SlicePort("dns-tcp", "TCP", 1053))[: _protocols(minor)]
    smtp = (SlicePort("", "TCP", 2525),)
    pods = "\n".join(f"web-5d8f-{letter * 5}" for letter in "abcd")
    return [
        _slice("kubernetes", _KUBERNETES, (Endpoint("192.0.2.9"),), (SlicePort("https", "TCP", 6443),)),
        _slice("web-x7k2p", _WEB, web, (SlicePort("http", "TCP", 8080),), pods),
        _slice("edge-4d5vq", _EDGE, (edge,), dns, "edge-0"),
        replace(
            _slice("edge-6h8wz", _EDGE, (replace(edge, address="2001:db8:a::12"),), dns, "edge-0"),
            family="IPv6",
        ),
        _slice("legacy-2fj6t", _LEGACY, (), ()),
        _slice("legacy-p4xnd", _LEGACY, (Endpoint("198.51.100.200"),), smtp),
        _slice("legacy-of-v1beta1", _LEGACY, (Endpoint("198.51.100.201", zone="zone-2"),), smtp),
    ]


def slices_of_endpoints(minor: int) -> list[EndpointSlice]:
    """Return what the agent makes of the Endpoints of Kubernetes 1.*minor*, which have no zones and hints."""
    web = (
        Endpoint("198.51.100.11", node="node-a"),
        Endpoint("198.51.100.75", node="node-b"),
        Endpoint("198.51.100.140", ready=False, serving=False, node="node-c"),
    )
    pods = "\n".join(f"web-5d8f-{letter * 5}" for letter in "abd")
    dns = (SlicePort("dns", "UDP", 1053), SlicePort("dns-tcp", "TCP", 1053))[: _protocols(minor)]
    name = "endpoints/{}/0/IPv4".format
    return [
        _slice(name("kubernetes"), _KUBERNETES, (Endpoint("192.0.2.9"),), (SlicePort("https", "TCP", 6443),)),
        _slice(name("web"), _WEB, web, (SlicePort("http", "TCP", 8080),), pods),
        _slice(name("edge"), _EDGE, (Endpoint("198.51.100.12", node="node-a"),), dns, "edge-0"),
        _slice(name("legacy"), _LEGACY, (Endpoint("198.51.100.200"),), (SlicePort("", "TCP", 2525),)),
    ]


def _protocols(minor: int) -> int:
    """Return how many protocols a load balancer may have."""
    return 2 if minor >= 24 else 1


def _slice(
    name: str, service: ObjectName, endpoints: tuple[Endpoint, ...], ports: tuple[SlicePort, ...], pods: str = ""
) -> EndpointSlice:
    return EndpointSlice(ObjectName(service.namespace, name), service, "IPv4", endpoints, ports, pods)


def node(minor: int) -> Node:
    """Return the Node of Kubernetes 1.*minor*."""
    if minor < 21:
        return Node("node-a", "zone-1", ("192.0.2.10", "192.0.2.110"), ("198.51.100.0/26",))
    addresses = ("192.0.2.10", "2001:db8:1::10", "192.0.2.110")
    return Node("node-a", "zone-1", addresses, ("198.51.100.0/26", "2001:db8:a::/64"))


def values_of(objects: list[Json]) -> dict[str, list[Value]]:
    """Return the values of *objects*, which a server sent, by kind; fail at a problem."""
    values: dict[str, list[Value]] = {}
    for item in objects:
        result = decode(item["kind"], json.dumps(item).encode(), origin="API")
        assert result.problems == () and not result.broken
        values.setdefault(item["kind"], []).extend(result.values)
    return values


@pytest.mark.parametrize("minor", MINORS)
def test_objects_of_each_release_are_decoded(minor: int) -> None:
    expected: dict[str, list[Any]] = {
        "Node": [node(minor)],
        "Service": services(minor),
        "Endpoints": slices_of_endpoints(minor),
    }
    if minor >= FIRST_WITH_SLICES:
        expected["EndpointSlice"] = slices(minor)
    assert values_of(objects_of(minor)) == expected


@pytest.mark.parametrize("minor", MINORS)
def test_objects_of_each_release_are_manifests_without_a_warning(minor: int) -> None:
    """As `kubectl get -o yaml` saves them."""
    objects = objects_of(minor)
    found = [decode(item["kind"], item, origin="manifest") for item in objects]
    assert [each.problems for each in found] == [()] * len(objects)
    from_server = values_of(objects)
    assert [value for each in found for value in each.values if each.kind == "Service"] == from_server["Service"]


# What is unset

_ENDPOINT_DEFAULTS: dict[str, Json] = {
    "conditions": {"ready": True, "serving": True, "terminating": False},
    "conditions.ready": {"ready": True},
    "conditions.serving": {"serving": True},
    "conditions.terminating": {"terminating": False},
    "deprecatedTopology": {},
    "hints": {"zone_hints": (), "node_hints": ()},
    "hints.forNodes": {"node_hints": ()},
    "hints.forZones": {"zone_hints": ()},
    "hostname": {},
    "nodeName": {"node": ""},
    "targetRef": {},
    "zone": {"zone": ""},
}
_SERVICE_DEFAULTS: dict[str, Json] = {
    "metadata.annotations": {},
    "metadata.labels": {},
    "metadata.managedFields": {},
    "spec.allocateLoadBalancerNodePorts": {},
    "spec.externalIPs": {"external_ips": ()},
    "spec.externalTrafficPolicy": {"external_local": False},
    "spec.healthCheckNodePort": {"health_check_node_port": 0},
    "spec.internalTrafficPolicy": {},
    "spec.ipFamilies": {},
    "spec.ipFamilyPolicy": {},
    "spec.loadBalancerSourceRanges": {"source_ranges": ()},
    "spec.selector": {},
    "spec.sessionAffinity": {"affinity_timeout_s": 0},
    "spec.sessionAffinityConfig": {},
    "spec.trafficDistribution": {},
    "status": {"load_balancer_ips": ()},
    "status.loadBalancer": {"load_balancer_ips": ()},
    "status.loadBalancer.ingress": {"load_balancer_ips": ()},
}
_UNSET = ("absent", "null")


def unset(item: Json, path: str, how: str) -> None:
    """Make the field *path* of *item* absent or null; nothing if what it is in is absent."""
    *parents, name = path.split(".")
    part: Any = item
    for parent in parents:
        part = (part or {}).get(parent)
    if part is not None:
        part.pop(name, None)
        if how == "null":
            part[name] = None


@pytest.mark.parametrize("how", _UNSET)
@pytest.mark.parametrize("path", _ENDPOINT_DEFAULTS)
def test_unset_field_of_endpoints_has_its_default(path: str, how: str) -> None:
    found, expected = {}, {}
    for minor in _WITH_SLICES:
        objects = [item for item in objects_of(minor) if item["kind"] == "EndpointSlice"]
        for item in objects:
            for endpoint in item["endpoints"] or ():
                unset(endpoint, path, how)
        values = values_of(objects)["EndpointSlice"]
        found[minor] = [value.endpoints for value in values if isinstance(value, EndpointSlice)]
        expected[minor] = [
            tuple(replace(endpoint, **_ENDPOINT_DEFAULTS[path]) for endpoint in each.endpoints)
            for each in slices(minor)
        ]
    assert found == expected


@pytest.mark.parametrize("how", _UNSET)
@pytest.mark.parametrize("path", _SERVICE_DEFAULTS)
def test_unset_field_of_services_has_its_default(path: str, how: str) -> None:
    found, expected = {}, {}
    for minor in MINORS:
        objects = [item for item in objects_of(minor) if item["kind"] == "Service"]
        for item in objects:
            unset(item, path, how)
        found[minor] = values_of(objects)["Service"]
        expected[minor] = [replace(each, **_SERVICE_DEFAULTS[path]) for each in services(minor)]
    assert found == expected


@pytest.mark.parametrize("field", ["appProtocol", "name"])
@pytest.mark.parametrize("how", _UNSET)
def test_unset_field_of_slice_ports_has_its_default(field: str, how: str) -> None:
    """Of legacy, whose port has no name; the API server writes the protocol always."""
    objects = [item for item in objects_of(MINORS[-1]) if item["metadata"]["name"] == "legacy-p4xnd"]
    unset(objects[0]["ports"][0], field, how)
    [value] = values_of(objects)["EndpointSlice"]
    assert isinstance(value, EndpointSlice) and value.ports == (SlicePort("", "TCP", 2525),)


# Fields of later releases


def with_unknown(value: Any, unknown: object) -> Any:
    """Return *value* with a field in each of its structures and maps that no release has."""
    if isinstance(value, dict):
        return {key: with_unknown(part, unknown) for key, part in value.items()} | {"fieldOfTomorrow": unknown}
    return [with_unknown(part, unknown) for part in value] if isinstance(value, list) else value


@pytest.mark.parametrize("unknown", ["text", 7, None, True, [], [{"a": None}], {}, {"a": {"name": 1, "ports": [1]}}])
@pytest.mark.parametrize("minor", MINORS)
def test_unknown_fields_of_a_later_release_do_not_matter(minor: int, unknown: object) -> None:
    objects = objects_of(minor)
    assert values_of([with_unknown(item, unknown) for item in objects]) == values_of(objects)


def test_unknown_value_of_a_field_that_is_not_read_does_not_matter() -> None:
    objects = objects_of(MINORS[-1])
    changed = json.loads(json.dumps(objects).replace('"PreferSame', '"PreferOther').replace("DualStack", "ManyStack"))
    assert changed != objects
    assert values_of(changed) == values_of(objects)


# A first sync


@pytest.fixture
def server() -> Iterator[ApiServer]:
    created = ApiServer()
    created.start()
    yield created
    created.stop()


def real_servers(server: ApiServer, objects: list[Json], capsys: pytest.CaptureFixture[str]) -> tuple[set[str], str]:
    """Return the real servers of a first sync with *objects*, and what is logged."""
    for item in objects:
        server.apply(item)
    argv = ["plan", "--assume-empty", "--output=json", "--hostname-override=node-a", f"--master={server.url}"]
    assert cli.main([*argv, "--cluster-cidr=198.51.100.0/24"]) == 2
    printed = capsys.readouterr()
    return {str(step["key"]) for step in json.loads(printed.out) if step["kind"] == "RealServer"}, printed.err


def expected_real_servers(minor: int, *, from_slices: bool) -> set[str]:
    """Return the real servers; from Endpoints, there are none of the second family and none of a slice's own."""
    nodes = ("192.0.2.10", "192.0.2.110")
    web = (*("192.0.2.140:80", "203.0.113.80:80", "203.0.113.7:80"), *(f"{ip}:30080" for ip in nodes))
    pods = {f"{front}/TCP -> {pod}:8080" for front in web for pod in ("198.51.100.11", "198.51.100.75")}
    legacy = ("198.51.100.200", "198.51.100.201") if from_slices else ("198.51.100.200",)
    smtp = {f"192.0.2.160:25/TCP -> {host}:2525" for host in legacy}
    edge = {"198.51.100.12:1053": ["192.0.2.150", "203.0.113.8", *nodes]}
    if from_slices:
        edge["[2001:db8:a::12]:1053"] = ["[2001:db8:5::150]", "[2001:db8:cb::8]", "[2001:db8:1::10]"]
    dns = {
        f"{front}:{port}/{protocol} -> {pod}"
        for pod, fronts in edge.items()
        for front in fronts
        for protocol, port in _dns_ports(front)[: _protocols(minor)]
    }
    return {"192.0.2.129:443/TCP -> 192.0.2.9:6443", *pods, *smtp, *dns}


def _dns_ports(front: str) -> list[tuple[str, int]]:
    is_node = front in ("192.0.2.10", "192.0.2.110", "[2001:db8:1::10]")
    return [("UDP", 30053), ("TCP", 30054)] if is_node else [("UDP", 53), ("TCP", 53)]


@pytest.mark.parametrize("minor", MINORS)
def test_server_of_each_release_gives_the_same_real_servers(
    server: ApiServer, minor: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(plan_module, "LIST_TIMEOUT_S", PATIENCE_S)
    if minor < FIRST_WITH_SLICES:
        server.faults.missing_types = {"endpointslices"}
    expected = expected_real_servers(minor, from_slices=minor >= FIRST_WITH_SLICES)
    assert real_servers(server, objects_of(minor), capsys) == (expected, "")


@pytest.mark.parametrize("minor", _WITH_SLICES)
def test_endpoints_of_each_release_give_the_same_real_servers_without_slices(
    server: ApiServer, minor: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(plan_module, "LIST_TIMEOUT_S", PATIENCE_S)
    server.faults.missing_types = {"endpointslices"}
    objects = [item for item in objects_of(minor) if item["kind"] != "EndpointSlice"]
    found, logged = real_servers(server, objects, capsys)
    assert found == expected_real_servers(minor, from_slices=False)
    assert logged.count("\n") == 1 and "shop/edge" in logged and "no IPv6 endpoint" in logged


def test_page_is_up_to_date() -> None:
    page = (REPOSITORY / "docs/support.md").read_text()
    assert f"{api_page.BEGIN}{api_page.table()}{api_page.END}" in page
    assert f"1.{MINORS[0]} to 1.{MINORS[-1]}" in page
