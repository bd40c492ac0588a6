"""One cluster as the API server of each Kubernetes version serves it: fields that a version added or sets by default.

The same Service, endpoints and Node, so that the agent must want the same kernel state of all.  Written by hand, not
recorded.  Sources: the changelogs of Kubernetes 1.20 to 1.36, and the API of each version: api_fields.json, and the
schemas of kubernetes_validate.  A field is counted from the version on in which servers have it without a feature gate.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from tests.apiserver.objects import Json

NODE, ZONE = "node-a", "zone-1"
CLUSTER_IP, LB_IP, NODE_ADDRESS = "10.96.0.10", "203.0.113.7", "192.168.3.10"
PODS = {"10.244.1.5": NODE, "10.244.2.5": "node-b"}
_NAME = {"name": "web", "namespace": "shop"}


class Added(NamedTuple):
    """What the servers have since a version, and how an object changed by it."""

    minor: int  # of Kubernetes 1.
    text: str
    service: Callable[[Json], Any] | None = None
    slice: Callable[[Json], Any] | None = None


def _conditions(endpoint_slice: Json) -> None:
    for endpoint in endpoint_slice["endpoints"]:
        endpoint["conditions"] |= {"serving": True, "terminating": False}


def _hints(endpoint_slice: Json) -> None:
    for endpoint in endpoint_slice["endpoints"]:
        endpoint["hints"] = {"forZones": [{"name": ZONE}]}


def _ip_mode(service: Json) -> None:
    service["status"]["loadBalancer"]["ingress"][0]["ipMode"] = "VIP"


def _spec(**fields: object) -> Callable[[Json], Any]:
    return lambda service: service["spec"].update(fields)


ADDED = (
    Added(20, "Endpoints only: EndpointSlices are discovery.k8s.io/v1beta1, which the agent does not read"),
    Added(21, "EndpointSlices v1, with the condition ready alone"),
    Added(
        22,
        "internalTrafficPolicy and allocateLoadBalancerNodePorts, set by default; conditions serving and terminating",
        _spec(internalTrafficPolicy="Cluster", allocateLoadBalancerNodePorts=True),
        _conditions,
    ),
    Added(23, "hints for zones", None, _hints),
    Added(30, "ipMode of load balancers", _ip_mode),
    Added(31, "trafficDistribution: PreferClose", _spec(trafficDistribution="PreferClose")),
    Added(34, "trafficDistribution: PreferSameZone", _spec(trafficDistribution="PreferSameZone")),
)
MINORS = tuple(range(20, 37))


def service_of(minor: int) -> Json:
    """Return the Service as a server of Kubernetes 1.*minor* serves it."""
    ports = [{"name": "http", "port": 80, "targetPort": 8080, "protocol": "TCP", "nodePort": 30080}]
    spec: Json = {
        "type": "LoadBalancer",
        "clusterIP": CLUSTER_IP,
        "clusterIPs": [CLUSTER_IP],
        "ipFamilies": ["IPv4"],
        "ipFamilyPolicy": "SingleStack",
        "externalTrafficPolicy": "Cluster",
        "sessionAffinity": "None",
        "selector": {"app": "web"},
        "ports": ports,
    }
    service: Json = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": dict(_NAME),
        "spec": spec,
        "status": {"loadBalancer": {"ingress": [{"ip": LB_IP}]}},
    }
    for added in ADDED:
        if added.service and added.minor <= minor:
            added.service(service)
    return service


def endpoints_of(minor: int) -> Json:
    """Return what the server of Kubernetes 1.*minor* has of the endpoints in v1: Endpoints, or an EndpointSlice."""
    if minor < 21:
        addresses = [{"ip": address, "nodeName": node} for address, node in PODS.items()]
        ports = [{"name": "http", "port": 8080, "protocol": "TCP"}]
        subsets = [{"addresses": addresses, "ports": ports}]
        return {"apiVersion": "v1", "kind": "Endpoints", "metadata": dict(_NAME), "subsets": subsets}
    endpoints = [
        {"addresses": [address], "conditions": {"ready": True}, "nodeName": node, "zone": ZONE}
        for address, node in PODS.items()
    ]
    endpoint_slice: Json = {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {"name": "web-x7k2p", "namespace": "shop", "labels": {"kubernetes.io/service-name": "web"}},
        "addressType": "IPv4",
        "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}],
        "endpoints": endpoints,
    }
    for added in ADDED:
        if added.slice and added.minor <= minor:
            added.slice(endpoint_slice)
    return endpoint_slice


def node() -> Json:
    """Return the Node, which no version changed in what the agent reads."""
    metadata = {"name": NODE, "labels": {"topology.kubernetes.io/zone": ZONE}}
    addresses = [{"type": "InternalIP", "address": NODE_ADDRESS}]
    return {"apiVersion": "v1", "kind": "Node", "metadata": metadata, "spec": {}, "status": {"addresses": addresses}}
