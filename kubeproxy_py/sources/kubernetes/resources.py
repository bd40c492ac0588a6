"""What is listed and watched, with kube-proxy's own selectors.

Law: the server sends only what a service proxy needs; so the load on it, and the role that we need, are kube-proxy's.

Source: kube-proxy 1.36, cmd/kube-proxy/app/server.go.
"""

from msgspec import Struct

from kubeproxy_py.model.events import Feed
from kubeproxy_py.sources.decode.objects import Kind


class Resource(Struct, frozen=True, gc=False):
    """What to list and watch; *instead* is asked for where the server doesn't have it (404)."""

    feed: Feed
    kind: Kind
    path: str
    label_selector: str = ""
    field_selector: str = ""
    instead: "Resource | None" = None


SERVICES = Resource(
    "services",
    "Service",
    "/api/v1/services",
    label_selector="!service.kubernetes.io/service-proxy-name",
    field_selector="spec.clusterIP!=None",  # servers before 1.31 refuse it (400): then all are asked for
)
_ENDPOINTS = Resource("slices", "Endpoints", "/api/v1/endpoints", label_selector="!service.kubernetes.io/headless")
SLICES = Resource(
    "slices",
    "EndpointSlice",
    "/apis/discovery.k8s.io/v1/endpointslices",
    label_selector="!service.kubernetes.io/headless",
    instead=_ENDPOINTS,  # servers before 1.21
)


def node(name: str) -> Resource:
    return Resource("node", "Node", "/api/v1/nodes", field_selector=f"metadata.name={name}")
