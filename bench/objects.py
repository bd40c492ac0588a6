"""The objects of the bench: N Services of 10 endpoints each, as values and as JSON; one Service of many endpoints.

Invariants:
  - The same N gives the same objects, and the JSON decodes to the values.
  - One endpoint in a thousand is on this node, as in a cluster of a thousand nodes.
  - An object has the fields of an API server that the agent does not read (UIDs, owner references, target
    references), because skipping them is part of the cost.
  - With *local_every* each so many-th Service, from the first one, is of type LoadBalancer with
    externalTrafficPolicy Local, an address of a load balancer and a NodePort; 0: none is.
"""

from collections.abc import Callable, Iterator
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import msgspec
from msgspec.structs import replace

from kubeproxy_py.model.services import Endpoint, EndpointSlice, ObjectName, Service, ServicePort, SlicePort

ENDPOINTS = 10  # of each Service
NODE_NAME = "node-0"  # the node that is measured
NODE_IP = "192.0.2.1"
LOCAL_EVERY = 5  # where exact policies are measured: a fifth of the Services has externalTrafficPolicy Local
_NODES = 1000
_ZONE = "zone-a"
_PORT, _TARGET_PORT = 80, 8080
_SERVICE_NETWORK = int(IPv4Address("10.96.1.0"))  # the first addresses of 10.96.0.0/12 are a cluster's own
_POD_NETWORK = int(IPv4Address("10.128.0.0"))
_LOAD_BALANCER_NETWORK = int(IPv4Address("198.18.0.0"))
_NODE_PORT = 30_000  # of the first Service that has one
_PER_FILE = 1000  # objects
_PER_PAGE = 500  # objects of a list, as the agent asks for them
_CREATED, _CREATED_S = "2025-01-01T00:00:00Z", 1_735_689_600.0
_VERSION = "1000000"  # of every list and object: a version that goes back would mean a restored server
_PER_SLICE = 100  # endpoints; kube-controller-manager's --max-endpoints-per-slice


def service(number: int, local_every: int = 0) -> Service:
    """Return the Service *number*, from 0."""
    ports = (ServicePort("http", "TCP", _PORT),)
    address = str(IPv4Address(_SERVICE_NETWORK + 1 + number))
    plain = Service(_name(number), "ClusterIP", (address,), ports, created_s=_CREATED_S)
    return _external(plain, number, local_every) if is_external_local(number, local_every) else plain


def is_external_local(number: int, local_every: int) -> bool:
    """Return whether the Service *number* has externalTrafficPolicy Local."""
    return local_every > 0 and number % local_every == 0


def _external(plain: Service, number: int, local_every: int) -> Service:
    """Return *plain*, the Service *number*, as one that clients outside reach by endpoints of their node only."""
    place = number // local_every
    return replace(
        plain,
        type="LoadBalancer",
        ports=tuple(replace(port, node_port=_NODE_PORT + place) for port in plain.ports),
        load_balancer_ips=(str(IPv4Address(_LOAD_BALANCER_NETWORK + 1 + place)),),
        external_local=True,
    )


def endpoint_slice(number: int, *, replaced: int = 0) -> EndpointSlice:
    """Return the slice of the Service *number* after its first pod was replaced *replaced* times."""
    name = _name(number)
    endpoints = tuple(_endpoint(number * ENDPOINTS + index, 0 if index else replaced) for index in range(ENDPOINTS))
    ports = (SlicePort("http", "TCP", _TARGET_PORT),)
    pods = "\n".join(_pod(name, index) for index in range(ENDPOINTS))
    return EndpointSlice(ObjectName(name.namespace, f"{name.name}-abcde"), name, "IPv4", endpoints, ports, pods)


def is_local(number: int) -> bool:
    """Return whether a pod of the Service *number* is on the measured node."""
    return any(endpoint.node == NODE_NAME for endpoint in endpoint_slice(number).endpoints)


def write_manifests(directory: Path, n: int, local_every: int = 0) -> None:
    """Write the objects of *n* Services to files of JSON lists."""
    objects = [text for number in range(n) for text in (_service_json(number, local_every), slice_json(number))]
    for start in range(0, len(objects), _PER_FILE):
        items = objects[start : start + _PER_FILE]
        text = msgspec.json.encode({"apiVersion": "v1", "kind": "List", "items": items})
        (directory / f"objects-{start:06}.json").write_bytes(text)


def write_list(path: Path, n: int) -> None:
    """Write the objects of *n* Services, and the node, as one JSON list."""
    items = [node_json(), *(document for number in range(n) for document in documents(number))]
    path.write_bytes(msgspec.json.encode({"apiVersion": "v1", "kind": "List", "items": items}))


def documents(number: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the Service *number* and its slice as JSON of an API server."""
    return _service_json(number), slice_json(number)


def creations(n: int) -> Iterator[dict[str, Any]]:
    """Yield all objects in the order in which an empty API server takes them."""
    yield node_json()
    for name in sorted({_name(number).namespace for number in range(n)}):
        yield {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}
    for number in range(n):
        yield from map(bare, documents(number))


def service_pages(n: int, local_every: int = 0) -> Iterator[bytes]:
    """Return the pages with which an API server answers a list of the Services."""
    return _pages(n, lambda number: _service_json(number, local_every))


def slice_pages(n: int) -> Iterator[bytes]:
    """Return the pages with which an API server answers a list of the EndpointSlices."""
    return _pages(n, slice_json)


def service_line(number: int, event: str, local_every: int = 0) -> bytes:
    """Return the watch line of the Service *number*; *event* is ADDED, MODIFIED or DELETED."""
    return msgspec.json.encode({"type": event, "object": _service_json(number, local_every)})


def slice_line(number: int, event: str = "MODIFIED", *, replaced: int = 0) -> bytes:
    """Return the watch line of the slice of the Service *number*."""
    return msgspec.json.encode({"type": event, "object": slice_json(number, replaced=replaced)})


def wide(pods: int) -> tuple[Service, list[EndpointSlice]]:
    """Return one Service of *pods* endpoints, and its slices."""
    return service(0), [wide_slice(start, pods) for start in range(0, pods, _PER_SLICE)]


def wide_slice(place: int, pods: int, replaced: int = 0) -> EndpointSlice:
    """Return the slice of the endpoint *place* of `wide(pods)` after the first *replaced* pods were replaced."""
    start, name = place - place % _PER_SLICE, _name(0)
    places = range(start, min(pods, start + _PER_SLICE))
    endpoints = tuple(_endpoint(number, number < replaced) for number in places)
    ports = (SlicePort("http", "TCP", _TARGET_PORT),)
    return EndpointSlice(ObjectName(name.namespace, f"{name.name}-{start:05}"), name, "IPv4", endpoints, ports)


def many_ports(number: int, ports: int, external_ip: str) -> Service:
    """Return the Service *number* with so many *ports*, and an externalIP."""
    numbered = tuple(ServicePort(f"p{port}", "TCP", port) for port in range(1, ports + 1))
    return replace(service(number), ports=numbered, external_ips=(external_ip,))


def many_ports_slice(number: int, ports: int, replaced: int = 0) -> EndpointSlice:
    """Return the slice of `many_ports` with one pod, which was replaced *replaced* times."""
    numbered = tuple(SlicePort(f"p{port}", "TCP", port) for port in range(1, ports + 1))
    of_one_port = endpoint_slice(number, replaced=replaced)
    return replace(of_one_port, endpoints=of_one_port.endpoints[:1], ports=numbered)


def _name(number: int) -> ObjectName:
    return ObjectName(f"team-{number % 50}", f"service-{number}")


def _endpoint(place: int, replaced: int) -> Endpoint:
    # Every second address of 10.128.0.0/10; replaced pods get addresses from 10.160.0.0, then from 10.192.0.0, and so
    # on.  No Service's first pod is on this node, so that replacing it changes no set entry.
    address = IPv4Address(_POD_NETWORK + 2 + 2 * place + (replaced << 21))
    return Endpoint(str(address), node=f"node-{(place + _NODES - ENDPOINTS // 2) % _NODES}", zone=_ZONE)


def _pod(service_name: ObjectName, index: int) -> str:
    return f"{service_name.name}-6d4cf56db6-{index:05x}"


def _service_json(number: int, local_every: int = 0) -> dict[str, Any]:
    one = service(number, local_every)
    address = one.cluster_ips[0]
    ingress = [{"ip": ip} for ip in one.load_balancer_ips]
    spec: dict[str, Any] = {"type": one.type}
    port: dict[str, Any] = {"name": "http", "port": _PORT, "protocol": "TCP", "targetPort": _TARGET_PORT}
    if one.external_local:
        spec["externalTrafficPolicy"] = "Local"
        port["nodePort"] = one.ports[0].node_port
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
            "ports": [port],
            "selector": {"app": one.name.name},
            "sessionAffinity": "None",
            **spec,
        },
        "status": {"loadBalancer": {"ingress": ingress} if ingress else {}},
    }


def node_json() -> dict[str, Any]:
    """Return the Node object of the measured node."""
    addresses = [{"type": "InternalIP", "address": NODE_IP}, {"type": "Hostname", "address": NODE_NAME}]
    return {"apiVersion": "v1", "kind": "Node", "metadata": {"name": NODE_NAME}, "status": {"addresses": addresses}}


def slice_json(number: int, *, replaced: int = 0) -> dict[str, Any]:
    """Return the slice of the Service *number* as JSON of an API server."""
    one = endpoint_slice(number, replaced=replaced)
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
    pod = {"kind": "Pod", "namespace": part.name.namespace, "name": _pod(part.service, index), "uid": _uid(index)}
    return {
        "addresses": [endpoint.address],
        "conditions": {"ready": True, "serving": True, "terminating": False},
        "nodeName": endpoint.node,
        "targetRef": pod,
        "zone": _ZONE,
    }


def bare(body: dict[str, Any]) -> dict[str, Any]:
    """Return *body* without the fields that an API server sets itself, and without owner, which would have to exist."""
    set_by_server = {"uid", "resourceVersion", "creationTimestamp", "ownerReferences"}
    return {**body, "metadata": {name: value for name, value in body["metadata"].items() if name not in set_by_server}}


def _metadata(name: ObjectName, number: int) -> dict[str, Any]:
    return {
        "name": name.name,
        "namespace": name.namespace,
        "uid": _uid(number),
        "resourceVersion": _VERSION,
        "creationTimestamp": _CREATED,
    }


def _pages(n: int, make: Callable[[int], dict[str, Any]]) -> Iterator[bytes]:
    for start in range(0, n, _PER_PAGE):
        end = min(n, start + _PER_PAGE)
        items = [make(number) for number in range(start, end)]
        meta = {"resourceVersion": _VERSION, "continue": str(end) if end < n else ""}
        yield msgspec.json.encode({"kind": f"{items[0]['kind']}List", "metadata": meta, "items": items})


def _uid(number: int) -> str:
    return f"00000000-0000-4000-8000-{number:012x}"
