"""The objects that are measured with: N Services of 10 endpoints each, as values and as the JSON that an API gives.

Law: the same N gives the same objects, and the JSON decodes to the values.  One endpoint in a thousand is on this
node, as on a cluster of a thousand nodes; an object carries what the API server puts beside the fields that we read
(UIDs, owner references, target references), because skipping that is part of the cost.
"""

from collections.abc import Iterator
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import msgspec

from kubeproxy_py.model.services import (
    Endpoint,
    EndpointSlice,
    ObjectName,
    Service,
    ServicePort,
    SlicePort,
)

ENDPOINTS = 10  # of each Service
NODE_NAME = "node-0"  # the node that is measured
_NODES = 1000
_PORT, _TARGET_PORT = 80, 8080
_SERVICE_NETWORK = int(IPv4Address("10.96.0.0"))
_POD_NETWORK = int(IPv4Address("10.128.0.0"))
_PER_FILE = 1000  # objects


def service(number: int) -> Service:
    """The Service *number*, from 0."""
    ports = (ServicePort("http", "TCP", _PORT),)
    return Service(_name(number), "ClusterIP", (str(IPv4Address(_SERVICE_NETWORK + 1 + number)),), ports)


def endpoint_slice(number: int, *, replaced: bool = False) -> EndpointSlice:
    """The slice of the Service *number*, after its first pod was *replaced* or before."""
    name = _name(number)
    endpoints = tuple(_endpoint(number * ENDPOINTS + index, replaced and index == 0) for index in range(ENDPOINTS))
    ports = (SlicePort("http", "TCP", _TARGET_PORT),)
    return EndpointSlice(ObjectName(name.namespace, f"{name.name}-abcde"), name, "IPv4", endpoints, ports)


def write_manifests(directory: Path, n: int) -> None:
    """The objects of *n* Services as files of JSON lists."""
    objects = [text for number in range(n) for text in (_service_json(number), _slice_json(number))]
    for start in range(0, len(objects), _PER_FILE):
        items = objects[start : start + _PER_FILE]
        text = msgspec.json.encode({"apiVersion": "v1", "kind": "List", "items": items})
        (directory / f"objects-{start:06}.json").write_bytes(text)


def values(n: int) -> Iterator[tuple[Service, EndpointSlice]]:
    """The objects of *n* Services as the agent knows them."""
    return ((service(number), endpoint_slice(number)) for number in range(n))


def _name(number: int) -> ObjectName:
    return ObjectName(f"team-{number % 50}", f"service-{number}")


def _endpoint(place: int, replaced: bool) -> Endpoint:
    # Every second address of 10.128.0.0/10, and for pods that come later those from 10.160.0.0 on.  No Service's
    # first pod is on this node, so that replacing it costs no set entry.
    address = IPv4Address(_POD_NETWORK + 2 + 2 * place + (replaced << 21))
    return Endpoint(str(address), node=f"node-{(place + _NODES - ENDPOINTS // 2) % _NODES}")


def _service_json(number: int) -> dict[str, Any]:
    one = service(number)
    address = one.cluster_ips[0]
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {**_metadata(one.name, number), "labels": {"app": one.name.name}},
        "spec": {
            "clusterIP": address,
            "clusterIPs": [address],
            "internalTrafficPolicy": "Cluster",
            "ipFamilies": ["IPv4"],
            "ipFamilyPolicy": "SingleStack",
            "ports": [{"name": "http", "port": _PORT, "protocol": "TCP", "targetPort": _TARGET_PORT}],
            "selector": {"app": one.name.name},
            "sessionAffinity": "None",
            "type": "ClusterIP",
        },
        "status": {"loadBalancer": {}},
    }


def _slice_json(number: int) -> dict[str, Any]:
    one = endpoint_slice(number)
    labels = {
        "endpointslice.kubernetes.io/managed-by": "endpointslice-controller.k8s.io",
        "kubernetes.io/service-name": one.service.name,
    }
    owner = {"apiVersion": "v1", "kind": "Service", "name": one.service.name, "uid": _uid(number), "controller": True}
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {**_metadata(one.name, number), "labels": labels, "ownerReferences": [owner]},
        "addressType": one.family,
        "endpoints": [_endpoint_json(one, endpoint, index) for index, endpoint in enumerate(one.endpoints)],
        "ports": [{"name": port.name, "port": port.port, "protocol": port.protocol} for port in one.ports],
    }


def _endpoint_json(part: EndpointSlice, endpoint: Endpoint, index: int) -> dict[str, Any]:
    pod = {"kind": "Pod", "namespace": part.name.namespace, "name": f"{part.service.name}-{index}", "uid": _uid(index)}
    return {
        "addresses": [endpoint.address],
        "conditions": {"ready": True, "serving": True, "terminating": False},
        "nodeName": endpoint.node,
        "targetRef": pod,
        "zone": "zone-a",
    }


def _metadata(name: ObjectName, number: int) -> dict[str, Any]:
    return {
        "name": name.name,
        "namespace": name.namespace,
        "uid": _uid(number),
        "resourceVersion": str(1000 + number),
        "creationTimestamp": "2025-01-01T00:00:00Z",
    }


def _uid(number: int) -> str:
    return f"00000000-0000-4000-8000-{number:012x}"
