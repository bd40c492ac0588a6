"""What health-check node ports and metrics need to know of a Service."""

from typing import Literal

from msgspec import Struct

from kubeproxy_py.model.rows import VirtualServer
from kubeproxy_py.model.services import Service, ServiceName
from kubeproxy_py.net import IP, Family, Protocol

Policy = Literal["internal", "external"]
"""A traffic policy: internalTrafficPolicy or externalTrafficPolicy."""


class HealthCheckNodePort(Struct, frozen=True, gc=False):
    """A Service's health-check node port in one family."""

    family: Family
    port: int
    addresses: tuple[IP, ...]  # where the port is served
    local_endpoints: int  # distinct addresses of local, ready endpoints


MarkedPort = tuple[VirtualServer, str, Protocol]
"""A virtual server by firewall mark, with the name and protocol of its Service port."""


class ServiceState(Struct, frozen=True, gc=False):
    """The health-relevant state of one compiled Service."""

    name: ServiceName
    service: Service | None = None  # None: no Service of that name exists any more
    health_check_node_ports: tuple[HealthCheckNodePort, ...] = ()
    # Policies set to Local that find no local endpoint although there are endpoints elsewhere.
    policies_without_local: tuple[tuple[Policy, Family], ...] = ()
    marks: tuple[MarkedPort, ...] = ()  # with exact policies
