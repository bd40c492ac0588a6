"""What a trace asks about Services, answered by a compiler."""

from collections.abc import Iterator
from ipaddress import ip_network

from kubeproxy_py.compile.compiler import Compiler
from kubeproxy_py.compile.unserved import unserved_reason
from kubeproxy_py.diagnose.services import KIND_NAMES, port_of
from kubeproxy_py.diagnose.trace.reasons import Objects
from kubeproxy_py.diagnose.trace.request import Directory
from kubeproxy_py.model.rows import VirtualServer
from kubeproxy_py.model.services import Service, ServiceName, ServicePort
from kubeproxy_py.net import IP, Family, family_of


def objects_of(compiler: Compiler) -> Objects:
    """Return the names and reasons that *compiler* knows; it has compiled."""
    claims, cluster = compiler.claims, compiler.cluster

    def holder_of(server: VirtualServer) -> tuple[Service, ServicePort | None, str] | None:
        """Return the Service that holds *server*, the port that it serves, and the kind of its address."""
        claim = next(iter(claims.claims_to(server)), None)
        service = cluster.services.get(claim.service) if claim else None
        return (service, port_of(service, server, claim.kind), KIND_NAMES[claim.kind]) if claim and service else None

    def name_of(server: VirtualServer) -> str:
        holder = holder_of(server)
        if holder is None:
            return ""
        service, port, kind = holder
        return f"{service.name}{f':{port.name}' if port and port.name else ''} ({kind})"

    def service_of(server: VirtualServer) -> ServiceName | None:
        return claims.holder(server)

    def unserved(server: VirtualServer) -> str:
        holder = holder_of(server)
        service, port, _ = holder or (None, None, "")
        if service is None or port is None:
            return ""
        slices, family = cluster.slices_of(service.name), family_of(server.address)
        reason = unserved_reason(service, port, slices, family, compiler.context)
        return reason.text if reason else ""

    def ports_at(address: IP) -> tuple[str, ...]:
        return tuple(f"{server.port}/{server.protocol.lower()}" for server in _servers_at(compiler, address))

    return Objects(name_of, service_of, unserved, ports_at)


def directory_of(compiler: Compiler) -> Directory:
    """Return the Services that *compiler* knows; it has compiled."""
    services = compiler.cluster.services
    return Directory(
        services.get,
        lambda: services,
        lambda address: _servers_at(compiler, address),
        lambda server: server in compiler.desired.rows,
    )


def pods_here(compiler: Compiler, family: Family) -> Iterator[IP]:
    """Yield the addresses of pods on this node that are endpoints, then one of each pod network of the Node."""
    cluster, node_name = compiler.cluster, compiler.context.node_name
    own = {address.address for address in cluster.addresses}
    for name in cluster.services:
        for part in cluster.slices_of(name):
            if part.family == family:
                endpoints = part.endpoints
                yield from (e.address for e in endpoints if e.node == node_name and e.address not in own)
    for cidr in cluster.node.pod_cidrs if cluster.node else ():
        if family_of(cidr) == family:
            yield str(ip_network(cidr)[-2])


def _servers_at(compiler: Compiler, address: IP) -> list[VirtualServer]:
    """Return the virtual servers of Services at *address*, ordered."""
    found = {
        VirtualServer(address, port.port, port.protocol)
        for service in compiler.cluster.services.values()
        if address in _addresses(service)
        for port in service.ports
    }
    return sorted(server for server in found if server in compiler.desired.rows)


def _addresses(service: Service) -> tuple[IP, ...]:
    return (*service.cluster_ips, *service.external_ips, *service.load_balancer_ips)
