"""compile_service: one Service and its endpoint slices -> the rows that this node's kernel needs for it.

Law: rows depend on the arguments alone.  A Service has *fronts* (the addresses and ports at which it can be
reached); a front gives one virtual server with its real servers, the set entries that make iptables treat its
packets right, and, if the node is to own the address, that address on kube-ipvs0.

The rows come in parts that have no key in common; what a Memo remembers are parts whose slice did not change.
"""

from collections.abc import Iterable, Iterator, Sequence
from ipaddress import ip_address, ip_network

from msgspec import Struct

from kubeproxy_py.compile.node_context import LOOPBACK, NodeContext, by_family
from kubeproxy_py.compile.slice_cache import CompileCache
from kubeproxy_py.compile.topology import SelectionRule, SliceEndpoints, choose, real_servers
from kubeproxy_py.model import kube_names as tables
from kubeproxy_py.model.kube_names import IpsetDefinition
from kubeproxy_py.model.rows import FLAG_PERSISTENT, Address, IpsetEntry, Rows, VirtualServer, VirtualServerSpec
from kubeproxy_py.model.services import CIDR, IP, EndpointSlice, Family, Protocol, Service, ServicePort, family_of

# nodePort sets by protocol: (all, externalTrafficPolicy Local).  bitmap:port for TCP and UDP; SCTP has no bitmap.
_NODE_PORT_SETS: dict[Protocol, tuple[IpsetDefinition, IpsetDefinition]] = {
    "TCP": (tables.NODE_PORT_TCP, tables.NODE_PORT_LOCAL_TCP),
    "UDP": (tables.NODE_PORT_UDP, tables.NODE_PORT_LOCAL_UDP),
    "SCTP": (tables.NODE_PORT_SCTP, tables.NODE_PORT_LOCAL_SCTP),
}


class Frontend(Struct, frozen=True, gc=False):
    """One address and port at which a service port answers."""

    address: IP
    port: int
    local_wanted: bool  # the traffic policy that holds here is Local
    bound: bool  # the address belongs on kube-ipvs0
    entries: tuple[tuple[IpsetDefinition, str], ...]  # set entries


def compile_service(service: Service, slices: Iterable[EndpointSlice], site: NodeContext) -> Rows:
    """The rows that *service* wants; none for one that is headless, ExternalName or another proxy's.

    *slices* are all of the Service's, in order of their names.
    """
    return {
        key: spec for part in compile_parts(service, slices, site, CompileCache(service)) for key, spec in part.items()
    }


def compile_parts(
    service: Service, slices: Iterable[EndpointSlice], site: NodeContext, memo: CompileCache
) -> list[Rows]:
    """The same in parts; those of slices that did not change since *memo* was last used are the same dicts.

    *memo* was made for this *service* and this *site*.
    """
    rows: Rows = {}
    parts = [rows]
    if service.proxy_name or service.type == "ExternalName":
        return parts
    slices = list(slices)
    cluster_ips = by_family(service.cluster_ips)
    for family in site.families:
        # Without a ClusterIP in a family the whole Service does not exist there, as upstream has it.
        if cluster_ip := cluster_ips.get(family):
            for port in service.ports:
                shares = memo.shares(slices, family, port, site)
                parts += _add_port(rows, service, port, family, cluster_ip, shares, site)
    memo.forget_the_rest()
    return parts


def external_local(service: Service) -> bool:
    """Whether externalTrafficPolicy Local is in force: only a Service that can be reached from outside has one."""
    reachable = service.type in ("LoadBalancer", "NodePort") or bool(service.external_ips)
    return service.external_local and reachable


def source_ranges(service: Service, family: Family) -> tuple[CIDR, ...]:
    """Who may come to the load balancer's addresses; empty: everyone.  A /0 among them lets everyone in."""
    ranges = tuple(cidr for cidr in service.source_ranges if family_of(cidr) == family)
    return () if any(cidr.endswith("/0") for cidr in ranges) else ranges


def frontends(
    service: Service, port: ServicePort, family: Family, cluster_ip: IP, site: NodeContext
) -> Iterator[Frontend]:
    """Every front of *port* in *family*: ClusterIP, externalIPs, load balancer addresses, NodePorts."""
    outside_local = external_local(service)
    yield Frontend(
        cluster_ip,
        port.port,
        service.internal_local,
        True,
        ((tables.CLUSTER_IP, _ip_port(cluster_ip, port.protocol, port.port)),),
    )
    external_set = tables.EXTERNAL_IP_LOCAL if outside_local else tables.EXTERNAL_IP
    for address in _of_family(service.external_ips, family):
        entry = _ip_port(address, port.protocol, port.port)
        yield Frontend(address, port.port, outside_local, _bindable(address, site), ((external_set, entry),))
    for address in _of_family(service.load_balancer_ips, family):
        entries = tuple(_load_balancer_entries(service, port, address, site))
        yield Frontend(address, port.port, outside_local, _bindable(address, site), entries)
    if port.node_port:
        for address in site.node_port_addresses.get(family, ()):
            yield Frontend(
                address, port.node_port, outside_local, False, tuple(_node_port_entries(port, address, outside_local))
            )


def _add_port(
    rows: Rows,
    service: Service,
    port: ServicePort,
    family: Family,
    cluster_ip: IP,
    shares: Sequence[SliceEndpoints],
    site: NodeContext,
) -> Iterator[Rows]:
    """Add to *rows* what *port* wants; where several *shares* serve it, what follows from each is a part by itself."""
    mine = list(frontends(service, port, family, cluster_ip, site))
    outside = len(mine) > 1 or port.node_port != 0
    choice = choose(
        shares,
        # An outside address always needs the cluster's endpoints, if only for clients on this node.
        cluster=outside or not service.internal_local,
        local=service.internal_local or (outside and external_local(service)),
    )
    spec = VirtualServerSpec(
        site.scheduler,
        site.scheduler_flags | (FLAG_PERSISTENT if service.affinity_timeout_s else 0),
        service.affinity_timeout_s,
    )
    for front in mine:
        server = VirtualServer(front.address, front.port, port.protocol)
        rows[server] = spec
        yield from _real_servers(rows, server, choice.for_policy(front.local_wanted), shares)
        _add_entries(rows, family, front.entries)
        if front.bound:
            rows[Address(front.address)] = None
            rows[IpsetEntry(tables.IPVS_IPS.name_in(family), front.address)] = None
    for share in shares:
        _add_entries(rows, family, _hairpin_entries(share, port))
    _add_entries(rows, family, _health_check_entries(service, port, family, site))


def _real_servers(
    rows: Rows, server: VirtualServer, rule: SelectionRule, shares: Sequence[SliceEndpoints]
) -> Iterator[Rows]:
    """A part for each of several *shares*; those of a single one go into *rows*, for 10,000 small dicts take memory."""
    if len(shares) == 1:
        rows.update(real_servers(server, shares[0].chosen(rule)))
    else:
        yield from (share.rows(server, rule) for share in shares)


def _add_entries(rows: Rows, family: Family, entries: Iterable[tuple[IpsetDefinition, str]]) -> None:
    for kind, entry in entries:
        rows[IpsetEntry(kind.name_in(family), entry)] = None


def _load_balancer_entries(
    service: Service, port: ServicePort, address: IP, site: NodeContext
) -> Iterator[tuple[IpsetDefinition, str]]:
    family = family_of(address)
    entry = _ip_port(address, port.protocol, port.port)
    yield tables.LOAD_BALANCER, entry
    if external_local(service):
        yield tables.LOAD_BALANCER_LOCAL, entry
    if ranges := source_ranges(service, family):
        yield tables.LOAD_BALANCER_FW, entry
        for cidr in ranges:
            yield tables.LOAD_BALANCER_SOURCE_CIDR, f"{entry},{bare(cidr)}"
        # A process of this node talks to the address from that same address, since the address is local.
        node_ip = site.node_ips.get(family, LOOPBACK[family])
        if any(ip_address(node_ip) in ip_network(cidr) for cidr in ranges):
            yield tables.LOAD_BALANCER_SOURCE_IP, f"{entry},{address}"


def _node_port_entries(port: ServicePort, address: IP, local: bool) -> Iterator[tuple[IpsetDefinition, str]]:
    everywhere, only_local = _NODE_PORT_SETS[port.protocol]
    entry = _ip_port(address, port.protocol, port.node_port) if port.protocol == "SCTP" else str(port.node_port)
    yield everywhere, entry
    if local:
        yield only_local, entry


def _hairpin_entries(share: SliceEndpoints, port: ServicePort) -> Iterator[tuple[IpsetDefinition, str]]:
    """Every local endpoint, whatever its state: a pod that comes back to itself must not see its own address."""
    for b in share.local:
        yield tables.LOOP_BACK, f"{_ip_port(b.address, port.protocol, b.port)},{b.address}"


def _health_check_entries(
    service: Service, port: ServicePort, family: Family, site: NodeContext
) -> Iterator[tuple[IpsetDefinition, str]]:
    # Upstream forgets the entry for a port whose nodePort has nowhere to answer (it leaves the iteration early).
    forgotten = port.node_port and not site.node_port_addresses.get(family)
    if health_check_port(service) and not forgotten:
        yield tables.HEALTH_CHECK_NODE_PORT, str(service.health_check_node_port)


def health_check_port(service: Service) -> int:
    """The health-check node port that is in force; 0: none."""
    in_force = service.type == "LoadBalancer" and external_local(service)
    return service.health_check_node_port if in_force else 0


def bare(cidr: CIDR) -> str:
    """*cidr* as ipset prints it: a single address without its length."""
    address, _, length = cidr.partition("/")
    return address if length == ("128" if ":" in address else "32") else cidr


def _ip_port(address: IP, protocol: Protocol, port: int) -> str:
    return f"{address},{protocol.lower()}:{port}"


def _bindable(address: IP, site: NodeContext) -> bool:
    """An address that another interface already has stays there."""
    return address not in site.foreign_addresses.get(family_of(address), frozenset())


def _of_family(addresses: tuple[IP, ...], family: Family) -> Iterator[IP]:
    return (address for address in addresses if family_of(address) == family)
