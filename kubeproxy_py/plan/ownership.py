"""Which kernel objects belong to this agent and may be changed or deleted.

Invariants:
- Ownership is decided from the rows only, without any state of an earlier process.
- While the agent runs, it owns every virtual server outside ``excludeCIDRs``, and within them those that a Service
  wants; kube-proxy does the same.
- Cleanup deletes only virtual servers that a KUBE-* set refers to.  A set entry is created before its virtual server
  and deleted after it, so a virtual server without one was never the agent's.
"""

from collections.abc import Collection, Iterable, Set
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network

from kubeproxy_py.model import kube_names
from kubeproxy_py.model.kube_names import IpsetDefinition, family_of_set
from kubeproxy_py.model.rows import IpsetEntry, Key, RealServer, Rows, Sysctl, VirtualServer
from kubeproxy_py.net import CIDR, FAMILIES, IP, Protocol, family_of

FRONTEND_SETS = frozenset(
    definition.name_in(family)
    for family in FAMILIES
    for definition in (
        kube_names.CLUSTER_IP,
        kube_names.EXTERNAL_IP,
        kube_names.EXTERNAL_IP_LOCAL,
        kube_names.LOAD_BALANCER,
    )
)
"""The sets that name frontends by address, protocol and port."""

_NODE_PORT_DEFINITIONS: tuple[tuple[IpsetDefinition, Protocol], ...] = (
    (kube_names.NODE_PORT_TCP, "TCP"),
    (kube_names.NODE_PORT_UDP, "UDP"),
    (kube_names.NODE_PORT_SCTP, "SCTP"),
)
_NODE_PORT_SETS = {
    definition.name_in(family): protocol for family in FAMILIES for definition, protocol in _NODE_PORT_DEFINITIONS
}
NODE_PORT_SETS = tuple(_NODE_PORT_SETS)
"""The sets that contain NodePorts."""


def node_ports_in(rows: Iterable[Key]) -> set[int]:
    """Return the NodePorts in the sets of *rows*."""
    entries = (key.entry for key in rows if isinstance(key, IpsetEntry) and key.set in _NODE_PORT_SETS)
    return {int(entry.rpartition(":")[2]) for entry in entries}


def filter_owned(rows: Rows, exclude: Iterable[CIDR], desired: Collection[Key] = ()) -> Rows:
    """Return *rows* without the virtual servers, and their real servers, in the networks *exclude*.

    A *desired* virtual server is owned wherever it is, with all its real servers.
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
    """Return the rows that cleanup may delete: no sysctls, and only virtual servers that a KUBE-* set refers to.

    Args:
        rows: all rows read from the kernel.
        node_addresses: the addresses of this host, where NodePorts may be served.
    """
    referenced = _servers_in_sets(rows, frozenset(node_addresses))
    return {
        key: spec
        for key, spec in rows.items()
        if not isinstance(key, Sysctl) and ((server := _server_of(key)) is None or server in referenced)
    }


def _servers_in_sets(rows: Rows, node_addresses: Set[IP]) -> set[VirtualServer]:
    entries = [key for key in rows if isinstance(key, IpsetEntry)]
    frontends = {key.entry for key in entries if key.set in FRONTEND_SETS}
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
            f"{server.address},{server.protocol.lower()}:{server.port}" in frontends
            or (
                server.address in node_addresses
                and (family_of(server.address), server.protocol, str(server.port)) in node_ports
            )
        )
    }


def _server_of(key: Key) -> VirtualServer | None:
    if isinstance(key, RealServer):
        return key.virtual_server
    return key if isinstance(key, VirtualServer) else None


def _is_within(server: VirtualServer, networks: list[IPv4Network | IPv6Network]) -> bool:
    return any(ip_address(server.address) in network for network in networks)
