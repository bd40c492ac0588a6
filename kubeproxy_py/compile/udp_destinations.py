"""Flows: where the UDP flows of each virtual server may go.

Law: pure over the cluster's objects.  A flow may go to every endpoint of its service port that serves, ready or not,
terminating or not, whatever traffic policy or topology say: those choose for new flows, and no running one is cut for
them.  An endpoint that is ready without serving (publishNotReadyAddresses) is used by IPVS, so it may have flows too;
upstream cuts these at each sync.

A virtual server that nobody wants any more, or whose service port has no such endpoint, may have no flow at all.
"""

from collections.abc import Iterable, Iterator

from kubeproxy_py.compile.compiler import Compiler
from kubeproxy_py.compile.desired import Owner
from kubeproxy_py.compile.node_context import NodeContext, by_family
from kubeproxy_py.compile.service import frontends
from kubeproxy_py.compile.topology import backends
from kubeproxy_py.model.flows import Allowed, Destination
from kubeproxy_py.model.rows import Key, RealServer, VirtualServer
from kubeproxy_py.model.services import EndpointSlice, Service, ServiceName

_NOWHERE: frozenset[Destination] = frozenset()


def udp_server(key: Key) -> VirtualServer | None:
    """The UDP virtual server that *key* is or belongs to, if it does."""
    server = key.virtual_server if isinstance(key, RealServer) else key
    return server if isinstance(server, VirtualServer) and server.protocol == "UDP" else None


def udp_servers(names: Iterable[ServiceName], compiler: Compiler) -> Iterator[VirtualServer]:
    """The UDP virtual servers that the Services *names* now want."""
    for name in names:
        service = compiler.cluster.services.get(name)
        if service and any(port.protocol == "UDP" for port in service.ports):
            for key in compiler.desired.rows_of(name):
                if isinstance(key, VirtualServer) and key.protocol == "UDP":
                    yield key


def allowed_destinations(
    servers: Iterable[VirtualServer], compiler: Compiler
) -> dict[VirtualServer, frozenset[Destination]]:
    """Where flows of each of *servers* may go; of one that two Services want, its holder's endpoints alone."""
    serving: dict[Owner, Allowed] = {}
    allowed = {}
    for server in servers:
        holder = next(iter(compiler.desired.owners(server)), None)
        if holder and holder not in serving:
            serving[holder] = _serving_of(holder, compiler)
        allowed[server] = serving[holder].get(server, _NOWHERE) if holder else _NOWHERE
    return allowed


def serving_destinations(
    service: Service, slices: Iterable[EndpointSlice], site: NodeContext
) -> dict[VirtualServer, frozenset[Destination]]:
    """Where the flows of each UDP virtual server of *service* may go; *slices* are in order of their names."""
    slices, cluster_ips = list(slices), by_family(service.cluster_ips)
    found: dict[VirtualServer, frozenset[Destination]] = {}
    for family in site.families:
        cluster_ip = cluster_ips.get(family)
        for port in service.ports if cluster_ip else ():
            if cluster_ip and port.protocol == "UDP":
                serving = frozenset(
                    (backend.address, backend.port)
                    for backend in backends(slices, family, port)
                    if backend.endpoint.serving or backend.endpoint.ready
                )
                for front in frontends(service, port, family, cluster_ip, site):
                    server = VirtualServer(front.address, front.port, "UDP")
                    found[server] = found.get(server, _NOWHERE) | serving
    return found


def _serving_of(name: ServiceName, compiler: Compiler) -> Allowed:
    service = compiler.cluster.services.get(name)
    return serving_destinations(service, compiler.cluster.slices_of(name), compiler.site) if service else {}
