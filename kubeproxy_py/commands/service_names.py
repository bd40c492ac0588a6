"""Which Service a virtual server belongs to, in words: ``shop/web:http (NodePort)``."""

from collections.abc import Mapping, Sequence

from kubeproxy_py.model.rows import VirtualServer
from kubeproxy_py.model.services import ObjectName, Service, ServiceName


def front_name(server: VirtualServer, owners: Sequence[ObjectName], services: Mapping[ServiceName, Service]) -> str:
    """The first owner of *server*, its port's name and what kind of address it is; "" if no Service wants it."""
    service = services.get(owners[0]) if owners else None
    if service is None:
        return ""
    kind = _kind(server.address, service)
    for port in service.ports:
        number = port.node_port if kind == "NodePort" else port.port
        if (number, port.protocol) == (server.port, server.protocol):
            label = f":{port.name}" if port.name else ""
            return f"{service.name}{label} ({kind})"
    return f"{service.name} ({kind})"


def _kind(address: str, service: Service) -> str:
    for kind, addresses in (
        ("ClusterIP", service.cluster_ips),
        ("externalIP", service.external_ips),
        ("LoadBalancer", service.load_balancer_ips),
    ):
        if address in addresses:
            return kind
    return "NodePort"
