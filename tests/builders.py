"""Builders with defaults, so that a test shows only what matters."""

from collections.abc import Iterable

from kubeproxy_py.compile.node_context import NodeContext
from kubeproxy_py.model.node import HostAddress
from kubeproxy_py.model.services import (
    Endpoint,
    EndpointSlice,
    ObjectName,
    Service,
    ServicePort,
    ServiceType,
    SlicePort,
)
from kubeproxy_py.net import Family, Protocol, family_of

HERE = "node-a"
THERE = "node-b"


def name(text: str) -> ObjectName:
    """``shop/web``, or ``web`` in the namespace ``shop``."""
    namespace, _, base = text.rpartition("/")
    return ObjectName(namespace or "shop", base)


def port(number: int = 80, protocol: Protocol = "TCP", label: str = "", node_port: int = 0) -> ServicePort:
    return ServicePort(label, protocol, number, node_port)


def service(
    text: str = "web",
    cluster_ips: Iterable[str] = ("10.96.0.10",),
    ports: Iterable[ServicePort] = (port(),),
    *,
    type: ServiceType = "ClusterIP",  # noqa: A002 - the field has that name
    **fields: object,
) -> Service:
    return Service(name(text), type, tuple(cluster_ips), tuple(ports), **fields)  # type: ignore[arg-type]


def endpoint(address: str = "10.244.1.5", node: str = HERE, **fields: object) -> Endpoint:
    return Endpoint(address, node=node, **fields)  # type: ignore[arg-type]


def endpoint_slice(
    service_text: str = "web",
    endpoints: Iterable[Endpoint | str] = ("10.244.1.5",),
    number: int = 8080,
    *,
    protocol: Protocol = "TCP",
    label: str = "",
    suffix: str = "1",
) -> EndpointSlice:
    """A slice of one port; its name is that of the Service with *suffix*."""
    built = tuple(endpoint(e) if isinstance(e, str) else e for e in endpoints)
    family: Family = family_of(built[0].address) if built else "IPv4"
    owner = name(service_text)
    return EndpointSlice(
        ObjectName(owner.namespace, f"{owner.name}-{suffix}"),
        owner,
        family,
        built,
        (SlicePort(label, protocol, number),),
    )


def node_context(**fields: object) -> NodeContext:
    """node-a with eth0 192.168.3.10 and fd00:3::10, and pods in 10.244.0.0/16."""
    defaults: dict[str, object] = {
        "node_name": HERE,
        "zone": "zone-a",
        "node_ips": {"IPv4": "192.168.3.10", "IPv6": "fd00:3::10"},
        "foreign_addresses": {"IPv4": frozenset({"192.168.3.10"}), "IPv6": frozenset({"fd00:3::10"})},
        "node_port_addresses": {"IPv4": ("192.168.3.10",), "IPv6": ("fd00:3::10",)},
        "if_not_local": {"IPv4": "! -s 10.244.0.0/16"},
    }
    return NodeContext(**{**defaults, **fields})  # type: ignore[arg-type]


def host(*addresses: str, interface: str = "eth0") -> tuple[HostAddress, ...]:
    return tuple(HostAddress(interface, address) for address in addresses)
