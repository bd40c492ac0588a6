"""Check the addresses of Services: that kube-ipvs0 can have them, alone, and no other interface of this host has."""

from collections.abc import Iterator

from kubeproxy_py.checks.situation import Situation
from kubeproxy_py.model.finding import Finding
from kubeproxy_py.model.rows import IPVS_DEVICE
from kubeproxy_py.net import ADDRESS_BITS, IPV6_MIN_MTU, family_of, special_use

NODE_LOCAL_DNS = "nodelocaldns"
"""The interface of NodeLocal DNSCache."""


def check_device(situation: Situation) -> Iterator[Finding]:
    """Find an MTU of kube-ipvs0 with which it cannot have IPv6 addresses, and addresses there that have a network."""
    mtu = situation.doctor.device_mtu
    six = sorted(served.address for served in situation.doctor.served if family_of(served.address) == "IPv6")
    if mtu is not None and mtu < IPV6_MIN_MTU and six:
        more = f" and {len(six) - 1} more" if len(six) > 1 else ""
        yield Finding(
            "DeviceMtuTooSmall",
            f"interface {IPVS_DEVICE}",
            f"the kernel has deleted its IPv6 addresses, so no Service answers at {six[0]}{more}",
            f"ip link set {IPVS_DEVICE} mtu 1500; a running agent does that, and binds the addresses again",
            f"its MTU is {mtu}, and IPv6 needs {IPV6_MIN_MTU}",
        )
    for host in situation.facts.addresses:
        if host.interface == IPVS_DEVICE and host.prefix_length not in (0, ADDRESS_BITS[family_of(host.address)]):
            if special_use(host.address) == "link-local":
                continue  # the kernel's own
            network = f"{host.address}/{host.prefix_length}"
            yield Finding(
                "AddressWithNetwork",
                f"address {network} on {IPVS_DEVICE}",
                "while the interface is up, this host sends packets to all of that network there, where they are lost",
                f"ip address add {host.address} dev {IPVS_DEVICE}; ip address del {network} dev {IPVS_DEVICE}; a "
                "running agent does that",
                "another program added it with the network",
            )


def device_seen(situation: Situation) -> str:
    """Return the MTU of kube-ipvs0."""
    mtu = situation.doctor.device_mtu
    return f"no interface {IPVS_DEVICE}" if mtu is None else f"its MTU is {mtu}"


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
