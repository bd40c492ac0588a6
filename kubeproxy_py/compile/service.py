"""Compile one Service and its EndpointSlices into the rows that the kernel of this node needs for it.

A Service has frontends, the addresses and ports at which it is served (frontends.py).  A frontend becomes one virtual
server with its real servers, the set entries by which iptables treats its packets, and, if this node should own the
address, that address on kube-ipvs0.

Invariants:
- The rows depend only on the arguments.
- The rows come in parts that have no key in common.  Parts that follow from one slice are cached (slice_cache.py).
"""

from collections.abc import Collection, Container, Iterable, Iterator, Mapping, Sequence
from functools import partial

from kubeproxy_py.compile.binding import FrontendKind
from kubeproxy_py.compile.direct_return import HandingOn, Peers, direct_return_parts
from kubeproxy_py.compile.frontends import (
    Entry,
    FamilyPort,
    Frontend,
    external_local,
    family_ports,
    frontends,
)
from kubeproxy_py.compile.node_context import NodeContext
from kubeproxy_py.compile.policies import MarkQuery, no_mark, policy_parts
from kubeproxy_py.compile.port_endpoints import PortEndpoints
from kubeproxy_py.compile.settings import BY_ORDER, applied
from kubeproxy_py.compile.slice_cache import CompileCache
from kubeproxy_py.compile.taken import NOTHING_TAKEN, Taken
from kubeproxy_py.compile.topology import (
    EndpointSelection,
    SliceEndpoints,
    real_servers,
    select_rules,
    turn_of,
    turned,
)
from kubeproxy_py.model import kube_names
from kubeproxy_py.model.conditions import NO_CONDITIONS, Conditions
from kubeproxy_py.model.peers import Labels
from kubeproxy_py.model.rows import Address, IpsetEntry, Rows, VirtualServer, VirtualServerSpec
from kubeproxy_py.model.services import EndpointSlice, Service, ServicePort

_SLICE_TURN_BITS = 16  # of the turn of slices, above those of the turn of endpoints within each
_ONLY_CLUSTER_IP = frozenset((FrontendKind.CLUSTER_IP,))


def compile_service(  # noqa: PLR0913 - all that the rows of a Service depend on
    service: Service,
    slices: Iterable[EndpointSlice],
    context: NodeContext,
    *,
    taken: Taken = NOTHING_TAKEN,
    lost: Container[VirtualServer] = (),
    conditions: Conditions = NO_CONDITIONS,
    labels: Labels = {},  # noqa: B006 - never changed
) -> Rows:
    """Return the rows that *service* wants; none for one that is headless, ExternalName or another proxy's.

    Args:
        service: The Service.
        slices: All its slices, in order of their names.
        context: This node.
        taken: The addresses that are not to be bound.
        lost: The frontends that other Services hold.
        conditions: Of the endpoints.
        labels: Those of nodes, for weights.
    """
    cache = CompileCache(service)
    parts = compile_parts(service, slices, context, cache, taken=taken, lost=lost, conditions=conditions, labels=labels)
    return {key: spec for part in parts for key, spec in part.items()}


def compile_parts(  # noqa: PLR0913 - all that the rows of a Service depend on
    service: Service,
    slices: Iterable[EndpointSlice],
    context: NodeContext,
    cache: CompileCache,
    *,
    taken: Taken = NOTHING_TAKEN,
    lost: Container[VirtualServer] = (),
    mark_of: MarkQuery = no_mark,
    conditions: Conditions = NO_CONDITIONS,
    peers: Peers = {},  # noqa: B006 - never changed
    labels: Labels = {},  # noqa: B006 - never changed
) -> list[Rows]:
    """Return the rows of ``compile_service`` in parts.

    Parts of slices that did not change since *cache* was last used are the same dicts.  *cache* must have been created
    for this *service* and this *context*, and since the labels of nodes changed that its weights name.  *mark_of* is
    called for each Service port that needs a mark.  *peers* are the nodes, for direct server return, and *labels*
    those of nodes, for weights.
    """
    common: Rows = {}
    parts = [common]
    slices = list(slices)
    settings = applied(service, context)
    # One order on all nodes where it decides which endpoint a client gets: then all nodes that it may enter agree.
    turn = 0 if settings.scheduler in BY_ORDER else turn_of(context.node_name, service.name)
    spec_of = settings.spec_of(context, labels)
    make_rows = partial(real_servers, spec_of=spec_of, turn=turn)
    earlier: set[VirtualServer] = set()
    for port in family_ports(service, context, taken):
        # An externalIP of the node and a NodePort may make one frontend of two ports; then the earlier port has it.
        served = [frontend for frontend in frontends(port, context, taken, lost) if frontend.server not in earlier]
        earlier.update([frontend.server for frontend in served])
        endpoints = turned(cache.slice_endpoints(slices, port.family, port.port, context), turn >> _SLICE_TURN_BITS)
        spec = settings.server_spec(port.family)
        port_endpoints = PortEndpoints(endpoints, make_rows, conditions, settings.slow_start_s > 0)
        rules = select_endpoints(service, port.port, {frontend.kind for frontend in served}, endpoints)
        # An address may be of two kinds (externalIP and ClusterIP); as in kube-proxy, that of the last one counts.
        fronts = {frontend.server: frontend for frontend in served}
        port_rows, *slice_parts = _port_parts(fronts, port_endpoints, rules, spec)
        common |= port_rows
        for frontend in served:
            if frontend.bound:
                common[Address(frontend.server.address)] = None
        for definition, entry in _entries(port, served, endpoints, context):
            common[IpsetEntry(definition.name_in(port.family), entry)] = None
        parts += slice_parts
        if context.policy_marks and (service.internal_local or service.external_local):
            policy_rows, *slice_parts = policy_parts(port, fronts, port_endpoints, rules, spec, mark_of)
            common |= policy_rows
            parts += slice_parts
        if settings.direct_return:
            handing_on = HandingOn(settings, context, peers, spec_of)
            direct_rows, *slice_parts = direct_return_parts(port, fronts, port_endpoints, mark_of, handing_on)
            common |= direct_rows
            parts += slice_parts
    cache.evict_unused()
    return parts


def _port_parts(
    fronts: Mapping[VirtualServer, Frontend],
    endpoints: PortEndpoints,
    rules: EndpointSelection,
    spec: VirtualServerSpec,
) -> list[Rows]:
    """Return the virtual servers of *fronts* in parts: the common part first, then one for each server and slice."""
    common: Rows = {}
    parts = [common]
    for server, frontend in fronts.items():
        rule = rules.for_policy(is_local=frontend.is_local_policy)
        server_rows, *slice_parts = endpoints.server_parts(server, spec, rule)
        common |= server_rows
        parts += slice_parts
    return parts


def select_endpoints(
    service: Service, port: ServicePort, kinds: Collection[FrontendKind], endpoints: Sequence[SliceEndpoints]
) -> EndpointSelection:
    """Return the rules that select from *endpoints* for *port* of *service*, which has frontends of *kinds*."""
    is_external = port.node_port != 0 or not _ONLY_CLUSTER_IP.issuperset(kinds)
    return select_rules(
        endpoints,
        # An external address always needs the cluster's endpoints, at least for clients on this node.
        cluster=is_external or not service.internal_local,
        local=service.internal_local or (is_external and external_local(service)),
    )


def _entries(
    port: FamilyPort, served: Iterable[Frontend], endpoints: Iterable[SliceEndpoints], context: NodeContext
) -> Iterator[Entry]:
    """Return all set entries of *port*."""
    for frontend in served:
        yield from frontend.entries
        if frontend.bound:
            yield kube_names.IPVS_IPS, frontend.server.address
    protocol = port.port.protocol
    for slice_endpoints in endpoints:
        # Hairpin traffic: a pod that reaches itself must not see its own address as the source.  That holds for every
        # local endpoint under any conditions.
        for b in slice_endpoints.local:
            yield kube_names.LOOP_BACK, f"{kube_names.ip_port(b.address, protocol, b.port)},{b.address}"
    # kube-proxy skips this entry for a port whose NodePort has no address to be served at.
    is_skipped = port.port.node_port and not context.node_port_addresses.get(port.family)
    if health_check_port(port.service) and not is_skipped:
        yield kube_names.HEALTH_CHECK_NODE_PORT, str(port.service.health_check_node_port)


def health_check_port(service: Service) -> int:
    """Return the health-check node port that applies; 0: none."""
    applies = service.type == "LoadBalancer" and external_local(service)
    return service.health_check_node_port if applies else 0
