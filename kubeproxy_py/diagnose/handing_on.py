"""Direct server return as documents: to which nodes a Service is handed on, and what keeps packets from going round."""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

from kubeproxy_py.diagnose.document import HandingOnState, NextNode
from kubeproxy_py.diagnose.snapshot import Snapshot
from kubeproxy_py.model.kube_names import POLICY_DIRECT_DEFINITIONS, server_entry
from kubeproxy_py.model.policy_marks import servers_by_entry
from kubeproxy_py.model.rows import (
    HANDED_ON_DSCP,
    TUNNEL_DEVICES,
    PolicyEntry,
    RealServer,
    RealServerSpec,
    ReturnTunnel,
    Rows,
    VirtualServer,
)
from kubeproxy_py.model.services import Service, ServiceName
from kubeproxy_py.net import IP, Family, family_of

Names = Mapping[IP, str]
"""The names of the nodes of the cluster, by address."""


def names_of_peers(snapshot: Snapshot) -> Names:
    """Return the names of the nodes that *snapshot* knows."""
    return {address: name for name, addresses in snapshot.peers.items() for address in addresses}


def is_handed_on(snapshot: Snapshot, service: Service, server: VirtualServer) -> bool:
    """Return whether *server*, which *service* has, hands clients outside on to nodes that have endpoints."""
    if not service.settings.direct_return:
        return False
    family, entry = family_of(server.address), server_entry(server)
    entries = [PolicyEntry(each.name_in(family), entry) for each in POLICY_DIRECT_DEFINITIONS]
    return any(key in part for part in snapshot.parts.get(service.name, ()) for key in entries)


def handing_on_of(snapshot: Snapshot, name: ServiceName, names: Names) -> tuple[HandingOnState, ...]:
    """Return how the Service *name*, whose annotation ``dsr`` is in force, is handed on: one for each port and family.

    Of a family in which there is no node to hand on to, there is what keeps what arrives from going round.
    """
    nodes: dict[VirtualServer, list[tuple[RealServer, RealServerSpec]]] = {}
    desired = snapshot.desired_of(name)
    for key, spec in desired.items():
        if isinstance(key, RealServer) and isinstance(spec, RealServerSpec) and spec.forwarding != "masquerade":
            nodes.setdefault(key.virtual_server, []).append((key, spec))
    frontends: dict[VirtualServer, list[str]] = {}
    for entry, server in servers_by_entry(desired).items() if nodes else ():
        frontends.setdefault(server, []).append(entry.entry)
    states = [_state(server, nodes[server], frontends.get(server, ()), names) for server in sorted(nodes)]
    return (*states, *_only_guards(desired, {family_of(server.address) for server in nodes}))


def _state(
    server: VirtualServer, nodes: Sequence[tuple[RealServer, RealServerSpec]], frontends: Iterable[str], names: Names
) -> HandingOnState:
    way = nodes[0][1].forwarding
    listed = (NextNode(key.address, names.get(key.address, ""), spec.weight) for key, spec in nodes)
    guard = loop_guard(way, family_of(server.address))
    by_name = tuple(sorted(listed, key=lambda node: (node.name, node.address)))
    return HandingOnState(way, str(server), tuple(sorted(frontends)), by_name, guard)


def _only_guards(desired: Rows, handed_on: Collection[Family]) -> Iterator[HandingOnState]:
    for key in desired:
        if isinstance(key, ReturnTunnel) and key.family not in handed_on:
            yield HandingOnState("tunnel", guard=loop_guard("tunnel", key.family))


def loop_guard(way: str, family: Family) -> str:
    """Return by what a node knows that a packet was handed on by *way*, and so does not hand it on again."""
    return f"arrives by {TUNNEL_DEVICES[family]}" if way == "tunnel" else f"has DSCP {HANDED_ON_DSCP}"
