"""Why no endpoint serves a Service port, in words for operators.

Invariants:
- The kinds of reasons are few and stay, because scripts and metrics use them.
"""

from collections.abc import Iterable, Iterator, Sequence

from msgspec import Struct

from kubeproxy_py.compile.frontends import family_ports
from kubeproxy_py.compile.node_context import NodeContext
from kubeproxy_py.compile.topology import Backend, backends, is_local
from kubeproxy_py.model.services import EndpointSlice, Service, ServicePort
from kubeproxy_py.net import Family

NO_SLICE = "NoEndpointSlice"
NO_ENDPOINTS = "NoEndpoints"
NO_FAMILY = "NoEndpointOfFamily"
NO_PORT = "NoSuchPort"
WRONG_PROTOCOL = "WrongProtocol"
NOT_READY = "NotReady"
NO_LOCAL = "NoLocalEndpoint"

KINDS: tuple[str, ...] = (NO_SLICE, NO_ENDPOINTS, NO_FAMILY, NO_PORT, WRONG_PROTOCOL, NOT_READY, NO_LOCAL)
"""Every kind of reason."""


class Unserved(Struct, frozen=True, gc=False):
    """A reason: its kind, and the words."""

    kind: str  # one of KINDS
    text: str


def unserved_ports(
    service: Service, slices: Sequence[EndpointSlice], context: NodeContext
) -> Iterator[tuple[ServicePort, Family, Unserved]]:
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
    return tuple(f"{port.name or port.port}/{port.protocol} {family}: {why.text}" for port, family, why in found)


def unserved_reason(
    service: Service, port: ServicePort, slices: Iterable[EndpointSlice], family: Family, context: NodeContext
) -> Unserved | None:
    """Return why no endpoint of *slices* serves *port* of *service* in *family*; None if one does."""
    slices = list(slices)
    of_family = [part for part in slices if part.family == family]
    total = sum(len(part.endpoints) for part in of_family)
    if not total:
        return _no_endpoints(slices, of_family, family)
    for_port = backends(of_family, family, port)
    if not for_port:
        kind = WRONG_PROTOCOL if any(one.name == port.name for part in of_family for one in part.ports) else NO_PORT
        text = f"{_count(total)}, none for port {_port_text(port.name, port.protocol)}; they have {_ports(of_family)}"
        return Unserved(kind, text)
    serving = [backend for backend in for_port if _may_serve(backend)]
    if not serving:
        return Unserved(NOT_READY, f"{_count(len(for_port))}, none is ready")
    if service.internal_local and not any(is_local(backend.endpoint, context.node_name) for backend in serving):
        return Unserved(NO_LOCAL, f"{_count(len(serving))}, none on this node (internalTrafficPolicy: Local)")
    return None


def _no_endpoints(slices: list[EndpointSlice], of_family: list[EndpointSlice], family: Family) -> Unserved:
    if not slices:
        return Unserved(NO_SLICE, "the Service has no EndpointSlice")
    if of_family:
        return Unserved(NO_ENDPOINTS, "its EndpointSlices have no endpoints")
    return Unserved(NO_FAMILY, f"none of its EndpointSlices is {family}")


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
