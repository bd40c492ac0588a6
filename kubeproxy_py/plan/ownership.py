"""We know our own: which rows that the kernel has are ours to change or remove.

Law: said from rows alone, with no memory of what some process did.  While we run, every virtual server outside
``excludeCIDRs`` is ours, and within them those that a Service asks for, as upstream has it.  To clean up, only those
are that our sets speak of: a set entry is made before its virtual server and removed after it, so a virtual server
that no set names was never ours.
"""

from collections.abc import Collection, Iterable, Set
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network

from kubeproxy_py.model import kube_names as tables
from kubeproxy_py.model.rows import IpsetEntry, Key, RealServer, Rows, Sysctl, VirtualServer
from kubeproxy_py.model.services import CIDR, FAMILIES, IP, Family, Protocol, family_of

_FRONT_SETS = frozenset(
    kind.name_in(family)
    for family in FAMILIES
    for kind in (tables.CLUSTER_IP, tables.EXTERNAL_IP, tables.EXTERNAL_IP_LOCAL, tables.LOAD_BALANCER)
)
_NODE_PORT_KINDS: tuple[tuple[tables.IpsetDefinition, Protocol], ...] = (
    (tables.NODE_PORT_TCP, "TCP"),
    (tables.NODE_PORT_UDP, "UDP"),
    (tables.NODE_PORT_SCTP, "SCTP"),
)
_NODE_PORT_SETS = {kind.name_in(family): protocol for family in FAMILIES for kind, protocol in _NODE_PORT_KINDS}


def filter_owned(rows: Rows, exclude: Iterable[CIDR], desired: Collection[Key] = ()) -> Rows:
    """*rows* without the virtual servers, and their real servers, whose address is within *exclude*.

    But what is *desired* is ours wherever it is, with all real servers that it has.
    """
    networks = [ip_network(cidr) for cidr in exclude]
    if not networks:
        return rows
    return {
        key: spec
        for key, spec in rows.items()
        if (server := _server_of(key)) is None or server in desired or not _is_within(server, networks)
    }


def filter_removable(rows: Rows, node_addresses: Iterable[IP]) -> Rows:
    """What cleaning up may take: *rows* without settings, and without virtual servers that our sets do not name.

    *node_addresses* are the host's own, where NodePorts may answer.
    """
    named = _named_by_sets(rows, frozenset(node_addresses))
    return {
        key: spec
        for key, spec in rows.items()
        if not isinstance(key, Sysctl) and ((server := _server_of(key)) is None or server in named)
    }


def _named_by_sets(rows: Rows, node_addresses: Set[IP]) -> set[VirtualServer]:
    entries = [key for key in rows if isinstance(key, IpsetEntry)]
    fronts = {key.entry for key in entries if key.set in _FRONT_SETS}
    node_ports = {
        (family_of_set(key.set), _NODE_PORT_SETS[key.set], key.entry.rpartition(":")[2])
        for key in entries
        if key.set in _NODE_PORT_SETS
    }
    return {
        server
        for server in rows
        if isinstance(server, VirtualServer)
        and (
            f"{server.address},{server.protocol.lower()}:{server.port}" in fronts
            or (
                server.address in node_addresses
                and (family_of(server.address), server.protocol, str(server.port)) in node_ports
            )
        )
    }


def family_of_set(name: str) -> Family:
    """The family of one of our sets, by its name."""
    return "IPv6" if name.startswith("KUBE-6-") else "IPv4"


def _server_of(key: Key) -> VirtualServer | None:
    if isinstance(key, RealServer):
        return key.virtual_server
    return key if isinstance(key, VirtualServer) else None


def _is_within(server: VirtualServer, networks: list[IPv4Network | IPv6Network]) -> bool:
    return any(ip_address(server.address) in network for network in networks)
