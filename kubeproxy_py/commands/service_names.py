"""Names of virtual servers by their Service: ``shop/web:http (NodePort)``."""

from collections.abc import Mapping

from kubeproxy_py.compile.compiler import Compiler
from kubeproxy_py.compile.unserved import unserved_reason
from kubeproxy_py.model.rows import VirtualServer
from kubeproxy_py.model.services import Service, ServiceName, ServicePort
from kubeproxy_py.net import family_of


def virtual_server_name(
    server: VirtualServer, holder: ServiceName | None, services: Mapping[ServiceName, Service]
) -> str:
    """Return the Service that holds *server*, its port's name and its kind of address; "" if none does."""
    service = services.get(holder) if holder else None
    if service is None:
        return ""
    kind = _address_kind(server.address, service)
    port = _port_of(server, service)
    label = f":{port.name}" if port and port.name else ""
    return f"{service.name}{label} ({kind})"


def unserved_server_reason(server: VirtualServer, holder: ServiceName | None, compiler: Compiler) -> str:
    """Return why *server* has no real servers; "" if no Service holds it, or if an endpoint serves."""
    cluster = compiler.cluster
    service = cluster.services.get(holder) if holder else None
    port = _port_of(server, service) if service else None
    if service is None or port is None:
        return ""
    slices, family = cluster.slices_of(service.name), family_of(server.address)
    reason = unserved_reason(service, port, slices, family, compiler.context)
    return reason.text if reason else ""


def _port_of(server: VirtualServer, service: Service) -> ServicePort | None:
    """Return the port of *service* that *server* serves."""
    is_node_port = _address_kind(server.address, service) == "NodePort"
    for port in service.ports:
        number = port.node_port if is_node_port else port.port
        if (number, port.protocol) == (server.port, server.protocol):
            return port
    return None


def _address_kind(address: str, service: Service) -> str:
    for kind, addresses in (
        ("ClusterIP", service.cluster_ips),
        ("externalIP", service.external_ips),
        ("LoadBalancer", service.load_balancer_ips),
    ):
        if address in addresses:
            return kind
    return "NodePort"
