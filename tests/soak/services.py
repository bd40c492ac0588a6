"""The Services of a soak: those that are probed, which stay, and others that come and go.

The probed ones have TCP, UDP, both families, and each kind of address and policy that has rules or sets of its own.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from lab.echo import Protocol
from lab.network import BY_NAME
from tests.e2e.manifests import Object, Port, endpoint_slice, service, service_with_slice

CLUSTER_IP, CLUSTER_IPV6, VIP, LOCAL_VIP, EXTERNAL_IP = (
    "10.96.40.1",
    "fd00:10:96::40:1",
    "203.0.113.40",
    "203.0.113.41",
    "198.51.100.40",
)
NODE_IP, NODE_PORT = BY_NAME["node-a"].ipv4, 30040
SECOND_NODE_IP = "172.16.5.20"  # added and deleted by a fault
PODS, FURTHER_POD = ("pod-a1", "pod-b1"), "pod-b2"
_PORTS = (Port(80, "TCP", 8080, NODE_PORT), Port(80, "UDP", 8080, NODE_PORT))
_DUAL: Object = {"ipFamilies": ["IPv4", "IPv6"], "ipFamilyPolicy": "RequireDualStack"}


class Target(NamedTuple):
    """Where a client sends its requests; *name* is for the report."""

    name: str
    client: str
    protocol: Protocol
    address: str
    port: int = 80


TARGETS = (
    Target("NodePort from outside", "outside", "tcp", NODE_IP, NODE_PORT),
    Target("load balancer address from outside", "outside", "tcp", VIP),
    Target("load balancer address, policy Local", "outside", "tcp", LOCAL_VIP),
    Target("externalIP from outside", "outside", "tcp", EXTERNAL_IP),
    Target("ClusterIP from a pod", "pod-a2", "tcp", CLUSTER_IP),
    Target("ClusterIP from the node", "node-a", "tcp", CLUSTER_IP),
    Target("IPv6 ClusterIP from a pod", "pod-a2", "tcp", CLUSTER_IPV6),
    Target("UDP, ClusterIP from a pod", "pod-a2", "udp", CLUSTER_IP),
    Target("UDP, NodePort from outside", "outside", "udp", NODE_IP, NODE_PORT),
    Target("UDP, load balancer address from outside", "outside", "udp", VIP),
)


def probed_services() -> list[Object]:
    """Return the Services that are probed and stay, with their slices."""
    local = {"externalTrafficPolicy": "Local", "healthCheckNodePort": 32041}
    ranges = {"loadBalancerSourceRanges": ["192.168.3.0/24"]}
    return [
        _load_balancer("web", [CLUSTER_IP, CLUSTER_IPV6], VIP, _PORTS, externalIPs=[EXTERNAL_IP], **_DUAL),
        *web_slices(PODS),
        _load_balancer("local", ["10.96.40.2"], LOCAL_VIP, [Port(80, "TCP", 8080, 30041)], **local),
        endpoint_slice("local", ["pod-a1"]),
        _load_balancer("ranges", ["10.96.40.3"], "203.0.113.42", [Port(80, "TCP", 8080, 30042)], **ranges),
        endpoint_slice("ranges", PODS),
        *service_with_slice("sticky", "10.96.40.4", PODS, sessionAffinity="ClientIP"),
    ]


def web_slices(pods: Iterable[str]) -> list[Object]:
    """Return the slices of the probed Service with *pods*."""
    named = tuple(pods)
    return [endpoint_slice("web", named, _PORTS, version=version) for version in (4, 6)]


def churned_service(number: int, pods: Iterable[str]) -> list[Object]:
    """Return the Service *number* that comes and goes; every fourth one has a NodePort."""
    port = Port(80, ("TCP", "UDP")[number % 2], 8080, 0 if number % 4 else 30100 + number)
    return service_with_slice(f"churned-{number}", f"10.96.50.{number + 1}", pods, [port])


def marker_service(number: int) -> list[Object]:
    """Return a Service that shows, once it is served, that the agent follows changes again."""
    return service_with_slice(f"marker-{number}", marker_address(number), ["pod-a1"])


def marker_address(number: int) -> str:
    return f"10.96.{60 + number // 200}.{number % 200 + 1}"


def _load_balancer(name: str, cluster_ips: list[str], vip: str, ports: Iterable[Port], **fields: object) -> Object:
    built = service(name, cluster_ips, ports, type="LoadBalancer", **fields)
    return built | {"status": {"loadBalancer": {"ingress": [{"ip": vip, "ipMode": "VIP"}]}}}
