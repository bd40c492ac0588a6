"""Which kernel objects belong to this agent and may be changed or deleted.

Invariants:
- Ownership is decided from the rows only, without any state of an earlier process.
- While the agent runs, it owns every virtual server outside ``excludeCIDRs``, and within them those that a Service
  wants; kube-proxy does the same.  With --keep-foreign-virtual-servers it owns only those that cleanup would delete,
  those at an address of kube-ipvs0, and those that a Service wants.
- Virtual servers by firewall mark are ours if they are desired, or as model/policy_marks.py says.
- Cleanup deletes only virtual servers that a KUBE-* set refers to.  A set entry is created before its virtual server
  and deleted after it, so a virtual server without one was never the agent's.
"""

from collections.abc import Callable, Collection, Iterable
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network

from kubeproxy_py.model import kube_names
from kubeproxy_py.model.rows import (
    Address,
    Chain,
    Ipset,
    IpsetEntry,
    Jump,
    Key,
    LoopbackPath,
    ReturnTunnel,
    Rows,
    Sysctl,
    VirtualServer,
    server_of,
)
from kubeproxy_py.net import CIDR, FAMILIES, IP, LOOPBACK_IP, family_of

_FRONTEND_DEFINITIONS = (
    kube_names.CLUSTER_IP,
    kube_names.EXTERNAL_IP,
    kube_names.EXTERNAL_IP_LOCAL,
    kube_names.LOAD_BALANCER,
)
FRONTEND_SETS = kube_names.names_of(*_FRONTEND_DEFINITIONS)
"""The sets that name frontends by address, protocol and port."""

NODE_PORT_SETS = tuple(
    all_ports.name_in(family) for family in FAMILIES for all_ports, _ in kube_names.NODE_PORT_DEFINITIONS.values()
)
"""The sets that contain NodePorts."""


def node_ports_in(rows: Iterable[Key]) -> set[int]:
    """Return the NodePorts in the sets of *rows*."""
    entries = (key.entry for key in rows if isinstance(key, IpsetEntry) and key.set in NODE_PORT_SETS)
    return {int(entry.rpartition(":")[2]) for entry in entries}


def _nothing(_server: VirtualServer) -> bool:
    return False


def filter_owned(
    rows: Rows,
    exclude: Iterable[CIDR],
    desired: Collection[Key] = (),
    excepts: Callable[[VirtualServer], bool] = _nothing,
    foreign: Collection[VirtualServer] = (),
) -> Rows:
    """Return *rows* without the virtual servers, and their real servers, in the networks *exclude*.

    A *desired* virtual server is owned wherever it is, with all its real servers.  Of the others, those that
    *excepts* are left out too, and those by firewall mark that are *foreign*.
    """
    if foreign:
        others = frozenset(foreign).difference(desired)
        rows = {key: spec for key, spec in rows.items() if server_of(key) not in others}
    networks = [ip_network(cidr) for cidr in exclude]
    if not networks and excepts is _nothing:
        return rows
    return {
        key: spec
        for key, spec in rows.items()
        if (server := server_of(key)) is None
        or server in desired
        or server.mark
        or not (_is_within(server, networks) or excepts(server))
    }


def is_foreign(server: VirtualServer, rows: Collection[Key], node_addresses: Collection[IP] | None = None) -> bool:
    """Return whether neither a KUBE-* set nor kube-ipvs0 names *server*, so that another program created it.

    Args:
        server: A virtual server of the kernel.
        rows: The sets and addresses of the kernel, besides other rows.
        node_addresses: The addresses of this host, where NodePorts may be served; None: any address.
    """
    if server.mark:
        return False  # foreign ones are never among our rows
    return Address(server.address) not in rows and not _is_in_sets(server, rows, node_addresses)


def filter_removable(rows: Rows, node_addresses: Iterable[IP]) -> Rows:
    """Return the rows that cleanup may delete: no sysctls, and only virtual servers that a KUBE-* set refers to.

    Args:
        rows: Rows read from the kernel, as ``filter_owned`` returns them.
        node_addresses: The addresses of this host, where NodePorts may be served.
    """
    addresses = frozenset(node_addresses)
    servers = (key for key in rows if isinstance(key, VirtualServer))
    referenced = {server for server in servers if server.mark or _is_in_sets(server, rows, addresses)}
    return {
        key: spec
        for key, spec in rows.items()
        if not isinstance(key, Sysctl) and ((server := server_of(key)) is None or server in referenced)
    }


def filter_policies(rows: Rows) -> Rows:
    """Return those of *rows*, which are ours, that only exact policies need and kube-proxy does not know.

    kube-proxy 1.20 serves NodePorts at loopback addresses, too, but without a path there.
    """
    loopback = {LOOPBACK_IP[key.family] for key in rows if isinstance(key, LoopbackPath)}
    return {key: spec for key, spec in rows.items() if _is_of_policies(key, loopback)}


def _is_of_policies(key: Key, loopback: Collection[IP]) -> bool:
    match key:
        case Ipset(name=name) | IpsetEntry(set=name):
            return name in kube_names.POLICY_SETS
        case Chain(table=table, name=name) | Jump(table=table, target=name):
            return (table, name) in kube_names.POLICY_CHAINS
        case LoopbackPath() | ReturnTunnel():
            return True
    server = server_of(key)
    return server is not None and (bool(server.mark) or server.address in loopback)


def _is_in_sets(server: VirtualServer, rows: Collection[Key], node_addresses: Collection[IP] | None) -> bool:
    """Return whether a set among *rows* contains a frontend, or the NodePort, that *server* serves."""
    family, protocol = family_of(server.address), server.protocol
    entry = kube_names.server_entry(server)
    if any(IpsetEntry(definition.name_in(family), entry) in rows for definition in _FRONTEND_DEFINITIONS):
        return True
    if node_addresses is not None and server.address not in node_addresses:
        return False
    port = entry if protocol == "SCTP" else str(server.port)
    all_ports, _ = kube_names.NODE_PORT_DEFINITIONS[protocol]
    return IpsetEntry(all_ports.name_in(family), port) in rows


def _is_within(server: VirtualServer, networks: list[IPv4Network | IPv6Network]) -> bool:
    return any(ip_address(server.address) in network for network in networks)
