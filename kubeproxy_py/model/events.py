"""The events that sources and the address monitor enqueue.

Invariants:
- An event carries the complete new object, never a difference, so handling one twice is harmless.
- A source sends every existing object first, then ``Synced``.  After a relist it sends a delete event for each
  object that no longer exists, as well as those that do.
"""

from typing import Literal

from msgspec import Struct

from kubeproxy_py.model.conditions import EndpointFailures, EndpointSteps
from kubeproxy_py.model.node import HostAddress, Node
from kubeproxy_py.model.problem import Problem
from kubeproxy_py.model.services import EndpointSlice, Service, ServiceName, SliceName
from kubeproxy_py.net import IP, SocketAddress

Feed = Literal["services", "slices", "node", "peers"]
"""The kinds of object of a source; nothing is programmed before the initial list of each was received.

Peers, all nodes of the cluster, are read only while some Service needs them (model/peers.py).
"""


class ServiceUpserted(Struct, frozen=True, gc=False):
    """A Service was added or changed."""

    service: Service


class ServiceDeleted(Struct, frozen=True, gc=False):
    """A Service was deleted."""

    name: ServiceName


class SliceUpserted(Struct, frozen=True, gc=False):
    """An EndpointSlice was added or changed."""

    slice: EndpointSlice
    triggered_s: float = 0.0  # time of the change that triggered it, in seconds since 1970; 0: unknown


class SliceDeleted(Struct, frozen=True, gc=False):
    """An EndpointSlice was deleted."""

    name: SliceName


class NodeUpserted(Struct, frozen=True, gc=False):
    """The Node object of this node was added or changed."""

    node: Node


class NodeDeleted(Struct, frozen=True, gc=False):
    """The Node object of this node was deleted."""

    name: str


class PeerUpserted(Struct, frozen=True, gc=False):
    """A node of the cluster, this one or another, was added, or has other addresses or labels; see Node for both."""

    name: str
    addresses: tuple[IP, ...]
    labels: tuple[str, ...] = ()


class PeerDeleted(Struct, frozen=True, gc=False):
    """A node of the cluster was deleted, or nodes are not read any more."""

    name: str


class PeersRefused(Struct, frozen=True, gc=False):
    """The API server refuses to list the nodes of the cluster, nothing of which is known; or does not any more."""

    reason: str  # what it answers; "": it lists them


class HostAddresses(Struct, frozen=True, gc=False):
    """All addresses of all interfaces of this host, including kube-ipvs0."""

    addresses: tuple[HostAddress, ...]


class TakenAddresses(Struct, frozen=True, gc=False):
    """All addresses that *source* knows to be another machine's, so that kube-ipvs0 must not get them.

    That concerns externalIPs and load balancer addresses; a ClusterIP is bound in any case.
    """

    source: str  # what found them out, "gateways" for example; the event replaces its last one
    addresses: dict[IP, str] = {}  # whose each is, in words that follow "it is": "the gateway of this node on eth0"
    api_servers: tuple[SocketAddress, ...] = ()  # TCP peers of this agent: no virtual server may be there either


class AddressesChanged(Struct, frozen=True, gc=False):
    """A summary of the kernel's notifications of changed addresses and links.

    It says which addresses changed; a receiver that needs all of them reads them from the kernel.
    """

    other_interfaces: bool = False  # addresses of interfaces other than kube-ipvs0 changed
    device: bool = False  # kube-ipvs0 itself was created or deleted, or has, or had, an address with a network
    service_addresses: dict[IP, bool] = {}  # changed addresses on kube-ipvs0: True if present now


class Synced(Struct, frozen=True, gc=False):
    """The initial list of a feed is complete.

    A source that has only saved objects at first sends it twice: for those, and for the list of its server.
    """

    feed: Feed
    saved_s: float | None = None  # when the objects were saved, in seconds since 1970; None: they are current


ObjectEvent = (
    ServiceUpserted
    | ServiceDeleted
    | SliceUpserted
    | SliceDeleted
    | NodeUpserted
    | NodeDeleted
    | PeerUpserted
    | PeerDeleted
    | PeersRefused
    | HostAddresses
    | TakenAddresses
    | EndpointFailures
    | EndpointSteps
)
Event = ObjectEvent | Synced | Problem
