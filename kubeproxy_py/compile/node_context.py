"""NodeContext: all that compiling a Service needs to know besides the Service, about this node and its configuration.

Invariants:
- If two NodeContexts are equal, every Service compiles to the same rows.  So a heartbeat of the Node object that
  changes no field of the NodeContext costs nothing.
"""

from collections.abc import Mapping
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network

from msgspec import Struct, field
from msgspec.structs import replace

from kubeproxy_py.compile.local_pods import if_local, if_not_local, more_local_networks
from kubeproxy_py.config.types import AgentSettings, KubeProxyConfiguration
from kubeproxy_py.model.host import HostInfo
from kubeproxy_py.model.node import HostAddress, Node
from kubeproxy_py.model.policy_marks import MarkRange
from kubeproxy_py.model.rows import FLAG_SCHED_2, IPVS_DEVICE, LoopbackSpec
from kubeproxy_py.net import (
    ADDRESS_BITS,
    CIDR,
    FAMILIES,
    IP,
    LOOPBACK_IP,
    Family,
    by_family,
    contains,
    family_of,
    networks_by_family,
)


class NodeContext(Struct, frozen=True, gc=False):
    """The node, as far as compiling depends on it.  A family that is missing from a mapping has nothing."""

    node_name: str = ""  # "": unknown, so no endpoint is local
    zone: str = ""  # "": unknown, so no zone hint matches
    families: tuple[Family, ...] = FAMILIES
    node_ips: dict[Family, IP] = field(default_factory=dict)
    foreign_addresses: dict[Family, frozenset[IP]] = field(default_factory=dict)  # on interfaces other than kube-ipvs0
    broadcast_addresses: frozenset[IP] = frozenset()  # of the networks of this node
    node_port_addresses: dict[Family, tuple[IP, ...]] = field(default_factory=dict)  # where NodePorts are served
    health_check_addresses: dict[Family, tuple[IP, ...]] = field(default_factory=dict)  # where health-check ports are
    # The match for packets that no pod of this node sent (kube-proxy's LocalTrafficDetector), as iptables-save prints
    # it: ``! -s 10.244.0.0/16``, ``! -i cni0``.  Without it pods cannot be recognized (detectLocalMode).
    if_not_local: dict[Family, str] = field(default_factory=dict)
    more_local_networks: dict[Family, tuple[CIDR, ...]] = field(default_factory=dict)  # besides that of if_not_local
    scheduler: str = "rr"
    missing_schedulers: frozenset[str] = frozenset()  # those that the kernel was found to lack
    masquerade_all: bool = False
    masquerade_mark: int = 1 << 14
    random_fully: bool = True  # iptables supports MASQUERADE --random-fully (1.6.2 and later)
    missing_extensions: dict[Family, frozenset[str]] = field(default_factory=dict)  # matches and targets of iptables
    needs_node: bool = True  # False: without a Node object this host itself takes its place (own_node)
    policy_marks: MarkRange | None = None  # of exact policies; None: kube-proxy's
    loopback_paths: dict[Family, LoopbackSpec] = field(default_factory=dict)  # with exact policies, if configured
    service_networks: dict[Family, tuple[CIDR, ...]] = field(default_factory=dict)  # of ClusterIPs, with exact policies
    # With exact policies, the matches for packets that pods of this node sent; they are not negated as if_not_local is.
    if_local: dict[Family, tuple[str, ...]] = field(default_factory=dict)
    health_port: int = 0  # of the health server, let through at Service addresses; 0: not

    @property
    def scheduler_flags(self) -> int:
        """Return the flags of virtual servers: mh also hashes the port; others have none, as in kube-proxy."""
        return FLAG_SCHED_2 if self.scheduler == "mh" else 0

    def has_extension(self, family: Family, name: str) -> bool:
        """Return whether rules of *family* may use the match or target *name*."""
        return name not in self.missing_extensions.get(family, ())


UNSPECIFIED: Mapping[Family, IP] = {"IPv4": "0.0.0.0", "IPv6": "::"}
_BROADCAST_PREFIX_MAX = 30


def make_node_context(
    config: KubeProxyConfiguration,
    host: HostInfo,
    node: Node | None,
    addresses: tuple[HostAddress, ...],
    settings: AgentSettings = AgentSettings(),  # noqa: B008 - frozen
) -> NodeContext:
    """Return the NodeContext of this node.

    Args:
        config: The configuration.
        host: This host.
        node: The Node object; None: there is none.
        addresses: The addresses of all interfaces.
        settings: The settings that kube-proxy's configuration has no field for.
    """
    needs_node = not settings.manifests
    node = node or (None if needs_node else own_node(host, addresses))
    ips = node_ips(config.bind_address, node)
    cidrs = node_port_networks(config.node_port_addresses, ips)
    context = NodeContext(
        node_name=host.node_name,
        zone=node.zone if node else "",
        families=host.families,
        node_ips=ips,
        foreign_addresses={family: frozenset(foreign_addresses(addresses, family)) for family in host.families},
        broadcast_addresses=broadcast_addresses(addresses),
        node_port_addresses={family: node_port_addresses(addresses, cidrs, family) for family in host.families},
        health_check_addresses={family: health_check_addresses(addresses, cidrs, family) for family in host.families},
        if_not_local={family: match for family in host.families if (match := if_not_local(config, node, family))},
        more_local_networks=more_local_networks(config, host.families),
        scheduler=config.ipvs.scheduler,
        masquerade_all=config.iptables.masquerade_all,
        masquerade_mark=1 << config.iptables.masquerade_bit,
        random_fully=host.random_fully,
        missing_extensions=host.missing_extensions,
        needs_node=needs_node,
        health_port=_health_port(config) if settings.healthz_at_service_addresses else 0,
    )
    return _with_exact_policies(context, config, node, cidrs, settings) if settings.policy_marks else context


def _with_exact_policies(
    context: NodeContext,
    config: KubeProxyConfiguration,
    node: Node | None,
    cidrs: tuple[CIDR, ...],
    settings: AgentSettings,
) -> NodeContext:
    """Return *context* with what exact policies need; *cidrs* are ``nodePortAddresses``."""
    families = context.families
    loopback = _loopback_paths(cidrs, context.node_ips, settings, families)
    return replace(
        context,
        policy_marks=settings.policy_marks,
        node_port_addresses={
            family: (*addresses, LOOPBACK_IP[family]) if family in loopback else addresses
            for family, addresses in context.node_port_addresses.items()
        },
        if_local=if_local(config, node, families),
        loopback_paths=loopback,
        service_networks=service_networks(settings, node, families),
    )


def service_networks(
    settings: AgentSettings, node: Node | None, families: tuple[Family, ...]
) -> dict[Family, tuple[CIDR, ...]]:
    """Return the networks in which what no Service has is dropped: none that has this *node*, or pods of it."""
    return networks_by_family((one for one in settings.service_cidr if not machines_in(one, node)), families)


def machines_in(network: CIDR, node: Node | None) -> tuple[str, ...]:
    """Return which of the IPs of *node*, and of the networks of its pods, are in *network*.

    Other addresses of the host may be Services' (NodeLocal DNSCache).
    """
    if node is None:
        return ()
    own = (f"{address}/{ADDRESS_BITS[family]}" for family, address in by_family(node.addresses).items())
    return tuple(inner for inner in (*own, *node.pod_cidrs) if contains(network, inner))


def _health_port(config: KubeProxyConfiguration) -> int:
    """Return the port of the health server if it listens on all addresses, those of Services among them; else 0."""
    address = config.healthz_bind_address
    return address.port if address and address.address in UNSPECIFIED.values() else 0


def own_node(host: HostInfo, addresses: tuple[HostAddress, ...]) -> Node:
    """Return what takes the place of a Node object where no API server could have one: this host itself.

    Its first address of each family is the one from which this host sends to other networks.
    """
    own = tuple(address for family in host.families for address in foreign_addresses(addresses, family))
    outgoing = tuple(address for address in host.outgoing_addresses if address in own)
    return Node(host.node_name, addresses=tuple(dict.fromkeys((*outgoing, *own))))


def node_ips(bind_address: IP, node: Node | None) -> dict[Family, IP]:
    """Return the node's IP in each family: ``bindAddress`` if it is specified, else the Node's first, else loopback.

    Source: getNodeIPs in cmd/kube-proxy.
    """
    configured = {} if bind_address in UNSPECIFIED.values() else by_family((bind_address,))
    return {**LOOPBACK_IP, **by_family(node.addresses if node else ()), **configured}


def primary_family(bind_address: IP, node: Node | None) -> Family:
    """Return the family of ``bindAddress`` if it is specified, else of the Node's first address, else IPv4."""
    if bind_address not in UNSPECIFIED.values():
        return family_of(bind_address)
    return family_of(node.addresses[0]) if node and node.addresses else "IPv4"


def node_port_networks(configured: tuple[str, ...], ips: dict[Family, IP]) -> tuple[CIDR, ...]:
    """Return ``nodePortAddresses`` as networks, ``primary`` being those of *ips* that are known."""
    primary = [f"{ip}/{128 if ':' in ip else 32}" for ip in ips.values() if not _is_loopback(ip)]
    keywords = {"primary": primary, "localhost": ["127.0.0.0/8", "::1/128"]}
    return tuple(network for value in configured for network in keywords.get(value, [value]))


def _loopback_paths(
    cidrs: tuple[CIDR, ...], ips: dict[Family, IP], settings: AgentSettings, families: tuple[Family, ...]
) -> dict[Family, LoopbackSpec]:
    """Return the path to NodePorts at the loopback address of each family for which *cidrs* have it.

    Programs that connect there send from the node's IP, without which there is none.  A /0 does not mean loopback.
    """
    networks = {family: [net for net in _networks(cidrs, family) if net.prefixlen] for family in families}
    return {
        family: LoopbackSpec(ips[family], settings.node_port_range)
        for family in families
        if any(ip_address(LOOPBACK_IP[family]) in network for network in networks[family])
        and not _is_loopback(ips[family])
    }


def foreign_addresses(addresses: tuple[HostAddress, ...], family: Family) -> tuple[IP, ...]:
    """Return the addresses on interfaces other than kube-ipvs0, without loopback and IPv6 link-local addresses.

    An address that is gone is not among them: kube-ipvs0 may get it.
    """
    return _node_addresses(tuple(host for host in addresses if not host.is_gone), family)


def broadcast_addresses(addresses: tuple[HostAddress, ...]) -> frozenset[IP]:
    """Return the broadcast address of each IPv4 network that an interface other than kube-ipvs0 is in.

    It is computed, because the kernel treats it as one even if the interface was configured without it; networks of
    one or two addresses have none (net/ipv4/fib_frontend.c, fib_add_ifaddr).
    """
    networks = (
        IPv4Network((host.address, host.prefix_length), strict=False)
        for host in addresses
        if 0 < host.prefix_length <= _BROADCAST_PREFIX_MAX
        and host.interface != IPVS_DEVICE
        and family_of(host.address) == "IPv4"
    )
    return frozenset(str(network.broadcast_address) for network in networks)


def node_port_addresses(addresses: tuple[HostAddress, ...], cidrs: tuple[CIDR, ...], family: Family) -> tuple[IP, ...]:
    """Return the addresses at which NodePorts of *family* are served, those included that are gone for a moment.

    Without a CIDR of the family, or with a /0, these are all foreign addresses; otherwise the addresses within the
    CIDRs, link-local ones included, but never loopback.  Unlike kube-proxy, addresses on kube-ipvs0 are excluded: a
    NodePort on a ClusterIP is of no use (kubernetes#75443).
    """
    networks = _networks(cidrs, family)
    if not networks:
        return _node_addresses(addresses, family)
    return tuple(address for address in _within(networks, addresses, family) if not _is_loopback(address))


def health_check_addresses(
    addresses: tuple[HostAddress, ...], cidrs: tuple[CIDR, ...], family: Family
) -> tuple[IP, ...]:
    """Return the addresses at which health-check node ports of *family* are served: all, or those within the CIDRs.

    A process listens there, so loopback addresses may be included, as in kube-proxy; those on kube-ipvs0 are not.
    """
    networks = _networks(cidrs, family)
    return _within(networks, addresses, family) if networks else (UNSPECIFIED[family],)


def _networks(cidrs: tuple[CIDR, ...], family: Family) -> list[IPv4Network | IPv6Network]:
    """Return those of *cidrs* that are of *family*; none if one of them is a /0."""
    networks = [ip_network(cidr) for cidr in cidrs if family_of(cidr) == family]
    return [] if any(network.prefixlen == 0 for network in networks) else networks


def _within(
    networks: list[IPv4Network | IPv6Network], addresses: tuple[HostAddress, ...], family: Family
) -> tuple[IP, ...]:
    """Return the addresses of *family* in *networks*, without those on kube-ipvs0."""
    candidates = (
        host.address for host in addresses if host.interface != IPVS_DEVICE and family_of(host.address) == family
    )
    return tuple(dict.fromkeys(ip for ip in candidates if any(ip_address(ip) in network for network in networks)))


def _node_addresses(addresses: tuple[HostAddress, ...], family: Family) -> tuple[IP, ...]:
    return tuple(
        dict.fromkeys(
            host.address
            for host in addresses
            if host.interface != IPVS_DEVICE and family_of(host.address) == family and _is_node_address(host.address)
        )
    )


def _is_loopback(address: IP) -> bool:
    return address.startswith("127.") or address == "::1"


def _is_node_address(address: IP) -> bool:
    return not _is_loopback(address) and not (":" in address and ip_address(address).is_link_local)
