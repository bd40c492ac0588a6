"""The wire form of Kubernetes objects in JSON and YAML, reduced to the fields that we read.

Invariants:
- Only types are checked here.  A field that may be absent may also be null, as in Go's decoder.
- Fields that we do not read are skipped unparsed, so an object takes microseconds (managedFields are most of it).

Source: k8s.io/api core/v1 and discovery/v1, types.go.
"""

from typing import Any

from msgspec import UNSET, Raw, Struct, UnsetType, field


class Wire(Struct, gc=False, rename="camel"):
    """Base of all structures; field names are the API's, in snake_case."""


class LabelsWire(Struct, gc=False):
    """The labels that we read."""

    proxy_name: str | None = field(default=None, name="service.kubernetes.io/service-proxy-name")
    service_name: str | None = field(default=None, name="kubernetes.io/service-name")
    zone: str | None = field(default=None, name="topology.kubernetes.io/zone")
    headless: str | None = field(default=None, name="service.kubernetes.io/headless")


NO_LABELS = LabelsWire()


class AnnotationsWire(Struct, gc=False):
    """The annotations that we read of every kind; settings.py reads those of Services."""

    triggered: str | None = field(default=None, name="endpoints.kubernetes.io/last-change-trigger-time")


NO_ANNOTATIONS = AnnotationsWire()


class MetaWire(Wire):
    """ObjectMeta."""

    name: str = ""
    namespace: str = ""
    resource_version: str = ""
    labels: LabelsWire | None = None
    annotations: AnnotationsWire | None = None
    deletion_timestamp: Any = None
    creation_timestamp: Any = None


NO_META = MetaWire()


class ObjectWire(Wire):
    """What every object has; items of lists have no kind."""

    kind: str | None = None
    metadata: MetaWire | None = None


# Service


class ServicePortWire(Wire):
    """ServicePort."""

    port: int = 0
    name: str | None = None
    protocol: str | None = None
    node_port: int | None = None


class ClientIPWire(Wire):
    """ClientIPConfig."""

    timeout_seconds: int | None = None


class AffinityConfigWire(Wire):
    """SessionAffinityConfig."""

    client_ip: ClientIPWire | None = field(default=None, name="clientIP")


class ServiceSpecWire(Wire):
    """ServiceSpec."""

    type: str | None = None
    cluster_ip: str | None = field(default=None, name="clusterIP")
    cluster_ips: list[str] | None = field(default=None, name="clusterIPs")
    ip_families: list[str] | None = None
    ports: list[ServicePortWire] | None = None
    external_ips: list[str] | None = field(default=None, name="externalIPs")
    load_balancer_source_ranges: list[str] | None = None
    session_affinity: str | None = None
    session_affinity_config: AffinityConfigWire | None = None
    internal_traffic_policy: str | None = None
    external_traffic_policy: str | None = None
    health_check_node_port: int | None = None


class IngressWire(Wire):
    """LoadBalancerIngress."""

    ip: str | None = None
    ip_mode: str | None = None


class LoadBalancerWire(Wire):
    """LoadBalancerStatus."""

    ingress: list[IngressWire] | None = None


class ServiceStatusWire(Wire):
    """ServiceStatus."""

    load_balancer: LoadBalancerWire | None = None


class ServiceWire(ObjectWire):
    """Service."""

    spec: ServiceSpecWire | None = None
    status: ServiceStatusWire | None = None


# EndpointSlice


class ConditionsWire(Wire):
    """EndpointConditions."""

    ready: bool | None = None
    serving: bool | None = None
    terminating: bool | None = None


NO_CONDITIONS = ConditionsWire()


class NamedWire(Wire):
    """ForZone or ForNode."""

    name: str = ""


class HintsWire(Wire):
    """EndpointHints."""

    for_zones: list[NamedWire] | None = None
    for_nodes: list[NamedWire] | None = None


class TargetWire(Wire):
    """ObjectReference of an endpoint: the pod."""

    kind: str | None = None
    name: str | None = None


class EndpointWire(Wire):
    """Endpoint of an EndpointSlice."""

    addresses: list[str] | None = None
    conditions: ConditionsWire | None = None
    node_name: str | None = None
    hints: HintsWire | None = None
    target_ref: TargetWire | None = None
    zone: str | None = None


class EndpointPortWire(Wire):
    """EndpointPort."""

    name: str | None = None
    protocol: str | None = None
    port: int | None = None


class SliceWire(ObjectWire):
    """EndpointSlice."""

    address_type: str | None = None
    endpoints: list[EndpointWire] | None = None
    ports: list[EndpointPortWire] | None = None


# Endpoints


class EndpointAddressWire(Wire):
    """EndpointAddress."""

    ip: str = ""
    node_name: str | None = None
    target_ref: TargetWire | None = None


class SubsetWire(Wire):
    """EndpointSubset."""

    addresses: list[EndpointAddressWire] | None = None
    not_ready_addresses: list[EndpointAddressWire] | None = None
    ports: list[EndpointPortWire] | None = None


class EndpointsWire(ObjectWire):
    """Endpoints."""

    subsets: list[SubsetWire] | None = None


# Node


class TaintWire(Wire):
    """Taint."""

    key: str = ""


class NodeSpecWire(Wire):
    """NodeSpec."""

    pod_cidr: str | None = field(default=None, name="podCIDR")
    pod_cidrs: list[str] | None = field(default=None, name="podCIDRs")
    taints: list[TaintWire] | None = None


class NodeAddressWire(Wire):
    """NodeAddress."""

    type: str = ""
    address: str = ""


class NodeStatusWire(Wire):
    """NodeStatus."""

    addresses: list[NodeAddressWire] | None = None


class NodeWire(ObjectWire):
    """Node."""

    spec: NodeSpecWire | None = None
    status: NodeStatusWire | None = None


# Lists, watches and errors


class KindWire(Wire):
    """The type of an object, and its items if it is a list."""

    api_version: str | None = None
    kind: str | None = None
    items: list[Raw] | UnsetType | None = UNSET  # null is an empty list, as in Go; unset is none at all


class ListMetaWire(Wire):
    """ListMeta."""

    resource_version: str = ""
    continue_: str = field(default="", name="continue")


class ListWire(Wire):
    """A page of a list; items stay unparsed, so that an invalid one does not affect the others."""

    kind: str | None = None
    metadata: ListMetaWire | None = None
    items: list[Raw] | UnsetType | None = UNSET  # null is an empty list, as in KindWire


class WatchWire(Wire):
    """WatchEvent: one line of a watch's body."""

    type: str
    object: Raw


class StatusWire(Wire):
    """Status: an error of the API server."""

    kind: str = ""
    code: int = 0
    reason: str = ""
    message: str = ""
