"""Services and EndpointSlices, reduced to the fields that a service proxy needs.

Invariants:
- Every field is canonical (addresses compressed, ranges without host bits, protocols upper case), so two objects with
  the same meaning compare equal.  ``sources/decode/objects.py`` ensures this; no other module checks it again.
"""

from typing import Literal

from msgspec import Struct

from kubeproxy_py.model.settings import NO_SETTINGS, ServiceSettings
from kubeproxy_py.model.time import NEVER
from kubeproxy_py.net import CIDR, IP, Family, Protocol

ServiceType = Literal["ClusterIP", "NodePort", "LoadBalancer", "ExternalName"]


class ObjectName(Struct, frozen=True, gc=False, order=True, cache_hash=True):
    """``namespace/name``, the identity of a namespaced object."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


ServiceName = ObjectName
SliceName = ObjectName


class ServicePort(Struct, frozen=True, gc=False):
    """One port of a Service."""

    name: str
    protocol: Protocol
    port: int
    node_port: int = 0  # 0: none


class Service(Struct, frozen=True, gc=False):
    """One Service; ``sources/decode/objects.py`` says from which fields of the API each field is made."""

    name: ServiceName
    type: ServiceType = "ClusterIP"
    cluster_ips: tuple[IP, ...] = ()  # at most one of a family; none: headless or ExternalName
    ports: tuple[ServicePort, ...] = ()
    external_ips: tuple[IP, ...] = ()
    load_balancer_ips: tuple[IP, ...] = ()  # ingress addresses of ipMode VIP
    source_ranges: tuple[CIDR, ...] = ()
    affinity_timeout_s: int = 0  # 0: no session affinity
    internal_local: bool = False  # internalTrafficPolicy: Local
    external_local: bool = False  # externalTrafficPolicy: Local, even where the type makes it meaningless
    health_check_node_port: int = 0  # 0: none
    # Label service.kubernetes.io/service-proxy-name; if it is present, even if empty, another proxy serves the Service.
    proxy_name: str | None = None
    created_s: float = NEVER  # metadata.creationTimestamp, in seconds since 1970; NEVER: unknown
    problems: tuple[str, ...] = ()  # what of the object was left out, or is hardly meant, in words
    settings: ServiceSettings = NO_SETTINGS  # of this agent's annotations


class Endpoint(Struct, frozen=True, gc=False):
    """One address of an EndpointSlice, with unset conditions replaced by the API's defaults."""

    address: IP
    ready: bool = True
    serving: bool = True
    terminating: bool = False
    node: str = ""  # "": unknown, hence not local
    zone_hints: tuple[str, ...] = ()
    node_hints: tuple[str, ...] = ()
    zone: str = ""  # of its node, for operators and weights; "": unknown


class SlicePort(Struct, frozen=True, gc=False):
    """One port of an EndpointSlice."""

    name: str
    protocol: Protocol
    port: int


class EndpointSlice(Struct, frozen=True, gc=False):
    """A part of a Service's endpoints; every endpoint of a slice has every port of it."""

    name: SliceName
    service: ServiceName
    family: Family
    endpoints: tuple[Endpoint, ...] = ()
    ports: tuple[SlicePort, ...] = ()
    # For operators only: the pods of the endpoints, in their order, one a line; "": none is known.  One text costs a
    # third of the memory of a hundred.
    pods: str = ""
    problems: tuple[str, ...] = ()  # what of the object was left out, or is hardly meant, in words

    def pod_names(self) -> tuple[str, ...]:
        """Return the name of the pod of each endpoint; "" if it is unknown."""
        return tuple(self.pods.split("\n")) if self.pods else ("",) * len(self.endpoints)
