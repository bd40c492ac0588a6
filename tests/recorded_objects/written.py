"""One cluster, as users and kube-controller-manager write its objects: every kind of Service, and its endpoints.

Servers before 1.21 get the EndpointSlices as v1beta1 and as Endpoints (tests/apiserver/old_servers.py).
"""

from __future__ import annotations

from collections.abc import Iterator

from tests.apiserver.objects import Json

NODE, ZONE = "node-a", "zone-1"
_HTTP: Json = {"name": "http", "port": 80, "protocol": "TCP", "targetPort": 8080}
_DNS: Json = {"name": "dns", "port": 53, "protocol": "UDP", "targetPort": "dns"}
_SCTP: Json = {"name": "sctp", "port": 3868, "protocol": "SCTP"}

SERVICES: dict[str, Json] = {
    "plain": {"clusterIP": "10.96.1.1", "ports": [_HTTP, _DNS, _SCTP]},
    "unnamed": {"clusterIP": "10.96.1.2", "ports": [{"port": 443}]},
    "headless": {"clusterIP": "None", "ports": [_HTTP]},
    "elsewhere": {"type": "ExternalName", "externalName": "example.net"},
    "external": {"clusterIP": "10.96.1.3", "ports": [_HTTP], "externalIPs": ["203.0.113.3"]},
    "sticky": {
        "clusterIP": "10.96.1.4",
        "ports": [_HTTP],
        "sessionAffinity": "ClientIP",
        "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 60}},
    },
    "node-port": {
        "clusterIP": "10.96.1.5",
        "type": "NodePort",
        "ports": [{**_HTTP, "nodePort": 30080}, {**_DNS, "nodePort": 30053}],
    },
    "local": {"clusterIP": "10.96.1.6", "ports": [_HTTP], "internalTrafficPolicy": "Local"},
    "balanced": {
        "clusterIP": "10.96.1.7",
        "type": "LoadBalancer",
        "ports": [{**_HTTP, "nodePort": 30081}],
        "externalTrafficPolicy": "Local",
        "healthCheckNodePort": 30082,
        "loadBalancerSourceRanges": ["198.51.100.0/24"],
    },
    "zonal": {"clusterIP": "10.96.1.8", "ports": [_HTTP], "trafficDistribution": "PreferClose"},
    "not-ours": {"clusterIP": "10.96.1.9", "ports": [_HTTP]},
    "unready": {"clusterIP": "10.96.1.10", "ports": [_HTTP], "publishNotReadyAddresses": True},
}
_LABELS = {"not-ours": {"service.kubernetes.io/service-proxy-name": "other"}}
_SLICE_LABELS = {"headless": {"service.kubernetes.io/headless": ""}}
LOAD_BALANCER: Json = {"loadBalancer": {"ingress": [{"ip": "203.0.113.7"}]}}

_NUMBERS = {"http": ("TCP", 8080), "dns": ("UDP", 5353), "sctp": ("SCTP", 3868), "": ("TCP", 443)}


def objects() -> Iterator[Json]:
    """Yield all objects in the order in which an empty server takes them."""
    yield {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "shop"}}
    yield _node(NODE, ZONE, "192.168.3.10", "10.244.1.0/24")
    yield _node("node-b", "zone-2", "192.168.3.11", "10.244.2.0/24")
    for number, (name, spec) in enumerate(SERVICES.items(), 1):
        selected = {} if name == "elsewhere" else {"selector": {"app": name}}
        metadata = {"name": name, "namespace": "shop", "labels": _LABELS.get(name, {})}
        yield {"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": {**spec, **selected}}
        if name != "elsewhere":
            yield _slice(name, number, spec)


def _slice(name: str, number: int, spec: Json) -> Json:
    """Return the slice of a Service: a pod of each node, one that ends, and one that is not ready."""
    ports = [port.get("name", "") for port in spec["ports"]]
    endpoints = [
        _endpoint(f"10.244.1.{number}", NODE, ZONE, ready=True, serving=True, terminating=False),
        _endpoint(f"10.244.2.{number}", "node-b", "zone-2", ready=True, serving=True, terminating=False),
        _endpoint(f"10.244.2.{100 + number}", "node-b", "zone-2", ready=False, serving=True, terminating=True),
        _endpoint(f"10.244.2.{200 + number}", "node-b", "zone-2", ready=False, serving=False, terminating=False),
    ]
    if "trafficDistribution" in spec:
        for endpoint in endpoints:
            endpoint["hints"] = {"forZones": [{"name": endpoint["zone"]}]}
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": f"{name}-x7k2p",
            "namespace": "shop",
            "labels": {
                "kubernetes.io/service-name": name,
                "endpointslice.kubernetes.io/managed-by": "endpointslice-controller.k8s.io",
                **_SLICE_LABELS.get(name, {}),
            },
        },
        "addressType": "IPv4",
        "ports": [{"name": port, "protocol": _NUMBERS[port][0], "port": _NUMBERS[port][1]} for port in ports],
        "endpoints": endpoints,
    }


def _endpoint(address: str, node: str, zone: str, **conditions: bool) -> Json:
    return {
        "addresses": [address],
        "conditions": conditions,
        "nodeName": node,
        "targetRef": {"kind": "Pod", "namespace": "shop", "name": f"pod-{address.replace('.', '-')}"},
        "zone": zone,
    }


def _node(name: str, zone: str, address: str, pod_cidr: str) -> Json:
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": name, "labels": {"topology.kubernetes.io/zone": zone, "kubernetes.io/hostname": name}},
        "spec": {"podCIDR": pod_cidr, "podCIDRs": [pod_cidr]},
        "status": {
            "addresses": [{"type": "InternalIP", "address": address}, {"type": "Hostname", "address": name}],
            "nodeInfo": {"kubeletVersion": "v1.0.0", "osImage": "Debian GNU/Linux 12 (bookworm)"},
        },
    }
