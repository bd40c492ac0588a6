"""Names of virtual servers by their Service: ``shop/web:http (NodePort)``."""

from collections.abc import Mapping

from kubeproxy_py.model.rows import VirtualServer
from kubeproxy_py.model.services import Service, ServiceName


def virtual_server_name(
    server: VirtualServer, holder: ServiceName | None, services: Mapping[ServiceName, Service]
) -> str:
    """Return the Service that holds *server*, its port's name and its kind of address; "" if none does."""
    service = services.get(holder) if holder else None
    if service is None:
        return ""
    kind = _address_kind(server.address, service)
    for port in service.ports:
        number = port.node_port if kind == "NodePort" else port.port
        if (number, port.protocol) == (server.port, server.protocol):
            label = f":{port.name}" if port.name else ""
            return f"{service.name}{label} ({kind})"
    return f"{service.name} ({kind})"


def _address_kind(address: str, service: Service) -> str:
    for kind, addresses in (
        ("ClusterIP", service.cluster_ips),
        ("externalIP", service.external_ips),
        ("LoadBalancer", service.load_balancer_ips),
    ):
        if address in addresses:
            return kind
    return "NodePort"
