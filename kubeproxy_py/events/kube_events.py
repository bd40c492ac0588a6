"""The Kubernetes Events that this agent publishes.

Not to be confused with ``model/events.py``, the events that sources enqueue.

Invariants:
- An Event names its object and has the same meaning whenever it is published; the same Event twice is one Event that
  occurred twice.
- Reasons and actions are kube-proxy's where it has them, because people search and alert by them.

Source: kube-proxy 1.36, cmd/kube-proxy/app/server.go and pkg/proxy/healthcheck.
"""

from collections.abc import Callable, Iterable
from typing import Literal

from msgspec import Struct

from kubeproxy_py.model.finding import Finding
from kubeproxy_py.model.refusal import Refusal, cut
from kubeproxy_py.model.services import ServiceName
from kubeproxy_py.net import IP, Protocol


class Regarding(Struct, frozen=True, gc=False):
    """The object that an Event is about: this Node, or a Service."""

    kind: Literal["Node", "Service"]
    name: str
    namespace: str = ""  # a Node has none

    @property
    def uid(self) -> str:
        """The value that kube-proxy writes instead of the object's UID; ``kubectl describe node`` searches by it."""
        return f"{self.namespace}/{self.name}" if self.namespace else self.name

    def __str__(self) -> str:
        return f"{self.kind} {self.uid}"


class KubeEvent(Struct, frozen=True, gc=False):
    """One Event, without what is added when it is posted (name, times, reporting component).

    ``reason`` and ``action`` have up to 128 characters each, as the API demands.
    """

    type: Literal["Normal", "Warning"]
    reason: str  # why, in one word of CamelCase
    action: str  # what was being done
    regarding: Regarding
    note: str = ""

    def __str__(self) -> str:
        note = f": {self.note}" if self.note else ""
        return f"{self.regarding}: {self.reason}{note}"


Publish = Callable[[KubeEvent], None]
"""Publishes an Event; may be called from any thread, and neither blocks nor fails."""


class EventWrite(Struct, frozen=True, gc=False):
    """One write to the API server: a new Event, or how often a known one has occurred by now."""

    namespace: str
    name: str
    body: bytes  # the complete Event, JSON; created unless there is a patch
    patch: bytes = b""  # a JSON merge patch (RFC 7386); if the Event was deleted (404), it is created again from body


_NOTE_MAX = 1024  # the API's limit, in bytes
_START, _LISTEN, _SYNC, _CHECK = "StartKubeProxy", "Listen", "SyncProxyRules", "CheckHost"
_WATCH = "WatchEndpoints"


def started_event(node: str) -> KubeEvent:
    """Return the Event that this process started to serve *node*."""
    return KubeEvent("Normal", "Starting", _START, Regarding("Node", node))


def health_server_failed(node: str, error: object) -> KubeEvent:
    """Return the Event that the health server cannot listen, which with bindAddressHardFail ends the process."""
    return KubeEvent("Warning", "FailedToStartProxierHealthcheck", _START, Regarding("Node", node), str(error))


def metrics_server_failed(node: str, error: object) -> KubeEvent:
    """Return the Event that the metrics server cannot listen, which with bindAddressHardFail ends the process."""
    return KubeEvent("Warning", "FailedToStartMetricServer", _START, Regarding("Node", node), str(error))


def health_check_port_failed(service: ServiceName, port: int, node: str, error: object) -> KubeEvent:
    """Return the Event that *node* cannot listen on the health-check node port of *service*."""
    note = f'node {node} failed to start healthcheck "{service}" on port {port}: {error}'
    return KubeEvent("Warning", "FailedToStartServiceHealthcheck", _LISTEN, _regarding(service), note)


def external_ips_on_node(service: ServiceName, node: str, addresses: Iterable[IP]) -> KubeEvent:
    """Return the Event that externalIPs of *service* are addresses of *node*; kube-proxy has no such Event."""
    note = (
        f"externalIPs {', '.join(addresses)} are also addresses of node {node}: they are not bound to kube-ipvs0, and "
        "traffic to them on the Service's ports reaches the Service instead of processes of the node (use another "
        "address, or a port at which no process of the node listens)"
    )
    return KubeEvent("Warning", "ExternalIPOnNode", _SYNC, _regarding(service), note)


def refused(refusal: Refusal, node: str) -> KubeEvent:
    """Return the Event that *node* refuses part of what a Service asks for; kube-proxy has no such Event."""
    hint = f" ({refusal.hint})" if refusal.hint else ""
    begin, end = f"node {node}: ", f": {refusal.message}{hint}"
    subject = cut(refusal.subject, _NOTE_MAX - len(f"{begin}{end}".encode()))  # so that the remedy has room
    return KubeEvent("Warning", refusal.reason, _SYNC, _regarding(refusal.service), f"{begin}{subject}{end}")


def compile_failed(service: ServiceName | None, node: str, error: Exception) -> KubeEvent:
    """Return the Event that the last change of *service* (None: of the Node *node*) cannot be applied on *node*."""
    note = (
        f"an internal error ({type(error).__name__}) prevents node {node} from applying the last change; what was "
        "served before stays. Please report it, with the log of the agent on that node"
    )
    regarding = _regarding(service) if service else Regarding("Node", node)
    return KubeEvent("Warning", "InternalError", _SYNC, regarding, note)


def found_on_node(node: str, finding: Finding) -> KubeEvent:
    """Return the Event for *finding* on *node*; kube-proxy has no such Events."""
    return KubeEvent("Warning", finding.reason, _CHECK, Regarding("Node", node), str(finding)[:_NOTE_MAX])


def list_doubted(node: str, what: str) -> KubeEvent:
    """Return the Event that *node* does not accept a list of the API server yet; kube-proxy has no such Event."""
    note = f"a list of the API server is used only if a second one confirms it: {what}"
    return KubeEvent("Warning", "ListDoubted", _SYNC, Regarding("Node", node), note)


def saved_objects_replaced(node: str, services: int, served_s: float, age_s: float) -> KubeEvent:
    """Return the Event that *node* served saved objects until now; kube-proxy has no such Event.

    Args:
        node: The node.
        services: The number of Services that were served.
        served_s: For how long.
        age_s: How old they were at the start of that.
    """
    note = (
        f"the API server did not answer when kubeproxy-py started, so {services} Services were served for "
        f"{served_s:.0f} s as they had been saved {age_s:.0f} s before; the API server's objects are served now"
    )
    return KubeEvent("Warning", "ServedSavedObjects", _START, Regarding("Node", node), note)


def cluster_ips_on_node(service: ServiceName, node: str, addresses: Iterable[IP]) -> KubeEvent:
    """Return the Event that ClusterIPs of *service* are addresses of *node*, too; kube-proxy has no such Event."""
    note = (
        f"ClusterIPs {', '.join(addresses)} are also addresses of another interface of node {node}: IPVS serves the "
        "Service's ports there, so a program that listens on them receives nothing. NodeLocal DNSCache must listen on "
        "its own address only (-localip 169.254.20.10) where IPVS is used"
    )
    return KubeEvent("Warning", "ClusterIPOnNode", _SYNC, _regarding(service), note)


def node_port_in_use(service: ServiceName, node: str, port: int, protocol: Protocol) -> KubeEvent:
    """Return the Event that a process of *node* listens on a NodePort of *service*; kube-proxy has no such Event."""
    note = (
        f"a process of node {node} listens on node port {port}/{protocol}, and no longer gets what is sent to the "
        "node's addresses there: the Service does; give the Service another nodePort, or the process another port"
    )
    return KubeEvent("Warning", "NodePortInUse", _SYNC, _regarding(service), note)


def endpoints_set_aside(service: ServiceName, node: str, endpoints: Iterable[str]) -> KubeEvent:
    """Return the Event that *node* gives no new connections to *endpoints* of *service*, each with its reason."""
    note = f"node {node} gives no new connections to {'; '.join(endpoints)}. They get some again when they answer"
    return KubeEvent("Warning", "EndpointsSetAside", _WATCH, _regarding(service), note[:_NOTE_MAX])


def nodes_silent(node: str, endpoints: Iterable[str], services: int) -> KubeEvent:
    """Return the Event that *node* gives no new connections to *endpoints* of some *services* (--watch-nodes)."""
    note = (
        f"endpoints of {services} Services get no new connections from this node until they answer: "
        f"{'; '.join(endpoints)}"
    )
    return KubeEvent("Warning", "EndpointsSetAside", _WATCH, Regarding("Node", node), note[:_NOTE_MAX])


def _regarding(service: ServiceName) -> Regarding:
    return Regarding("Service", service.name, service.namespace)
