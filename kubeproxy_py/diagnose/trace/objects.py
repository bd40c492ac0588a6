"""What a trace asks about Services and rows, answered by what an agent, or a command, knows."""

from collections.abc import Callable, Iterator, Mapping
from ipaddress import ip_network

from msgspec import Struct

from kubeproxy_py.compile.claims import Claims
from kubeproxy_py.compile.compiler import Compiler
from kubeproxy_py.compile.node_context import NodeContext
from kubeproxy_py.compile.unserved import unserved_reason
from kubeproxy_py.diagnose.services import KIND_NAMES, port_of
from kubeproxy_py.diagnose.snapshot import Snapshot
from kubeproxy_py.diagnose.trace.lookup import RowLookup, Weights, weight_of
from kubeproxy_py.diagnose.trace.reasons import Objects
from kubeproxy_py.diagnose.trace.request import Directory
from kubeproxy_py.model.node import HostAddress, Node
from kubeproxy_py.model.rows import RealServer, Rows, VirtualServer
from kubeproxy_py.model.services import EndpointSlice, Service, ServiceName, ServicePort
from kubeproxy_py.net import IP, Family, family_of


class Known(Struct, frozen=True, gc=False):
    """The objects of a cluster, and what was compiled of them.

    Attributes:
        services: The Services.
        slices_of: returns the slices of a Service in order of their names.
        claims: Which Service has each frontend.
        context: What is known of this node.
        node: Its Node object.
        addresses: The addresses of this host.
        serves: returns whether a virtual server is desired.
    """

    services: Mapping[ServiceName, Service]
    slices_of: Callable[[ServiceName], list[EndpointSlice]]
    claims: Claims
    context: NodeContext
    node: Node | None
    addresses: tuple[HostAddress, ...]
    serves: Callable[[VirtualServer], bool]


def known_to_compiler(compiler: Compiler) -> Known:
    """Return what *compiler* knows; it has compiled."""
    cluster, rows = compiler.cluster, compiler.desired.rows
    return Known(
        cluster.services,
        cluster.slices_of,
        compiler.claims,
        compiler.context,
        cluster.node,
        cluster.addresses,
        lambda server: server in rows,
    )


def known_to(snapshot: Snapshot) -> Known:
    """Return what an agent knew."""
    return Known(
        snapshot.services,
        snapshot.slices_of,
        snapshot.claims,
        snapshot.context,
        snapshot.node,
        snapshot.host_addresses,
        lambda server: bool(_desired_of_holder(snapshot, server)),
    )


class SnapshotLookup(RowLookup):
    """Looks up in the desired rows of *snapshot*; the real servers are those of the Service that holds theirs."""

    def __init__(self, snapshot: Snapshot) -> None:
        super().__init__(snapshot.desired_rows())
        self._snapshot = snapshot

    def real_servers(self, server: VirtualServer) -> Weights:
        """Return the real servers of *server* with their weights."""
        parts = _desired_of_mark if server.mark else _desired_of_holder
        return {
            key: weight_of(spec)
            for part in parts(self._snapshot, server)
            for key, spec in part.items()
            if type(key) is RealServer and key.virtual_server == server
        }


def _desired_of_holder(snapshot: Snapshot, server: VirtualServer) -> tuple[Rows, ...]:
    """Return the parts of the rows of the Service that holds *server*; none if they have no such virtual server."""
    holder = snapshot.claims.holder(server)
    parts = snapshot.parts.get(holder, ()) if holder else ()
    return parts if any(server in part for part in parts) else ()


def _desired_of_mark(snapshot: Snapshot, server: VirtualServer) -> tuple[Rows, ...]:
    """Return the parts of the rows of the Service whose frontends have the mark of *server*."""
    for parts in snapshot.parts.values():
        if any(server in part for part in parts):
            return parts
    return ()


def pending_notes(snapshot: Snapshot) -> Iterator[str]:
    """Yield how the kernel differs from the rows that are traced, as the agent knows it."""
    see = "trace with --kernel for what it has"
    if snapshot.awaited:
        yield f"the agent waits for {', '.join(sorted(snapshot.awaited))}, and has not changed the kernel yet; {see}"
    elif count := len(snapshot.pending):
        rows = "1 row is" if count == 1 else f"{count:,} rows are"
        yield f"{rows} not in the kernel as the agent wants (see status); {see}"


def objects_of(known: Known) -> Objects:
    """Return the names and reasons that are *known*."""

    def holder_of(server: VirtualServer) -> tuple[Service, ServicePort | None, str] | None:
        """Return the Service that holds *server*, the port that it serves, and the kind of its address."""
        claim = next(iter(known.claims.claims_to(server)), None)
        service = known.services.get(claim.service) if claim else None
        return (service, port_of(service, server, claim.kind), KIND_NAMES[claim.kind]) if claim and service else None

    def name_of(server: VirtualServer) -> str:
        holder = holder_of(server)
        if holder is None:
            return ""
        service, port, kind = holder
        return f"{service.name}{f':{port.name}' if port and port.name else ''} ({kind})"

    def unserved(server: VirtualServer) -> str:
        service, port, _ = holder_of(server) or (None, None, "")
        if service is None or port is None:
            return ""
        slices, family = known.slices_of(service.name), family_of(server.address)
        reason = unserved_reason(service, port, slices, family, known.context)
        return reason.text if reason else ""

    def ports_at(address: IP) -> tuple[str, ...]:
        return tuple(f"{server.port}/{server.protocol.lower()}" for server in _servers_at(known, address))

    return Objects(name_of, known.claims.holder, unserved, ports_at)


def directory_of(known: Known) -> Directory:
    """Return the Services that are *known*."""
    services = known.services
    return Directory(services.get, lambda: services, lambda address: _servers_at(known, address), known.serves)


def pods_here(known: Known, family: Family) -> Iterator[IP]:
    """Yield the addresses of pods on this node that are endpoints, then one of each pod network of the Node."""
    node_name, own = known.context.node_name, {address.address for address in known.addresses}
    for name in known.services:
        for part in known.slices_of(name):
            if part.family == family:
                endpoints = part.endpoints
                yield from (e.address for e in endpoints if e.node == node_name and e.address not in own)
    for cidr in known.node.pod_cidrs if known.node else ():
        if family_of(cidr) == family:
            yield str(ip_network(cidr)[-2])


def _servers_at(known: Known, address: IP) -> list[VirtualServer]:
    """Return the virtual servers of Services at *address*, ordered."""
    found = {
        VirtualServer(address, port.port, port.protocol)
        for service in known.services.values()
        if address in _addresses(service)
        for port in service.ports
    }
    return sorted(server for server in found if known.serves(server))


def _addresses(service: Service) -> tuple[IP, ...]:
    return (*service.cluster_ips, *service.external_ips, *service.load_balancer_ips)
