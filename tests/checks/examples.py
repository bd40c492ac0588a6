"""One situation for each reason that a check can find, on a node that is well otherwise.

docs/doctor.md is printed from what is found in them.
"""

from __future__ import annotations

from collections.abc import Mapping

from msgspec.structs import replace

from kubeproxy_py.checks.kernel import ESTIMATION_S, STALL_MAX_S
from kubeproxy_py.checks.rivals import Facts as RivalFacts
from kubeproxy_py.checks.rivals import ProxyProcess
from kubeproxy_py.checks.situation import Situation
from kubeproxy_py.model.host_facts import (
    Affinity,
    ApiServer,
    Certificate,
    ChainFacts,
    ConntrackFacts,
    DoctorFacts,
    HostFacts,
    IpvsTimeouts,
    KernelFacts,
    Lack,
    Outdated,
    Rights,
    ServedAddress,
)
from kubeproxy_py.model.node import HostAddress, Node

NOW_S = 1_800_000_000.0
DAY_S = 86400.0
ADDRESSES = (
    HostAddress("lo", "127.0.0.1", 8),
    HostAddress("eth0", "192.168.3.10", 24),
    HostAddress("eth1", "172.16.5.10", 24),
    HostAddress("cni0", "10.244.1.1", 24),
    HostAddress("kube-ipvs0", "10.96.0.10", 32),
)
SYSCTLS = {
    "net/ipv4/vs/conntrack": "1",
    "net/ipv4/vs/expire_nodest_conn": "1",
    "net/netfilter/nf_conntrack_max": "131072",
}
_JUMP = '-m comment --comment "kubernetes service portals" -j KUBE-SERVICES'
_ACCESS_JUMP = '-m comment --comment "kubernetes ipvs access filter" -j KUBE-IPVS-FILTER'
_ACCEPTED = {"INPUT": ChainFacts((), "ACCEPT"), "FORWARD": ChainFacts((), "ACCEPT")}
_TABLES = {("IPv4", "filter"): _ACCEPTED, ("IPv4", "nat"): {"PREROUTING": ChainFacts((_JUMP,), "ACCEPT")}}

_KERNEL = KernelFacts(version=(6, 12, 0), cpus=4, ipvs_settings={"conn_reuse_mode": 1}, connection_buckets=4096)
FACTS = HostFacts(
    tables=_TABLES,  # type: ignore[arg-type]
    bridges=("cni0",),
    bridge_netfilter={"IPv4": True},
    conntrack=ConntrackFacts(231, 131072, 0),
    addresses=ADDRESSES,
    kernel=_KERNEL,
)
DOCTOR = DoctorFacts(
    rights=Rights(0),
    versions={"Linux": "6.12.0", "iptables (nft)": "1.8.9", "ipset": "7.17.0", "Python": "3.11.2"},
    sysctls={
        **SYSCTLS,
        "net/ipv4/conf/all/arp_ignore": "0",
        "net/ipv4/conf/all/arp_announce": "0",
        "net/ipv4/tcp_keepalive_time": "600",
    },
    rp_filter={"eth0": 0, "eth1": 2, "cni0": 0},
    interfaces_of_routes=frozenset(("eth0",)),
    interfaces=("lo", "eth0", "eth1", "cni0", "kube-ipvs0"),
    device_mtu=1500,
    set_names=("KUBE-CLUSTER-IP", "KUBE-LOAD-BALANCER"),
    backend="nft",
    kubelet_backends=("nft",),
    served=frozenset((ServedAddress("10.96.0.10", "ClusterIP"),)),
    node_ports=frozenset((30080,)),
    local_ports=(32768, 60999),
    virtual_servers=2,
    timeouts=IpvsTimeouts(900, 120, 300),
    api_server=ApiServer("https://192.168.3.1:6443", skew_s=0.0),
    certificates=(
        Certificate("client certificate", "/etc/kubernetes/proxy.conf", NOW_S - DAY_S, NOW_S + 300 * DAY_S),
        Certificate("certificate authority", "/etc/kubernetes/pki/ca.crt", NOW_S - DAY_S, NOW_S + 3000 * DAY_S),
    ),
    now_s=NOW_S,
)
WELL = Situation(
    facts=FACTS,
    node=Node("node-a", addresses=("192.168.3.10",), pod_cidrs=("10.244.1.0/24",)),
    pod_networks=("10.244.0.0/16",),
    servers=4,
    doctor=DOCTOR,
    wanted_sysctls=SYSCTLS,
    optional_sysctls=frozenset(("net/netfilter/nf_conntrack_max",)),
)


def with_facts(**changes: object) -> Situation:
    """Return WELL with other HostFacts."""
    return replace(WELL, facts=replace(FACTS, **changes))


def with_doctor(**changes: object) -> Situation:
    """Return WELL with other DoctorFacts."""
    return replace(WELL, doctor=replace(DOCTOR, **changes))


def with_chain(table: str, name: str, rules: tuple[str, ...], policy: str = "ACCEPT") -> Situation:
    """Return WELL with another chain of IPv4."""
    chains = {**_TABLES["IPv4", table], name: ChainFacts(rules, policy)}
    return with_facts(tables={**_TABLES, ("IPv4", table): chains})


def with_kernel(**changes: object) -> Situation:
    """Return WELL with other KernelFacts."""
    return with_facts(kernel=replace(_KERNEL, **changes))


def with_certificate(first_s: float, last_s: float) -> Situation:
    """Return WELL with one client certificate, which is valid from NOW_S + *first_s* to NOW_S + *last_s*."""
    certificate = Certificate("client certificate", "/etc/kubernetes/proxy.conf", NOW_S + first_s, NOW_S + last_s)
    return with_doctor(certificates=(certificate,))


_ON_LINK = ServedAddress("192.168.3.200", "load balancer address")
_LOCAL_DNS = (*ADDRESSES, HostAddress("nodelocaldns", "10.96.0.10", 32))

EXAMPLES: Mapping[str, Situation] = {
    "RightsMissing": with_doctor(rights=Rights(1000, ("NET_ADMIN", "NET_RAW"))),
    "KernelLacks": with_doctor(lacks=(Lack("the kernel does not support IPVS", "modprobe ip_vs", fatal=True),)),
    "LibraryOutdated": with_doctor(outdated=(Outdated("msgspec", "0.17.0", ">=0.18.6"),)),
    "SysctlWrong": with_doctor(sysctls={**DOCTOR.sysctls, "net/ipv4/vs/conntrack": "0"}),
    "SourcePortReuse": with_kernel(version=(5, 10, 0), ipvs_settings={"conn_reuse_mode": 0}),
    "EstimationStalls": replace(
        with_kernel(version=(5, 10, 0), ipvs_settings={"conn_reuse_mode": 1}),
        servers=int(STALL_MAX_S / ESTIMATION_S),
    ),
    "EstimationOff": with_kernel(ipvs_settings={"conn_reuse_mode": 1, "run_estimation": 0}),
    "ConnectionTableSmall": with_kernel(connections=8 * 4096 + 1),
    "LegacyTablesDeprecated": with_kernel(version=(7, 0, 0), legacy=True, has_nf_tables=True),
    "ReversePathStrict": with_doctor(rp_filter={"eth1": 1}),
    "ArpAnswersForLoadBalancers": with_doctor(served=frozenset((_ON_LINK,))),
    "NodePortsAreLocalPorts": with_doctor(local_ports=(20000, 60999)),
    "OtherIptablesBackend": with_doctor(kubelet_backends=("legacy",)),
    "RulesOfAnotherMode": with_doctor(stale_rules="12 chains and 5 rules of iptables mode (IPv4)"),
    "AnotherServiceProxy": replace(WELL, rivals=RivalFacts((ProxyProcess(4711, "kube-proxy"),))),
    "FirewallService": with_doctor(programs=(("firewalld", 812),)),
    "ForeignVirtualServers": with_doctor(foreign_servers=("172.16.5.10:6443/TCP",), programs=(("keepalived", 640),)),
    "OtherIpvsUser": with_doctor(programs=(("keepalived", 640),)),
    "InputDropsServices": with_chain("filter", "INPUT", ("-i lo -j ACCEPT",), "DROP"),
    "ForwardDropsServices": with_chain("filter", "FORWARD", (), "DROP"),
    "NatRuleBeforeServices": with_chain(
        "nat", "PREROUTING", ("-p tcp -m tcp --dport 80 -j REDIRECT --to-ports 8080", _JUMP)
    ),
    "FilterRuleBeforeServices": with_chain("filter", "INPUT", ("-p tcp -j ACCEPT", _ACCESS_JUMP)),
    "DeviceMtuTooSmall": with_doctor(
        device_mtu=1000,
        served=frozenset((ServedAddress("fd00:10:96::a", "ClusterIP"), ServedAddress("10.96.0.10", "ClusterIP"))),
    ),
    "AddressWithNetwork": with_facts(addresses=(*ADDRESSES[:-1], HostAddress("kube-ipvs0", "10.96.0.10", 24))),
    "ServiceAddressOnInterface": with_facts(addresses=(*ADDRESSES, HostAddress("eth1", "10.96.0.10", 32))),
    "NodeLocalDnsBypassed": replace(
        with_facts(addresses=_LOCAL_DNS), doctor=replace(DOCTOR, interfaces=(*DOCTOR.interfaces, "nodelocaldns"))
    ),
    "BridgeNetfilterOff": with_facts(bridge_netfilter={"IPv4": False}),
    "HairpinOff": with_facts(hairpin_off={"cni0": ("veth1a2b", "veth3c4d")}),
    "ConntrackTableFull": with_facts(conntrack=ConntrackFacts(130_000, 131_072, 0)),
    "ConntrackDrops": replace(with_facts(conntrack=ConntrackFacts(231, 131_072, 12)), before=FACTS),
    "IdleConnectionsForgotten": with_doctor(sysctls={**DOCTOR.sysctls, "net/ipv4/tcp_keepalive_time": "7200"}),
    "AffinityProlonged": with_doctor(affinities=(Affinity("10.96.0.10:80/TCP", 10),)),
    "NodeAddressesNotOnHost": replace(WELL, node=Node("node-b", addresses=("192.168.3.11",))),
    "ApiServerUnreachable": with_doctor(
        api_server=ApiServer("https://192.168.3.1:6443", "connection: refused", "check that it is running")
    ),
    "ClockSkewed": with_doctor(api_server=ApiServer("https://192.168.3.1:6443", skew_s=-3600.0)),
    "CertificateExpired": with_certificate(-365 * DAY_S, -2 * DAY_S),
    "CertificateNotYetValid": with_certificate(DAY_S / 12, 365 * DAY_S),
    "CertificateExpiresSoon": with_certificate(-355 * DAY_S, 10 * DAY_S),
}
"""By reason, in the order of the table of checks."""
