"""What people are told through the cluster: Events of the API, here called notices, since events are what sources tell.

Law: a notice says which object it is about, and means the same whenever it is told; telling one twice is one notice
that was seen twice.  Reasons and actions are kube-proxy's where it has them, for people search and alert by them.

Source: kube-proxy 1.36, cmd/kube-proxy/app/server.go and pkg/proxy/healthcheck.
"""

from collections.abc import Callable, Iterable
from typing import Literal

from msgspec import Struct

from kubeproxy_py.model.services import IP, ServiceName


class Regarding(Struct, frozen=True, gc=False):
    """The object that a notice is about: our Node, or a Service."""

    kind: Literal["Node", "Service"]
    name: str
    namespace: str = ""  # a Node has none

    @property
    def uid(self) -> str:
        """Not the object's own, but what kube-proxy says; ``kubectl describe node`` looks for a Node's by it."""
        return f"{self.namespace}/{self.name}" if self.namespace else self.name

    def __str__(self) -> str:
        return f"{self.kind} {self.uid}"


class KubeEvent(Struct, frozen=True, gc=False):
    """One Event, without what telling it adds (name, times, who reports).

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


Tell = Callable[[KubeEvent], None]
"""Tells people; may be called from any thread, and neither blocks nor fails."""


class EventWrite(Struct, frozen=True, gc=False):
    """What makes the API server know a notice, or how often it was seen by now."""

    namespace: str
    name: str
    whole: bytes  # the Event, JSON; to be created unless there is a patch
    patch: bytes = b""  # a JSON merge patch (RFC 7386); where the Event is gone (404), it is created whole


_START, _LISTEN, _SYNC = "StartKubeProxy", "Listen", "SyncProxyRules"


def started_event(node: str) -> KubeEvent:
    """This process starts to serve *node*."""
    return KubeEvent("Normal", "Starting", _START, Regarding("Node", node))


def health_server_failed(node: str, error: object) -> KubeEvent:
    """The health server can't listen, and bindAddressHardFail ends the process for it."""
    return KubeEvent("Warning", "FailedToStartProxierHealthcheck", _START, Regarding("Node", node), str(error))


def metrics_server_failed(node: str, error: object) -> KubeEvent:
    """The metrics server can't listen, and bindAddressHardFail ends the process for it."""
    return KubeEvent("Warning", "FailedToStartMetricServer", _START, Regarding("Node", node), str(error))


def health_check_port_failed(service: ServiceName, port: int, node: str, error: object) -> KubeEvent:
    """The health-check node port of *service* can't be listened at on *node*."""
    note = f'node {node} failed to start healthcheck "{service}" on port {port}: {error}'
    return KubeEvent("Warning", "FailedToStartServiceHealthcheck", _LISTEN, _of(service), note)


def external_ips_on_node(service: ServiceName, node: str, addresses: Iterable[IP]) -> KubeEvent:
    """externalIPs of *service* are *addresses* of an interface of *node*.  Ours: kube-proxy says nothing."""
    taken = ", ".join(addresses)
    note = (
        f"externalIPs {taken} are also on an interface of node {node}: they are not bound to kube-ipvs0, "
        "and the Service's ports are served there in the node's place"
    )
    return KubeEvent("Warning", "ExternalIPOnNode", _SYNC, _of(service), note)


def _of(service: ServiceName) -> Regarding:
    return Regarding("Service", service.name, service.namespace)
