"""Names of virtual servers by their Service: ``shop/web:http (NodePort)``."""

from collections.abc import Mapping, Sequence

from kubeproxy_py.model.rows import VirtualServer
from kubeproxy_py.model.services import ObjectName, Service, ServiceName


def virtual_server_name(
    server: VirtualServer, owners: Sequence[ObjectName], services: Mapping[ServiceName, Service]
) -> str:
    """Return the first owner of *server*, its port's name and its kind of address; "" if no Service owns it."""
    service = services.get(owners[0]) if owners else None
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
