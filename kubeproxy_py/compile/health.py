"""What load balancers and metrics are told of a Service: how many of its endpoints are local, and where that matters.

Law: pure, and by kube-proxy's rules.  A health-check node port counts distinct addresses of local ready endpoints of
one family, whichever port they have; terminating ones that still get traffic by fallback do not count.
"""

from collections.abc import Iterable, Iterator, Sequence

from kubeproxy_py.compile.node_context import NodeContext, by_family
from kubeproxy_py.compile.service import external_local, frontends, health_check_port
from kubeproxy_py.compile.topology import NodeLocation, SelectionRule, SliceEndpoints, backends, choose, is_local
from kubeproxy_py.model.health import HealthPort, Policy, ServiceState
from kubeproxy_py.model.services import IP, EndpointSlice, Family, Service, ServiceName, ServicePort


def service_state(
    name: ServiceName, service: Service | None, slices: Iterable[EndpointSlice], site: NodeContext
) -> ServiceState:
    """The state of the Service *name*; *slices* are all of it, in order of their names."""
    if service is None or service.proxy_name or service.type == "ExternalName" or not service.ports:
        return ServiceState(name)
    if not (service.internal_local or service.external_local):
        return ServiceState(name, service)
    parts = list(slices)
    cluster_ips = by_family(service.cluster_ips)
    served = tuple((family, cluster_ips[family]) for family in site.families if family in cluster_ips)
    return ServiceState(
        name,
        service,
        tuple(_health_ports(service, parts, site, [family for family, _ in served])),
        tuple((policy, family) for family, ip in served for policy in _not_local(service, parts, site, family, ip)),
    )


def _health_ports(
    service: Service, slices: Sequence[EndpointSlice], site: NodeContext, families: Iterable[Family]
) -> Iterator[HealthPort]:
    if number := health_check_port(service):
        for family in families:
            addresses = site.health_port_addresses.get(family, ())
            yield HealthPort(family, number, addresses, len(_local_ready(slices, family, site.node_name)))


def _local_ready(slices: Sequence[EndpointSlice], family: Family, node: str) -> set[IP]:
    """Addresses; of an endpoint that stands in two slices the same one counts as for traffic (see backends)."""
    names = {(port.name, port.protocol) for part in slices for port in part.ports}
    return {
        backend.address
        for name, protocol in names
        for backend in backends(slices, family, ServicePort(name, protocol, 0))
        if backend.endpoint.ready and is_local(backend.endpoint, node)
    }


def _not_local(
    service: Service, slices: Sequence[EndpointSlice], site: NodeContext, family: Family, cluster_ip: IP
) -> list[Policy]:
    """The policies, if traffic of any port goes elsewhere because nothing is here.

    Both, where both are Local: kube-proxy counts a Service under each of its Local policies at every fallback.
    """
    if not any(_falls_back(service, port, slices, site, family, cluster_ip) for port in service.ports):
        return []
    policies: list[tuple[Policy, bool]] = [("internal", service.internal_local), ("external", external_local(service))]
    return [policy for policy, in_force in policies if in_force]


def _falls_back(
    service: Service,
    port: ServicePort,
    slices: Sequence[EndpointSlice],
    site: NodeContext,
    family: Family,
    cluster_ip: IP,
) -> bool:
    if not any(front.local_wanted for front in frontends(service, port, family, cluster_ip, site)):
        return False
    share = SliceEndpoints(backends(slices, family, port), NodeLocation(site.node_name, site.zone))
    choice = choose((share,), cluster=True, local=True)
    return choice.cluster != SelectionRule.NONE and choice.local == SelectionRule.NONE
