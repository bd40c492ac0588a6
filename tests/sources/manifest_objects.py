"""Objects as a manifest has them."""

from typing import Any

Json = dict[str, Any]


def service(name: str = "web", port: object = 80, **spec: Any) -> Json:
    ports = [{"port": port}]
    spec = {"clusterIP": "10.96.0.10", "ports": ports, **spec}
    return {"apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": "shop"}, "spec": spec}


def endpoint_slice(name: str = "web-1") -> Json:
    labels = {"kubernetes.io/service-name": "web"}
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {"name": name, "namespace": "shop", "labels": labels},
        "addressType": "IPv4",
        "endpoints": [{"addresses": ["10.1.0.5"]}],
        "ports": [{"port": 8080}],
    }


def node(name: str, **metadata: Any) -> Json:
    return {"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, **metadata}}
