"""Why no endpoint serves a Service port, in words for operators."""

from collections.abc import Iterable, Iterator, Sequence

from kubeproxy_py.compile.frontends import family_ports
from kubeproxy_py.compile.node_context import NodeContext
from kubeproxy_py.compile.topology import Backend, backends, is_local
from kubeproxy_py.model.services import EndpointSlice, Service, ServicePort
from kubeproxy_py.net import Family


def unserved_ports(
    service: Service, slices: Sequence[EndpointSlice], context: NodeContext
) -> Iterator[tuple[ServicePort, Family, str]]:
    """Yield each port of *service* in each family that no endpoint serves, and the reason."""
    if service.proxy_name is not None or service.type == "ExternalName":
        return
    for port in family_ports(service, context):
        reason = unserved_reason(service, port.port, slices, port.family, context)
        if reason:
            yield port.port, port.family, reason


def unserved_texts(service: Service, slices: Sequence[EndpointSlice], context: NodeContext) -> tuple[str, ...]:
    """Return ``http/TCP IPv4: 2 endpoints, none is ready`` for each port of *service* that no endpoint serves."""
    found = unserved_ports(service, slices, context)
    return tuple(f"{port.name or port.port}/{port.protocol} {family}: {why}" for port, family, why in found)


def unserved_reason(
    service: Service, port: ServicePort, slices: Iterable[EndpointSlice], family: Family, context: NodeContext
) -> str:
    """Return why no endpoint of *slices* serves *port* of *service* in *family*; "" if one does."""
    slices = list(slices)
    of_family = [part for part in slices if part.family == family]
    total = sum(len(part.endpoints) for part in of_family)
    if not total:
        return _no_endpoints(slices, of_family, family)
    for_port = backends(of_family, family, port)
    if not for_port:
        return f"{_count(total)}, none for port {_port_text(port.name, port.protocol)}; they have {_ports(of_family)}"
    serving = [backend for backend in for_port if _may_serve(backend)]
    if not serving:
        return f"{_count(len(for_port))}, none is ready"
    if service.internal_local and not any(is_local(backend.endpoint, context.node_name) for backend in serving):
        return f"{_count(len(serving))}, none on this node (internalTrafficPolicy: Local)"
    return ""


def _no_endpoints(slices: list[EndpointSlice], of_family: list[EndpointSlice], family: Family) -> str:
    if not slices:
        return "the Service has no EndpointSlice"
    return "its EndpointSlices have no endpoints" if of_family else f"none of its EndpointSlices is {family}"


def _may_serve(backend: Backend) -> bool:
    endpoint = backend.endpoint
    return endpoint.ready or (endpoint.serving and endpoint.terminating)


def _count(number: int) -> str:
    return f"{number} endpoint{'' if number == 1 else 's'}"


def _ports(slices: Iterable[EndpointSlice]) -> str:
    ports = {_port_text(port.name, port.protocol) for part in slices for port in part.ports}
    return ", ".join(sorted(ports)) or "no ports"


def _port_text(name: str, protocol: str) -> str:
    return f"{name or '(unnamed)'}/{protocol}"
