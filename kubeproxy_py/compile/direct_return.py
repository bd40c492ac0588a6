"""The rows of direct server return: what a Service port needs so that other nodes answer its clients themselves.

A frontend with externalTrafficPolicy Local serves the endpoints of this node only.  With the annotation ``dsr`` it has
another virtual server, by a firewall mark for clients outside, with the endpoints of this node, and each other node
that has endpoints as one real server.  What goes there arrives as the client sent it; that node's own virtual server,
by address, chooses one of its endpoints, and the answers go to the client without coming by this node.

Invariants:
- What another node handed on is not marked (chains.py), so it is for the endpoints of this node, and never goes round.
  At an address that this node does not have it is not routed on (kernel/address/tunnel.py), or comes back with its
  DSCP, and is not marked there either.
- A node has as much weight as its endpoints have together, so each endpoint gets the same share.
- Endpoints that terminate get new connections only if none is ready on any node, as where a policy is Cluster.
- A Service whose endpoints are all on this node, or on nodes without a known address, has no such virtual server.
- Nothing is handed on at an address that a machine has, this node or another: other nodes do not bind it to kube-ipvs0
  either, so they would send what is handed on back to that machine, which would hand it on again.
- At most half of the endpoints behind it are set aside; a node has the weight of the others.
"""

from collections.abc import Mapping

from msgspec import Struct
from msgspec.structs import replace

from kubeproxy_py.compile.conditions import WEIGHT_MAX, choose_aside
from kubeproxy_py.compile.frontends import FamilyPort, Frontend
from kubeproxy_py.compile.mark_numbers import MarkOwner
from kubeproxy_py.compile.node_context import NodeContext
from kubeproxy_py.compile.policies import MarkQuery, mark_server_spec
from kubeproxy_py.compile.port_endpoints import PortEndpoints
from kubeproxy_py.compile.settings import HANDED_ON_KINDS, HANDED_ON_PROTOCOLS, WEIGHTED_TWINS, Applied, SpecOf
from kubeproxy_py.compile.topology import Backend, SelectionRule, selects_any
from kubeproxy_py.model.conditions import can_set_aside
from kubeproxy_py.model.flows import Destination
from kubeproxy_py.model.kube_names import server_entry
from kubeproxy_py.model.rows import (
    MarkSpec,
    PolicyEntry,
    RealServer,
    RealServerSpec,
    ReturnTunnel,
    Rows,
    TunnelSpec,
    VirtualServer,
    VirtualServerSpec,
    mark_server,
)
from kubeproxy_py.model.settings import DirectReturn
from kubeproxy_py.net import IP, LOOPBACK_IP, by_family

Peers = Mapping[str, tuple[IP, ...]]
"""The addresses of all nodes, by name, in the order of preference."""


class HandingOn(Struct, frozen=True, gc=False):
    """How a Service is handed on from this node."""

    settings: Applied
    context: NodeContext
    peers: Peers
    spec_of: SpecOf | None  # of endpoints

    @property
    def forwarding(self) -> DirectReturn:
        """The way; "": it is not."""
        return self.settings.direct_return


def direct_return_parts(
    port: FamilyPort,
    fronts: Mapping[VirtualServer, Frontend],
    endpoints: PortEndpoints,
    mark_of: MarkQuery,
    handing_on: HandingOn,
) -> list[Rows]:
    """Return the rows in parts: the common part first, then one for each slice, as ``compile_parts``."""
    common: Rows = {}
    servers = [server for server, front in fronts.items() if _is_handed_on(front)]
    if not servers or port.port.protocol not in HANDED_ON_PROTOCOLS:
        return [common]
    family, context = port.family, handing_on.context
    address = context.node_ips.get(family, LOOPBACK_IP[family])
    if handing_on.forwarding == "tunnel" and address != LOOPBACK_IP[family]:
        common[ReturnTunnel(family)] = TunnelSpec(address)
    is_ready = selects_any(endpoints.slices, SelectionRule.READY)
    here = SelectionRule.LOCAL if is_ready else SelectionRule.LOCAL_TERMINATING
    there = _backends_elsewhere(endpoints, SelectionRule.READY if is_ready else SelectionRule.TERMINATING, context)
    spec = _weighted(mark_server_spec(port, handing_on.settings.server_spec(family)), context)
    endpoints = _with_aside(endpoints, here, there, spec)
    nodes = _nodes(port, endpoints, there, handing_on)
    if not nodes:
        return [common]
    owner = MarkOwner(port.service.name, port.port.name, port.port.protocol, family, handing_on.forwarding)
    entries = [server_entry(server) for server in servers]
    mark = mark_of(owner, entries)
    if not mark:
        return [common]
    server = mark_server(family, mark)
    behind = {RealServer(server, node, port.port.port): weights for node, weights in nodes.items()}
    rows: Rows = {key: _node_spec(weights, handing_on) for key, weights in behind.items()}
    server_rows, *slice_parts = endpoints.server_parts(server, spec, here, rows, behind)
    common |= server_rows
    common |= {PolicyEntry(owner.set, entry): MarkSpec(mark) for entry in entries}
    return [common, *slice_parts]


def _is_handed_on(front: Frontend) -> bool:
    return front.is_local_policy and front.bound and front.kind in HANDED_ON_KINDS


def _backends_elsewhere(endpoints: PortEndpoints, rule: SelectionRule, context: NodeContext) -> list[Backend]:
    """Return the endpoints that *rule* selects on other nodes, each place once."""
    selected = (each for part in endpoints.slices for each in part.selected(rule))
    other = (each for each in selected if each.endpoint.node not in ("", context.node_name))
    return list({_place(each): each for each in other}.values())


def _place(backend: Backend) -> Destination:
    return backend.address, backend.port


def _with_aside(
    endpoints: PortEndpoints, here: SelectionRule, there: list[Backend], spec: VirtualServerSpec
) -> PortEndpoints:
    """Return *endpoints* with only those failures because of which an endpoint, here or there, is set aside."""
    conditions = endpoints.conditions
    if not conditions.failures:  # nearly always
        return endpoints
    places = {_place(each) for each in there}
    places.update(_place(each) for part in endpoints.slices for each in part.selected(here))
    can = can_set_aside(spec.scheduler, spec.flags)
    aside = choose_aside(places, conditions.failures) if can else frozenset[Destination]()
    failures = {place: failure for place, failure in conditions.failures.items() if place in aside}
    return replace(endpoints, conditions=replace(conditions, failures=failures))


def _nodes(
    port: FamilyPort, endpoints: PortEndpoints, there: list[Backend], handing_on: HandingOn
) -> dict[IP, dict[Destination, int]]:
    """Return the address of each other node that has endpoints, with their weights: those set aside have none."""
    assigns = handing_on.spec_of
    nodes: dict[IP, dict[Destination, int]] = {}
    for backend in there:
        weight = assigns(backend.endpoint).weight if assigns else 1
        is_aside = _place(backend) in endpoints.conditions.failures
        if address := by_family(handing_on.peers.get(backend.endpoint.node, ())).get(port.family, ""):
            nodes.setdefault(address, {})[_place(backend)] = 0 if is_aside else weight
    return nodes


def _node_spec(weights: Mapping[Destination, int], handing_on: HandingOn) -> RealServerSpec:
    """Return the spec of a node with endpoints of these *weights*."""
    assert handing_on.forwarding
    return RealServerSpec(min(sum(weights.values()), WEIGHT_MAX), forwarding=handing_on.forwarding)


def _weighted(spec: VirtualServerSpec, context: NodeContext) -> VirtualServerSpec:
    """Return *spec* with a scheduler that takes notice of weights, where the kernel has it."""
    twin = WEIGHTED_TWINS.get(spec.scheduler, spec.scheduler)
    return spec if twin in context.missing_schedulers else VirtualServerSpec(twin, spec.flags)
