"""decode: how each field is decoded, what is rejected, and how that is reported."""

import json
from collections.abc import Mapping
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from kubeproxy_py.model.node import Node
from kubeproxy_py.model.services import Endpoint, EndpointSlice, ObjectName, Service, ServicePort, SlicePort
from kubeproxy_py.model.time import NEVER
from kubeproxy_py.sources.decode import objects
from kubeproxy_py.sources.decode.objects import Decoded, Kind, Origin, decode
from tests.examples import at_most

Json = dict[str, Any]


def service_object(spec: Json | None = None, labels: Json | None = None, status: Json | None = None) -> Json:
    return {
        "metadata": {"name": "web", "namespace": "shop", "resourceVersion": "7", "labels": labels},
        "spec": {"clusterIP": "10.96.0.10", "ports": [{"port": 80}], **(spec or {})},
        "status": status,
    }


def slice_object(**fields: Any) -> Json:
    return {
        "metadata": {"name": "web-1", "namespace": "shop", "labels": {"kubernetes.io/service-name": "web"}},
        "addressType": "IPv4",
        "endpoints": [{"addresses": ["10.1.0.5"]}],
        "ports": [{"name": "http", "port": 8080}],
        **fields,
    }


def decoded(kind: Kind, body: Json) -> Decoded:
    """Decode *body* as a mapping, and check that its JSON bytes decode to the same."""
    from_mapping = decode(kind, body)
    assert decode(kind, json.dumps(body).encode()) == from_mapping
    return from_mapping


def service_of(spec: Json | None = None, labels: Json | None = None, status: Json | None = None) -> Service:
    result = decoded("Service", service_object(spec, labels, status))
    assert result.problems == ()
    (service,) = result.values
    assert isinstance(service, Service)
    return service


def slice_of(**fields: Any) -> EndpointSlice:
    (value,) = decoded("EndpointSlice", slice_object(**fields)).values
    assert isinstance(value, EndpointSlice)
    return value


def endpoint_of(**fields: Any) -> Endpoint:
    return slice_of(endpoints=[{"addresses": ["10.1.0.5"], **fields}]).endpoints[0]


def problems_of(kind: Kind, body: Json) -> list[tuple[str, str]]:
    return [(problem.field, problem.message) for problem in decoded(kind, body).problems]


# Service


@pytest.mark.parametrize(
    ("timestamp", "created_s"),
    [("2025-01-01T00:00:00Z", 1735689600.0), (None, NEVER), ("", NEVER), ("soon", NEVER), (7, NEVER), ({}, NEVER)],
)
def test_age_of_a_service_is_that_of_its_creation_timestamp(timestamp: object, created_s: float) -> None:
    body = service_object()
    body["metadata"]["creationTimestamp"] = timestamp
    (service,) = decoded("Service", body).values
    assert isinstance(service, Service)
    assert service.created_s == created_s


EMPTY: tuple[str, ...] = ()

SERVICE_FIELDS: list[tuple[Json, str, Any]] = [
    ({"clusterIP": "None"}, "cluster_ips", EMPTY),
    ({"clusterIP": "None", "clusterIPs": ["None"], "ipFamilies": ["IPv4"]}, "cluster_ips", EMPTY),
    ({"type": "ExternalName", "externalName": "example.com"}, "cluster_ips", EMPTY),
    ({"clusterIP": "010.096.0.1"}, "cluster_ips", ("10.96.0.1",)),
    ({"clusterIP": "FD00:0:0::1"}, "cluster_ips", ("fd00::1",)),
    ({"clusterIP": "::ffff:10.96.0.1"}, "cluster_ips", ("10.96.0.1",)),
    ({"clusterIPs": ["10.96.0.10", "fd00::1"]}, "cluster_ips", ("10.96.0.10", "fd00::1")),
    (
        {"clusterIPs": ["10.96.0.10", "fd00::1"], "ipFamilies": ["IPv4", "IPv6"]},
        "cluster_ips",
        ("10.96.0.10", "fd00::1"),
    ),
    ({"clusterIP": None, "clusterIPs": ["10.96.0.10"]}, "cluster_ips", ("10.96.0.10",)),
    ({"type": None}, "type", "ClusterIP"),
    ({"type": "LoadBalancer"}, "type", "LoadBalancer"),
    ({"externalIPs": ["1.2.3.4", "01.2.3.4", "fd00::0:2"]}, "external_ips", ("1.2.3.4", "fd00::2")),
    (
        {"type": "LoadBalancer", "loadBalancerSourceRanges": [" 10.1.2.3/8 ", "fd00::ff/64"]},
        "source_ranges",
        ("10.0.0.0/8", "fd00::/64"),
    ),
    ({"type": "LoadBalancer", "loadBalancerSourceRanges": ["0.0.0.0/0"]}, "source_ranges", ("0.0.0.0/0",)),
    ({"type": "LoadBalancer", "loadBalancerSourceRanges": ["::ffff:10.0.0.0/104"]}, "source_ranges", ("10.0.0.0/8",)),
    ({"sessionAffinity": "None"}, "affinity_timeout_s", 0),
    ({"sessionAffinity": "ClientIP"}, "affinity_timeout_s", 10800),
    ({"sessionAffinity": "ClientIP", "sessionAffinityConfig": {"clientIP": {}}}, "affinity_timeout_s", 10800),
    (
        {"sessionAffinity": "ClientIP", "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 5}}},
        "affinity_timeout_s",
        5,
    ),
    ({"internalTrafficPolicy": "Local"}, "internal_local", True),
    ({"internalTrafficPolicy": None}, "internal_local", False),
    ({"externalTrafficPolicy": "Local"}, "external_local", True),
    ({"externalTrafficPolicy": "Cluster"}, "external_local", False),
    ({"healthCheckNodePort": 32000}, "health_check_node_port", 32000),
    ({"healthCheckNodePort": 0}, "health_check_node_port", 0),
]


@pytest.mark.parametrize(("spec", "field", "value"), SERVICE_FIELDS)
def test_service_field_is_decoded_as_kube_proxy_does(spec: Json, field: str, value: object) -> None:
    assert getattr(service_of(spec), field) == value


def test_service_ports_get_the_api_defaults() -> None:
    ports = [{"port": 80}, {"name": "dns", "port": 53, "protocol": "UDP", "nodePort": 30053}]
    service = service_of({"type": "NodePort", "ports": ports})
    read = [(port.name, port.protocol, port.port, port.node_port) for port in service.ports]
    assert read == [("", "TCP", 80, 0), ("dns", "UDP", 53, 30053)]


def test_load_balancer_ips_are_those_of_ip_mode_vip() -> None:
    ingress = [
        {"ip": "192.0.2.1"},
        {"ip": "192.0.2.2", "ipMode": "VIP"},
        {"ip": "192.0.2.3", "ipMode": "Proxy"},
        {"hostname": "lb.example.com"},
    ]
    assert service_of(status={"loadBalancer": {"ingress": ingress}}).load_balancer_ips == ("192.0.2.1", "192.0.2.2")


@pytest.mark.parametrize(("label", "proxy_name"), [(None, None), ("other", "other"), ("", "")])
def test_empty_proxy_name_label_differs_from_an_absent_one(label: str | None, proxy_name: str | None) -> None:
    labels = {} if label is None else {"service.kubernetes.io/service-proxy-name": label}
    assert service_of(labels=labels).proxy_name == proxy_name


def test_name_and_resource_version_are_decoded() -> None:
    result = decoded("Service", service_object())
    assert (result.name, result.resource_version) == (ObjectName("shop", "web"), "7")


INVALID_SERVICES: list[tuple[Json, str, str]] = [
    ({"clusterIP": "10.96.0.300"}, "spec.clusterIP", "'10.96.0.300' is not an IP address"),
    ({"clusterIPs": ["10.96.0.10", "x"]}, "spec.clusterIPs[1]", "'x' is not an IP address"),
    ({"clusterIPs": ["10.96.0.10", "10.96.0.11"]}, "spec.clusterIPs", "has two addresses of one family"),
    ({"clusterIPs": ["10.96.0.11"]}, "spec.clusterIP", "is not the first of spec.clusterIPs"),
    ({"ipFamilies": ["IPv6"]}, "spec.ipFamilies[0]", "'IPv6', but the address is IPv4"),
    ({"ports": None}, "spec.ports", "is missing"),
    ({"clusterIP": ""}, "spec.clusterIP", "is missing"),
    ({"clusterIP": None}, "spec.clusterIP", "is missing"),
    ({"ports": [{"port": 70000}]}, "spec.ports[0].port", "70000 is not a port"),
    ({"ports": [{"port": 0}]}, "spec.ports[0].port", "0 is not a port"),
    ({"ports": [{"port": -1}]}, "spec.ports[0].port", "-1 is not a port"),
    ({"ports": [{"port": 80}, {"name": "b", "port": "81"}]}, "spec.ports[1].port", "expected integer, got string"),
    ({"ports": [{"port": 80, "nodePort": 65536}]}, "spec.ports[0].nodePort", "65536 is not a port"),
    ({"ports": [{"port": 80, "protocol": "tcp"}]}, "spec.ports[0].protocol", "unknown protocol 'tcp'"),
    ({"ports": [{"port": 80}, {"port": 81}]}, "spec.ports[1].name", "is missing"),
    (
        {"ports": [{"name": "a", "port": 80}, {"name": "b", "port": 80}]},
        "spec.ports[1].port",
        "80/TCP is the same as another port's",
    ),
    ({"ports": {"port": 80}}, "spec.ports", "expected array, got object"),
    ({"ports": [None]}, "spec.ports[0]", "expected object, got null"),
    ({"type": "Nodeport"}, "spec.type", "unknown value 'Nodeport'"),
    ({"sessionAffinity": "clientip"}, "spec.sessionAffinity", "unknown value 'clientip'"),
    (
        {"sessionAffinity": "ClientIP", "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 86401}}},
        "spec.sessionAffinityConfig.clientIP.timeoutSeconds",
        "86401 is not a timeout",
    ),
    ({"internalTrafficPolicy": "local"}, "spec.internalTrafficPolicy", "unknown value 'local'"),
    ({"externalTrafficPolicy": "No"}, "spec.externalTrafficPolicy", "unknown value 'No'"),
    ({"externalIPs": ["fe80::1%eth0"]}, "spec.externalIPs[0]", "'fe80::1%eth0' is not an IP address"),
    ({"loadBalancerSourceRanges": ["10.0.0.1"]}, "spec.loadBalancerSourceRanges[0]", "'10.0.0.1' is not a network"),
    (
        {"loadBalancerSourceRanges": ["10.0.0.0/33"]},
        "spec.loadBalancerSourceRanges[0]",
        "'10.0.0.0/33' has a prefix length that is out of range for its family",
    ),
    ({"healthCheckNodePort": -5}, "spec.healthCheckNodePort", "-5 is not a port"),
]


@pytest.mark.parametrize(("spec", "field", "message"), INVALID_SERVICES)
def test_invalid_service_is_rejected_with_the_field_named(spec: Json, field: str, message: str) -> None:
    result = decoded("Service", service_object(spec))
    assert (result.broken, result.values, result.name) == (True, (), ObjectName("shop", "web"))
    (problem,) = result.problems
    assert (problem.where, problem.field, problem.message) == ("Service shop/web", field, message)


# A Service of an API server: what we do not know is from a newer version, and is read as kube-proxy reads it

VIP_AND = [{"ip": "192.0.2.1", "ipMode": "VIP"}]
PORT = {"name": "a", "port": 80}


def of_api(kind: Kind, body: Json) -> Decoded:
    return decode(kind, json.dumps(body).encode(), origin="API")


def status_with(*ingress: Json) -> Json:
    return {"loadBalancer": {"ingress": [*VIP_AND, *ingress]}}


# spec, status: field of the warning, field of the value, and its value
@pytest.mark.parametrize("cluster_ip", ["", None])
def test_service_of_an_api_server_may_wait_for_its_address(cluster_ip: str | None) -> None:
    body = json.dumps(service_object({"clusterIP": cluster_ip, "ports": [PORT]})).encode()
    result = decode("Service", body, origin="API")
    (value,) = result.values
    assert isinstance(value, Service) and value.cluster_ips == ()
    assert result.problems == ()


def test_missing_address_and_missing_ports_of_a_manifest_have_a_remedy() -> None:
    def hint(spec: Json) -> str:
        (problem,) = decoded("Service", service_object(spec)).problems
        return problem.hint

    assert hint({"clusterIP": None}) == "no API server allocates one; write an address, or None"
    assert hint({"ports": []}) == "a Service without ports serves nothing; to stop serving it, delete the Service"


UNUSED_VALUES: list[tuple[Kind, Json, str, str]] = [
    (
        "Service",
        service_object({"loadBalancerSourceRanges": ["10.0.0.0/8"], "type": "NodePort"}),
        "spec.loadBalancerSourceRanges",
        "restricts nobody, because spec.type is NodePort",
    ),
    (
        "Service",
        service_object({"ports": [{"port": 80, "nodePort": 30080}]}),
        "spec.ports[0].nodePort",
        "30080 is served, although spec.type is ClusterIP",
    ),
    (
        "Service",
        service_object({"sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 5}}}),
        "spec.sessionAffinityConfig",
        "has no effect without spec.sessionAffinity",
    ),
    *(
        ("Service", service_object({"ports": [{"port": 80, "name": name}]}), "spec.ports[0].name", message)
        for name, message in (
            ("HTTP", "'HTTP' is not a name of a port"),
            ("-http", "'-http' is not a name of a port"),
            ("a" * 65, f"'{'a' * 61}...' is not a name of a port"),
        )
    ),
    (
        "EndpointSlice",
        slice_object(ports=[{"port": 80, "name": "a"}, {"port": 81, "name": "b_c"}]),
        "ports[1].name",
        "'b_c' is not a name of a port",
    ),
    (
        "Endpoints",
        {
            "metadata": {"name": "web", "namespace": "shop"},
            "subsets": [{"addresses": [{"ip": "10.1.0.5"}], "ports": [{"port": 80, "name": "HTTP"}]}],
        },
        "subsets[0].ports[0].name",
        "'HTTP' is not a name of a port",
    ),
    (
        "Node",
        {"metadata": {"name": "node-a"}, "spec": {"podCIDRs": ["10.244.0.0/24", "fd00::/64", "10.244.1.0/24"]}},
        "spec.podCIDRs",
        "has 2 IPv4 networks, of which only the first is used",
    ),
]


@pytest.mark.parametrize(("kind", "body", "field", "message"), UNUSED_VALUES)
def test_value_that_an_api_server_rejects_is_a_warning_in_a_manifest(
    kind: Kind, body: Json, field: str, message: str
) -> None:
    result = decoded(kind, body)
    (problem,) = result.problems
    assert (problem.field, problem.message, problem.is_warning) == (field, message, True)
    assert problem.hint
    assert len(result.values) == 1 and not result.broken
    from_api = decode(kind, json.dumps(body).encode(), origin="API")
    assert (from_api.values, from_api.problems) == (result.values, ())


@pytest.mark.parametrize("name", ["http", "a", "web-2", "a" * 63, ""])
def test_name_of_a_port_that_an_api_server_accepts_is_no_mistake(name: str) -> None:
    assert decoded("Service", service_object({"ports": [{"port": 80, "name": name}]})).problems == ()


NEWER_SERVICES: list[tuple[Json, Json | None, str, str, object]] = [
    ({}, status_with({"ip": "192.0.2.2", "ipMode": "Tunnel"}), "status.loadBalancer.ingress[1].ipMode",
     "load_balancer_ips", ("192.0.2.1",)),
    ({}, status_with({"ip": "x"}), "status.loadBalancer.ingress[1].ip", "load_balancer_ips", ("192.0.2.1",)),
    ({"internalTrafficPolicy": "PreferLocal"}, None, "spec.internalTrafficPolicy", "internal_local", False),
    ({"externalTrafficPolicy": "PreferLocal"}, None, "spec.externalTrafficPolicy", "external_local", False),
    ({"sessionAffinity": "Cookie"}, None, "spec.sessionAffinity", "affinity_timeout_s", 0),
    ({"sessionAffinity": "ClientIP", "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 100_000}}}, None,
     "spec.sessionAffinityConfig.clientIP.timeoutSeconds", "affinity_timeout_s", 100_000),
    ({"type": "Gateway"}, None, "spec.type", "type", "ClusterIP"),
    ({"type": "Gateway", "externalTrafficPolicy": "Local", "externalIPs": ["1.2.3.4"]}, None, "spec.type",
     "external_local", False),
    ({"ports": [PORT, {"name": "b", "port": 443, "protocol": "QUIC"}]}, None, "spec.ports[1].protocol", "ports",
     (ServicePort("a", "TCP", 80),)),
    ({"ports": [{"port": 443, "protocol": "QUIC"}]}, None, "spec.ports[0].protocol", "ports", ()),
    ({"ports": [PORT, {"name": "b", "port": 70_000}]}, None, "spec.ports[1].port", "ports",
     (ServicePort("a", "TCP", 80),)),
    ({"ports": [{**PORT, "nodePort": 70_000}]}, None, "spec.ports[0].nodePort", "ports",
     (ServicePort("a", "TCP", 80),)),
    ({"ports": [PORT, {"name": "a", "port": 80, "protocol": "UDP"}]}, None, "spec.ports[1].name", "ports",
     (ServicePort("a", "TCP", 80), ServicePort("a", "UDP", 80))),
    ({"ports": [PORT, {"name": "b", "port": 80}]}, None, "spec.ports[1].port", "ports", (ServicePort("a", "TCP", 80),)),
    ({"ports": [{**PORT, "nodePort": 30080}, {"name": "b", "port": 81, "nodePort": 30080}]}, None,
     "spec.ports[1].nodePort", "ports", (ServicePort("a", "TCP", 80, 30080), ServicePort("b", "TCP", 81))),
    ({"externalIPs": ["1.2.3.4", "host"]}, None, "spec.externalIPs[1]", "external_ips", ("1.2.3.4",)),
    ({"clusterIPs": ["10.96.0.10", "10.96.0.11"]}, None, "spec.clusterIPs", "cluster_ips", ("10.96.0.10",)),
    ({"clusterIPs": ["10.96.0.10", "x"]}, None, "spec.clusterIPs[1]", "cluster_ips", ("10.96.0.10",)),
    ({"ipFamilies": ["IPv8"]}, None, "spec.ipFamilies[0]", "cluster_ips", ("10.96.0.10",)),
    ({"healthCheckNodePort": 70_000}, None, "spec.healthCheckNodePort", "health_check_node_port", 0),
]  # fmt: skip


@pytest.mark.parametrize(("spec", "status", "warning", "field", "value"), NEWER_SERVICES)
def test_service_of_an_api_server_is_used_in_spite_of_values_that_are_not_known(
    spec: Json, status: Json | None, warning: str, field: str, value: object
) -> None:
    body = service_object(spec, status=status)
    result = of_api("Service", body)
    (service,) = result.values
    assert getattr(service, field) == value
    assert [(problem.field, problem.is_warning) for problem in result.problems] == [(warning, True)]
    manifest = decoded("Service", body)
    assert (manifest.broken, [problem.is_warning for problem in manifest.problems]) == (True, [False])


@pytest.mark.parametrize(
    ("ranges", "addresses"),
    [
        (["10.0.0.0/8", "fd00::/64"], ("192.0.2.1", "2001:db8::1")),
        (["10.0.0.0/8", "fd00::/200"], ("192.0.2.1",)),
        (["10.0.0.0/99", "fd00::/64"], ("2001:db8::1",)),
        (["10.0.0.0/99"], ()),
        ([], ("192.0.2.1", "2001:db8::1")),
    ],
)
def test_source_range_that_is_left_out_does_not_open_a_service(ranges: list[str], addresses: tuple[str, ...]) -> None:
    ingress = [{"ip": "192.0.2.1"}, {"ip": "2001:db8::1"}]
    body = service_object({"loadBalancerSourceRanges": ranges}, status={"loadBalancer": {"ingress": ingress}})
    (service,) = of_api("Service", body).values
    assert isinstance(service, Service)
    assert (service.load_balancer_ips, service.cluster_ips) == (addresses, ("10.96.0.10",))


@pytest.mark.parametrize(
    ("ranges", "open_address"),
    [
        (["10.0.0.0/8"], "2001:db8::1"),
        (["fd00::/64"], "192.0.2.1"),
        (["fd00::/64", "0.0.0.0/0"], ""),
        ([], ""),
    ],
)
def test_warns_of_an_address_that_the_source_ranges_of_the_other_family_leave_open(
    ranges: list[str], open_address: str
) -> None:
    ingress = [{"ip": "192.0.2.1"}, {"ip": "2001:db8::1"}]
    body = service_object({"loadBalancerSourceRanges": ranges}, status={"loadBalancer": {"ingress": ingress}})
    for decoded in (of_api("Service", body), decode("Service", body)):
        (service,) = decoded.values
        assert isinstance(service, Service)
        assert service.load_balancer_ips == ("192.0.2.1", "2001:db8::1")
        assert all(problem.is_warning and open_address in problem.message for problem in decoded.problems)
        assert len(decoded.problems) == (1 if open_address else 0)


def test_invalid_annotation_of_an_api_server_does_not_drop_the_service() -> None:
    for text in ("soon", "-5s"):
        body = service_object()
        body["metadata"]["annotations"] = {"kubeproxy-py/drain-deadline": text}
        (service,) = of_api("Service", body).values
        assert isinstance(service, Service)
        assert service.settings.drain_deadline_s is None


@pytest.mark.parametrize("origin", ["API", "manifest"])
@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"spec": {"clusterIP": "10.96.0.10", "ports": [{"port": "80"}]}}, "spec.ports[0].port"),
        ({"spec": {"clusterIP": "10.96.0.10", "ports": {"port": 80}}}, "spec.ports"),
        ({"spec": None}, "spec"),
        ({"spec": {"clusterIP": "10.96.0.300", "ports": [{"port": 80}]}}, "spec.clusterIP"),
        ({"kind": "Pod"}, "kind"),
    ],
)
def test_unusable_service_is_rejected_wherever_it_is_from(origin: Origin, change: Json, field: str) -> None:
    result = decode("Service", json.dumps({**service_object(), **change}).encode(), origin=origin)
    assert (result.broken, result.values) == (True, ())
    assert [(problem.field, problem.is_warning) for problem in result.problems] == [(field, False)]


def test_slice_of_an_api_server_with_an_unknown_address_type_is_ignored_with_a_warning() -> None:
    result = of_api("EndpointSlice", slice_object(addressType="IPv8"))
    assert (result.values, result.broken) == ((), False)
    assert [(problem.field, problem.is_warning) for problem in result.problems] == [("addressType", True)]


def test_slice_port_of_an_unknown_protocol_is_left_out_with_a_warning() -> None:
    ports = [{"name": "http", "port": 80}, {"name": "quic", "port": 443, "protocol": "QUIC"}]
    result = of_api("EndpointSlice", slice_object(ports=ports))
    (value,) = result.values
    assert isinstance(value, EndpointSlice)
    assert value.ports == (SlicePort("http", "TCP", 80),)
    assert [(problem.field, problem.is_warning) for problem in result.problems] == [("ports[1].protocol", True)]


def test_unknown_conditions_and_hints_of_an_endpoint_are_ignored() -> None:
    hints = {"forZones": [{"name": "a", "weight": 3}], "forRegions": [{"name": "r"}]}
    endpoint = {"addresses": ["10.1.0.5"], "conditions": {"ready": True, "draining": True}, "hints": hints}
    result = of_api("EndpointSlice", slice_object(endpoints=[endpoint]))
    (value,) = result.values
    assert isinstance(value, EndpointSlice)
    assert value.endpoints == (Endpoint("10.1.0.5", zone_hints=("a",)),)
    assert result.problems == ()


def test_all_errors_of_a_service_are_reported_together() -> None:
    spec = {"clusterIP": "x", "ports": [{"port": 0}, {"port": 80, "protocol": "ICMP"}], "externalIPs": ["y"]}
    fields = [field for field, _ in problems_of("Service", service_object(spec))]
    assert sorted(fields) == sorted(
        ["spec.ports[0].port", "spec.ports[1].protocol", "spec.clusterIP", "spec.externalIPs[0]"]
    )


def test_problem_has_a_hint_and_the_place_of_the_object() -> None:
    body = service_object({"ports": [{"port": 70000}]})
    (problem,) = decode("Service", body, within="games.yaml, document 3").problems
    assert str(problem) == (
        "games.yaml, document 3: Service shop/web: spec.ports[0].port: 70000 is not a port (1 to 65535)"
    )


@pytest.mark.parametrize(
    ("metadata", "field"),
    [
        ({"namespace": "shop"}, "metadata.name"),
        ({"name": "Web!", "namespace": "shop"}, "metadata.name"),
        ({"name": "web"}, "metadata.namespace"),
        ({"name": 5, "namespace": "shop"}, "metadata.name"),
        (None, "metadata.name"),
    ],
)
def test_object_without_a_valid_name_is_broken(metadata: Json | None, field: str) -> None:
    result = decoded("Service", {**service_object(), "metadata": metadata})
    assert result.broken
    assert [problem.field for problem in result.problems] == [field]


def test_object_without_a_namespace_gets_the_given_one() -> None:
    body = {**service_object(), "metadata": {"name": "web"}}
    assert decode("Service", body, namespace="default").name == ObjectName("default", "web")


# EndpointSlice


def test_nil_conditions_mean_ready_and_serving() -> None:
    assert endpoint_of() == Endpoint("10.1.0.5", ready=True, serving=True, terminating=False)
    conditions = {"ready": None, "serving": None, "terminating": None}
    assert endpoint_of(conditions=conditions) == endpoint_of(conditions=None) == endpoint_of()


@pytest.mark.parametrize("condition", ["ready", "serving", "terminating"])
@pytest.mark.parametrize("value", [True, False])
def test_explicit_condition_is_used(condition: str, value: bool) -> None:
    assert getattr(endpoint_of(conditions={condition: value}), condition) is value


def test_endpoint_has_the_canonical_form_of_its_first_address() -> None:
    assert endpoint_of(addresses=["010.1.00.5", "10.9.9.9"]).address == "10.1.0.5"


def test_second_address_of_an_endpoint_is_reported_and_nothing_is_left_out() -> None:
    endpoints = [{"addresses": ["10.1.0.5"]}, {"addresses": ["10.1.0.6", "10.1.0.7"]}]
    result = decoded("EndpointSlice", slice_object(endpoints=endpoints))
    (value,) = result.values
    assert isinstance(value, EndpointSlice)
    assert [endpoint.address for endpoint in value.endpoints] == ["10.1.0.5", "10.1.0.6"]
    (problem,) = result.problems
    assert problem.field == "endpoints[1].addresses"
    assert "2 addresses in one endpoint, the first is used" in problem.message


def test_endpoint_node_and_hints_are_decoded() -> None:
    hints = {"forZones": [{"name": "a"}, {"name": "b"}], "forNodes": [{"name": "node-a"}]}
    endpoint = endpoint_of(nodeName="node-a", hints=hints)
    assert (endpoint.node, endpoint.zone_hints, endpoint.node_hints) == ("node-a", ("a", "b"), ("node-a",))


def test_equal_hints_share_one_tuple() -> None:
    hints = {"forZones": [{"name": "a"}]}
    assert endpoint_of(hints=hints).zone_hints is endpoint_of(hints=hints).zone_hints


def test_service_of_a_slice_is_in_the_same_namespace() -> None:
    value = slice_of()
    assert (value.name, value.service) == (ObjectName("shop", "web-1"), ObjectName("shop", "web"))


def test_slice_port_defaults_to_unnamed_tcp() -> None:
    assert slice_of(ports=[{"port": 80}]).ports == (SlicePort("", "TCP", 80),)


@pytest.mark.parametrize("nothing", [None, []])
def test_slice_may_have_no_endpoints_and_no_ports(nothing: object) -> None:
    value = slice_of(endpoints=nothing, ports=nothing)
    assert (value.endpoints, value.ports) == ((), ())


def test_slice_of_host_names_is_ignored_without_a_problem() -> None:
    body = slice_object(addressType="FQDN", endpoints=[{"addresses": ["a.example.com"]}])
    result = decoded("EndpointSlice", body)
    assert (result.values, result.problems, result.broken) == ((), (), False)


INVALID_ENDPOINTS: list[tuple[object, str, str]] = [
    ({"addresses": []}, "endpoints[1].addresses", "is empty"),
    ({"addresses": None}, "endpoints[1].addresses", "is empty"),
    ({"addresses": ["10.1.0.256"]}, "endpoints[1].addresses[0]", "'10.1.0.256' is not an IP address"),
    ({"addresses": ["fd00::1"]}, "endpoints[1].addresses[0]", "fd00::1 is not IPv4"),
    ({"addresses": ["127.0.0.1"]}, "endpoints[1].addresses[0]", "127.0.0.1 is a loopback address"),
    ({"addresses": ["0.0.0.0"]}, "endpoints[1].addresses[0]", "0.0.0.0 is an unspecified address"),
    ({"addresses": ["169.254.169.254"]}, "endpoints[1].addresses[0]", "169.254.169.254 is a link-local address"),
    ({"addresses": ["224.0.0.1"]}, "endpoints[1].addresses[0]", "224.0.0.1 is a multicast address"),
    ({"addresses": "10.1.0.6"}, "endpoints[1].addresses", "expected array, got string"),
    ({"addresses": [6]}, "endpoints[1].addresses[0]", "expected string, got integer"),
    ({"addresses": ["10.1.0.6"], "conditions": {"ready": "yes"}}, "endpoints[1].conditions.ready", ""),
    (None, "endpoints[1]", "expected object, got null"),
    ("10.1.0.6", "endpoints[1]", "expected object, got string"),
]


@pytest.mark.parametrize(("corrupted", "field", "message"), INVALID_ENDPOINTS)
def test_invalid_endpoint_is_left_out_and_the_others_are_used(corrupted: object, field: str, message: str) -> None:
    good = [{"addresses": ["10.1.0.5"]}, {"addresses": ["10.1.0.7"]}]
    result = decoded("EndpointSlice", slice_object(endpoints=[good[0], corrupted, good[1]]))
    (value,) = result.values
    assert isinstance(value, EndpointSlice)
    assert [endpoint.address for endpoint in value.endpoints] == ["10.1.0.5", "10.1.0.7"]
    (problem,) = result.problems
    assert (problem.where, problem.field) == ("EndpointSlice shop/web-1", field)
    assert message in problem.message


@pytest.mark.parametrize(
    ("corrupted", "field"),
    [
        ({"name": "b"}, "ports[1].port"),
        ({"name": "b", "port": 0}, "ports[1].port"),
        ({"name": "b", "port": 65536}, "ports[1].port"),
        ({"name": "b", "port": "80"}, "ports[1].port"),
        ({"name": "b", "port": 80, "protocol": "ICMP"}, "ports[1].protocol"),
        ({"name": "http", "port": 81}, "ports[1].name"),
    ],
)
def test_invalid_slice_port_is_left_out_and_the_others_are_used(corrupted: Json, field: str) -> None:
    ports = [{"name": "http", "port": 8080}, corrupted, {"name": "c", "port": 90}]
    result = decoded("EndpointSlice", slice_object(ports=ports))
    (value,) = result.values
    assert isinstance(value, EndpointSlice)
    assert [port.name for port in value.ports] == ["http", "c"]
    assert [problem.field for problem in result.problems] == [field]


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"metadata": {"name": "web-1", "namespace": "shop"}}, "metadata.labels"),
        ({"addressType": "IPv5"}, "addressType"),
        ({"addressType": None}, "addressType"),
        ({"endpoints": {"addresses": ["10.1.0.5"]}}, "endpoints"),
        ({"ports": "http"}, "ports"),
    ],
)
def test_slice_without_service_or_address_type_is_rejected(fields: Json, field: str) -> None:
    result = decoded("EndpointSlice", slice_object(**fields))
    assert (result.broken, result.values, result.name) == (True, (), ObjectName("shop", "web-1"))
    assert [problem.field for problem in result.problems] == [field]


# Endpoints


def test_endpoints_become_one_slice_per_subset_and_family() -> None:
    body = {
        "metadata": {"name": "web", "namespace": "shop"},
        "subsets": [
            {
                "addresses": [{"ip": "10.1.0.5", "nodeName": "node-a"}, {"ip": "fd00::5"}],
                "notReadyAddresses": [{"ip": "10.1.0.6"}],
                "ports": [{"name": "http", "port": 8080}],
            },
            {"addresses": [{"ip": "10.1.0.7"}], "ports": None},
            {"addresses": None},
        ],
    }
    service, ports = ObjectName("shop", "web"), (SlicePort("http", "TCP", 8080),)
    assert decoded("Endpoints", body).values == (
        EndpointSlice(
            ObjectName("shop", "endpoints/web/0/IPv4"),
            service,
            "IPv4",
            (Endpoint("10.1.0.5", node="node-a"), Endpoint("10.1.0.6", ready=False, serving=False)),
            ports,
        ),
        EndpointSlice(ObjectName("shop", "endpoints/web/0/IPv6"), service, "IPv6", (Endpoint("fd00::5"),), ports),
        EndpointSlice(ObjectName("shop", "endpoints/web/1/IPv4"), service, "IPv4", (Endpoint("10.1.0.7"),), ()),
    )


def test_invalid_address_of_endpoints_is_left_out() -> None:
    body = {
        "metadata": {"name": "web", "namespace": "shop"},
        "subsets": [{"addresses": [{"ip": "10.1.0.5"}, {"ip": "x"}, {"hostname": "y"}, {"ip": "::1"}]}],
    }
    assert [field for field, _ in problems_of("Endpoints", body)] == [
        "subsets[0].addresses[1].ip",
        "subsets[0].addresses[2].ip",
        "subsets[0].addresses[3].ip",
    ]
    assert len(decoded("Endpoints", body).values) == 1


# Node


def node_of(**fields: Any) -> Node:
    (node,) = decoded("Node", {"metadata": {"name": "node-a"}, **fields}).values
    assert isinstance(node, Node)
    return node


def test_internal_node_addresses_precede_external_ones() -> None:
    addresses = [
        {"type": "Hostname", "address": "node-a"},
        {"type": "ExternalIP", "address": "192.0.2.1"},
        {"type": "InternalIP", "address": "10.0.0.1"},
        {"type": "InternalIP", "address": "fd00::01"},
    ]
    assert node_of(status={"addresses": addresses}).addresses == ("10.0.0.1", "fd00::1", "192.0.2.1")


def test_invalid_node_address_is_left_out() -> None:
    body = {
        "metadata": {"name": "node-a"},
        "status": {
            "addresses": [{"type": "InternalIP", "address": "x"}, {"type": "InternalIP", "address": "10.0.0.1"}]
        },
    }
    result = decoded("Node", body)
    assert result.values == (Node("node-a", addresses=("10.0.0.1",)),)
    assert [(problem.where, problem.field) for problem in result.problems] == [
        ("Node node-a", "status.addresses[0].address")
    ]


def test_node_zone_and_pod_cidrs_are_decoded() -> None:
    labels = {"topology.kubernetes.io/zone": "zone-a"}
    node = node_of(metadata={"name": "node-a", "labels": labels}, spec={"podCIDRs": ["10.244.1.0/24", "fd00:1::/64"]})
    assert (node.zone, node.pod_cidrs) == ("zone-a", ("10.244.1.0/24", "fd00:1::/64"))


@pytest.mark.parametrize(
    ("fields", "being_deleted"),
    [
        ({}, False),
        ({"spec": {"taints": [{"key": "dedicated", "effect": "NoSchedule"}]}}, False),
        ({"spec": {"taints": [{"key": "ToBeDeletedByClusterAutoscaler", "effect": "NoSchedule"}]}}, True),
        ({"metadata": {"name": "node-a", "deletionTimestamp": "2024-01-01T00:00:00Z"}}, True),
    ],
)
def test_node_deletion_is_detected_by_timestamp_or_autoscaler_taint(fields: Json, being_deleted: bool) -> None:
    assert node_of(**fields).being_deleted is being_deleted


# Bytes that are not an object


@pytest.mark.parametrize(
    ("body", "field", "message"),
    [
        (b'{"metadata":\n{"name":\n!}}', "line 3", "is not JSON"),
        (b'{"metadata":', "", "is not JSON"),
        (b'{"metadata": {"name": "\xff"}}', "", "is not UTF-8"),
        (b"[]", "", "expected object, got array"),
        (b'{"x":' + b"[" * 100_000, "", "is nested too deep"),
    ],
)
def test_bytes_that_are_not_an_object_are_a_problem(body: bytes, field: str, message: str) -> None:
    result = decode("Service", body)
    assert (result.broken, result.name) == (True, None)
    (problem,) = result.problems
    assert problem.field == field
    assert message in problem.message


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)


def corrupted(body: Any) -> st.SearchStrategy[Any]:
    """Return *body* with arbitrary values in some of its places."""
    if isinstance(body, Mapping):
        intact: st.SearchStrategy[Any] = st.fixed_dictionaries({key: corrupted(value) for key, value in body.items()})
    elif isinstance(body, list):
        intact = st.tuples(*map(corrupted, body)).map(list)
    else:
        intact = st.just(body)
    return st.one_of(intact, intact, intact, anything)


KINDS: dict[Kind, Json] = {
    "Service": service_object({"clusterIPs": ["10.96.0.10"], "externalIPs": ["1.2.3.4"]}, {}, {"loadBalancer": {}}),
    "EndpointSlice": slice_object(),
    "Endpoints": {
        "metadata": {"name": "web", "namespace": "shop"},
        "subsets": [{"addresses": [{"ip": "10.1.0.5"}], "ports": [{"port": 80}]}],
    },
    "Node": {"metadata": {"name": "node-a"}, "spec": {"podCIDRs": ["10.0.0.0/24"]}, "status": {"addresses": []}},
}


@pytest.mark.parametrize("kind", KINDS)
@at_most(100)
@given(data=st.data())
def test_decode_never_raises_and_reports_why_an_object_is_broken(kind: Kind, data: st.DataObject) -> None:
    body = data.draw(corrupted(KINDS[kind]) if data.draw(st.booleans()) else anything)
    result = decode(kind, json.dumps(body).encode())
    assert bool(result.broken) <= bool(result.problems)
    if isinstance(body, Mapping):
        of_mapping = decode(kind, body)
        assert bool(of_mapping.broken) <= bool(of_mapping.problems)
        # YAML has .inf and JSON has not: Infinity, which json.dumps writes, makes the whole text invalid.
        assert of_mapping.values == result.values or "Infinity" in json.dumps(body)


@pytest.mark.parametrize("kind", KINDS)
def test_unmodified_bodies_of_the_property_are_valid(kind: Kind) -> None:
    assert decoded(kind, KINDS[kind]).problems == ()


def test_yaml_values_of_unexpected_types_are_problems() -> None:
    text = "{metadata: {name: web, namespace: 2024-01-01}, spec: {ports: [{port: 0x50, name: yes}], 8: x}}"
    result = decode("Service", yaml.safe_load(text))
    assert (result.broken, len(result.problems)) == (True, 1)


@given(st.integers(0, 2**32 - 1), st.lists(st.integers(0, 5), min_size=4, max_size=4))
def test_leading_zeros_never_change_an_ipv4_address(number: int, zeros: list[int]) -> None:
    octets = [number >> shift & 255 for shift in (24, 16, 8, 0)]
    written = ".".join("0" * zero + str(octet) for zero, octet in zip(zeros, octets, strict=True))
    assert service_of({"clusterIP": written}).cluster_ips == (".".join(map(str, octets)),)


BUGS: list[tuple[Kind, Json]] = [
    ("Service", service_object()),
    ("EndpointSlice", slice_object()),
    ("Node", {"metadata": {"name": "web"}}),
]


@pytest.mark.parametrize(("kind", "body"), BUGS)
@pytest.mark.parametrize("as_json", [True, False])
def test_object_that_brings_out_a_bug_is_broken_and_named(
    kind: Kind, body: Json, as_json: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_arguments: object) -> Any:
        raise ZeroDivisionError("a bug")

    wire, _ = objects._READERS[kind]
    monkeypatch.setitem(objects._READERS, kind, (wire, fail))
    result = decode(kind, json.dumps(body).encode() if as_json else body)
    assert (result.kind, result.broken, result.values) == (kind, True, ())
    assert result.name is not None
    assert result.name.name == body["metadata"]["name"]
    assert result.resource_version == body["metadata"].get("resourceVersion", "")
    (problem,) = result.problems
    assert "internal error ZeroDivisionError (please report it, with the log)" in str(problem)
    assert caplog.records[0].exc_info


def test_pods_zones_and_problems_of_endpoints_are_kept_in_their_order() -> None:
    def endpoint(address: str, pod: str) -> dict[str, Any]:
        return {"addresses": [address], "zone": "zone-a", "targetRef": {"kind": "Pod", "name": pod, "uid": "x"}}

    content = {
        "metadata": {"name": "web-1", "namespace": "shop", "labels": {"kubernetes.io/service-name": "web"}},
        "addressType": "IPv4",
        "endpoints": [
            endpoint("10.1.0.5", "a"),
            endpoint("127.0.0.1", "b"),
            endpoint("10.1.0.6", "c"),
            {"addresses": ["10.1.0.7"]},
        ],
        "ports": [{"port": 80}],
    }
    (part,) = decode("EndpointSlice", json.dumps(content).encode()).values
    assert isinstance(part, EndpointSlice)
    assert part.pod_names() == ("a", "c", "")
    assert [one.zone for one in part.endpoints] == ["zone-a", "zone-a", ""]
    assert part.problems == ("endpoints[1].addresses[0]: 127.0.0.1 is a loopback address",)
    content["endpoints"] = [endpoint("10.1.0.5", "a\nb")]
    (part,) = decode("EndpointSlice", json.dumps(content).encode()).values
    assert isinstance(part, EndpointSlice)
    assert part.pod_names() == ("",)
