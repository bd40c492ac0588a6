"""What to do about a Service that is not served, or from which connections do not go away, in words for operators."""

from collections.abc import Callable, Iterable, Iterator

from kubeproxy_py.compile import unserved
from kubeproxy_py.diagnose.document import RealServerState, ServiceExplanation, ServiceState, VirtualServerState

_Remedy = Callable[[ServiceState, VirtualServerState], str]


def remedies(services: Iterable[ServiceExplanation]) -> Iterator[str]:
    """Yield what to do about *services*, each remedy once."""
    yield from dict.fromkeys(text for one in services for text in _of_service(one.service))


def _of_service(service: ServiceState) -> Iterator[str]:
    for server in service.virtual_servers:
        if remedy := _REMEDIES.get(server.reason_kind):
            yield remedy(service, server)
        elif server.status == "refused":
            yield "use another address or port for all but one of the Services that claim it"
        yield from _drains(service, server.real_servers or ())


def _drains(service: ServiceState, real_servers: Iterable[RealServerState]) -> Iterator[str]:
    """Yield how drains without a deadline end, with the number of connections that keep them."""
    endless = [real for real in real_servers if real.status == "draining" and not real.deadline]
    if not endless:
        return
    active = sum(real.active or 0 for real in endless)
    yield (
        f"{active} open connection{'' if active == 1 else 's'} keep{'s' * (active == 1)} what drains: let the clients "
        "close them (ipvsadm -Lnc lists them), or set an end: kubectl -n "
        f"{service.namespace} annotate service {service.name} kubeproxy-py.io/drain-deadline=30m, or --drain-deadline"
    )


def _no_endpoints(service: ServiceState, _server: VirtualServerState) -> str:
    return (
        "let spec.selector of the Service match the labels of pods: now it matches none; a Service without a selector "
        f"needs an EndpointSlice with the label kubernetes.io/service-name={service.name}"
    )


def _no_family(_service: ServiceState, server: VirtualServerState) -> str:
    family = "IPv6" if ":" in server.address else "IPv4"
    return f"give the pods {family} addresses, or leave {family} out of spec.ipFamilies of the Service"


def _no_port(_service: ServiceState, server: VirtualServerState) -> str:
    port = f'port "{server.port_name}"' if server.port_name else "its port"
    return (
        f"set targetPort of {port} of the Service to the name, or the number, of a port of the pods' containers; in "
        "EndpointSlices written by hand, name the port as the Service does"
    )


def _wrong_protocol(_service: ServiceState, _server: VirtualServerState) -> str:
    return "give the port the same protocol in the Service and in the containers of its pods"


def _not_ready(service: ServiceState, _server: VirtualServerState) -> str:
    return (
        f"find out why the pods are not ready: kubectl -n {service.namespace} describe pods (readinessProbe); or set "
        "spec.publishNotReadyAddresses: true, if clients are to reach them all the same"
    )


def _no_local(_service: ServiceState, server: VirtualServerState) -> str:
    if server.policy == "Local" and server.kind == "ClusterIP":
        return "run a pod of the Service on each node with clients, or set internalTrafficPolicy: Cluster"
    return (
        "let the load balancer send only to nodes that answer 200 at healthCheckNodePort, run a pod of the Service on "
        "this node, or set externalTrafficPolicy: Cluster"
    )


_REMEDIES: dict[str, _Remedy] = {
    unserved.NO_SLICE: _no_endpoints,
    unserved.NO_ENDPOINTS: _no_endpoints,
    unserved.NO_FAMILY: _no_family,
    unserved.NO_PORT: _no_port,
    unserved.WRONG_PROTOCOL: _wrong_protocol,
    unserved.NOT_READY: _not_ready,
    unserved.NO_LOCAL: _no_local,
}
