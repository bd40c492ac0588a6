"""For each traffic policy, frontend and client: which pods answer, and the source address that they see.

A row is written from kube-proxy's rules and kernel behaviour, never computed by the code under test.  It applies to
each of its services, frontends and clients, and by default to both IP versions and to TCP and UDP.  Where kube-proxy's
iptables mode differs, *differs* has the reasons, which are in `policies_differences.py`.

The clients: pod-a1 is itself an endpoint of each near Service, pod-a2 and pod-b2 of none; the router sends all Service
addresses to node A, so requests of pod-b2, node-b and outside come from the LAN.  "node-a, bound" is a program of node
A that binds to the node's address before it connects, as few do.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

from lab.client import PATIENT_S
from lab.echo import Protocol
from tests.e2e.policies_services import ALL_FRONTS, EXTERNAL, FAR, NEAR, VERSIONS, Front, Version

SourceSeen = Literal["own", "node", "front"]
# The source address that a pod sees: the client's own; that of the interface by which node A forwards (masqueraded); or
# the address that the request was sent to, which node A uses as the source for an address on kube-ipvs0.
OWN: SourceSeen = "own"
NODE: SourceSeen = "node"
FRONT: SourceSeen = "front"

PODS_HERE = ("pod-a1", "pod-a2")
LAN = ("node-b", "outside")
OTHERS = ("node-a", *LAN)
BOUND_NODE = "node-a, bound"
ALL_CLIENTS = (*PODS_HERE, "pod-b2", *OTHERS)
ON_DEVICE: tuple[Front, ...] = ("externalIP", "LB VIP")  # on kube-ipvs0
_DROPPED_S = 1.0  # for a request that nobody should answer
_PERHAPS_S = 3.0  # for one of which some answers are lost


class Fate(NamedTuple):
    """The pods that answer, those whose answer is lost because it bypasses node A, or how else the request ends."""

    answered: dict[str, SourceSeen]
    lost: dict[str, SourceSeen] = {}  # noqa: RUF012 - never changed
    end: Literal["", "refused", "dropped"] = ""

    @property
    def waits_s(self) -> float:
        """For how long a request waits for an answer: not long if it should wait in vain."""
        if self.lost and self.answered:
            return _PERHAPS_S
        return _DROPPED_S if self.lost or self.end == "dropped" else PATIENT_S


REFUSED = Fate({}, end="refused")
DROPPED = Fate({}, end="dropped")


def answered_by(source: SourceSeen, *pods: str) -> Fate:
    return Fate(dict.fromkeys(pods, source))


def unanswered_by(source: SourceSeen, *pods: str) -> Fate:
    return Fate({}, dict.fromkeys(pods, source))


class Row(NamedTuple):
    """Requests of each of *clients* to each of *fronts* of each of *services* end with *fate*."""

    services: tuple[str, ...]
    fronts: tuple[Front, ...]
    clients: tuple[str, ...]
    fate: Fate
    differs: tuple[str, ...] = ()
    versions: tuple[Version, ...] = VERSIONS
    protocols: tuple[Protocol, ...] = ("tcp", "udp")


_NEAR_INSIDE = ("near", "near, external Local")
_FAR_INSIDE = ("far", "far, external Local")
_NEAR_INTERNAL_LOCAL = ("near, internal Local", "near, both Local", "inner near, internal Local")
_FAR_INTERNAL_LOCAL = ("far, internal Local", "far, both Local")
_NEAR_EXTERNAL = ("near", "near, internal Local")
_FAR_EXTERNAL = ("far", "far, internal Local")
_NEAR_LOCAL = ("near, external Local", "near, both Local")
_FAR_LOCAL = ("far, external Local", "far, both Local")

_ONE = ("pod-a1",)  # the local pod of a near Service
_CLUSTER: tuple[Front, ...] = ("ClusterIP",)
_NODE_PORT: tuple[Front, ...] = ("NodePort",)
_VIP: tuple[Front, ...] = ("LB VIP",)
_HOST: tuple[Front, ...] = ("host port",)

_CLUSTER_IP_ROWS = (
    # Cluster: all endpoints.  Clients in clusterCIDR keep their address, except a pod that reaches itself; others are
    # masqueraded.
    Row(_NEAR_INSIDE, _CLUSTER, ("pod-a1",), Fate({"pod-a1": NODE, "pod-b1": OWN})),
    Row(_NEAR_INSIDE, _CLUSTER, ("pod-a2",), answered_by(OWN, *NEAR)),
    # A pod of another node that is routed through node A: node B's own pod answers it directly.
    Row(_NEAR_INSIDE, _CLUSTER, ("pod-b2",), Fate({"pod-a1": OWN}, lost={"pod-b1": OWN})),
    Row(_NEAR_INSIDE, _CLUSTER, OTHERS, answered_by(NODE, *NEAR)),
    Row(_FAR_INSIDE, _CLUSTER, PODS_HERE, answered_by(OWN, *FAR)),
    Row(_FAR_INSIDE, _CLUSTER, ("pod-b2",), unanswered_by(OWN, *FAR)),
    Row(_FAR_INSIDE, _CLUSTER, OTHERS, answered_by(NODE, *FAR)),
    # Local, with a local endpoint: only that one, for all clients.
    Row(_NEAR_INTERNAL_LOCAL, _CLUSTER, ("pod-a1", *OTHERS), answered_by(NODE, *_ONE)),
    Row(_NEAR_INTERNAL_LOCAL, _CLUSTER, ("pod-a2", "pod-b2"), answered_by(OWN, *_ONE)),
    # Local, without one: strict only if the Service cannot be reached from outside.
    Row(_FAR_INTERNAL_LOCAL, _CLUSTER, PODS_HERE, answered_by(OWN, *FAR), ("internal falls back",)),
    Row(_FAR_INTERNAL_LOCAL, _CLUSTER, ("pod-b2",), unanswered_by(OWN, *FAR), ("internal falls back",)),
    Row(_FAR_INTERNAL_LOCAL, _CLUSTER, OTHERS, answered_by(NODE, *FAR), ("internal falls back",)),
    Row(("inner far, internal Local",), _CLUSTER, ALL_CLIENTS, REFUSED, ("refused, not dropped",)),
)
_OUTER_ROWS = (
    # Cluster: all endpoints, all clients masqueraded.
    Row(_NEAR_EXTERNAL, EXTERNAL, ALL_CLIENTS, answered_by(NODE, *NEAR)),
    # SCTP from node A itself only bound: an unbound socket sends all addresses of its host when it connects, including
    # those of kube-ipvs0.  60 of each family exceed a packet, and IPVS does not fragment IPv6 (seen on 6.1).
    Row(
        _NEAR_EXTERNAL,
        _NODE_PORT,
        (*PODS_HERE, "pod-b2", BOUND_NODE, *LAN),
        answered_by(NODE, *NEAR),
        protocols=("sctp",),
    ),
    Row(_FAR_EXTERNAL, EXTERNAL, ALL_CLIENTS, answered_by(NODE, *FAR)),
    # Local, with a local endpoint: only that one, and no client masqueraded except a pod that reaches itself.
    Row(_NEAR_LOCAL, EXTERNAL, ("pod-a1",), answered_by(NODE, *_ONE), ("local for all",)),
    Row(_NEAR_LOCAL, EXTERNAL, ("pod-a2", "pod-b2"), answered_by(OWN, *_ONE), ("local for all",)),
    Row(
        _NEAR_LOCAL,
        ON_DEVICE,
        ("node-a",),
        answered_by(FRONT, *_ONE),
        ("local for all", "source is the service address"),
    ),
    Row(
        _NEAR_LOCAL,
        _NODE_PORT,
        ("node-a",),
        answered_by(OWN, *_ONE),
        ("local for all", "source is the service address"),
    ),
    Row(_NEAR_LOCAL, EXTERNAL, (BOUND_NODE,), answered_by(OWN, *_ONE), ("local for all",)),
    Row(_NEAR_LOCAL, EXTERNAL, LAN, answered_by(OWN, *_ONE)),
    Row(_NEAR_LOCAL, _NODE_PORT, LAN, answered_by(OWN, *_ONE), protocols=("sctp",)),
    # Local, without one: endpoints of other nodes, still without masquerading.
    Row(_FAR_LOCAL, EXTERNAL, PODS_HERE, answered_by(OWN, *FAR)),
    Row(_FAR_LOCAL, EXTERNAL, ("pod-b2",), unanswered_by(OWN, *FAR)),
    Row(_FAR_LOCAL, ON_DEVICE, ("node-a",), answered_by(FRONT, *FAR), ("source is the service address",)),
    Row(_FAR_LOCAL, _NODE_PORT, ("node-a",), answered_by(OWN, *FAR)),
    Row(_FAR_LOCAL, EXTERNAL, (BOUND_NODE,), answered_by(OWN, *FAR)),
    Row(_FAR_LOCAL, EXTERNAL, ("outside",), unanswered_by(OWN, *FAR), ("forwarded to other nodes",)),
    # A request of node B returns to it with its own address as source: a martian in IPv4; IPv6 does not check.
    Row(_FAR_LOCAL, EXTERNAL, ("node-b",), DROPPED, ("forwarded to other nodes",), versions=(4,)),
    Row(_FAR_LOCAL, EXTERNAL, ("node-b",), unanswered_by(OWN, *FAR), ("forwarded to other nodes",), versions=(6,)),
    # The same at an address that the network does not route to node A.
    Row(("far, external Local, unrouted",), _VIP, PODS_HERE, answered_by(OWN, *FAR)),
    Row(
        ("far, external Local, unrouted",),
        _VIP,
        ("node-a",),
        unanswered_by(FRONT, *FAR),
        ("source is the service address",),
    ),
    Row(("far, external Local, unrouted",), _VIP, (BOUND_NODE,), answered_by(OWN, *FAR)),
    # Local, and the local endpoint is terminating: it serves until it is removed.
    Row(("near ends, external Local",), EXTERNAL, LAN, answered_by(OWN, *_ONE)),
    Row(("near ends, external Local",), _CLUSTER, ("pod-a2",), answered_by(OWN, "pod-b1")),
)
# Any single way to reach the Service from outside makes both policies apply.
_SINGLE_FRONTEND_ROWS = tuple(
    row
    for front in EXTERNAL
    for near, far in [(f"near, both Local, {front} only", f"far, both Local, {front} only")]
    for row in (
        Row((near,), (front,), LAN, answered_by(OWN, *_ONE)),
        Row((near,), _CLUSTER, LAN, answered_by(NODE, *_ONE)),
        Row((far,), (front,), PODS_HERE, answered_by(OWN, *FAR)),
        Row((far,), (front,), ("outside",), unanswered_by(OWN, *FAR), ("forwarded to other nodes",)),
        Row((far,), _CLUSTER, ("pod-a2",), answered_by(OWN, *FAR), ("internal falls back",)),
    )
)
_NO_ENDPOINT_ROWS = (Row(("nobody", "nobody, both Local"), ALL_FRONTS, ALL_CLIENTS, REFUSED),)
_SOURCE_RANGE_ROWS = (
    # Only the load balancer's address is closed, also to node A and its pods.
    Row(("for outside",), _VIP, ("outside",), answered_by(NODE, *NEAR)),
    Row(("for outside",), _VIP, (*PODS_HERE, "pod-b2", "node-a", "node-b"), DROPPED),
    Row(("for outside",), _VIP, (BOUND_NODE,), answered_by(NODE, *NEAR), ("bound to a node address",)),
    Row(("for outside",), ("externalIP", "NodePort"), ALL_CLIENTS, answered_by(NODE, *NEAR)),
    Row(("for outside",), _CLUSTER, OTHERS, answered_by(NODE, *NEAR)),
    Row(("for node A",), _VIP, ("node-a",), answered_by(NODE, *NEAR)),
    Row(("for node A",), _VIP, (*PODS_HERE, "pod-b2", *LAN), DROPPED),
    Row(("for node A's pods",), _VIP, PODS_HERE, answered_by(NODE, *NEAR)),
    Row(("for node A's pods",), _VIP, ("pod-b2", *OTHERS), DROPPED),
    Row(("for all, by /0",), _VIP, ALL_CLIENTS, answered_by(NODE, *NEAR)),
    # Ranges of one family do not restrict the other.
    Row(("for an IPv4 range",), _VIP, OTHERS, answered_by(NODE, *NEAR)),
    Row(("for an IPv4 range",), _VIP, (*PODS_HERE, "pod-b2"), DROPPED, versions=(4,)),
    Row(("for an IPv4 range",), _VIP, (*PODS_HERE, "pod-b2"), answered_by(NODE, *NEAR), versions=(6,)),
    Row(("for outside, external Local",), _VIP, ("outside",), answered_by(OWN, *_ONE)),
    Row(("for outside, external Local",), _VIP, (*PODS_HERE, "pod-b2", "node-a", "node-b"), DROPPED),
)
_SPECIAL_ROWS = (
    # A load balancer address that is node A's own is served there, although it is not on kube-ipvs0.
    Row(("at node A's address",), _VIP, ALL_CLIENTS, answered_by(NODE, *NEAR)),
    Row(
        ("at node A's address, external Local",),
        _VIP,
        ("pod-a2", "node-a"),
        answered_by(OWN, *_ONE),
        ("local for all",),
    ),
    Row(("at node A's address, external Local",), _VIP, LAN, answered_by(OWN, *_ONE)),
    # Source ranges apply to one Service, not to another one at the same address.
    Row(("at the same address as for outside",), _VIP, ALL_CLIENTS, answered_by(NODE, *NEAR)),
    # A port without a Service: an address on kube-ipvs0 does not reach programs of the host, node A's own address does.
    Row(("near",), _HOST, ALL_CLIENTS, REFUSED, ("local address",)),
    Row(("at node A's address",), _HOST, ALL_CLIENTS, answered_by(OWN, "node-a")),
    Row(
        ("on near's NodePort number, external Local",),
        _VIP,
        ("pod-a2", *OTHERS),
        answered_by(NODE, *_ONE),
        ("number of a NodePort",),
    ),
    Row(
        ("on near's NodePort number, external Local",),
        _CLUSTER,
        PODS_HERE,
        answered_by(NODE, *NEAR),
        ("number of a NodePort",),
    ),
)
ROWS = (
    *_CLUSTER_IP_ROWS,
    *_OUTER_ROWS,
    *_SINGLE_FRONTEND_ROWS,
    *_NO_ENDPOINT_ROWS,
    *_SOURCE_RANGE_ROWS,
    *_SPECIAL_ROWS,
)


class Case(NamedTuple):
    """One row for one service, frontend, client, IP version and protocol."""

    service: str
    front: Front
    client: str
    version: Version
    protocol: Protocol
    row: Row

    def __str__(self) -> str:
        return f"{self.client} to {self.front} of {self.service}, {self.protocol} v{self.version}"


CASES = tuple(
    Case(service, front, client, version, protocol, row)
    for row in ROWS
    for service in row.services
    for front in row.fronts
    for client in row.clients
    for version in row.versions
    for protocol in row.protocols
)
