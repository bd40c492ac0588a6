"""Services and their endpoints, as far as a service proxy cares.

Law: every field is already canonical (addresses compressed, ranges without host bits, protocols upper case), so
that two objects that mean the same compare equal.  ``sources/decode/objects.py`` makes them; nothing below checks again.
"""

from typing import Literal

from msgspec import Struct

IP = str
"""A canonical IPv4 or IPv6 address, as ``inet_ntop`` prints it."""

CIDR = str
"""A canonical network, ``address/length``, with no host bits set."""

Family = Literal["IPv4", "IPv6"]
Protocol = Literal["TCP", "UDP", "SCTP"]
ServiceType = Literal["ClusterIP", "NodePort", "LoadBalancer", "ExternalName"]

FAMILIES: tuple[Family, ...] = ("IPv4", "IPv6")


def family_of(address: str) -> Family:
    """The family of a canonical address or network."""
    return "IPv6" if ":" in address else "IPv4"


class ObjectName(Struct, frozen=True, gc=False, order=True, cache_hash=True):
    """``namespace/name``, the identity of a namespaced object."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


ServiceName = ObjectName
SliceName = ObjectName


class ServicePort(Struct, frozen=True, gc=False):
    name: str
    protocol: Protocol
    port: int
    node_port: int = 0  # 0: none


class Service(Struct, frozen=True, gc=False):
    """One Service; what each field is made of is said in ``sources/decode/objects.py``."""

    name: ServiceName
    type: ServiceType = "ClusterIP"
    cluster_ips: tuple[IP, ...] = ()  # at most one of a family; none: headless or ExternalName
    ports: tuple[ServicePort, ...] = ()
    external_ips: tuple[IP, ...] = ()
    load_balancer_ips: tuple[IP, ...] = ()  # ingress addresses of ipMode VIP
    source_ranges: tuple[CIDR, ...] = ()
    affinity_timeout_s: int = 0  # 0: no session affinity
    internal_local: bool = False  # internalTrafficPolicy: Local
    external_local: bool = False  # externalTrafficPolicy: Local, as written
    health_check_node_port: int = 0
    drain_deadline_s: float | None = None  # our annotation drain-deadline; None: as the agent is configured
    proxy_name: str = ""  # label service.kubernetes.io/service-proxy-name: somebody else's Service


class Endpoint(Struct, frozen=True, gc=False):
    """One address that may answer for a Service, with nil conditions already read as the API defines them."""

    address: IP
    ready: bool = True
    serving: bool = True
    terminating: bool = False
    node: str = ""  # "": not known, hence not local
    zone_hints: tuple[str, ...] = ()
    node_hints: tuple[str, ...] = ()


class SlicePort(Struct, frozen=True, gc=False):
    name: str
    protocol: Protocol
    port: int


class EndpointSlice(Struct, frozen=True, gc=False):
    """Some of a Service's endpoints: every endpoint has every port."""

    name: SliceName
    service: ServiceName
    family: Family
    endpoints: tuple[Endpoint, ...] = ()
    ports: tuple[SlicePort, ...] = ()
