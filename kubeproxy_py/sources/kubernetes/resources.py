"""The resources that are listed and watched, with kube-proxy's selectors.

The server sends only what a service proxy needs, so the load on it and the required role are kube-proxy's.

Source: kube-proxy 1.36, cmd/kube-proxy/app/server.go.
"""

from msgspec import Struct

from kubeproxy_py.model.events import Feed
from kubeproxy_py.sources.decode.objects import Kind


class Resource(Struct, frozen=True, gc=False):
    """A resource to list and watch."""

    feed: Feed
    kind: Kind
    path: str
    label_selector: str = ""
    field_selector: str = ""
    fallback: "Resource | None" = None  # requested instead where the server does not have this one (404)


SERVICES = Resource(
    "services",
    "Service",
    "/api/v1/services",
    label_selector="!service.kubernetes.io/service-proxy-name",
    field_selector="spec.clusterIP!=None",  # servers before 1.31 reject it (400); then all Services are listed
)
_ENDPOINTS = Resource("slices", "Endpoints", "/api/v1/endpoints", label_selector="!service.kubernetes.io/headless")
SLICES = Resource(
    "slices",
    "EndpointSlice",
    "/apis/discovery.k8s.io/v1/endpointslices",
    label_selector="!service.kubernetes.io/headless",
    fallback=_ENDPOINTS,  # servers before 1.21
)


PEERS = Resource("peers", "Node", "/api/v1/nodes")


def node_resource(name: str) -> Resource:
    """Return the resource that selects the Node *name*."""
    return Resource("node", "Node", "/api/v1/nodes", field_selector=f"metadata.name={name}")
