"""Names of ipsets, chains and jumps: those shared with kube-proxy, and those of other programs that are recognized.

Invariants:
- This is the only module that contains a name beginning with ``KUBE-``; all others refer to the constants here.
- Names, types, comments and orders are kube-proxy's, so that kube-proxy and this agent can each adopt what the other
  left on a node.
"""

import re
from collections.abc import Iterable, Mapping

from msgspec import Struct

from kubeproxy_py.model.rows import Chain, Ipset, IpsetEntry, IpsetSpec, Jump, PolicyEntry, Table, VirtualServer
from kubeproxy_py.net import FAMILIES, IP, Family, Protocol

_NAME_MAX = 31  # IPSET_MAXNAMELEN is 32, the final NUL included
_MAXELEM = 65536  # kube-proxy creates every set with it

PREFIX = "KUBE-"
"""The prefix of every set and chain of kube-proxy, kubelet and this agent."""

KUBELET_HINT_TABLE = "mangle"
KUBELET_HINT_CHAINS = ("KUBE-IPTABLES-HINT", "KUBE-KUBELET-CANARY")
"""Chains that kubelet creates with the iptables backend it uses, as iptables-wrappers knows them."""

OTHER_MODE_CHAINS: dict[str, frozenset[str]] = {
    "nat": frozenset(("KUBE-NODEPORTS", "KUBE-PROXY-CANARY")),
    "filter": frozenset(("KUBE-SERVICES", "KUBE-EXTERNAL-SERVICES", "KUBE-NODEPORTS", "KUBE-PROXY-CANARY")),
    "mangle": frozenset(("KUBE-PROXY-CANARY",)),
}
"""Chains of kube-proxy's iptables mode by table, without those that are also in CHAINS."""

OTHER_MODE_SERVICE_CHAIN = re.compile(r"KUBE-(?:SVC|SVL|FW|EXT|SEP|XLB)-[A-Z0-9]{16}$")
"""Chains of one Service or endpoint in iptables mode, all in the nat table; XLB until kube-proxy 1.23."""

NFTABLES_MODE_TABLE = "kube-proxy"
"""The nf_tables table of kube-proxy's nftables mode, in the families ip and ip6."""

KUBE_ROUTER_SERVICES_CHAIN = "KUBE-ROUTER-SERVICES"
"""A chain of kube-router's service proxy."""

PLACEHOLDER_SET = "KUBE-PY-STAND-IN"
"""The set that rules refer to while a set is recreated with another type (plan/set_replacement.py).

It is left behind only by a process that was killed at that moment.
"""

TEMPORARY_SET = "KUBE-PY-TEMPORARY"
"""The set that is swapped with one whose size changes (kernel/ipset/adapter.py); it exists during one step only."""

_IPV6_PREFIX = f"{PREFIX}6-"
SKBINFO = " skbinfo"
"""What follows the type of a set whose entries have firewall marks."""


class IpsetDefinition(Struct, frozen=True, gc=False):
    """A set that exists in each family."""

    name: str  # in IPv4
    type: str  # "hash:ip,port"
    comment: str  # of the rules that match on it

    def name_in(self, family: Family) -> str:
        """Return the set's name in *family*: ``KUBE-6-...`` for IPv6, truncated to the kernel's limit."""
        return self.name if family == "IPv4" else f"{_IPV6_PREFIX}{self.name.removeprefix(PREFIX)}"[:_NAME_MAX]

    @property
    def has_marks(self) -> bool:
        """Whether its entries may give firewall marks to packets."""
        return self.type.endswith(SKBINFO)

    def spec_in(self, family: Family, maxelem: int = _MAXELEM) -> IpsetSpec:
        """Return the header with which the set is created in *family*."""
        if self.type == "bitmap:port":
            return IpsetSpec(self.type, None)
        return IpsetSpec(self.type, family, maxelem=maxelem)


LOOP_BACK = IpsetDefinition(
    "KUBE-LOOP-BACK", "hash:ip,port,ip", "Kubernetes endpoints dst ip:port, source ip for solving hairpin purpose"
)
CLUSTER_IP = IpsetDefinition(
    "KUBE-CLUSTER-IP", "hash:ip,port", "Kubernetes service cluster ip + port for masquerade purpose"
)
EXTERNAL_IP = IpsetDefinition(
    "KUBE-EXTERNAL-IP", "hash:ip,port", "Kubernetes service external ip + port for masquerade and filter purpose"
)
EXTERNAL_IP_LOCAL = IpsetDefinition(
    "KUBE-EXTERNAL-IP-LOCAL", "hash:ip,port", "Kubernetes service external ip + port with externalTrafficPolicy=local"
)
LOAD_BALANCER = IpsetDefinition("KUBE-LOAD-BALANCER", "hash:ip,port", "Kubernetes service lb portal")
LOAD_BALANCER_LOCAL = IpsetDefinition(
    "KUBE-LOAD-BALANCER-LOCAL",
    "hash:ip,port",
    "Kubernetes service load balancer ip + port with externalTrafficPolicy=local",
)
LOAD_BALANCER_FW = IpsetDefinition(
    "KUBE-LOAD-BALANCER-FW",
    "hash:ip,port",
    "Kubernetes service load balancer ip + port for load balancer with sourceRange",
)
LOAD_BALANCER_SOURCE_CIDR = IpsetDefinition(
    "KUBE-LOAD-BALANCER-SOURCE-CIDR",
    "hash:ip,port,net",
    "Kubernetes service load balancer ip + port + source cidr for packet filter purpose",
)
LOAD_BALANCER_SOURCE_IP = IpsetDefinition(
    "KUBE-LOAD-BALANCER-SOURCE-IP",
    "hash:ip,port,ip",
    "Kubernetes service load balancer ip + port + source IP for packet filter purpose",
)
NODE_PORT_TCP = IpsetDefinition(
    "KUBE-NODE-PORT-TCP", "bitmap:port", "Kubernetes nodeport TCP port for masquerade purpose"
)
NODE_PORT_LOCAL_TCP = IpsetDefinition(
    "KUBE-NODE-PORT-LOCAL-TCP", "bitmap:port", "Kubernetes nodeport TCP port with externalTrafficPolicy=local"
)
NODE_PORT_UDP = IpsetDefinition(
    "KUBE-NODE-PORT-UDP", "bitmap:port", "Kubernetes nodeport UDP port for masquerade purpose"
)
NODE_PORT_LOCAL_UDP = IpsetDefinition(
    "KUBE-NODE-PORT-LOCAL-UDP", "bitmap:port", "Kubernetes nodeport UDP port with externalTrafficPolicy=local"
)
NODE_PORT_SCTP = IpsetDefinition(
    "KUBE-NODE-PORT-SCTP-HASH",
    "hash:ip,port",
    "Kubernetes nodeport SCTP port for masquerade purpose with type 'hash ip:port'",
)
NODE_PORT_LOCAL_SCTP = IpsetDefinition(
    "KUBE-NODE-PORT-LOCAL-SCTP-HASH",
    "hash:ip,port",
    "Kubernetes nodeport SCTP port with externalTrafficPolicy=local with type 'hash ip:port'",
)
HEALTH_CHECK_NODE_PORT = IpsetDefinition(
    "KUBE-HEALTH-CHECK-NODE-PORT", "bitmap:port", "Kubernetes health check node port"
)
IPVS_IPS = IpsetDefinition("KUBE-IPVS-IPS", "hash:ip", "Addresses on the ipvs interface")

NODE_PORT_DEFINITIONS: Mapping[Protocol, tuple[IpsetDefinition, IpsetDefinition]] = {
    "TCP": (NODE_PORT_TCP, NODE_PORT_LOCAL_TCP),
    "UDP": (NODE_PORT_UDP, NODE_PORT_LOCAL_UDP),
    "SCTP": (NODE_PORT_SCTP, NODE_PORT_LOCAL_SCTP),
}
"""By protocol, the set of all NodePorts, and that of those with externalTrafficPolicy Local.

Those of TCP and UDP are of type bitmap:port, which does not support SCTP.
"""

NODE_PORT_BITMAPS: Mapping[str, tuple[Family, Protocol]] = {
    definition.name_in(family): (family, protocol)
    for protocol, definitions in NODE_PORT_DEFINITIONS.items()
    for definition in definitions
    for family in FAMILIES
    if definition.type == "bitmap:port"
}
"""The names of the sets of NodePorts whose entries have no address."""

IPSET_DEFINITIONS: tuple[IpsetDefinition, ...] = (
    LOOP_BACK,
    CLUSTER_IP,
    EXTERNAL_IP,
    EXTERNAL_IP_LOCAL,
    LOAD_BALANCER,
    LOAD_BALANCER_LOCAL,
    LOAD_BALANCER_FW,
    LOAD_BALANCER_SOURCE_CIDR,
    LOAD_BALANCER_SOURCE_IP,
    NODE_PORT_TCP,
    NODE_PORT_LOCAL_TCP,
    NODE_PORT_UDP,
    NODE_PORT_LOCAL_UDP,
    NODE_PORT_SCTP,
    NODE_PORT_LOCAL_SCTP,
    HEALTH_CHECK_NODE_PORT,
    IPVS_IPS,  # last: a packet matches its REJECT only where the sets above do not name the Service port
)

POLICY_MARKS = IpsetDefinition(
    "KUBE-PY-INSIDE", f"hash:ip,port{SKBINFO}", "frontends with externalTrafficPolicy Local, and their marks"
)
POLICY_NO_LOCAL = IpsetDefinition(
    "KUBE-PY-NO-LOCAL", "hash:ip,port", "frontends with a policy of Local and endpoints, none of which is on this node"
)
POLICY_OUTSIDE = IpsetDefinition(
    "KUBE-PY-OUTSIDE", f"hash:ip,port{SKBINFO}", "frontends with direct server return, and their marks for outsiders"
)
POLICY_ROUTED = IpsetDefinition(
    "KUBE-PY-ROUTED", f"hash:ip,port{SKBINFO}", "the same where packets are handed on without a tunnel"
)
POLICY_DIRECT_DEFINITIONS: tuple[IpsetDefinition, ...] = (POLICY_OUTSIDE, POLICY_ROUTED)
"""The sets of direct server return, each of which exists only while it has entries."""

POLICY_MARK_DEFINITIONS: tuple[IpsetDefinition, ...] = (POLICY_MARKS, *POLICY_DIRECT_DEFINITIONS)
"""The sets of exact policies whose entries have marks."""

POLICY_IPSET_DEFINITIONS: tuple[IpsetDefinition, ...] = (*POLICY_MARK_DEFINITIONS, POLICY_NO_LOCAL)
"""The sets of exact policies, in the order in which their entries come; kube-proxy has none of them."""

MARK_MASQ_CHAIN = "KUBE-MARK-MASQ"
LOAD_BALANCER_CHAIN = "KUBE-LOAD-BALANCER"
NODE_PORT_CHAIN = "KUBE-NODE-PORT"  # in both tables
POSTROUTING_CHAIN = "KUBE-POSTROUTING"
SERVICES_CHAIN = "KUBE-SERVICES"
FORWARD_CHAIN = "KUBE-FORWARD"
SOURCE_RANGES_CHAIN = "KUBE-SOURCE-RANGES-FIREWALL"
PROXY_FIREWALL_CHAIN = "KUBE-PROXY-FIREWALL"
ACCESS_FILTER_CHAIN = "KUBE-IPVS-FILTER"
OUT_FILTER_CHAIN = "KUBE-IPVS-OUT-FILTER"

POLICY_RANGES_CHAIN = "KUBE-PY-SOURCE-RANGES"
POLICY_INPUT_CHAIN = "KUBE-PY-INPUT"
POLICY_FORWARD_CHAIN = "KUBE-PY-FORWARD"
POLICY_OUTPUT_CHAIN = "KUBE-PY-OUTPUT"
POLICY_POSTROUTING_CHAIN = "KUBE-PY-POSTROUTING"

CHAINS: tuple[tuple[Table, str], ...] = (
    # Each chain follows those that it jumps to, so that they exist when it is created.
    ("nat", MARK_MASQ_CHAIN),
    ("nat", LOAD_BALANCER_CHAIN),
    ("nat", NODE_PORT_CHAIN),
    ("nat", POSTROUTING_CHAIN),
    ("nat", SERVICES_CHAIN),
    ("filter", FORWARD_CHAIN),
    ("filter", NODE_PORT_CHAIN),
    ("filter", SOURCE_RANGES_CHAIN),
    ("filter", PROXY_FIREWALL_CHAIN),
    ("filter", ACCESS_FILTER_CHAIN),
    ("filter", OUT_FILTER_CHAIN),
)

POLICY_CHAINS: tuple[tuple[Table, str], ...] = (
    ("mangle", POLICY_RANGES_CHAIN),
    ("mangle", POLICY_INPUT_CHAIN),
    ("mangle", POLICY_FORWARD_CHAIN),
    ("mangle", POLICY_OUTPUT_CHAIN),
    ("nat", POLICY_POSTROUTING_CHAIN),
)
"""The chains of exact policies; kube-proxy has none of them."""

JUMPS: tuple[tuple[Table, str, str, str], ...] = (
    # (table, from, to, comment), in the order in which each is inserted at the top of its chain.
    ("nat", "OUTPUT", SERVICES_CHAIN, "kubernetes service portals"),
    ("nat", "PREROUTING", SERVICES_CHAIN, "kubernetes service portals"),
    ("nat", "POSTROUTING", POSTROUTING_CHAIN, "kubernetes postrouting rules"),
    ("filter", "FORWARD", FORWARD_CHAIN, "kubernetes forwarding rules"),
    ("filter", "INPUT", NODE_PORT_CHAIN, "kubernetes health check rules"),
    ("filter", "INPUT", PROXY_FIREWALL_CHAIN, "kube-proxy firewall rules"),
    ("filter", "FORWARD", PROXY_FIREWALL_CHAIN, "kube-proxy firewall rules"),
    ("filter", "INPUT", ACCESS_FILTER_CHAIN, "kubernetes ipvs access filter"),
    ("filter", "OUTPUT", OUT_FILTER_CHAIN, "kubernetes ipvs access filter"),
)

POLICY_JUMPS: tuple[tuple[Table, str, str, str], ...] = (
    # As JUMPS.  Those in mangle come after routing and before IPVS, in both chains.
    ("nat", "POSTROUTING", POLICY_POSTROUTING_CHAIN, "kubeproxy-py exact policies"),
    ("mangle", "INPUT", POLICY_INPUT_CHAIN, "kubeproxy-py exact policies"),
    ("mangle", "FORWARD", POLICY_FORWARD_CHAIN, "kubeproxy-py exact policies"),
    ("mangle", "OUTPUT", POLICY_OUTPUT_CHAIN, "kubeproxy-py exact policies"),
)

OWN_CHAINS = CHAINS + POLICY_CHAINS
"""All chains that may be ours."""

OWN_JUMPS = JUMPS + POLICY_JUMPS
"""All jumps that may be ours."""


def maxelem_for(entries: int) -> int:
    """Return the maxelem of a set that will have *entries*.

    It is kube-proxy's 65536; where that is too small (kubernetes#129389), a power of two that leaves an eighth free,
    because a plan adds entries before it deletes others.  Unused space costs no memory.
    """
    return _MAXELEM if entries <= _MAXELEM else 1 << (entries * 8 // 7).bit_length()


def ipsets(
    family: Family,
    maxelems: Mapping[str, int] | None = None,
    definitions: Iterable[IpsetDefinition] = IPSET_DEFINITIONS,
) -> dict[Ipset, IpsetSpec]:
    """Return the sets of *family* with their headers, in the order of *definitions*.

    Args:
        family: The address family.
        maxelems: The maxelem of sets that differ from kube-proxy's, by name.
        definitions: Which sets.
    """
    maxelems = maxelems or {}
    named = ((definition, definition.name_in(family)) for definition in definitions)
    return {Ipset(name): definition.spec_in(family, maxelems.get(name, _MAXELEM)) for definition, name in named}


def names_of(*definitions: IpsetDefinition) -> frozenset[str]:
    """Return the names of the sets *definitions* in both families."""
    return frozenset(definition.name_in(family) for definition in definitions for family in FAMILIES)


def ip_port(address: IP, protocol: Protocol, port: int) -> str:
    """Return the entry of a set of type hash:ip,port."""
    return f"{address},{protocol.lower()}:{port}"


def server_entry(server: VirtualServer) -> str:
    """Return the entry of a set of type hash:ip,port that names *server*."""
    return ip_port(server.address, server.protocol, server.port)


POLICY_SETS = names_of(*POLICY_IPSET_DEFINITIONS)
"""The names of the sets of exact policies, whose entries are PolicyEntry rows."""

POLICY_MARK_SETS = names_of(*POLICY_MARK_DEFINITIONS)
"""Those whose entries have marks."""


def entry_key(name: str, entry: str) -> IpsetEntry:
    """Return the key of *entry* in the set *name*."""
    return PolicyEntry(name, entry) if name in POLICY_SETS else IpsetEntry(name, entry)


def family_of_set(name: str) -> Family:
    """Return the family of the set *name*, one of those that ``ipsets`` returns."""
    return "IPv6" if name.startswith(_IPV6_PREFIX) else "IPv4"


def chains(family: Family, *, policies: bool = False) -> list[Chain]:
    """Return the chains of *family*, each after those that it jumps to; *policies*: those of exact policies, too."""
    return [Chain(family, table, name) for table, name in (OWN_CHAINS if policies else CHAINS)]


def jumps(family: Family, *, comments: bool = True, policies: bool = False) -> dict[Jump, str]:
    """Return the jumps of *family* with their rules as ``iptables-save`` prints them, in order of insertion.

    Args:
        family: The address family.
        comments: False: without their comments, for a kernel without xt_comment.
        policies: Those of exact policies, too.
    """
    return {
        Jump(family, table, source, target): f'-m comment --comment "{comment}" -j {target}'
        if comments
        else f"-j {target}"
        for table, source, target, comment in (OWN_JUMPS if policies else JUMPS)
    }


def referenced_chains(rules: Iterable[str]) -> set[str]:
    """Return the names of the KUBE-* chains that *rules* jump or go to."""
    return {name for rule in rules for name in re.findall(rf"-[jg] ({PREFIX}\S+)", rule)}
