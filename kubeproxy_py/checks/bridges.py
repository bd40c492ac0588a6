"""Check that iptables sees what is bridged, and that a bridge sends a pod's packets back to it.

Without the first, the answer of a pod on the client's bridge is bridged directly to the client, past the kernel's
address translation, so it comes from the pod's address instead of the Service's.  Without the second (hairpin mode), a
pod does not reach itself by a Service.
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

_PORTS_NAMED = 3


def check_bridges(situation: Situation) -> Iterator[Finding]:
    """Find bridges with pods whose packets iptables does not see."""
    facts = situation.facts
    for family in FAMILIES:
        if facts.bridge_netfilter.get(family, True):
            continue
        for bridge in facts.bridges:
            if _has_pods(bridge, situation, family):
                yield Finding(
                    "BridgeNetfilterOff",
                    f"bridge {bridge}, {family}",
                    "a pod gets no answer from a Service whose endpoint is on the same bridge",
                    f"modprobe br_netfilter && sysctl -w {_SYSCTLS[family]}=1",
                    f"iptables does not see {family} packets between its ports",
                )


def check_hairpin(situation: Situation) -> Iterator[Finding]:
    """Find bridges with pods that do not send a packet back to the port that it came from."""
    for bridge, ports in situation.facts.hairpin_off.items():
        if any(_has_pods(bridge, situation, family) for family in FAMILIES):
            named = ", ".join(ports[:_PORTS_NAMED]) + (" ..." if len(ports) > _PORTS_NAMED else "")
            yield Finding(
                "HairpinOff",
                f"bridge {bridge}",
                "a pod that connects to a Service and is chosen as its endpoint gets no answer",
                f"for port in $(ls /sys/class/net/{bridge}/brif); do bridge link set dev $port hairpin on; done; for "
                'later pods "hairpinMode": true in the configuration of the CNI plugin',
                f"hairpin mode is off on {len(ports)} of its ports: {named}",
            )


def pod_bridges(situation: Situation) -> list[str]:
    """Return the bridges that pods are on."""
    return [
        bridge for bridge in situation.facts.bridges if any(_has_pods(bridge, situation, family) for family in FAMILIES)
    ]


def _has_pods(bridge: str, situation: Situation, family: Family) -> bool:
    addresses = (host.address for host in situation.facts.addresses if host.interface == bridge)
    return any(family_of(ip) == family and is_of_pods(ip, situation) for ip in addresses)


def is_of_pods(address: IP, situation: Situation) -> bool:
    """Return whether *address* is in a network of the cluster's pods."""
    networks = (network for network in situation.pod_networks if family_of(network) == family_of(address))
    return any(ip_address(address) in ip_network(network) for network in networks)


def bridges_seen(situation: Situation) -> str:
    """Return the bridges that pods are on."""
    return f"bridges with pods: {', '.join(pod_bridges(situation)) or 'none'}"
