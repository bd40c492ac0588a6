"""The frontends of a Service: the addresses and ports at which it is served, with the set entries of each.

Invariants:
- The frontends depend only on the Service, the node, and which addresses are taken; not on endpoints.
- They come in kube-proxy's order: ClusterIP, externalIPs, load balancer addresses, NodePorts.
"""

from collections.abc import Callable, Container, Iterator, Mapping
from ipaddress import ip_address, ip_network
from operator import attrgetter

from msgspec import Struct

from kubeproxy_py.compile.binding import Binding, FrontendKind, bind, closed_refusal, is_closed
from kubeproxy_py.compile.node_context import NodeContext
from kubeproxy_py.compile.taken import NOTHING_TAKEN, Taken
from kubeproxy_py.model import kube_names
from kubeproxy_py.model.kube_names import IpsetDefinition, server_entry
from kubeproxy_py.model.refusal import Refusal
from kubeproxy_py.model.rows import VirtualServer
from kubeproxy_py.model.services import Service, ServicePort
from kubeproxy_py.net import CIDR, IP, LOOPBACK_IP, Family, by_family, family_of

_node_port: Callable[[ServicePort], int] = attrgetter("node_port")
# An attribute of an Enum takes 0.1 us on Python 3.11.
_CLUSTER_IP, _LOAD_BALANCER, _EXTERNAL_IP, _NODE_PORT = FrontendKind

Entry = tuple[IpsetDefinition, str]
"""An entry of a set."""


class FamilyPort(Struct, frozen=True, gc=False):
    """One port of a Service in one address family, and the addresses of the Service in it that are served."""

    service: Service
    port: ServicePort
    family: Family
    bindings: tuple[Binding, ...]


class Frontend(Struct, frozen=True, gc=False):
    """One address and port at which a Service port is served."""

    kind: FrontendKind
    server: VirtualServer
    is_local_policy: bool  # the traffic policy that applies here is Local
    bound: bool  # the address belongs on kube-ipvs0
    entries: tuple[Entry, ...]  # set entries


Placement = tuple[tuple[Family, tuple[Binding, ...]], ...]
"""The decisions for the addresses of a Service, by family."""


def place(service: Service, context: NodeContext, taken: Taken = NOTHING_TAKEN) -> Placement:
    """Return the decisions for the addresses of *service*; none if another proxy serves it.

    Without a ClusterIP in a family, the Service does not exist in that family at all, as in kube-proxy.
    """
    if service.proxy_name is not None or service.type == "ExternalName" or not service.ports:
        return ()
    cluster_ips = by_family(service.cluster_ips)
    placement: list[tuple[Family, tuple[Binding, ...]]] = []
    for family in context.families:
        if cluster_ip := cluster_ips.get(family):
            addresses = _addresses(service, family, cluster_ip, context)
            bindings = [bind(service.name, kind, address, context, taken) for kind, address in addresses]
            placement.append((family, tuple(bindings)))
    return tuple(placement)


def family_ports(service: Service, context: NodeContext, taken: Taken = NOTHING_TAKEN) -> list[FamilyPort]:
    """Return every port of *service* in every family that is served."""
    return placed_ports(service, place(service, context, taken))


def placed_ports(service: Service, placement: Placement) -> list[FamilyPort]:
    """Return every port of *service* in every family, with the addresses of *placement* that are served."""
    ports: list[FamilyPort] = []
    for family, bindings in placement:
        served = tuple([binding for binding in bindings if binding.is_served])
        ports += [FamilyPort(service, port, family, served) for port in service.ports]
    return ports


def servers(port: FamilyPort, taken: Taken = NOTHING_TAKEN) -> list[tuple[Binding, VirtualServer]]:
    """Return the virtual server of every frontend of *port*, with what applies to its address."""
    found = _all_servers(port)
    if not taken.api_servers:
        return found
    return [(binding, server) for binding, server in found if not is_closed(binding.kind, server, taken)]


def frontends(
    port: FamilyPort, context: NodeContext, taken: Taken = NOTHING_TAKEN, without: Container[VirtualServer] = ()
) -> list[Frontend]:
    """Return every frontend of *port*, except those in *without*."""
    service, is_external_local = port.service, external_local(port.service)
    found: list[Frontend] = []
    for binding, server in servers(port, taken):
        if server not in without:
            kind = binding.kind
            is_local = service.internal_local if kind is _CLUSTER_IP else is_external_local
            entries = _ENTRIES[kind](service, server, context)
            found.append(Frontend(kind, server, is_local, binding.is_bound, entries))
    return found


def refusals(service: Service, placement: Placement, taken: Taken) -> tuple[Refusal, ...]:
    """Return what is refused of the addresses and ports that *service* asks for, regardless of other Services."""
    found = [b.refusal for _, bindings in placement for b in bindings if b.refusal is not None]
    if taken.api_servers:
        found += [
            closed_refusal(service.name, server)
            for port in placed_ports(service, placement)
            for binding, server in _all_servers(port)
            if is_closed(binding.kind, server, taken)
        ]
    return tuple(dict.fromkeys(found))  # an address may be externalIP and load balancer address


def external_local(service: Service) -> bool:
    """Return whether externalTrafficPolicy Local applies: only to a Service that can be reached from outside."""
    reachable = service.type in ("LoadBalancer", "NodePort") or bool(service.external_ips)
    return service.external_local and reachable


def is_local_policy(service: Service, kind: FrontendKind) -> bool:
    """Return whether the traffic policy of the addresses of *kind* is Local."""
    return service.internal_local if kind is _CLUSTER_IP else external_local(service)


def source_ranges(service: Service, family: Family) -> tuple[CIDR, ...]:
    """Return the networks that may use the load balancer's addresses; empty, or any /0 among them: all."""
    ranges = tuple(cidr for cidr in service.source_ranges if family_of(cidr) == family)
    return () if any(cidr.endswith("/0") for cidr in ranges) else ranges


def format_cidr(cidr: CIDR) -> str:
    """Return *cidr* as ipset prints it: a single address without its prefix length."""
    address, _, length = cidr.partition("/")
    return address if length == ("128" if ":" in address else "32") else cidr


def _addresses(service: Service, family: Family, cluster_ip: IP, context: NodeContext) -> list[tuple[FrontendKind, IP]]:
    """Return the addresses of *service* in *family*."""
    found = [(_CLUSTER_IP, cluster_ip)]
    if service.external_ips:
        found += [(_EXTERNAL_IP, address) for address in service.external_ips if family_of(address) == family]
    if service.load_balancer_ips:
        found += [(_LOAD_BALANCER, address) for address in service.load_balancer_ips if family_of(address) == family]
    if any(map(_node_port, service.ports)):
        found += [(_NODE_PORT, address) for address in context.node_port_addresses.get(family, ())]
    return found


def _all_servers(port: FamilyPort) -> list[tuple[Binding, VirtualServer]]:
    number, node_port, protocol = port.port.port, port.port.node_port, port.port.protocol
    numbered = [(b, node_port if b.kind is _NODE_PORT else number) for b in port.bindings]
    return [(binding, VirtualServer(binding.address, port, protocol)) for binding, port in numbered if port]


# Set entries


_Entries = tuple[Entry, ...]


def _cluster_ip_entries(_service: Service, server: VirtualServer, _context: NodeContext) -> _Entries:
    return ((kube_names.CLUSTER_IP, server_entry(server)),)


def _external_ip_entries(service: Service, server: VirtualServer, _context: NodeContext) -> _Entries:
    is_local = external_local(service)
    return ((kube_names.EXTERNAL_IP_LOCAL if is_local else kube_names.EXTERNAL_IP, server_entry(server)),)


def _load_balancer_entries(service: Service, server: VirtualServer, context: NodeContext) -> _Entries:
    entry = server_entry(server)
    is_local = ((kube_names.LOAD_BALANCER_LOCAL, entry),) if external_local(service) else ()
    return ((kube_names.LOAD_BALANCER, entry), *is_local, *_source_range_entries(service, server, context))


def _source_range_entries(service: Service, server: VirtualServer, context: NodeContext) -> Iterator[Entry]:
    address, family, entry = server.address, family_of(server.address), server_entry(server)
    if ranges := source_ranges(service, family):
        yield kube_names.LOAD_BALANCER_FW, entry
        for cidr in ranges:
            yield kube_names.LOAD_BALANCER_SOURCE_CIDR, f"{entry},{format_cidr(cidr)}"
        # A process of this node reaches the address from that same address, because the address is local.
        node_ip = context.node_ips.get(family, LOOPBACK_IP[family])
        if any(ip_address(node_ip) in ip_network(cidr) for cidr in ranges):
            yield kube_names.LOAD_BALANCER_SOURCE_IP, f"{entry},{address}"


def _node_port_entries(service: Service, server: VirtualServer, _context: NodeContext) -> _Entries:
    all_ports, local_ports = kube_names.NODE_PORT_DEFINITIONS[server.protocol]
    entry = server_entry(server) if server.protocol == "SCTP" else str(server.port)
    return ((all_ports, entry), (local_ports, entry)) if external_local(service) else ((all_ports, entry),)


_ENTRIES: Mapping[FrontendKind, Callable[[Service, VirtualServer, NodeContext], _Entries]] = {
    FrontendKind.CLUSTER_IP: _cluster_ip_entries,
    FrontendKind.EXTERNAL_IP: _external_ip_entries,
    FrontendKind.LOAD_BALANCER: _load_balancer_entries,
    FrontendKind.NODE_PORT: _node_port_entries,
}
