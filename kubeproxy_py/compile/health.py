"""The state of a Service for health-check node ports and metrics, by kube-proxy's rules.

A health-check node port counts the distinct addresses of local, ready endpoints of one family, regardless of port.
Terminating endpoints that still get traffic as a fallback do not count.
"""

from collections.abc import Iterable, Iterator, Sequence

from kubeproxy_py.compile.frontends import FamilyPort, external_local, family_ports, is_local_policy, servers
from kubeproxy_py.compile.node_context import NodeContext
from kubeproxy_py.compile.service import health_check_port
from kubeproxy_py.compile.topology import backends, is_local
from kubeproxy_py.compile.unserved import may_serve
from kubeproxy_py.model.health import HealthCheckNodePort, MarkedPort, Policy, ServiceState
from kubeproxy_py.model.services import EndpointSlice, Service, ServiceName, ServicePort
from kubeproxy_py.net import IP, Family


def service_state(
    name: ServiceName,
    service: Service | None,
    slices: Iterable[EndpointSlice],
    context: NodeContext,
    marks: tuple[MarkedPort, ...] = (),
) -> ServiceState:
    """Return the state of the Service *name*.

    Args:
        name: The name of the Service.
        service: The Service; None: it does not exist.
        slices: All its slices, in order of their names.
        context: This node.
        marks: Its virtual servers by firewall mark.
    """
    if service is None or service.proxy_name is not None or service.type == "ExternalName" or not service.ports:
        return ServiceState(name)
    if not (service.internal_local or service.external_local):
        return ServiceState(name, service, marks=marks)
    slices = list(slices)
    ports = list(family_ports(service, context))
    families = list(dict.fromkeys(port.family for port in ports))
    policies = _local_policies(service)
    return ServiceState(
        name,
        service,
        tuple(_health_check_node_ports(service, slices, families, context)),
        tuple(
            (policy, family)
            for family in families
            if any(port.family == family and _falls_back(port, slices, context) for port in ports)
            for policy in policies
        ),
        marks,
    )


def _health_check_node_ports(
    service: Service, slices: Sequence[EndpointSlice], families: Iterable[Family], context: NodeContext
) -> Iterator[HealthCheckNodePort]:
    if number := health_check_port(service):
        for family in families:
            addresses = context.health_check_addresses.get(family, ())
            count = len(_local_ready(slices, family, context.node_name))
            yield HealthCheckNodePort(family, number, addresses, count)


def _local_ready(slices: Sequence[EndpointSlice], family: Family, node: str) -> set[IP]:
    """Return addresses; of an endpoint in two slices, the same one counts as for traffic (see ``backends``)."""
    ports = {(port.name, port.protocol) for endpoint_slice in slices for port in endpoint_slice.ports}
    return {
        backend.address
        for name, protocol in ports
        for backend in backends(slices, family, ServicePort(name, protocol, 0))
        if backend.endpoint.ready and is_local(backend.endpoint, node)
    }


def _local_policies(service: Service) -> list[Policy]:
    """Return the traffic policies that are Local.

    Where both are, kube-proxy counts a Service under both at every fallback.
    """
    policies: list[tuple[Policy, bool]] = [("internal", service.internal_local), ("external", external_local(service))]
    return [policy for policy, is_in_force in policies if is_in_force]


def _falls_back(port: FamilyPort, slices: Sequence[EndpointSlice], context: NodeContext) -> bool:
    """Return whether a policy Local finds no local endpoint although there are others."""
    if not any(is_local_policy(port.service, binding.kind) for binding, _ in servers(port)):
        return False
    endpoints = [backend.endpoint for backend in backends(slices, port.family, port.port)]
    serving = list(filter(may_serve, endpoints))  # by which selection rule makes no difference here
    return bool(serving) and not any(is_local(each, context.node_name) for each in serving)
