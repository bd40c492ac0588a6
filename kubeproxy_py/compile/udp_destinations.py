"""The destinations to which the UDP flows of each virtual server may go.

A flow may go to every serving endpoint of its Service port, ready or not, terminating or not, under any traffic policy
or topology select: these apply to new flows, and no existing flow is deleted because of them.  An endpoint that is
ready without serving (publishNotReadyAddresses) is used by IPVS, so it may have flows too; kube-proxy deletes these at
each sync.  A virtual server that no Service wants, or whose Service port has no such endpoint, may have no flow at all.
"""

from collections.abc import Callable, Iterable, Iterator
from operator import attrgetter

from kubeproxy_py.compile.compiler import Compiler
from kubeproxy_py.compile.frontends import family_ports, servers
from kubeproxy_py.compile.node_context import NodeContext
from kubeproxy_py.compile.topology import backends
from kubeproxy_py.model.flows import AllowedDestinations, Destination
from kubeproxy_py.model.rows import Key, RealServer, VirtualServer
from kubeproxy_py.model.services import EndpointSlice, Service, ServiceName, ServicePort
from kubeproxy_py.net import Protocol

_protocol: Callable[[ServicePort], Protocol] = attrgetter("protocol")
_NOWHERE: frozenset[Destination] = frozenset()


def udp_servers_among(keys: Iterable[Key]) -> set[VirtualServer]:
    """Return the UDP virtual servers that *keys* are or belong to."""
    servers: set[VirtualServer] = set()
    for key in keys:
        server = key.virtual_server if isinstance(key, RealServer) else key
        if isinstance(server, VirtualServer) and server.protocol == "UDP":
            servers.add(server)
    return servers


def udp_servers(names: Iterable[ServiceName], compiler: Compiler) -> Iterator[VirtualServer]:
    """Return the UDP virtual servers of the Services *names*."""
    for name in names:
        service = compiler.cluster.services.get(name)
        if service and "UDP" in map(_protocol, service.ports):
            yield from (server for server in compiler.claims.held_by(name) if server.protocol == "UDP")


def allowed_destinations(
    of_servers: Iterable[VirtualServer], compiler: Compiler
) -> dict[VirtualServer, frozenset[Destination]]:
    """Return the allowed destinations of each of *of_servers*: those of the Service that holds it."""
    serving: dict[ServiceName, AllowedDestinations] = {}
    allowed = {}
    for server in of_servers:
        holder = compiler.claims.holder(server)
        if holder and holder not in serving:
            serving[holder] = _serving_of(holder, compiler)
        allowed[server] = serving[holder].get(server, _NOWHERE) if holder else _NOWHERE
    return allowed


def serving_destinations(
    service: Service, slices: Iterable[EndpointSlice], context: NodeContext
) -> dict[VirtualServer, frozenset[Destination]]:
    """Return the allowed destinations of each UDP virtual server of *service*.

    *slices* are in order of their names.
    """
    slices = list(slices)
    destinations: dict[VirtualServer, frozenset[Destination]] = {}
    for port in family_ports(service, context):
        if port.port.protocol == "UDP":
            serving = frozenset(
                (backend.address, backend.port)
                for backend in backends(slices, port.family, port.port)
                if backend.endpoint.serving or backend.endpoint.ready
            )
            for _, server in servers(port):
                destinations[server] = destinations.get(server, _NOWHERE) | serving
    return destinations


def _serving_of(name: ServiceName, compiler: Compiler) -> AllowedDestinations:
    service = compiler.cluster.services.get(name)
    return serving_destinations(service, compiler.cluster.slices_of(name), compiler.context) if service else {}
