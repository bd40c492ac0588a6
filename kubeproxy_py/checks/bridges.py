"""Check that iptables sees what is bridged: otherwise a pod gets no answer from a pod on the same bridge.

The answer of the other pod is bridged directly to the client, past the kernel's address translation, so it comes from
the pod's address instead of the Service's.
"""

from collections.abc import Iterator
from ipaddress import ip_address, ip_network

from kubeproxy_py.checks.situation import Situation
from kubeproxy_py.model.finding import Finding
from kubeproxy_py.net import FAMILIES, IP, Family, family_of

_SYSCTLS: dict[Family, str] = {
    "IPv4": "net.bridge.bridge-nf-call-iptables",
    "IPv6": "net.bridge.bridge-nf-call-ip6tables",
}


def check_bridges(situation: Situation) -> Iterator[Finding]:
    """Find bridges with pods whose packets iptables does not see."""
    facts = situation.facts
    for family in FAMILIES:
        if facts.bridge_netfilter.get(family, True):
            continue
        for bridge in facts.bridges:
            addresses = (host.address for host in facts.addresses if host.interface == bridge)
            if any(family_of(ip) == family and _is_of_pods(ip, situation) for ip in addresses):
                message = (
                    f"iptables does not see {family} packets between its ports, so a pod gets no answer from a "
                    "Service whose endpoint is on the same bridge"
                )
                hint = f"modprobe br_netfilter && sysctl -w {_SYSCTLS[family]}=1"
                yield Finding("BridgeNetfilterOff", f"bridge {bridge}, {family}", message, hint)


def _is_of_pods(address: IP, situation: Situation) -> bool:
    networks = (network for network in situation.pod_networks if family_of(network) == family_of(address))
    return any(ip_address(address) in ip_network(network) for network in networks)
