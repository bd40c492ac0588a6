"""The table of checks; the resident process runs those that are cheap and need no objects, ``doctor`` all of them.

Invariants:
- A check is a row here, with every reason that it can find.
"""

from collections.abc import Iterable

from kubeproxy_py.checks import addresses, api_server, bridges, programs, rights, rules, settings, support
from kubeproxy_py.checks.check import Check
from kubeproxy_py.checks.conntrack import check_conntrack, conntrack_seen
from kubeproxy_py.checks.identity import check_identity, node_blind, node_seen
from kubeproxy_py.checks.kernel import check_kernel, kernel_blind, kernel_seen
from kubeproxy_py.checks.situation import Situation
from kubeproxy_py.model.finding import Finding

CHECKS: tuple[Check, ...] = (
    Check(
        name="rights",
        about="may this process read the kernel's state?",
        find=rights.check_rights,
        reasons=("RightsMissing",),
        needs=("rights",),
        seen=rights.rights_seen,
    ),
    Check(
        name="kernel-features",
        about="are modules, set types, matches and targets there?",
        find=support.check_support,
        reasons=("KernelLacks",),
        needs=("kernel",),
        blind=support.support_blind,
        seen=support.support_seen,
    ),
    Check(
        name="versions",
        about="which versions of kernel, programs and libraries are these, and are they new enough?",
        find=support.check_versions,
        reasons=("LibraryOutdated",),
        needs=("versions",),
        seen=support.versions_seen,
    ),
    Check(
        name="sysctls",
        about="have the sysctls that the configuration requires (vs/conntrack, expire_*, conn_reuse_mode, ip_forward, "
        "limits) their values?",
        find=settings.check_sysctls,
        reasons=("SysctlWrong",),
        seen=settings.sysctls_seen,
    ),
    Check(
        name="kernel-settings",
        about="does this kernel, or a setting of it, do worse than another?",
        find=check_kernel,
        reasons=(
            "SourcePortReuse",
            "EstimationStalls",
            "EstimationOff",
            "ConnectionTableSmall",
            "LegacyTablesDeprecated",
        ),
        needs=("kernel",),
        blind=kernel_blind,
        seen=kernel_seen,
        is_resident=True,
    ),
    Check(
        name="reverse-paths",
        about="does rp_filter drop what clients send?",
        find=settings.check_reverse_paths,
        reasons=("ReversePathStrict",),
        needs=("routes", "addresses", "pod networks"),
    ),
    Check(
        name="arp",
        about="does every node answer ARP for load balancer addresses (strictARP)?",
        find=settings.check_arp,
        reasons=("ArpAnswersForLoadBalancers",),
        needs=("sets", "addresses"),
        blind=settings.arp_blind,
    ),
    Check(
        name="local-ports",
        about="does this host open its own connections from NodePorts?",
        find=settings.check_local_ports,
        reasons=("NodePortsAreLocalPorts",),
        needs=("sets",),
        blind=settings.local_ports_blind,
    ),
    Check(
        name="iptables-backend",
        about="does the kubelet write its rules where this agent does?",
        find=support.check_backend,
        reasons=("OtherIptablesBackend",),
        needs=("iptables",),
        seen=support.backend_seen,
    ),
    Check(
        name="stale-rules",
        about="has another mode of kube-proxy left rules?",
        find=support.check_stale_rules,
        reasons=("RulesOfAnotherMode",),
        needs=("iptables",),
    ),
    Check(
        name="other-proxies",
        about="does another service proxy run here?",
        find=programs.check_other_proxies,
        reasons=("AnotherServiceProxy",),
        needs=("processes", "iptables", "sets"),
    ),
    Check(
        name="firewalls",
        about="does a firewall service run here?",
        find=programs.check_firewalls,
        reasons=("FirewallService",),
        needs=("processes",),
    ),
    Check(
        name="ipvs-users",
        about="does another program use IPVS?",
        find=programs.check_ipvs_users,
        reasons=("ForeignVirtualServers", "OtherIpvsUser"),
        needs=("virtual servers", "sets", "processes"),
        seen=programs.ipvs_users_seen,
    ),
    Check(
        name="input",
        about="does the chain INPUT accept connections to Services?",
        find=rules.check_input,
        reasons=("InputDropsServices",),
        needs=("iptables",),
        is_resident=True,
    ),
    Check(
        name="forward",
        about="does the chain FORWARD accept the answers of pods?",
        find=rules.check_forward,
        reasons=("ForwardDropsServices",),
        needs=("iptables",),
        is_resident=True,
    ),
    Check(
        name="nat-order",
        about="do rules of other programs translate or accept packets to Services before ours see them?",
        find=rules.check_nat_order,
        reasons=("NatRuleBeforeServices",),
        needs=("iptables",),
        is_resident=True,
    ),
    Check(
        name="filter-order",
        about="do rules of other programs accept what ours refuse, before ours see it?",
        find=rules.check_filter_order,
        reasons=("FilterRuleBeforeServices",),
        needs=("iptables",),
        is_resident=True,
    ),
    Check(
        name="device",
        about="can kube-ipvs0 have the addresses of Services, and does it have them alone?",
        find=addresses.check_device,
        reasons=("DeviceMtuTooSmall", "AddressWithNetwork"),
        needs=("sets", "addresses"),
        seen=addresses.device_seen,
    ),
    Check(
        name="service-addresses",
        about="is a Service address also on another interface?",
        find=addresses.check_addresses,
        reasons=("ServiceAddressOnInterface",),
        needs=("sets", "addresses"),
    ),
    Check(
        name="node-local-dns",
        about="does NodeLocal DNSCache listen where IPVS takes its packets?",
        find=addresses.check_node_local_dns,
        reasons=("NodeLocalDnsBypassed",),
        needs=("sets", "addresses"),
        seen=addresses.node_local_dns_seen,
    ),
    Check(
        name="bridge-netfilter",
        about="does iptables see what is bridged between pods?",
        find=bridges.check_bridges,
        reasons=("BridgeNetfilterOff",),
        needs=("bridges", "addresses", "pod networks"),
        seen=bridges.bridges_seen,
        is_resident=True,
    ),
    Check(
        name="hairpin",
        about="does a pod reach itself by a Service?",
        find=bridges.check_hairpin,
        reasons=("HairpinOff",),
        needs=("bridges", "addresses", "pod networks"),
        seen=bridges.bridges_seen,
        is_resident=True,
    ),
    Check(
        name="conntrack",
        about="is the table of tracked connections nearly full?",
        find=check_conntrack,
        reasons=("ConntrackTableFull", "ConntrackDrops"),
        seen=conntrack_seen,
        is_resident=True,
    ),
    Check(
        name="idle-connections",
        about="does IPVS keep idle connections for as long as TCP keepalive needs?",
        find=settings.check_keepalive,
        reasons=("IdleConnectionsForgotten",),
        needs=("IPVS timeouts",),
        blind=settings.keepalive_blind,
        seen=settings.keepalive_seen,
    ),
    Check(
        name="affinity",
        about="does session affinity end when it should?",
        find=settings.check_affinity,
        reasons=("AffinityProlonged",),
        needs=("virtual servers",),
    ),
    Check(
        name="node-name",
        about="is the Node with this agent's node name this host?",
        find=check_identity,
        reasons=("NodeAddressesNotOnHost",),
        needs=("addresses", "API server"),
        blind=node_blind,
        seen=node_seen,
        is_resident=True,
    ),
    Check(
        name="api-server",
        about="does the API server answer?",
        find=api_server.check_api_server,
        reasons=("ApiServerUnreachable",),
        needs=("API server",),
        seen=api_server.api_server_seen,
    ),
    Check(
        name="clock",
        about="is the clock the API server's?",
        find=api_server.check_clock,
        reasons=("ClockSkewed",),
        needs=("API server",),
        blind=api_server.clock_blind,
        seen=api_server.clock_seen,
    ),
    Check(
        name="certificates",
        about="are the certificates of the kubeconfig valid, and for how long?",
        find=api_server.check_certificates,
        reasons=("CertificateExpired", "CertificateNotYetValid", "CertificateExpiresSoon"),
        needs=("certificates",),
        seen=api_server.certificates_seen,
    ),
)
"""In the order in which ``doctor`` prints them; the rights first, because without them little else can be looked at."""

RESIDENT = tuple(check for check in CHECKS if check.is_resident)

REASONS: tuple[str, ...] = tuple(reason for check in RESIDENT for reason in check.reasons)
"""Every reason that the running agent reports, so that a metric shows 0 before the first one."""


def run_checks(situation: Situation, checks: Iterable[Check] = RESIDENT) -> tuple[Finding, ...]:
    """Return what *checks* find."""
    return tuple(finding for check in checks for finding in check.find(situation))
