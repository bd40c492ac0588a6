"""Site: all that compiling a Service needs to know besides the Service: who we are and how we were configured.

Law: a frozen value; if two Sites are equal, every Service compiles to the same rows.  So a Node heartbeat that
changes no field of the Site costs nothing.
"""

from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network

from msgspec import Struct, field

from kubeproxy_py.config.types import KubeProxyConfiguration
from kubeproxy_py.model.node import HostAddress, Node
from kubeproxy_py.model.rows import FLAG_SCHED_2, IPVS_DEVICE
from kubeproxy_py.model.services import CIDR, FAMILIES, IP, Family, family_of


class NodeContext(Struct, frozen=True, gc=False):
    """This node, for the compiler.  Of mappings by family, a missing family means none."""

    node_name: str = ""
    zone: str = ""
    families: tuple[Family, ...] = FAMILIES
    node_ips: dict[Family, IP] = field(default_factory=dict)
    foreign_addresses: dict[Family, frozenset[IP]] = field(default_factory=dict)  # on interfaces other than kube-ipvs0
    node_port_addresses: dict[Family, tuple[IP, ...]] = field(default_factory=dict)  # where NodePorts answer
    health_port_addresses: dict[Family, tuple[IP, ...]] = field(default_factory=dict)  # where health-check ports do
    # What iptables is to match for a packet that no pod of this node sent, as iptables-save prints it (``! -s
    # 10.244.0.0/16``, ``! -i cni0``); a family without it has no way to tell (detectLocalMode).
    not_local: dict[Family, str] = field(default_factory=dict)
    scheduler: str = "rr"
    masquerade_all: bool = False
    masquerade_mark: int = 1 << 14
    random_fully: bool = True  # iptables >= 1.6.2 knows MASQUERADE --random-fully
    match_ipvs: bool = True  # the kernel has the match ipvs (module xt_ipvs)

    @property
    def scheduler_flags(self) -> int:
        """mh spreads by port as well; upstream sets its flag for that scheduler and no other."""
        return FLAG_SCHED_2 if self.scheduler == "mh" else 0


LOOPBACK: dict[Family, IP] = {"IPv4": "127.0.0.1", "IPv6": "::1"}
EVERYWHERE: dict[Family, IP] = {"IPv4": "0.0.0.0", "IPv6": "::"}
_UNSPECIFIED = tuple(EVERYWHERE.values())


class Host(Struct, frozen=True, gc=False):
    """What is found out about this host at start and stays."""

    node_name: str
    families: tuple[Family, ...] = FAMILIES
    random_fully: bool = True
    match_ipvs: bool = True


def make_node_context(
    config: KubeProxyConfiguration, host: Host, node: Node | None, addresses: tuple[HostAddress, ...]
) -> NodeContext:
    """The Site that *config*, the *node* object (None: there is none) and the interfaces' *addresses* make."""
    ips = node_ips(config.bind_address, node)
    cidrs = node_port_networks(config.node_port_addresses, ips)
    not_local = {family: match for family in host.families if (match := _not_local(config, node, family))}
    return NodeContext(
        node_name=host.node_name,
        zone=node.zone if node else "",
        families=host.families,
        node_ips=ips,
        foreign_addresses={family: frozenset(foreign_addresses(addresses, family)) for family in host.families},
        node_port_addresses={family: node_port_addresses(addresses, cidrs, family) for family in host.families},
        health_port_addresses={family: health_port_addresses(addresses, cidrs, family) for family in host.families},
        not_local=not_local,
        scheduler=config.ipvs.scheduler,
        masquerade_all=config.iptables.masquerade_all,
        masquerade_mark=1 << config.iptables.masquerade_bit,
        random_fully=host.random_fully,
        match_ipvs=host.match_ipvs,
    )


def node_ips(bind_address: IP, node: Node | None) -> dict[Family, IP]:
    """The node's IP in each family: ``bindAddress`` if it names one, else the Node's first, else loopback.

    Source: getNodeIPs in cmd/kube-proxy.
    """
    own = {} if bind_address in _UNSPECIFIED else by_family((bind_address,))
    return {**LOOPBACK, **by_family(node.addresses if node else ()), **own}


def primary_family(bind_address: IP, node: Node | None) -> Family:
    """The family of ``bindAddress`` if it names an address, else of the Node's first; IPv4 while there is none."""
    if bind_address not in _UNSPECIFIED:
        return family_of(bind_address)
    return family_of(node.addresses[0]) if node and node.addresses else "IPv4"


def node_port_networks(configured: tuple[str, ...], ips: dict[Family, IP]) -> tuple[CIDR, ...]:
    """``nodePortAddresses`` with its words as networks: ``primary`` is those of *ips* that are known."""
    known = [f"{ip}/{128 if ':' in ip else 32}" for ip in ips.values() if not _is_loopback(ip)]
    words = {"primary": known, "localhost": ["127.0.0.0/8", "::1/128"]}
    return tuple(network for word in configured for network in words.get(word, [word]))


def _not_local(config: KubeProxyConfiguration, node: Node | None, family: Family) -> str:
    """The match for packets that no pod of this node sent; "" if there is no way to tell."""
    match config.detect_local_mode:
        case "BridgeInterface":
            return f"! -i {config.detect_local.bridge_interface}"
        case "InterfaceNamePrefix":
            return f"! -i {config.detect_local.interface_name_prefix}+"
        case "NodeCIDR":
            cidrs = node.pod_cidrs if node else ()
        case _:
            cidrs = config.cluster_cidr
    first = by_family(cidrs).get(family)
    return f"! -s {first}" if first else ""


def by_family(addresses: tuple[IP, ...]) -> dict[Family, IP]:
    """The first address of each family."""
    return {family_of(address): address for address in reversed(addresses)}


def foreign_addresses(addresses: tuple[HostAddress, ...], family: Family) -> tuple[IP, ...]:
    """Addresses on interfaces other than kube-ipvs0, without loopback and IPv6 link-local."""
    return tuple(
        dict.fromkeys(
            host.address
            for host in addresses
            if host.interface != IPVS_DEVICE and family_of(host.address) == family and _is_of_the_node(host.address)
        )
    )


def node_port_addresses(addresses: tuple[HostAddress, ...], cidrs: tuple[CIDR, ...], family: Family) -> tuple[IP, ...]:
    """Where NodePorts of *family* answer.

    No CIDR of the family, or one that covers it all, means every foreign address.  Otherwise addresses within the
    CIDRs, link-local ones too, but never loopback.  Other than upstream those on kube-ipvs0 are left out: a NodePort
    on a ClusterIP is served to nobody's use (kubernetes#75443).
    """
    networks = _networks(cidrs, family)
    if not networks:
        return foreign_addresses(addresses, family)
    return tuple(address for address in _within(networks, addresses, family) if not _is_loopback(address))


def health_port_addresses(
    addresses: tuple[HostAddress, ...], cidrs: tuple[CIDR, ...], family: Family
) -> tuple[IP, ...]:
    """Where health-check node ports of *family* answer: everywhere, or at addresses within the CIDRs.

    A process listens there, so loopback addresses may be among them, as upstream; those on kube-ipvs0 are not.
    """
    networks = _networks(cidrs, family)
    return _within(networks, addresses, family) if networks else (EVERYWHERE[family],)


def _networks(cidrs: tuple[CIDR, ...], family: Family) -> list[IPv4Network | IPv6Network]:
    """Those of *cidrs* that are of *family*; none, if one of them covers it all."""
    networks = [ip_network(cidr) for cidr in cidrs if family_of(cidr) == family]
    return [] if any(network.prefixlen == 0 for network in networks) else networks


def _within(
    networks: list[IPv4Network | IPv6Network], addresses: tuple[HostAddress, ...], family: Family
) -> tuple[IP, ...]:
    """This host's addresses of *family* in *networks*, without those on kube-ipvs0."""
    found = (host.address for host in addresses if host.interface != IPVS_DEVICE and family_of(host.address) == family)
    return tuple(dict.fromkeys(a for a in found if any(ip_address(a) in network for network in networks)))


def _is_loopback(address: IP) -> bool:
    return address.startswith("127.") or address == "::1"


def _is_of_the_node(address: IP) -> bool:
    return not _is_loopback(address) and not (":" in address and ip_address(address).is_link_local)
