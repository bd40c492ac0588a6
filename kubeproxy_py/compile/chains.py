"""The rules of our chains, as values.

Law: a rule's text is what ``iptables-save`` prints, so that a chain read back compares equal with the one written.
A rule that matches on a set stands only while that set has entries, as kube-proxy has it; so a chain follows from
which sets have entries, and from the load balancer addresses that this node itself may not use.
"""

from collections.abc import Callable, Iterator, Set

from msgspec import Struct

from kubeproxy_py.compile.node_context import NodeContext
from kubeproxy_py.model import kube_names as tables
from kubeproxy_py.model.kube_names import IpsetDefinition
from kubeproxy_py.model.rows import ChainSpec, Rows, Table
from kubeproxy_py.model.services import Family

_PROTOCOL_NUMBERS = {"tcp": 6, "udp": 17, "sctp": 132}  # iptables-save prints --vproto as a number
_LOOPBACK_NETWORK: dict[Family, str] = {"IPv4": "127.0.0.0/8", "IPv6": "::1/128"}
_REJECT_WITH: dict[Family, str] = {"IPv4": "icmp-port-unreachable", "IPv6": "icmp6-port-unreachable"}
_HOST_LENGTH: dict[Family, int] = {"IPv4": 32, "IPv6": 128}


class NonEmptySets(Struct, frozen=True, gc=False):
    """What the chains of one family, and the headers of its sets, depend on."""

    filled: frozenset[str] = frozenset()  # names of sets that have entries
    shut_to_node: tuple[str, ...] = ()  # ``vip,proto:port`` with source ranges that leave this node out, sorted
    large: tuple[tuple[str, int], ...] = ()  # sets that kube-proxy's size is too small for, with the maxelem they need


def compile_chains(family: Family, sets: NonEmptySets, site: NodeContext) -> Rows:
    """All chains of *family* with their rules."""
    return {
        chain: ChainSpec(tuple(_RULES[chain.table, chain.name](family, sets, site))) for chain in tables.chains(family)
    }


Rules = Iterator[str]


def _services(family: Family, sets: NonEmptySets, site: NodeContext) -> Rules:
    filled = _Filled(family, sets.filled)
    yield f"-s {_LOOPBACK_NETWORK[family]} -j RETURN"
    if tables.LOAD_BALANCER in filled:
        yield _commented(tables.LOAD_BALANCER, family, "dst,dst", "-j KUBE-LOAD-BALANCER")
    if tables.CLUSTER_IP in filled:
        yield _cluster_ip_masquerade(family, site)
    if tables.EXTERNAL_IP in filled:
        yield _commented(tables.EXTERNAL_IP, family, "dst,dst", "-j KUBE-MARK-MASQ")
    for kind in (tables.EXTERNAL_IP, tables.EXTERNAL_IP_LOCAL):
        if kind in filled:
            # Only what comes from outside or goes to an address of this node: not what is bridged past us.
            from_outside = "-m physdev ! --physdev-is-in -m addrtype ! --src-type LOCAL -j ACCEPT"
            yield _commented(kind, family, "dst,dst", from_outside)
            yield _commented(kind, family, "dst,dst", "-m addrtype --dst-type LOCAL -j ACCEPT")
    yield "-m addrtype --dst-type LOCAL -j KUBE-NODE-PORT"
    # Keeps later nat rules of others (hostport DNAT of a CNI plugin, say) away from our packets.
    for kind in (tables.CLUSTER_IP, tables.LOAD_BALANCER):
        if kind in filled:
            yield f"-m set --match-set {kind.name_in(family)} dst,dst -j ACCEPT"


def _cluster_ip_masquerade(family: Family, site: NodeContext) -> str:
    not_local = site.not_local.get(family, "")
    if site.masquerade_all:
        return _commented(tables.CLUSTER_IP, family, "dst,dst", "-j KUBE-MARK-MASQ")
    if not_local:
        return f"{not_local} {_commented(tables.CLUSTER_IP, family, 'dst,dst', '-j KUBE-MARK-MASQ')}"
    # With no way to tell pods of this node, only the node's own packets are masqueraded: from a ClusterIP.
    return _commented(tables.CLUSTER_IP, family, "src,dst", "-j KUBE-MARK-MASQ")


def _load_balancer(family: Family, sets: NonEmptySets, _site: NodeContext) -> Rules:
    if tables.LOAD_BALANCER_LOCAL in _Filled(family, sets.filled):
        yield _commented(tables.LOAD_BALANCER_LOCAL, family, "dst,dst", "-j RETURN")
    yield "-j KUBE-MARK-MASQ"


def _mark_masquerade(_family: Family, _sets: NonEmptySets, site: NodeContext) -> Rules:
    yield f"-j MARK --set-xmark {site.masquerade_mark:#x}/{site.masquerade_mark:#x}"


_NODE_PORT_RULES: tuple[tuple[IpsetDefinition, str, str, str], ...] = (
    (tables.NODE_PORT_LOCAL_TCP, "tcp", "dst", "RETURN"),
    (tables.NODE_PORT_TCP, "tcp", "dst", "KUBE-MARK-MASQ"),
    (tables.NODE_PORT_LOCAL_UDP, "udp", "dst", "RETURN"),
    (tables.NODE_PORT_UDP, "udp", "dst", "KUBE-MARK-MASQ"),
    (tables.NODE_PORT_LOCAL_SCTP, "sctp", "dst,dst", "RETURN"),
    (tables.NODE_PORT_SCTP, "sctp", "dst,dst", "KUBE-MARK-MASQ"),
)


def _node_port(family: Family, sets: NonEmptySets, _site: NodeContext) -> Rules:
    filled = _Filled(family, sets.filled)
    for kind, protocol, direction, target in _NODE_PORT_RULES:
        if kind in filled:
            yield f"-p {protocol} {_commented(kind, family, direction, f'-j {target}')}"


def _postrouting(family: Family, sets: NonEmptySets, site: NodeContext) -> Rules:
    mark = f"{site.masquerade_mark:#x}"
    if tables.LOOP_BACK in _Filled(family, sets.filled):
        yield _commented(tables.LOOP_BACK, family, "dst,dst,src", "-j MASQUERADE")
    yield f"-m mark ! --mark {mark}/{mark} -j RETURN"
    yield f"-j MARK --set-xmark {mark}/0x0"
    random_fully = " --random-fully" if site.random_fully else ""
    yield f'-m comment --comment "kubernetes service traffic requiring SNAT" -j MASQUERADE{random_fully}'


def _forward(_family: Family, _sets: NonEmptySets, site: NodeContext) -> Rules:
    mark = f"{site.masquerade_mark:#x}"
    yield f'-m comment --comment "kubernetes forwarding rules" -m mark --mark {mark}/{mark} -j ACCEPT'
    yield (
        '-m comment --comment "kubernetes forwarding conntrack rule" '
        "-m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT"
    )


def _health_check(family: Family, _sets: NonEmptySets, _site: NodeContext) -> Rules:
    yield _commented(tables.HEALTH_CHECK_NODE_PORT, family, "dst", "-j ACCEPT")


def _proxy_firewall(family: Family, sets: NonEmptySets, _site: NodeContext) -> Rules:
    if tables.LOAD_BALANCER_FW in _Filled(family, sets.filled):
        yield _commented(tables.LOAD_BALANCER_FW, family, "dst,dst", "-j KUBE-SOURCE-RANGES-FIREWALL")


def _source_ranges(family: Family, sets: NonEmptySets, _site: NodeContext) -> Rules:
    filled = _Filled(family, sets.filled)
    for kind in (tables.LOAD_BALANCER_SOURCE_CIDR, tables.LOAD_BALANCER_SOURCE_IP):
        if kind in filled:
            yield _commented(kind, family, "dst,dst,src", "-j RETURN")
    yield "-j DROP"


_ACCESS_FILTER_RETURNS: tuple[tuple[IpsetDefinition, str], ...] = (
    (tables.LOAD_BALANCER, "dst,dst"),
    (tables.CLUSTER_IP, "dst,dst"),
    (tables.EXTERNAL_IP, "dst,dst"),
    (tables.EXTERNAL_IP_LOCAL, "dst,dst"),
    (tables.HEALTH_CHECK_NODE_PORT, "dst"),
)


def _access_filter(family: Family, _sets: NonEmptySets, _site: NodeContext) -> Rules:
    for kind, direction in _ACCESS_FILTER_RETURNS:
        yield f"-m set --match-set {kind.name_in(family)} {direction} -j RETURN"
    addresses = tables.IPVS_IPS.name_in(family)
    yield (
        f"-m conntrack --ctstate NEW -m set --match-set {addresses} dst -j REJECT --reject-with {_REJECT_WITH[family]}"
    )


def _out_filter(family: Family, sets: NonEmptySets, site: NodeContext) -> Rules:
    # A process of this node meets IPVS before any chain sees the address it asked for: so match what IPVS knows.
    # Where the kernel can't, the node gets in, and all others are held to the source ranges (start says so).
    for entry in sets.shut_to_node if site.match_ipvs else ():
        address, _, service = entry.partition(",")
        protocol, _, port = service.partition(":")
        yield (
            f"-s {address}/{_HOST_LENGTH[family]} -m ipvs --vproto {_PROTOCOL_NUMBERS[protocol]} "
            f"--vaddr {address} --vport {port} -j DROP"
        )


_RULES: dict[tuple[Table, str], Callable[[Family, NonEmptySets, NodeContext], Rules]] = {
    ("nat", "KUBE-MARK-MASQ"): _mark_masquerade,
    ("nat", "KUBE-LOAD-BALANCER"): _load_balancer,
    ("nat", "KUBE-NODE-PORT"): _node_port,
    ("nat", "KUBE-POSTROUTING"): _postrouting,
    ("nat", "KUBE-SERVICES"): _services,
    ("filter", "KUBE-FORWARD"): _forward,
    ("filter", "KUBE-NODE-PORT"): _health_check,
    ("filter", "KUBE-SOURCE-RANGES-FIREWALL"): _source_ranges,
    ("filter", "KUBE-PROXY-FIREWALL"): _proxy_firewall,
    ("filter", "KUBE-IPVS-FILTER"): _access_filter,
    ("filter", "KUBE-IPVS-OUT-FILTER"): _out_filter,
}


class _Filled:
    """``kind in filled``: whether that set of the family has entries."""

    def __init__(self, family: Family, names: Set[str]) -> None:
        self._family = family
        self._names = names

    def __contains__(self, kind: IpsetDefinition) -> bool:
        return kind.name_in(self._family) in self._names


def _commented(kind: IpsetDefinition, family: Family, direction: str, rest: str) -> str:
    comment = kind.comment.replace("'", "\\'")  # iptables-save puts a backslash before an apostrophe
    return f'-m comment --comment "{comment}" -m set --match-set {kind.name_in(family)} {direction} {rest}'
