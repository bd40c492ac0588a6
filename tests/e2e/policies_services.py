"""One Service for each combination of policies and endpoints, and the addresses of each.

A Service has a number, from which all its addresses and its NodePort follow, so a row of the table names a Service and
a frontend, never an address.  Each has TCP, UDP and SCTP, and both families.

Node A runs pod-a1 and pod-a2, node B pod-b1, -b2 and -b3.  "Near" Services have the endpoints pod-a1 and pod-b1, "far"
ones pod-b1 and pod-b3: none on node A.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, NamedTuple

from lab.echo import PROTOCOLS, Protocol
from lab.network import BY_NAME, NODE_NAME
from tests.e2e.manifests import Object, Port, endpoint_slice, service

Front = Literal["ClusterIP", "externalIP", "LB VIP", "NodePort", "host port"]
Version = Literal[4, 6]
VERSIONS: tuple[Version, ...] = (4, 6)

EXTERNAL: tuple[Front, ...] = ("externalIP", "LB VIP", "NodePort")
ALL_FRONTS: tuple[Front, ...] = ("ClusterIP", *EXTERNAL)
NEAR = ("pod-a1", "pod-b1")
FAR = ("pod-b1", "pod-b3")

HOST_PORT = 9999  # a program of node A that listens on all its addresses

_NODE_A = BY_NAME[NODE_NAME]
_AT_NODE_A: dict[Version, str] = {4: _NODE_A.ipv4, 6: _NODE_A.ipv6}
_AT_13: dict[Version, str] = {4: "203.0.113.13", 6: "2001:db8:f::13"}
_UNROUTED: dict[Version, str] = {4: "192.0.2.23", 6: "fd00:99::23"}  # the router has no route to it
_CLUSTER_IP: dict[Version, str] = {4: "10.96.7.{}", 6: "fd00:10:96::7:{}"}
_EXTERNAL_IP: dict[Version, str] = {4: "198.51.100.{}", 6: "2001:db8:e::{}"}
_VIP: dict[Version, str] = {4: "203.0.113.{}", 6: "2001:db8:f::{}"}

_INTERNAL_LOCAL: Object = {"internalTrafficPolicy": "Local"}
_EXTERNAL_LOCAL: Object = {"externalTrafficPolicy": "Local"}
_BOTH_LOCAL = _INTERNAL_LOCAL | _EXTERNAL_LOCAL


class Served(NamedTuple):
    """A Service: its fields besides type and addresses, and its endpoints.

    *external*: how it can be reached from outside; its type follows.  *vip*: the load balancer's address, if it does
    not follow from the number.  *terminating*: pods that are terminating but still serving.  *stopped*: those that are
    terminating and do not serve any more.  *targets*: target ports that are not 8080.
    """

    number: int
    name: str
    pods: tuple[str, ...]
    fields: Object
    port: int = 80
    external: tuple[Front, ...] = EXTERNAL
    vip: dict[Version, str] = {}  # noqa: RUF012 - never changed
    terminating: tuple[str, ...] = ()
    stopped: tuple[str, ...] = ()
    protocols: tuple[Protocol, ...] = PROTOCOLS
    targets: dict[Protocol, int] = {}  # noqa: RUF012 - never changed

    @property
    def node_port(self) -> int:
        return 30100 + self.number

    @property
    def health_check_node_port(self) -> int:
        return 32100 + self.number


def _ranges(*cidrs: str, **fields: object) -> Object:
    return {"loadBalancerSourceRanges": list(cidrs), **fields}


_ROWS = (
    Served(1, "near", NEAR, {}),
    Served(2, "far", FAR, {}),
    Served(3, "near, external Local", NEAR, _EXTERNAL_LOCAL),
    Served(4, "far, external Local", FAR, _EXTERNAL_LOCAL),
    Served(5, "near, internal Local", NEAR, _INTERNAL_LOCAL),
    Served(6, "far, internal Local", FAR, _INTERNAL_LOCAL),
    Served(7, "near, both Local", NEAR, _BOTH_LOCAL),
    Served(8, "far, both Local", FAR, _BOTH_LOCAL),
    Served(9, "inner near, internal Local", NEAR, _INTERNAL_LOCAL, external=()),
    Served(10, "inner far, internal Local", FAR, _INTERNAL_LOCAL, external=()),
    Served(11, "nobody", (), {}),
    Served(12, "nobody, both Local", (), _BOTH_LOCAL),
    Served(13, "for outside", NEAR, _ranges("192.168.3.175/32", "fd00:3::175/128")),
    Served(14, "for node A", NEAR, _ranges("192.168.3.10/32", "fd00:3::10/128")),
    Served(15, "for node A's pods", NEAR, _ranges("10.244.1.0/24", "fd00:10:244:1::/64")),
    Served(16, "for all, by /0", NEAR, _ranges("192.0.2.0/24", "0.0.0.0/0", "2001:db8:aaaa::/48", "::/0")),
    Served(17, "for an IPv4 range", NEAR, _ranges("192.168.3.0/24")),
    Served(18, "for outside, external Local", NEAR, _ranges("192.168.3.175/32", "fd00:3::175/128", **_EXTERNAL_LOCAL)),
    Served(19, "at node A's address", NEAR, {}, vip=_AT_NODE_A),
    Served(20, "at node A's address, external Local", NEAR, _EXTERNAL_LOCAL, port=81, vip=_AT_NODE_A),
    Served(21, "near ends, external Local", NEAR, _EXTERNAL_LOCAL, terminating=("pod-a1",)),
    Served(22, "on near's NodePort number, external Local", NEAR, _EXTERNAL_LOCAL, port=30101),
    Served(23, "far, external Local, unrouted", FAR, _EXTERNAL_LOCAL, vip=_UNROUTED),
    Served(24, "at the same address as for outside", NEAR, {}, port=82, vip=_AT_13),
    Served(25, "near, both Local, externalIP only", NEAR, _BOTH_LOCAL, external=("externalIP",)),
    Served(26, "near, both Local, LB VIP only", NEAR, _BOTH_LOCAL, external=("LB VIP",)),
    Served(27, "near, both Local, NodePort only", NEAR, _BOTH_LOCAL, external=("NodePort",)),
    Served(28, "far, both Local, externalIP only", FAR, _BOTH_LOCAL, external=("externalIP",)),
    Served(29, "far, both Local, LB VIP only", FAR, _BOTH_LOCAL, external=("LB VIP",)),
    Served(30, "far, both Local, NodePort only", FAR, _BOTH_LOCAL, external=("NodePort",)),
)
SERVED = {served.name: served for served in _ROWS}


def place(served: Served, front: Front, version: Version) -> tuple[str, int]:
    """Address and port of *front*; a NodePort has node A's address on the LAN, a host port the load balancer's."""
    match front:
        case "NodePort":
            return _AT_NODE_A[version], served.node_port
        case "LB VIP" | "host port":
            vip = served.vip.get(version) or _VIP[version].format(served.number)
            return vip, HOST_PORT if front == "host port" else served.port
        case "externalIP":
            return _EXTERNAL_IP[version].format(served.number), served.port
        case "ClusterIP":
            return _CLUSTER_IP[version].format(served.number), served.port


def objects(services: Iterable[Served] = _ROWS) -> list[Object]:
    """All *services* and their EndpointSlices, and the Node of node A."""
    built: list[Object] = [_node()]
    for served in services:
        built.append(_service(served))
        built.extend(_slice(served, version) for version in VERSIONS)
    return built


def _object_name(served: Served) -> str:
    return f"s{served.number}"


def _ports(served: Served) -> list[Port]:
    node_port = served.node_port if "NodePort" in served.external else 0
    return [
        Port(served.port, protocol.upper(), served.targets.get(protocol, 8080), node_port)
        for protocol in served.protocols
    ]


def _service(served: Served) -> Object:
    def both(front: Front) -> list[str]:
        return [place(served, front, version)[0] for version in VERSIONS]

    fields: Object = {"ipFamilies": ["IPv4", "IPv6"], "ipFamilyPolicy": "RequireDualStack", **served.fields}
    if "externalIP" in served.external:
        fields["externalIPs"] = both("externalIP")
    if "LB VIP" not in served.external:
        return service(_object_name(served), both("ClusterIP"), _ports(served), **fields)
    fields |= {"type": "LoadBalancer", "allocateLoadBalancerNodePorts": "NodePort" in served.external}
    fields["healthCheckNodePort"] = served.health_check_node_port
    built = service(_object_name(served), both("ClusterIP"), _ports(served), **fields)
    ingress = [{"ip": address, "ipMode": "VIP"} for address in both("LB VIP")]
    return built | {"status": {"loadBalancer": {"ingress": ingress}}}


def _slice(served: Served, version: Version) -> Object:
    built = endpoint_slice(_object_name(served), served.pods, _ports(served), version=version)
    for pods, is_serving in ((served.terminating, True), (served.stopped, False)):
        addresses = {BY_NAME[pod].ipv4 if version == 4 else BY_NAME[pod].ipv6 for pod in pods}
        for endpoint in built["endpoints"]:
            if addresses & set(endpoint["addresses"]):
                endpoint["conditions"] = {"ready": False, "serving": is_serving, "terminating": True}
    return built


def _node() -> Object:
    addresses = [{"type": "InternalIP", "address": _AT_NODE_A[version]} for version in VERSIONS]
    return {"apiVersion": "v1", "kind": "Node", "metadata": {"name": NODE_NAME}, "status": {"addresses": addresses}}
