"""What becomes of a request, by Service, frontend and client: the packet contract of kube-proxy's nftables mode.

A row is written from what Kubernetes and the tests of that mode document, never computed by the code under test.  It
holds for TCP, UDP and SCTP and for both families, in each of four configurations: pods are recognized by clusterCIDR or
not at all, and masqueradeAll is off or on.  Where the agent does otherwise, *differs* says how and why, by its setting
`policies`: with `kube-proxy`, what kube-proxy's IPVS mode does.

A pod that reaches itself is masqueraded in any row; and an answer that the pod of another node sends to a client that
is not of node A, past node A, is lost.  Both are left to `ends.py`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Literal, NamedTuple

from lab.echo import PROTOCOLS, Protocol
from tests.e2e.contract.services import ContractFront
from tests.e2e.policies_services import EXTERNAL, FAR, NEAR

Policies = Literal["kube-proxy", "exact"]
POLICIES: tuple[Policies, ...] = ("kube-proxy", "exact")


class Configuration(NamedTuple):
    """Whether pods are recognized, and whether all requests to ClusterIPs are masqueraded."""

    detector: bool
    masquerade_all: bool

    def __str__(self) -> str:
        return f"{'clusterCIDR' if self.detector else 'no detector'}{', masqueradeAll' if self.masquerade_all else ''}"


CONFIGURATIONS = tuple(Configuration(detector, every) for detector in (True, False) for every in (False, True))

Source = Literal["own", "node", "front"]
OWN: Source = "own"  # the client's own address
NODE: Source = "node"  # masqueraded: the address of the interface by which node A sends to the pod
FRONT: Source = "front"  # the address that the request was sent to: node A's source for an address on kube-ipvs0


class Fate(NamedTuple):
    """The pods among which requests are distributed and the source that they see; or how else a request ends.

    sticky: all requests of a client go to one of the pods.
    host: it reaches the programs of node A, of which none listens there.
    away: it leaves node A for the network, which does not deliver it.
    """

    pods: tuple[str, ...] = ()
    source: Source = OWN
    end: Literal["", "refused", "dropped", "host", "away"] = ""
    sticky: bool = False


REFUSED = Fate(end="refused")
DROPPED = Fate(end="dropped")
HOST = Fate(end="host")
AWAY = Fate(end="away")


def keeps(pods: tuple[str, ...]) -> Fate:
    """The pods see the client's own address."""
    return Fate(pods, OWN)


def masked(pods: tuple[str, ...]) -> Fate:
    """Clients are masqueraded."""
    return Fate(pods, NODE)


class Outcome(NamedTuple):
    """The fate with clusterCIDR, and if it is another one, without detector and with masqueradeAll."""

    fate: Fate
    no_detector: Fate | None = None
    masquerade_all: Fate | None = None

    def fate_in(self, configuration: Configuration) -> Fate:
        if configuration.masquerade_all and self.masquerade_all:
            return self.masquerade_all
        return self.fate if configuration.detector else self.no_detector or self.fate


Difference = Literal[
    "pods get local endpoints",
    "the node gets local endpoints",
    "forwarded to other nodes",
    "internal falls back",
    "unallocated ClusterIPs",
    "bound to a node address",
    "pods of other nodes",
    "number of a NodePort",
]
DIFFERENCES: Mapping[Difference, str] = {
    "pods get local endpoints": "A virtual server has one list of real servers for all clients, so a pod that uses an"
    " external address of an externalTrafficPolicy Local Service gets the local endpoints only (kubernetes#93456).",
    "the node gets local endpoints": "So does the node; and it is not masqueraded, because the address is exempt.",
    "forwarded to other nodes": "Without a local endpoint the virtual server has those of other nodes, so that this"
    " node's pods can use it; requests from outside go there too, and answers bypass the node (kubernetes#75262).",
    "internal falls back": "Without a local endpoint a ClusterIP of internalTrafficPolicy Local refuses, or has the"
    " endpoints of other nodes if the Service can be reached from outside.",
    "unallocated ClusterIPs": "An address of the Service network that no Service has is on no device: its packets"
    " leave by the default route.",
    "bound to a node address": "Source ranges apply to the node's own requests only if their source is the Service"
    " address.",
    "pods of other nodes": "Only pods of this node are exempt from externalTrafficPolicy Local.  The contract takes"
    " every address of clusterCIDR for one, and answers of remote endpoints then bypass this node.",
    "number of a NodePort": "The sets of NodePorts of TCP and UDP match only the port, at all addresses of this node,"
    " those of Services too, so requests to a Service port of that number are masqueraded.",
}


class Differs(NamedTuple):
    """How the agent differs from the contract, and why."""

    outcome: Outcome
    why: Difference


class Row(NamedTuple):
    """A request of *client* to *front* of *service*."""

    service: str
    front: ContractFront
    client: str
    contract: Outcome
    differs: Mapping[Policies, Differs]
    protocols: tuple[Protocol, ...]

    def __str__(self) -> str:
        return f"{self.client} to {self.front} of {self.service}"

    def fate_in(self, policies: Policies, configuration: Configuration) -> Fate:
        """What becomes of the request at this agent."""
        outcome = self.differs[policies].outcome if policies in self.differs else self.contract
        return outcome.fate_in(configuration)


HAIRPIN, POD, FAR_POD = "pod-a1", "pod-a2", "pod-b2"
BOUND_NODE = "node-a, bound"  # a program that binds to the node's address before it connects, as few do
BLOCKED = "node-b"
_PODS = (HAIRPIN, POD)
_NODE = ("node-a", BOUND_NODE)
_OUTSIDE = ("outside",)
_EVERYONE = (*_PODS, FAR_POD, *_NODE, *_OUTSIDE)
_FEW = (POD, *_NODE, *_OUTSIDE)

_BITMAPS: tuple[Protocol, ...] = ("tcp", "udp")  # the protocols whose sets of NodePorts have no addresses
_CLUSTER_IP: tuple[ContractFront, ...] = ("ClusterIP",)
_NODE_PORT: tuple[ContractFront, ...] = ("NodePort",)
_LB: tuple[ContractFront, ...] = ("LB VIP",)
_ON_DEVICE: tuple[ContractFront, ...] = ("externalIP", "LB VIP")  # addresses on kube-ipvs0
_LOCAL = ("pod-a1",)


def _rows(
    services: tuple[str, ...],
    fronts: tuple[ContractFront, ...],
    clients: tuple[str, ...],
    contract: Outcome | Fate,
    differs: Mapping[Policies, Differs] | None = None,
    protocols: tuple[Protocol, ...] = PROTOCOLS,
) -> Iterator[Row]:
    outcome = Outcome(contract) if isinstance(contract, Fate) else contract
    for service in services:
        for front in fronts:
            for client in clients:
                yield Row(service, front, client, outcome, differs or {}, protocols)


def _kube_proxy(why: Difference, fate: Fate, *others: Fate | None) -> dict[Policies, Differs]:
    return {"kube-proxy": Differs(Outcome(fate, *others), why)}


def _cluster_ip(
    services: tuple[str, ...], pods: tuple[str, ...], clients: tuple[str, ...] = _EVERYONE, *, sticky: bool = False
) -> Iterator[Row]:
    """Rows of a ClusterIP: pods keep their address, others are masqueraded if pods are recognized."""
    own, node = Fate(pods, OWN, sticky=sticky), Fate(pods, NODE, sticky=sticky)
    for client in clients:
        if client in (*_PODS, FAR_POD):
            outcome = Outcome(own, masquerade_all=node)
        elif client == "node-a":
            # Without detector it would keep its address too, which would be that of kube-ipvs0: it is masqueraded to
            # the address that it has in nftables mode.
            outcome = Outcome(node)
        else:
            outcome = Outcome(node, own, node)
        yield from _rows(services, _CLUSTER_IP, (client,), outcome)


def _external_local(
    services: tuple[str, ...], fronts: tuple[ContractFront, ...], everywhere: tuple[str, ...], here: tuple[str, ...]
) -> Iterator[Row]:
    """Rows of externalTrafficPolicy Local with endpoints *everywhere*, of which *here* are local and used."""
    from_outside = keeps(here) if here else DROPPED
    today = here or everywhere  # one list of real servers for all
    why_pod: Difference = "pods get local endpoints" if here else "forwarded to other nodes"
    from_pods = Outcome(keeps(everywhere), from_outside)
    yield from _rows(services, fronts, (HAIRPIN, POD), from_pods, _kube_proxy(why_pod, keeps(today)))
    yield from _rows(
        services,
        fronts,
        (FAR_POD,),
        from_pods,
        {
            "kube-proxy": Differs(Outcome(keeps(today)), why_pod),
            "exact": Differs(Outcome(from_outside), "pods of other nodes"),
        },
    )
    for front in fronts:
        node_sees = FRONT if front in _ON_DEVICE and not services[0].startswith("at node A") else OWN
        yield from _rows(
            services,
            (front,),
            ("node-a",),
            masked(everywhere),
            _kube_proxy("the node gets local endpoints", Fate(today, node_sees)),
        )
    yield from _rows(
        services,
        fronts,
        (BOUND_NODE,),
        masked(everywhere),
        _kube_proxy("the node gets local endpoints", keeps(today)),
    )
    yield from _rows(
        services,
        fronts,
        _OUTSIDE,
        from_outside,
        {} if here else _kube_proxy("forwarded to other nodes", keeps(today)),
    )


def _internal_local_without_endpoint() -> Iterator[Row]:
    inner, reachable = ("inner far, internal Local",), ("far, internal Local", "far, both Local")
    why: Difference = "internal falls back"
    yield from _rows(inner, _CLUSTER_IP, _FEW, DROPPED, _kube_proxy(why, REFUSED))
    for row in _cluster_ip(reachable, FAR, _FEW):
        yield row._replace(contract=Outcome(DROPPED), differs={"kube-proxy": Differs(row.contract, why)})


def _with_a_node_port_number(
    service: str, fronts: tuple[ContractFront, ...], clients: tuple[str, ...], contract: Outcome
) -> Iterator[Row]:
    """Rows of a Service port that has the number of a NodePort of another Service."""
    differs = _kube_proxy("number of a NodePort", masked(contract.fate.pods))
    yield from _rows((service,), fronts, clients, contract, differs, _BITMAPS)
    yield from _rows((service,), fronts, clients, contract, protocols=("sctp",))


_CLUSTER_IP_ROWS = (
    *_cluster_ip(("near", "near, external Local"), NEAR),
    *_cluster_ip(("far", "far, external Local"), FAR, _FEW),
    *_cluster_ip(("near, internal Local", "near, both Local", "inner near, internal Local"), _LOCAL),
    *_internal_local_without_endpoint(),
    *_cluster_ip(("alone",), _LOCAL),
    *_cluster_ip(("sticky", "sticky, external Local"), NEAR, _FEW, sticky=True),
)
_EXTERNAL_ROWS = (
    *_rows(("near", "near, internal Local"), EXTERNAL, _EVERYONE, masked(NEAR)),
    *_rows(("far", "far, internal Local"), EXTERNAL, _FEW, masked(FAR)),
    *_external_local(("near, external Local", "near, both Local"), EXTERNAL, NEAR, _LOCAL),
    *_external_local(("far, external Local", "far, both Local"), EXTERNAL, FAR, ()),
    *_external_local(("at node A's address, external Local",), _LB, NEAR, _LOCAL),
    *_external_local(("near, external Local, externalIP only",), ("externalIP",), NEAR, _LOCAL),
    *_external_local(("far, both Local, externalIP only",), ("externalIP",), FAR, ()),
    *_rows(("near",), ("other NodePort",), (POD, *_OUTSIDE), HOST),
    *_rows(("sticky",), _LB, _FEW, Fate(NEAR, NODE, sticky=True)),
    *_rows(
        ("sticky, external Local",),
        _LB,
        (POD,),
        Outcome(Fate(NEAR, OWN, sticky=True), keeps(_LOCAL)),
        _kube_proxy("pods get local endpoints", keeps(_LOCAL)),
    ),
    *_rows(("sticky, external Local",), _LB, _OUTSIDE, keeps(_LOCAL)),
)
_NO_ENDPOINT_ROWS = (
    *_rows(("nobody", "nobody, both Local"), ("ClusterIP", *EXTERNAL), (POD, *_NODE, *_OUTSIDE), REFUSED),
    *_rows(("all ended, external Local",), ("ClusterIP", "LB VIP"), (POD, *_OUTSIDE), REFUSED),
    *_rows(("near", "near, both Local"), ("no port",), (POD, BOUND_NODE, *_OUTSIDE), REFUSED),
    *_rows(("TCP only",), ("ClusterIP",), (POD, *_OUTSIDE), REFUSED, protocols=("udp", "sctp")),
    *_rows(
        ("unallocated",),
        _CLUSTER_IP,
        (POD, BOUND_NODE, *_OUTSIDE),
        DROPPED,
        _kube_proxy("unallocated ClusterIPs", AWAY),
    ),
)
_NUMBER_ROWS = (
    # The number of a Service port may be that of another Service's NodePort.
    *_with_a_node_port_number(
        "on near's NodePort number", _CLUSTER_IP, (POD,), Outcome(keeps(NEAR), masquerade_all=masked(NEAR))
    ),
    *_with_a_node_port_number(
        "on near's NodePort number", _CLUSTER_IP, _OUTSIDE, Outcome(masked(NEAR), keeps(NEAR), masked(NEAR))
    ),
    *_with_a_node_port_number("on near's NodePort number, external Local", _LB, _OUTSIDE, Outcome(keeps(_LOCAL))),
    *_external_local(("on near's NodePort number, external Local",), ("externalIP",), NEAR, _LOCAL),
)
_ENDING_ROWS = (
    # Endpoints that end are used only where no ready one is: counted among all for the policy Cluster, among local ones
    # for Local.
    *_cluster_ip(("some end, external Local",), NEAR, (POD, *_OUTSIDE)),
    *_external_local(("some end, external Local",), _LB, NEAR, _LOCAL),
    *_cluster_ip(("local one ends, external Local",), ("pod-b1",), (POD,)),
    *_external_local(("local one ends, external Local",), _LB, ("pod-b1",), _LOCAL),
    *_cluster_ip(("local one ends, internal Local",), _LOCAL, (POD, *_OUTSIDE)),
    *_rows(("local one ends, internal Local",), _LB, (POD, *_OUTSIDE), masked(("pod-b1",))),
    *_cluster_ip(("all end", "all end, external Local"), NEAR, (POD,)),
    *_rows(("all end",), _LB, (POD, *_OUTSIDE), masked(NEAR)),
    *_external_local(("all end, external Local",), _LB, NEAR, _LOCAL),
    *_cluster_ip(("remote one ends, external Local",), ("pod-b1",), (POD,)),
    *_external_local(("remote one ends, external Local",), _LB, ("pod-b1",), ()),
    *_cluster_ip(("local one ended, external Local",), ("pod-b1",), (POD,)),
    *_external_local(("local one ended, external Local",), _LB, ("pod-b1",), ()),
)
_SOURCE_RANGE_ROWS = (
    # Source ranges close the load balancer's address only, also to pods and to the node.
    *_rows(("for outside", "for node A and outside"), _LB, _OUTSIDE, masked(NEAR)),
    *_rows(("for outside",), _LB, (POD, "node-a", BLOCKED), DROPPED),
    *_rows(("for outside",), _LB, (BOUND_NODE,), DROPPED, _kube_proxy("bound to a node address", masked(NEAR))),
    *_rows(("for outside",), ("externalIP", "NodePort"), (POD, BOUND_NODE, BLOCKED), masked(NEAR)),
    *_rows(("for node A and outside",), _LB, _NODE, masked(NEAR)),
    *_rows(("for node A and outside",), _LB, (POD, BLOCKED), DROPPED),
    *_rows(("for outside, external Local", "for node A and outside, external Local"), _LB, _OUTSIDE, keeps(_LOCAL)),
    *_rows(("for outside, external Local",), _LB, (POD, "node-a", BLOCKED), DROPPED),
    *_rows(
        ("for outside, external Local",),
        _LB,
        (BOUND_NODE,),
        DROPPED,
        _kube_proxy("bound to a node address", keeps(_LOCAL)),
    ),
    *_rows(("for node A and outside, external Local",), _LB, (POD, BLOCKED), DROPPED),
    *(
        row
        for row in _external_local(("for node A and outside, external Local",), _LB, NEAR, _LOCAL)
        if row.client in _NODE
    ),
    *(row for row in _external_local(("for node A's pods, external Local",), _LB, NEAR, _LOCAL) if row.client in _PODS),
    *_rows(("for node A's pods, external Local",), _LB, ("node-a", BLOCKED, *_OUTSIDE), DROPPED),
    # A load balancer's address may be the node's own.
    *_rows(("at node A's address, for outside",), _LB, _OUTSIDE, masked(NEAR)),
    *_rows(("at node A's address, for outside",), _LB, (POD, "node-a", BLOCKED), DROPPED),
)
_PORT_ROWS = (
    *_rows(
        ("two target ports",),
        _CLUSTER_IP,
        (POD,),
        Outcome(keeps(("pod-a1:8091", "pod-b1:8091")), masquerade_all=masked(("pod-a1:8091", "pod-b1:8091"))),
        protocols=("tcp",),
    ),
    *_rows(
        ("two target ports",),
        _CLUSTER_IP,
        (POD,),
        Outcome(keeps(NEAR), masquerade_all=masked(NEAR)),
        protocols=("udp", "sctp"),
    ),
    *_rows(("TCP only",), _NODE_PORT, (POD, *_OUTSIDE), masked(NEAR), protocols=("tcp",)),
)
ROWS: tuple[Row, ...] = (
    *_CLUSTER_IP_ROWS,
    *_EXTERNAL_ROWS,
    *_NO_ENDPOINT_ROWS,
    *_NUMBER_ROWS,
    *_ENDING_ROWS,
    *_SOURCE_RANGE_ROWS,
    *_PORT_ROWS,
)
