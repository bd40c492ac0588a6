"""Check for Service addresses that another interface of this host has, too."""

from collections.abc import Iterator

from kubeproxy_py.checks.situation import Situation
from kubeproxy_py.model.finding import Finding
from kubeproxy_py.model.rows import IPVS_DEVICE

NODE_LOCAL_DNS = "nodelocaldns"
"""The interface of NodeLocal DNSCache."""


def check_addresses(situation: Situation) -> Iterator[Finding]:
    """Find Service addresses on another interface than kube-ipvs0."""
    for interface, address, kind in _elsewhere(situation):
        if interface == NODE_LOCAL_DNS:
            continue
        is_cluster_ip = kind == "ClusterIP"
        effect = (
            "IPVS takes its packets, so a program that listens there gets none; and other ports of it are rejected"
            if is_cluster_ip
            else "kube-ipvs0 does not get it, and the Service takes its port from programs of this host; usual where "
            "the load balancer assigns addresses of nodes (k3s)"
        )
        yield Finding(
            "ServiceAddressOnInterface",
            f"{kind} {address}",
            effect,
            f"ip address del {address} dev {interface}, and stop what adds it; or use another address for the Service",
            f"interface {interface} has it, too",
            "error" if is_cluster_ip else "warning",
        )


def check_node_local_dns(situation: Situation) -> Iterator[Finding]:
    """Find a NodeLocal DNSCache that listens on the address of a Service, which IPVS takes from it."""
    for interface, address, kind in _elsewhere(situation):
        if interface == NODE_LOCAL_DNS:
            yield Finding(
                "NodeLocalDnsBypassed",
                f"NodeLocal DNSCache at {address}",
                "IPVS takes the packets, so the cache gets none, and DNS of this host itself may get no answer",
                "run node-cache with -localip 169.254.20.10 only, and set clusterDNS of the kubelet to that address",
                f"interface {NODE_LOCAL_DNS} has the {kind} of a Service, which in IPVS mode is served by the kernel",
            )


def node_local_dns_seen(situation: Situation) -> str:
    """Return whether there is one; "" if it listens on a Service address."""
    if any(check_node_local_dns(situation)):
        return ""
    is_here = NODE_LOCAL_DNS in situation.doctor.interfaces
    return "it listens on no Service address" if is_here else f"no interface {NODE_LOCAL_DNS}"


def _elsewhere(situation: Situation) -> Iterator[tuple[str, str, str]]:
    """Yield (interface, address, kind) of Service addresses on another interface than kube-ipvs0."""
    kinds = {served.address: served.kind for served in sorted(situation.doctor.served, reverse=True)}
    for host in situation.facts.addresses:
        if host.interface != IPVS_DEVICE and host.address in kinds and not host.is_gone:
            yield host.interface, host.address, kinds[host.address]
