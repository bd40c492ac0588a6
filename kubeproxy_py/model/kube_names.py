"""The names that we share with kube-proxy: 17 ipsets a family, the chains and the jumps to them.

Law: these tables are the only place where a set, a chain or a jump is named; all else loops over them.  Names,
types, comments and orders are kube-proxy's own, so that either may adopt what the other left on a node.
"""

from collections.abc import Mapping

from msgspec import Struct

from kubeproxy_py.model.rows import Chain, Ipset, IpsetSpec, Jump, Table
from kubeproxy_py.model.services import Family

_NAME_MAX = 31  # IPSET_MAXNAMELEN is 32, the final NUL included
_MAXELEM = 65536  # what kube-proxy makes every set for

PLACEHOLDER_SET = "KUBE-PY-STAND-IN"
"""The set that rules look at while one of ours is made anew; left behind only by a process that was killed then."""


class IpsetDefinition(Struct, frozen=True, gc=False):
    name: str  # its IPv4 name
    type: str
    comment: str

    def name_in(self, family: Family) -> str:
        """The set's name in *family*: ``KUBE-6-...`` for IPv6, cut to what the kernel takes."""
        return self.name if family == "IPv4" else f"KUBE-6-{self.name.removeprefix('KUBE-')}"[:_NAME_MAX]

    def spec_in(self, family: Family, maxelem: int = _MAXELEM) -> IpsetSpec:
        """The header it is made with."""
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

SET_KINDS: tuple[IpsetDefinition, ...] = (
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
    IPVS_IPS,  # last: a packet meets its REJECT only where the sets above do not name the service port
)

CHAINS: tuple[tuple[Table, str], ...] = (
    # A chain stands after those that it jumps to, so that each can be made when its turn comes.
    ("nat", "KUBE-MARK-MASQ"),
    ("nat", "KUBE-LOAD-BALANCER"),
    ("nat", "KUBE-NODE-PORT"),
    ("nat", "KUBE-POSTROUTING"),
    ("nat", "KUBE-SERVICES"),
    ("filter", "KUBE-FORWARD"),
    ("filter", "KUBE-NODE-PORT"),
    ("filter", "KUBE-SOURCE-RANGES-FIREWALL"),
    ("filter", "KUBE-PROXY-FIREWALL"),
    ("filter", "KUBE-IPVS-FILTER"),
    ("filter", "KUBE-IPVS-OUT-FILTER"),
)

JUMPS: tuple[tuple[Table, str, str, str], ...] = (
    # (table, from, to, comment), in the order in which each is inserted at the top of its chain.
    ("nat", "OUTPUT", "KUBE-SERVICES", "kubernetes service portals"),
    ("nat", "PREROUTING", "KUBE-SERVICES", "kubernetes service portals"),
    ("nat", "POSTROUTING", "KUBE-POSTROUTING", "kubernetes postrouting rules"),
    ("filter", "FORWARD", "KUBE-FORWARD", "kubernetes forwarding rules"),
    ("filter", "INPUT", "KUBE-NODE-PORT", "kubernetes health check rules"),
    ("filter", "INPUT", "KUBE-PROXY-FIREWALL", "kube-proxy firewall rules"),
    ("filter", "FORWARD", "KUBE-PROXY-FIREWALL", "kube-proxy firewall rules"),
    ("filter", "INPUT", "KUBE-IPVS-FILTER", "kubernetes ipvs access filter"),
    ("filter", "OUTPUT", "KUBE-IPVS-OUT-FILTER", "kubernetes ipvs access filter"),
)


def maxelem_for(entries: int) -> int:
    """How many entries a set is made for that shall have *entries*.

    kube-proxy's 65536; where that is too few (kubernetes#129389), a power of two of which an eighth is to spare, for
    a plan adds before it deletes.  What is not used costs no memory.
    """
    return _MAXELEM if entries <= _MAXELEM else 1 << (entries * 8 // 7).bit_length()


def ipsets(family: Family, maxelems: Mapping[str, int] | None = None) -> dict[Ipset, IpsetSpec]:
    """The sets of *family* with their headers, in the order of the table.

    *maxelems* has by name those that differ from kube-proxy's.
    """
    large = maxelems or {}
    names = ((kind, kind.name_in(family)) for kind in SET_KINDS)
    return {Ipset(name): kind.spec_in(family, large.get(name, _MAXELEM)) for kind, name in names}


def chains(family: Family) -> list[Chain]:
    """The chains of *family*, each after those that it jumps to."""
    return [Chain(family, table, name) for table, name in CHAINS]


def jumps(family: Family) -> dict[Jump, str]:
    """The jumps of *family* with their rules as ``iptables-save`` prints them, in order of insertion."""
    return {
        Jump(family, table, source, target): f'-m comment --comment "{comment}" -j {target}'
        for table, source, target, comment in JUMPS
    }
