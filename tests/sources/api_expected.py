"""What the objects of api_objects.yaml mean to the agent, by Kubernetes release."""

from __future__ import annotations

from msgspec.structs import replace

from kubeproxy_py.model.node import Node
from kubeproxy_py.model.services import Endpoint, EndpointSlice, ObjectName, Service, ServicePort, SlicePort

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


def real_servers(minor: int, *, from_slices: bool) -> set[str]:
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
