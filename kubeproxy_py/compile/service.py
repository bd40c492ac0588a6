"""Compile one Service and its EndpointSlices into the rows that the kernel of this node needs for it.

A Service has frontends, the addresses and ports at which it is served.  A frontend becomes one virtual server with its
real servers, the set entries by which iptables treats its packets, and, if this node should own the address, that
address on kube-ipvs0.

Invariants:
- The rows depend only on the arguments.
- The rows come in parts that have no key in common.  Parts that follow from one slice are cached (slice_cache.py).
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from ipaddress import ip_address, ip_network

from msgspec import Struct

from kubeproxy_py.compile.node_context import LOOPBACK, NodeContext, by_family
from kubeproxy_py.compile.slice_cache import CompileCache
from kubeproxy_py.compile.topology import EndpointSelection, SliceEndpoints, real_servers, select_rules
from kubeproxy_py.model import kube_names
from kubeproxy_py.model.kube_names import IpsetDefinition
from kubeproxy_py.model.rows import FLAG_PERSISTENT, Address, IpsetEntry, Rows, VirtualServer, VirtualServerSpec
from kubeproxy_py.model.services import EndpointSlice, Service, ServicePort
from kubeproxy_py.net import CIDR, IP, Family, Protocol, family_of

# By protocol: the set of all NodePorts, and that of those with externalTrafficPolicy Local.  Those of TCP and UDP are
# of type bitmap:port, which does not support SCTP.
_NODE_PORT_SETS: Mapping[Protocol, tuple[IpsetDefinition, IpsetDefinition]] = {
    "TCP": (kube_names.NODE_PORT_TCP, kube_names.NODE_PORT_LOCAL_TCP),
    "UDP": (kube_names.NODE_PORT_UDP, kube_names.NODE_PORT_LOCAL_UDP),
    "SCTP": (kube_names.NODE_PORT_SCTP, kube_names.NODE_PORT_LOCAL_SCTP),
}

_Entry = tuple[IpsetDefinition, str]


class FamilyPort(Struct, frozen=True, gc=False):
    """One port of a Service in one address family."""

    service: Service
    port: ServicePort
    family: Family
    cluster_ip: IP


class Frontend(Struct, frozen=True, gc=False):
    """One address and port at which a Service port is served."""

    address: IP
    port: int
    is_local_policy: bool  # the traffic policy that applies here is Local
    bound: bool  # the address belongs on kube-ipvs0
    entries: tuple[_Entry, ...]  # set entries


def compile_service(service: Service, slices: Iterable[EndpointSlice], context: NodeContext) -> Rows:
    """Return the rows that *service* wants; none for one that is headless, ExternalName or another proxy's.

    *slices* are all slices of the Service, in order of their names.
    """
    parts = compile_parts(service, slices, context, CompileCache(service))
    return {key: spec for part in parts for key, spec in part.items()}


def compile_parts(
    service: Service, slices: Iterable[EndpointSlice], context: NodeContext, cache: CompileCache
) -> list[Rows]:
    """Return the rows of ``compile_service`` in parts.

    Parts of slices that did not change since *cache* was last used are the same dicts.  *cache* must have been created
    for this *service* and this *context*.
    """
    common: Rows = {}
    parts = [common]
    if service.proxy_name is not None or service.type == "ExternalName":
        return parts
    slices = list(slices)
    for port in family_ports(service, context):
        endpoints = cache.slice_endpoints(slices, port.family, port.port, context)
        port_rows, *slice_parts = _port_parts(port, endpoints, context)
        common |= port_rows
        parts += slice_parts
    cache.evict_unused()
    return parts


def family_ports(service: Service, context: NodeContext) -> Iterator[FamilyPort]:
    """Return every port of *service* in every family that is served.

    Without a ClusterIP in a family, the Service does not exist in that family at all, as in kube-proxy.
    """
    cluster_ips = by_family(service.cluster_ips)
    for family in context.families:
        if cluster_ip := cluster_ips.get(family):
            for port in service.ports:
                yield FamilyPort(service, port, family, cluster_ip)


def external_local(service: Service) -> bool:
    """Return whether externalTrafficPolicy Local applies: only to a Service that can be reached from outside."""
    reachable = service.type in ("LoadBalancer", "NodePort") or bool(service.external_ips)
    return service.external_local and reachable


def source_ranges(service: Service, family: Family) -> tuple[CIDR, ...]:
    """Return the networks that may use the load balancer's addresses; empty, or any /0 among them: all."""
    ranges = tuple(cidr for cidr in service.source_ranges if family_of(cidr) == family)
    return () if any(cidr.endswith("/0") for cidr in ranges) else ranges


def frontends(port: FamilyPort, context: NodeContext) -> Iterator[Frontend]:
    """Return every frontend of *port*: ClusterIP, externalIPs, load balancer addresses, NodePorts."""
    service, number, protocol = port.service, port.port.port, port.port.protocol
    is_external_local = external_local(service)
    entry = _ip_port(port.cluster_ip, protocol, number)
    yield Frontend(
        port.cluster_ip, number, service.internal_local, bound=True, entries=((kube_names.CLUSTER_IP, entry),)
    )
    external_set = kube_names.EXTERNAL_IP_LOCAL if is_external_local else kube_names.EXTERNAL_IP
    for address in _of_family(service.external_ips, port.family):
        entry = _ip_port(address, protocol, number)
        yield Frontend(address, number, is_external_local, _is_bindable(address, context), ((external_set, entry),))
    for address in _of_family(service.load_balancer_ips, port.family):
        entries = tuple(_load_balancer_entries(port, address, context))
        yield Frontend(address, number, is_external_local, _is_bindable(address, context), entries)
    if port.port.node_port:
        for address in context.node_port_addresses.get(port.family, ()):
            entries = tuple(_node_port_entries(port.port, address, is_local=is_external_local))
            yield Frontend(address, port.port.node_port, is_external_local, bound=False, entries=entries)


def _port_parts(port: FamilyPort, endpoints: Sequence[SliceEndpoints], context: NodeContext) -> list[Rows]:
    """Return the rows of *port* in parts: the common part first, then one for each frontend and slice.

    The real servers of a single slice are in the common part, because 10,000 small dicts need more memory.
    """
    served = list(frontends(port, context))
    rules = _rules(port, served, endpoints)
    spec = VirtualServerSpec(
        context.scheduler,
        context.scheduler_flags | (FLAG_PERSISTENT if port.service.affinity_timeout_s else 0),
        port.service.affinity_timeout_s,
    )
    common: Rows = {}
    parts = [common]
    for frontend in served:
        server = VirtualServer(frontend.address, frontend.port, port.port.protocol)
        common[server] = spec
        rule = rules.for_policy(is_local=frontend.is_local_policy)
        if len(endpoints) == 1:
            common |= real_servers(server, endpoints[0].selected(rule))
        else:
            parts += [slice_endpoints.rows(server, rule) for slice_endpoints in endpoints]
        if frontend.bound:
            common[Address(frontend.address)] = None
    for definition, entry in _entries(port, served, endpoints, context):
        common[IpsetEntry(definition.name_in(port.family), entry)] = None
    return parts


def _rules(port: FamilyPort, served: Sequence[Frontend], endpoints: Sequence[SliceEndpoints]) -> EndpointSelection:
    """Return the rules that select from *endpoints* for the frontends *served*."""
    service = port.service
    is_external = len(served) > 1 or port.port.node_port != 0
    return select_rules(
        endpoints,
        # An external address always needs the cluster's endpoints, at least for clients on this node.
        cluster=is_external or not service.internal_local,
        local=service.internal_local or (is_external and external_local(service)),
    )


def _entries(
    port: FamilyPort, served: Iterable[Frontend], endpoints: Iterable[SliceEndpoints], context: NodeContext
) -> Iterator[_Entry]:
    """Return all set entries of *port*."""
    for frontend in served:
        yield from frontend.entries
        if frontend.bound:
            yield kube_names.IPVS_IPS, frontend.address
    protocol = port.port.protocol
    for slice_endpoints in endpoints:
        # Hairpin traffic: a pod that reaches itself must not see its own address as the source.  That holds for every
        # local endpoint under any conditions.
        for b in slice_endpoints.local:
            yield kube_names.LOOP_BACK, f"{_ip_port(b.address, protocol, b.port)},{b.address}"
    # kube-proxy skips this entry for a port whose NodePort has no address to be served at.
    is_skipped = port.port.node_port and not context.node_port_addresses.get(port.family)
    if health_check_port(port.service) and not is_skipped:
        yield kube_names.HEALTH_CHECK_NODE_PORT, str(port.service.health_check_node_port)


def _load_balancer_entries(port: FamilyPort, address: IP, context: NodeContext) -> Iterator[_Entry]:
    entry = _ip_port(address, port.port.protocol, port.port.port)
    yield kube_names.LOAD_BALANCER, entry
    if external_local(port.service):
        yield kube_names.LOAD_BALANCER_LOCAL, entry
    if ranges := source_ranges(port.service, port.family):
        yield kube_names.LOAD_BALANCER_FW, entry
        for cidr in ranges:
            yield kube_names.LOAD_BALANCER_SOURCE_CIDR, f"{entry},{format_cidr(cidr)}"
        # A process of this node reaches the address from that same address, because the address is local.
        node_ip = context.node_ips.get(port.family, LOOPBACK[port.family])
        if any(ip_address(node_ip) in ip_network(cidr) for cidr in ranges):
            yield kube_names.LOAD_BALANCER_SOURCE_IP, f"{entry},{address}"


def _node_port_entries(port: ServicePort, address: IP, *, is_local: bool) -> Iterator[_Entry]:
    all_ports, local_ports = _NODE_PORT_SETS[port.protocol]
    entry = _ip_port(address, port.protocol, port.node_port) if port.protocol == "SCTP" else str(port.node_port)
    yield all_ports, entry
    if is_local:
        yield local_ports, entry


def health_check_port(service: Service) -> int:
    """Return the health-check node port that applies; 0: none."""
    applies = service.type == "LoadBalancer" and external_local(service)
    return service.health_check_node_port if applies else 0


def format_cidr(cidr: CIDR) -> str:
    """Return *cidr* as ipset prints it: a single address without its prefix length."""
    address, _, length = cidr.partition("/")
    return address if length == ("128" if ":" in address else "32") else cidr


def _ip_port(address: IP, protocol: Protocol, port: int) -> str:
    return f"{address},{protocol.lower()}:{port}"


def _is_bindable(address: IP, context: NodeContext) -> bool:
    """Return whether kube-ipvs0 may get *address*; one that another interface has stays there."""
    return address not in context.foreign_addresses.get(family_of(address), frozenset())


def _of_family(addresses: tuple[IP, ...], family: Family) -> Iterator[IP]:
    return (address for address in addresses if family_of(address) == family)
