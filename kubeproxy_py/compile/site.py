"""Site: all that compiling a Service needs to know besides the Service: who we are and how we were configured.

Law: a frozen value; if two Sites are equal, every Service compiles to the same rows.  So a Node heartbeat that
changes no field of the Site costs nothing.
"""

from ipaddress import ip_address, ip_network

from msgspec import Struct, field

from kubeproxy_py.model.node import HostAddress
from kubeproxy_py.model.rows import FLAG_SCHED_2, IPVS_DEVICE
from kubeproxy_py.model.services import CIDR, FAMILIES, IP, Family, family_of


class Site(Struct, frozen=True, gc=False):
    """This node, for the compiler.  Of mappings by family, a missing family means none."""

    node_name: str = ""
    zone: str = ""
    families: tuple[Family, ...] = FAMILIES
    node_ips: dict[Family, IP] = field(default_factory=dict)
    foreign_addresses: dict[Family, frozenset[IP]] = field(default_factory=dict)  # on interfaces other than kube-ipvs0
    node_port_addresses: dict[Family, tuple[IP, ...]] = field(default_factory=dict)  # where NodePorts answer
    # What iptables is to match for a packet that no pod of this node sent, as iptables-save prints it (``! -s
    # 10.244.0.0/16``, ``! -i cni0``); a family without it has no way to tell (detectLocalMode).
    not_local: dict[Family, str] = field(default_factory=dict)
    scheduler: str = "rr"
    masquerade_all: bool = False
    masquerade_mark: int = 1 << 14
    random_fully: bool = True  # iptables >= 1.6.2 knows MASQUERADE --random-fully

    @property
    def scheduler_flags(self) -> int:
        """mh spreads by port as well; upstream sets its flag for that scheduler and no other."""
        return FLAG_SCHED_2 if self.scheduler == "mh" else 0


LOOPBACK: dict[Family, IP] = {"IPv4": "127.0.0.1", "IPv6": "::1"}


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
    networks = [ip_network(cidr) for cidr in cidrs if family_of(cidr) == family]
    if not networks or any(network.prefixlen == 0 for network in networks):
        return foreign_addresses(addresses, family)
    found = (
        host.address
        for host in addresses
        if host.interface != IPVS_DEVICE and family_of(host.address) == family and not _is_loopback(host.address)
    )
    return tuple(dict.fromkeys(a for a in found if any(ip_address(a) in network for network in networks)))


def _is_loopback(address: IP) -> bool:
    return address.startswith("127.") or address == "::1"


def _is_of_the_node(address: IP) -> bool:
    return not _is_loopback(address) and not (":" in address and ip_address(address).is_link_local)
