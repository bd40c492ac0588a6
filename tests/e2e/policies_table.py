"""policies_table: for each traffic policy, front and client: who answers, and as whom the pod sees it come.

Law: a row is written from kube-proxy's rules and from what a kernel does, never computed by what it tests.  It stands
for each of its services, fronts and clients, for both IP versions and for TCP and UDP unless it says otherwise.  Where
kube-proxy's iptables mode would do otherwise, *differs* names the reasons, of `policies_differences.py`.

The clients: pod-a1 is behind each near Service itself, pod-a2 and pod-b2 are behind none; the router sends all Service
addresses to node A, so what pod-b2, node-b and outside ask comes in from the LAN.  "node-a, bound" is a program of node
A that binds to the node's address before it asks, as few do.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

from lab.echo import Protocol
from tests.e2e.policies_services import ALL_FRONTS, FAR, NEAR, OUTER, VERSIONS, Front, Version

Seen = Literal["own", "node", "front"]
# As whom a pod sees the client: by its own address; masqueraded, as the interface by which node A sends it on; by the
# address that it asked, which is what node A takes to talk to an address of kube-ipvs0.
OWN: Seen = "own"
NODE: Seen = "node"
FRONT: Seen = "front"

PODS_HERE = ("pod-a1", "pod-a2")
LAN = ("node-b", "outside")
OTHERS = ("node-a", *LAN)
BOUND_NODE = "node-a, bound"
EVERYONE = (*PODS_HERE, "pod-b2", *OTHERS)
ON_DEVICE: tuple[Front, ...] = ("externalIP", "LB VIP")  # on kube-ipvs0


class Fate(NamedTuple):
    """The pods that answer, and those that hear it in vain since their answer passes node A by; or how else it ends."""

    answered: dict[str, Seen]
    lost: dict[str, Seen] = {}  # noqa: RUF012  # never written to
    end: Literal["", "refused", "dropped"] = ""


REFUSED = Fate({}, end="refused")
DROPPED = Fate({}, end="dropped")


def seen_as(saw: Seen, *pods: str) -> Fate:
    return Fate(dict.fromkeys(pods, saw))


def in_vain(saw: Seen, *pods: str) -> Fate:
    return Fate({}, dict.fromkeys(pods, saw))


class Row(NamedTuple):
    """Each of *clients*, asking each of *fronts* of each of *services*, meets *fate*."""

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
_NEAR_OUTER = ("near", "near, internal Local")
_FAR_OUTER = ("far", "far, internal Local")
_NEAR_LOCAL = ("near, external Local", "near, both Local")
_FAR_LOCAL = ("far, external Local", "far, both Local")

_ONE = ("pod-a1",)  # the local pod of a near Service
_CLUSTER: tuple[Front, ...] = ("ClusterIP",)
_NODE_PORT: tuple[Front, ...] = ("NodePort",)
_VIP: tuple[Front, ...] = ("LB VIP",)
_HOST: tuple[Front, ...] = ("host port",)

_CLUSTER_IP_ROWS = (
    # Cluster: all endpoints.  Who is in clusterCIDR keeps its address, but a pod that meets itself; others are
    # masqueraded.
    Row(_NEAR_INSIDE, _CLUSTER, ("pod-a1",), Fate({"pod-a1": NODE, "pod-b1": OWN})),
    Row(_NEAR_INSIDE, _CLUSTER, ("pod-a2",), seen_as(OWN, *NEAR)),
    # A pod of another node that comes by here: node B's own pod answers it directly.
    Row(_NEAR_INSIDE, _CLUSTER, ("pod-b2",), Fate({"pod-a1": OWN}, lost={"pod-b1": OWN})),
    Row(_NEAR_INSIDE, _CLUSTER, OTHERS, seen_as(NODE, *NEAR)),
    Row(_FAR_INSIDE, _CLUSTER, PODS_HERE, seen_as(OWN, *FAR)),
    Row(_FAR_INSIDE, _CLUSTER, ("pod-b2",), in_vain(OWN, *FAR)),
    Row(_FAR_INSIDE, _CLUSTER, OTHERS, seen_as(NODE, *FAR)),
    # Local, with a local endpoint: that alone, for everyone.
    Row(_NEAR_INTERNAL_LOCAL, _CLUSTER, ("pod-a1", *OTHERS), seen_as(NODE, *_ONE)),
    Row(_NEAR_INTERNAL_LOCAL, _CLUSTER, ("pod-a2", "pod-b2"), seen_as(OWN, *_ONE)),
    # Local, without one: strict only where the Service can't be reached from outside.
    Row(_FAR_INTERNAL_LOCAL, _CLUSTER, PODS_HERE, seen_as(OWN, *FAR), ("internal falls back",)),
    Row(_FAR_INTERNAL_LOCAL, _CLUSTER, ("pod-b2",), in_vain(OWN, *FAR), ("internal falls back",)),
    Row(_FAR_INTERNAL_LOCAL, _CLUSTER, OTHERS, seen_as(NODE, *FAR), ("internal falls back",)),
    Row(("inner far, internal Local",), _CLUSTER, EVERYONE, REFUSED, ("refused, not dropped",)),
)
_OUTER_ROWS = (
    # Cluster: all endpoints, everyone masqueraded.
    Row(_NEAR_OUTER, OUTER, EVERYONE, seen_as(NODE, *NEAR)),
    # SCTP by node A itself only bound: an unbound socket names all addresses of its host when it connects, those of
    # kube-ipvs0 too.  60 of each family are more than a packet holds, and IPVS doesn't fragment IPv6 (seen on 6.1).
    Row(_NEAR_OUTER, _NODE_PORT, (*PODS_HERE, "pod-b2", BOUND_NODE, *LAN), seen_as(NODE, *NEAR), protocols=("sctp",)),
    Row(_FAR_OUTER, OUTER, EVERYONE, seen_as(NODE, *FAR)),
    # Local, with a local endpoint: that alone, and nobody masqueraded but a pod that meets itself.
    Row(_NEAR_LOCAL, OUTER, ("pod-a1",), seen_as(NODE, *_ONE), ("local for all",)),
    Row(_NEAR_LOCAL, OUTER, ("pod-a2", "pod-b2"), seen_as(OWN, *_ONE), ("local for all",)),
    Row(_NEAR_LOCAL, ON_DEVICE, ("node-a",), seen_as(FRONT, *_ONE), ("local for all", "as the address asked")),
    Row(_NEAR_LOCAL, _NODE_PORT, ("node-a",), seen_as(OWN, *_ONE), ("local for all", "as the address asked")),
    Row(_NEAR_LOCAL, OUTER, (BOUND_NODE,), seen_as(OWN, *_ONE), ("local for all",)),
    Row(_NEAR_LOCAL, OUTER, LAN, seen_as(OWN, *_ONE)),
    Row(_NEAR_LOCAL, _NODE_PORT, LAN, seen_as(OWN, *_ONE), protocols=("sctp",)),
    # Local, without one: those of other nodes, still nobody masqueraded.
    Row(_FAR_LOCAL, OUTER, PODS_HERE, seen_as(OWN, *FAR)),
    Row(_FAR_LOCAL, OUTER, ("pod-b2",), in_vain(OWN, *FAR)),
    Row(_FAR_LOCAL, ON_DEVICE, ("node-a",), seen_as(FRONT, *FAR), ("as the address asked",)),
    Row(_FAR_LOCAL, _NODE_PORT, ("node-a",), seen_as(OWN, *FAR)),
    Row(_FAR_LOCAL, OUTER, (BOUND_NODE,), seen_as(OWN, *FAR)),
    Row(_FAR_LOCAL, OUTER, ("outside",), in_vain(OWN, *FAR), ("on to other nodes",)),
    # What node B asked comes back to it with its own address as source: a martian for IPv4; IPv6 does not look.
    Row(_FAR_LOCAL, OUTER, ("node-b",), DROPPED, ("on to other nodes",), versions=(4,)),
    Row(_FAR_LOCAL, OUTER, ("node-b",), in_vain(OWN, *FAR), ("on to other nodes",), versions=(6,)),
    # The same at an address that the network doesn't route to node A.
    Row(("far, external Local, unrouted",), _VIP, PODS_HERE, seen_as(OWN, *FAR)),
    Row(("far, external Local, unrouted",), _VIP, ("node-a",), in_vain(FRONT, *FAR), ("as the address asked",)),
    Row(("far, external Local, unrouted",), _VIP, (BOUND_NODE,), seen_as(OWN, *FAR)),
    # Local, and the local endpoint is terminating: it serves until it is gone.
    Row(("near ends, external Local",), OUTER, LAN, seen_as(OWN, *_ONE)),
    Row(("near ends, external Local",), _CLUSTER, ("pod-a2",), seen_as(OWN, "pod-b1")),
)
# Each way from outside makes both policies hold, be it the only one.
_ALONE_ROWS = tuple(
    row
    for front in OUTER
    for near, far in [(f"near, both Local, {front} alone", f"far, both Local, {front} alone")]
    for row in (
        Row((near,), (front,), LAN, seen_as(OWN, *_ONE)),
        Row((near,), _CLUSTER, LAN, seen_as(NODE, *_ONE)),
        Row((far,), (front,), PODS_HERE, seen_as(OWN, *FAR)),
        Row((far,), (front,), ("outside",), in_vain(OWN, *FAR), ("on to other nodes",)),
        Row((far,), _CLUSTER, ("pod-a2",), seen_as(OWN, *FAR), ("internal falls back",)),
    )
)
_NOBODY_ROWS = (Row(("nobody", "nobody, both Local"), ALL_FRONTS, EVERYONE, REFUSED),)
_SOURCE_RANGE_ROWS = (
    # Only the load balancer's address is shut, and to node A and its pods as well as to others.
    Row(("for outside",), _VIP, ("outside",), seen_as(NODE, *NEAR)),
    Row(("for outside",), _VIP, (*PODS_HERE, "pod-b2", "node-a", "node-b"), DROPPED),
    Row(("for outside",), _VIP, (BOUND_NODE,), seen_as(NODE, *NEAR), ("by its own address",)),
    Row(("for outside",), ("externalIP", "NodePort"), EVERYONE, seen_as(NODE, *NEAR)),
    Row(("for outside",), _CLUSTER, OTHERS, seen_as(NODE, *NEAR)),
    Row(("for node A",), _VIP, ("node-a",), seen_as(NODE, *NEAR)),
    Row(("for node A",), _VIP, (*PODS_HERE, "pod-b2", *LAN), DROPPED),
    Row(("for node A's pods",), _VIP, PODS_HERE, seen_as(NODE, *NEAR)),
    Row(("for node A's pods",), _VIP, ("pod-b2", *OTHERS), DROPPED),
    Row(("for all, by /0",), _VIP, EVERYONE, seen_as(NODE, *NEAR)),
    # Ranges of one family say nothing of the other.
    Row(("for an IPv4 range",), _VIP, OTHERS, seen_as(NODE, *NEAR)),
    Row(("for an IPv4 range",), _VIP, (*PODS_HERE, "pod-b2"), DROPPED, versions=(4,)),
    Row(("for an IPv4 range",), _VIP, (*PODS_HERE, "pod-b2"), seen_as(NODE, *NEAR), versions=(6,)),
    Row(("for outside, external Local",), _VIP, ("outside",), seen_as(OWN, *_ONE)),
    Row(("for outside, external Local",), _VIP, (*PODS_HERE, "pod-b2", "node-a", "node-b"), DROPPED),
)
_ODD_ROWS = (
    # A load balancer that has node A's own address is served there, though the address is not on kube-ipvs0.
    Row(("at node A's address",), _VIP, EVERYONE, seen_as(NODE, *NEAR)),
    Row(("at node A's address, external Local",), _VIP, ("pod-a2", "node-a"), seen_as(OWN, *_ONE), ("local for all",)),
    Row(("at node A's address, external Local",), _VIP, LAN, seen_as(OWN, *_ONE)),
    # Source ranges are of one Service, not of the address that it shares with another.
    Row(("at the same address as for outside",), _VIP, EVERYONE, seen_as(NODE, *NEAR)),
    # A port that no Service has: host programs are not reached by an address of kube-ipvs0, but by node A's own.
    Row(("near",), _HOST, EVERYONE, REFUSED, ("local address",)),
    Row(("at node A's address",), _HOST, EVERYONE, seen_as(OWN, "node-a")),
    Row(
        ("on near's NodePort number, external Local",),
        _VIP,
        ("pod-a2", *OTHERS),
        seen_as(NODE, *_ONE),
        ("a NodePort's number",),
    ),
    Row(
        ("on near's NodePort number, external Local",),
        _CLUSTER,
        PODS_HERE,
        seen_as(NODE, *NEAR),
        ("a NodePort's number",),
    ),
)
ROWS = (*_CLUSTER_IP_ROWS, *_OUTER_ROWS, *_ALONE_ROWS, *_NOBODY_ROWS, *_SOURCE_RANGE_ROWS, *_ODD_ROWS)


class Case(NamedTuple):
    """One row for one service, front, client, IP version and protocol."""

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
