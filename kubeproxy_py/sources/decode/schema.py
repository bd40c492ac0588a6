"""The cluster's objects as they are written in JSON and YAML, cut down to the fields that we read.

Law: nothing is judged here but types.  A field that may be absent may be null too, as in Go's decoder; fields that
we don't read are skipped unparsed, which is what makes an object cost microseconds (managedFields are most of it).

Source: k8s.io/api core/v1 and discovery/v1, types.go.
"""

from typing import Any

from msgspec import Raw, Struct, field


class Wire(Struct, gc=False, rename="camel"):
    """The base: field names are the API's, in our spelling."""


class LabelsWire(Struct, gc=False):
    proxy_name: str | None = field(default=None, name="service.kubernetes.io/service-proxy-name")
    service_name: str | None = field(default=None, name="kubernetes.io/service-name")
    zone: str | None = field(default=None, name="topology.kubernetes.io/zone")
    headless: str | None = field(default=None, name="service.kubernetes.io/headless")


NO_LABELS = LabelsWire()


class AnnotationsWire(Struct, gc=False):
    drain_deadline: str | None = field(default=None, name="kubeproxy-py/drain-deadline")
    triggered: str | None = field(default=None, name="endpoints.kubernetes.io/last-change-trigger-time")


NO_ANNOTATIONS = AnnotationsWire()


class MetaWire(Wire):
    name: str = ""
    namespace: str = ""
    resource_version: str = ""
    labels: LabelsWire | None = None
    annotations: AnnotationsWire | None = None
    deletion_timestamp: Any = None


NO_META = MetaWire()


# Service ---------------------------------------------------------------------------------------------------------


class ServicePortWire(Wire):
    port: int = 0
    name: str | None = None
    protocol: str | None = None
    node_port: int | None = None


class ClientIPWire(Wire):
    timeout_seconds: int | None = None


class AffinityConfigWire(Wire):
    client_ip: ClientIPWire | None = field(default=None, name="clientIP")


class ServiceSpecWire(Wire):
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
    ip: str | None = None
    ip_mode: str | None = None


class LoadBalancerWire(Wire):
    ingress: list[IngressWire] | None = None


class ServiceStatusWire(Wire):
    load_balancer: LoadBalancerWire | None = None


class ServiceWire(Wire):
    metadata: MetaWire | None = None
    spec: ServiceSpecWire | None = None
    status: ServiceStatusWire | None = None


# EndpointSlice ---------------------------------------------------------------------------------------------------


class ConditionsWire(Wire):
    ready: bool | None = None
    serving: bool | None = None
    terminating: bool | None = None


NO_CONDITIONS = ConditionsWire()


class NamedWire(Wire):
    name: str


class HintsWire(Wire):
    for_zones: list[NamedWire] | None = None
    for_nodes: list[NamedWire] | None = None


class EndpointWire(Wire):
    addresses: list[str] | None = None
    conditions: ConditionsWire | None = None
    node_name: str | None = None
    hints: HintsWire | None = None


class EndpointPortWire(Wire):
    name: str | None = None
    protocol: str | None = None
    port: int | None = None


class SliceWire(Wire):
    metadata: MetaWire | None = None
    address_type: str | None = None
    endpoints: list[EndpointWire] | None = None
    ports: list[EndpointPortWire] | None = None


# Endpoints -------------------------------------------------------------------------------------------------------


class EndpointAddressWire(Wire):
    ip: str = ""
    node_name: str | None = None


class SubsetWire(Wire):
    addresses: list[EndpointAddressWire] | None = None
    not_ready_addresses: list[EndpointAddressWire] | None = None
    ports: list[EndpointPortWire] | None = None


class EndpointsWire(Wire):
    metadata: MetaWire | None = None
    subsets: list[SubsetWire] | None = None


# Node ------------------------------------------------------------------------------------------------------------


class TaintWire(Wire):
    key: str = ""


class NodeSpecWire(Wire):
    pod_cidr: str | None = field(default=None, name="podCIDR")
    pod_cidrs: list[str] | None = field(default=None, name="podCIDRs")
    taints: list[TaintWire] | None = None


class NodeAddressWire(Wire):
    type: str = ""
    address: str = ""


class NodeStatusWire(Wire):
    addresses: list[NodeAddressWire] | None = None


class NodeWire(Wire):
    metadata: MetaWire | None = None
    spec: NodeSpecWire | None = None
    status: NodeStatusWire | None = None


# Lists, watches and errors ---------------------------------------------------------------------------------------


class KindWire(Wire):
    """Enough to tell what an object is."""

    api_version: str | None = None
    kind: str | None = None
    items: list[Raw] | None = None


class ListMetaWire(Wire):
    resource_version: str = ""
    continue_: str = field(default="", name="continue")


class ListWire(Wire):
    """Items stay unparsed, so that a bad one spoils no other."""

    metadata: ListMetaWire | None = None
    items: list[Raw] | None = None


class WatchWire(Wire):
    """One line of a watch's body."""

    type: str
    object: Raw


class StatusWire(Wire):
    """The API server's errors (kind Status)."""

    code: int = 0
    reason: str = ""
    message: str = ""
