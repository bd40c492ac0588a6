"""Why no endpoint serves a Service port, in words for operators.

Invariants:
- The words are Kubernetes'; the kinds of reasons are few and stay, because scripts and metrics use them.
"""

from collections.abc import Iterable, Iterator, Sequence

from msgspec import Struct

from kubeproxy_py.compile.frontends import external_local, family_ports
from kubeproxy_py.compile.node_context import NodeContext
from kubeproxy_py.compile.topology import Backend, backends, is_local
from kubeproxy_py.model.services import Endpoint, EndpointSlice, Service, ServicePort
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

EXTERNAL_LOCAL_TEXT = "externalTrafficPolicy Local: no endpoint on this node, outside clients are not answered"


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
    """Return ``http/TCP IPv4: 2 endpoints, 0 ready`` for each port of *service* that no endpoint serves."""
    found = unserved_ports(service, slices, context)
    return tuple(f"{port.name or port.port}/{port.protocol} {family}: {why.text}" for port, family, why in found)


def unserved_reason(
    service: Service, port: ServicePort, slices: Iterable[EndpointSlice], family: Family, context: NodeContext
) -> Unserved | None:
    """Return why no endpoint of *slices* serves *port* of *service* in *family*; None if one does."""
    slices = list(slices)
    of_family = [part for part in slices if part.family == family]
    if not any(part.endpoints for part in of_family):
        return _no_endpoints(slices, of_family, family)
    for_port = backends(of_family, family, port)
    if not for_port:
        return _no_port(port, [part for part in of_family if part.endpoints])
    serving = [backend for backend in for_port if may_serve(backend.endpoint)]
    if not serving:
        return Unserved(NOT_READY, f"{count_text(len(for_port))}, 0 ready")
    if service.internal_local and not _any_local(serving, context):
        end = "dropped" if context.policy_marks else "refused"
        return Unserved(NO_LOCAL, f"internalTrafficPolicy Local: no endpoint on this node, its clients are {end}")
    return None


def unserved_outside(
    service: Service, port: ServicePort, slices: Iterable[EndpointSlice], family: Family, context: NodeContext
) -> Unserved | None:
    """Return why clients outside of the cluster are not answered although endpoints serve; None if they are."""
    if not external_local(service):
        return None
    serving = [backend for backend in backends(slices, family, port) if may_serve(backend.endpoint)]
    return Unserved(NO_LOCAL, EXTERNAL_LOCAL_TEXT) if serving and not _any_local(serving, context) else None


def may_serve(endpoint: Endpoint) -> bool:
    """Return whether *endpoint* is ready, or serves although it is terminating."""
    return endpoint.ready or (endpoint.serving and endpoint.terminating)


def count_text(number: int) -> str:
    """Return ``1 endpoint``, ``2 endpoints``."""
    return f"{number:,} endpoint{'' if number == 1 else 's'}"


def _any_local(serving: Iterable[Backend], context: NodeContext) -> bool:
    return any(is_local(backend.endpoint, context.node_name) for backend in serving)


def _no_endpoints(slices: list[EndpointSlice], of_family: list[EndpointSlice], family: Family) -> Unserved:
    if not slices:
        return Unserved(NO_SLICE, "no EndpointSlice")
    if of_family:
        return Unserved(NO_ENDPOINTS, "0 endpoints")
    return Unserved(NO_FAMILY, f"no {family} endpoint, its slices are {slices[0].family}")


def _no_port(port: ServicePort, slices: list[EndpointSlice]) -> Unserved:
    same_name = [part for part in slices if any(one.name == port.name for one in part.ports)]
    if same_name:
        protocols = sorted({one.protocol for part in same_name for one in part.ports if one.name == port.name})
        number = sum(len(part.endpoints) for part in same_name)
        text = f"{count_text(number)} of protocol {'/'.join(protocols)}, port is {port.protocol}"
        return Unserved(WRONG_PROTOCOL, text)
    names = sorted({one.name or "(unnamed)" for part in slices for one in part.ports})
    wanted = f'port "{port.name}"' if port.name else "unnamed port"
    return Unserved(NO_PORT, f"no {wanted} in its slices (they have: {', '.join(names) or 'no port'})")
