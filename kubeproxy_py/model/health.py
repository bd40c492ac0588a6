"""What health-check node ports and metrics need to know of a Service."""

from typing import Literal

from msgspec import Struct

from kubeproxy_py.model.services import IP, Family, Service, ServiceName

Policy = Literal["internal", "external"]


class HealthPort(Struct, frozen=True, gc=False):
    """A health-check node port of one family.  ``addresses`` is where it answers."""

    family: Family
    port: int
    addresses: tuple[IP, ...]
    local_endpoints: int  # distinct addresses of local, ready endpoints


class ServiceState(Struct, frozen=True, gc=False):
    """What became of one Service that was compiled; ``service`` is None if there is none of that name any more.

    ``not_local`` has each traffic policy that is Local and finds no local endpoint, where there are others.
    """

    name: ServiceName
    service: Service | None = None
    health_ports: tuple[HealthPort, ...] = ()
    not_local: tuple[tuple[Policy, Family], ...] = ()
