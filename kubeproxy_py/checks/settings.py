"""Check the sysctls that Service traffic depends on."""

from collections.abc import Iterator
from ipaddress import ip_address, ip_interface

from kubeproxy_py.checks.bridges import is_of_pods
from kubeproxy_py.checks.situation import Situation
from kubeproxy_py.model.finding import Finding
from kubeproxy_py.model.node import HostAddress
from kubeproxy_py.model.rows import IPVS_DEVICE
from kubeproxy_py.net import IP, family_of

ARP_IGNORE, ARP_ANNOUNCE = "net/ipv4/conf/all/arp_ignore", "net/ipv4/conf/all/arp_announce"
KEEPALIVE = "net/ipv4/tcp_keepalive_time"
OTHERS = (ARP_IGNORE, ARP_ANNOUNCE, KEEPALIVE)
"""Sysctls that are looked at besides those that the agent sets."""

TIME_WAIT_S = 120
"""How long IPVS keeps a connection that was closed, and with it the client's affinity; not configurable.

Source: Linux, net/netfilter/ipvs/ip_vs_proto_tcp.c, tcp_timeouts.
"""

_NAMED = 3
_EFFECTS = {  # prefix of a path -> what follows from a wrong value
    "net/ipv4/vs/conntrack": "what IPVS forwards is not masqueraded, so answers of pods do not come back to the client",
    "net/ipv4/vs/expire_nodest_conn": "clients of a pod that is gone hang until IPVS forgets the connection",
    "net/ipv4/vs/expire_quiescent_template": "clients with session affinity stay with a pod that is gone",
    "net/ipv4/vs/conn_reuse_mode": "a client that connects again from the same port waits for a second",
    "net/ipv4/ip_forward": "packets to pods are not forwarded, so no Service answers",
    "net/ipv4/conf/all/arp_": "this node answers ARP for addresses of Services, which strictARP is to prevent",
    "net/netfilter/nf_conntrack_max": "a lower limit is in force; new connections are dropped when it is reached",
    "/sys/module/nf_conntrack/": "connections are looked up more slowly in a full table",
    "net/netfilter/": "connections are tracked for another time than configured",
}


def check_sysctls(situation: Situation) -> Iterator[Finding]:
    """Find sysctls that do not have the value that the configuration requires."""
    doctor = situation.doctor
    for path, wanted in situation.wanted_sysctls.items():
        value = doctor.sysctls.get(path)
        if value == wanted or (value is None and path in situation.optional_sysctls):
            continue
        name = path if path.startswith("/") else path.replace("/", ".")
        is_read_only = path in doctor.read_only
        command = f"echo {wanted} > {path}" if path.startswith("/") else f"sysctl -w {name}={wanted}"
        remedy = f"{command}, on the host; or run once kubeproxy-py run --init-only in a privileged container"
        if value is None:
            remedy = "load the module that provides it: modprobe ip_vs nf_conntrack"
        yield Finding(
            "SysctlWrong",
            name,
            next(effect for prefix, effect in _EFFECTS.items() if path.startswith(prefix)),
            remedy
            if is_read_only or value is None
            else f"{command}; a running agent repairs it, unless it is read-only",
            ("it does not exist" if value is None else f"it is {value}, not {wanted}")
            + (", and is read-only here" if is_read_only else ""),
            "warning" if path in situation.optional_sysctls else "error",
        )


def sysctls_seen(situation: Situation) -> str:
    """Return how many sysctls have the required values, and how many of them are read-only."""
    if not situation.wanted_sysctls:
        return "none is compared: the agent sets them at its start"
    wanted, read_only = situation.wanted_sysctls, situation.doctor.read_only.intersection(situation.wanted_sysctls)
    right = len(wanted) - sum(1 for _ in check_sysctls(situation))
    return f"{right} sysctls have the required values" + (f", {len(read_only)} of them read-only" if read_only else "")


def check_reverse_paths(situation: Situation) -> Iterator[Finding]:
    """Find interfaces with strict reverse path filtering that are not those by which most clients are reached."""
    doctor = situation.doctor
    if not doctor.interfaces_of_routes or not situation.pod_networks:
        return
    others = {IPVS_DEVICE, "lo", *situation.facts.bridges, *doctor.interfaces_of_routes}
    for host in {
        host.interface: host for host in situation.facts.addresses if family_of(host.address) == "IPv4"
    }.values():
        is_strict = doctor.rp_filter.get(host.interface) == 1
        if is_strict and host.interface not in others and not is_of_pods(host.address, situation):
            yield Finding(
                "ReversePathStrict",
                f"interface {host.interface}",
                "packets of clients that this host reaches by another interface are dropped when they arrive here, for "
                "example at a NodePort of its address",
                f"sysctl -w net.ipv4.conf.{host.interface}.rp_filter=2 (the larger of it and of conf.all is in force)",
                "rp_filter is 1 (strict), and no route to other networks leads by it",
                "warning",
            )


def check_arp(situation: Situation) -> Iterator[Finding]:
    """Find load balancer addresses of a network of this host for which every node answers ARP."""
    doctor = situation.doctor
    ignore, announce = doctor.sysctls.get(ARP_IGNORE), doctor.sysctls.get(ARP_ANNOUNCE)
    if ignore is None or (ignore != "0" and announce == "2"):
        return
    on_link = [
        served.address
        for served in sorted(doctor.served)
        if served.kind == "load balancer address" and _is_on_link(served.address, situation.facts.addresses)
    ]
    if on_link:
        others = f" and {len(on_link) - _NAMED} more" if len(on_link) > _NAMED else ""
        yield Finding(
            "ArpAnswersForLoadBalancers",
            f"load balancer address {', '.join(on_link[:_NAMED])}{others}",
            "each node that has it answers ARP for it, so clients reach any node instead of the one that announces it "
            "(MetalLB in layer 2 mode, kube-vip)",
            "set ipvs.strictARP: true (--ipvs-strict-arp), or sysctl -w net.ipv4.conf.all.arp_ignore=1 "
            "net.ipv4.conf.all.arp_announce=2",
            f"it is of a network of this host, and arp_ignore is {ignore}, arp_announce {announce or 'not known'}",
        )


def arp_blind(situation: Situation) -> str:
    """Return why ARP was not judged."""
    return _sysctl_blind(ARP_IGNORE, situation)


def _sysctl_blind(path: str, situation: Situation) -> str:
    is_known = situation.doctor.sysctls.get(path, "").isdecimal()
    return "" if is_known else f"{path.replace('/', '.')} cannot be read; nothing was compared"


def _is_on_link(address: IP, hosts: tuple[HostAddress, ...]) -> bool:
    return any(
        ip_address(address) in ip_interface(f"{host.address}/{host.prefix_length}").network
        for host in hosts
        if host.prefix_length
        and host.interface != IPVS_DEVICE
        and family_of(host.address) == family_of(address) == "IPv4"
    )


def check_local_ports(situation: Situation) -> Iterator[Finding]:
    """Find NodePorts from which this host opens connections of its own."""
    first, last = situation.doctor.local_ports
    at_risk = sorted(
        port for port in situation.doctor.node_ports - situation.doctor.reserved_ports if first <= port <= last
    )
    if at_risk:
        others = f" and {len(at_risk) - _NAMED} more" if len(at_risk) > _NAMED else ""
        yield Finding(
            "NodePortsAreLocalPorts",
            f"NodePort {', '.join(map(str, at_risk[:_NAMED]))}{others}",
            "a connection that this host opens from such a port times out, because IPVS takes the answer for a request",
            "sysctl -w net.ipv4.ip_local_reserved_ports=30000-32767 (or --reserve-node-ports, the default, if it is "
            "not read-only)",
            f"this host opens its own connections from ports {first} to {last}, and these are not reserved",
        )


def local_ports_blind(situation: Situation) -> str:
    """Return why NodePorts were not compared with local ports."""
    first, last = situation.doctor.local_ports
    return "" if first <= last else "net.ipv4.ip_local_port_range cannot be read; nothing was compared"


def check_keepalive(situation: Situation) -> Iterator[Finding]:
    """Find IPVS forgetting idle connections before TCP keepalive would keep them."""
    timeouts, keepalive = situation.doctor.timeouts, situation.doctor.sysctls.get(KEEPALIVE, "")
    if timeouts and keepalive.isdecimal() and timeouts.tcp_s <= int(keepalive):
        yield Finding(
            "IdleConnectionsForgotten",
            "IPVS timeout of TCP connections",
            "a connection through a Service that is idle for longer is reset at its next packet, unless the program "
            "sends keepalives more often by itself",
            f"set ipvs.tcpTimeout (--ipvs-tcp-timeout) to {int(keepalive) + 300}s, or sysctl -w "
            f"net.ipv4.tcp_keepalive_time={max(timeouts.tcp_s // 2, 1)} in the pods",
            f"it is {timeouts.tcp_s} s, and TCP keepalive begins after {keepalive} s (net.ipv4.tcp_keepalive_time)",
            "warning",
        )


def keepalive_blind(situation: Situation) -> str:
    """Return why timeouts were not compared."""
    return _sysctl_blind(KEEPALIVE, situation)


def keepalive_seen(situation: Situation) -> str:
    """Return the timeouts."""
    timeouts = situation.doctor.timeouts
    return f"tcp {timeouts.tcp_s} s, tcpfin {timeouts.tcp_fin_s} s, udp {timeouts.udp_s} s" if timeouts else ""


def check_affinity(situation: Situation) -> Iterator[Finding]:
    """Find session affinities that last longer than they say."""
    short = [affinity for affinity in situation.doctor.affinities if affinity.timeout_s < TIME_WAIT_S]
    if short:
        named = ", ".join(f"{affinity.server} ({affinity.timeout_s} s)" for affinity in short[:_NAMED])
        yield Finding(
            "AffinityProlonged",
            f"session affinity of {named}" + (f" and {len(short) - _NAMED} more" if len(short) > _NAMED else ""),
            f"a client stays with its pod until IPVS forgets its last connection, {TIME_WAIT_S} s after it closed",
            f"set sessionAffinityConfig.clientIP.timeoutSeconds to {TIME_WAIT_S} or more, or expect it",
            f"its timeout is shorter than TIME_WAIT of IPVS ({TIME_WAIT_S} s), which prolongs it",
            "warning",
        )
