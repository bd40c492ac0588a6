"""Which rows would keep this agent from reaching the API server, and must go before it is asked.

An earlier process, or kube-proxy, may have bound the API server's address as an external address of a Service, or made
a virtual server there, which gets this node's own connections even if the address is not bound.  Then every connection
to it ends on this node, and the change of the Service that would fix it can never arrive.

Invariants:
- A ClusterIP stays: the API server may be reached by that of Service default/kubernetes.
- A virtual server that no set of ours names is another program's, such as keepalived's in front of the API servers.
"""

from collections.abc import Collection, Iterable

from kubeproxy_py.model import kube_names
from kubeproxy_py.model.rows import Address, IpsetEntry, Key, Rows, VirtualServer
from kubeproxy_py.model.steps import Plan, Step
from kubeproxy_py.net import FAMILIES, IP, SocketAddress
from kubeproxy_py.plan.ownership import FRONTEND_SETS, NODE_PORT_SETS, filter_removable

SETS = (*FRONTEND_SETS, *NODE_PORT_SETS)
"""The sets whose entries ``release_plan`` needs."""

_CLUSTER_IP_SETS = frozenset(kube_names.CLUSTER_IP.name_in(family) for family in FAMILIES)


def hiding_keys(servers: Iterable[SocketAddress]) -> tuple[Key, ...]:
    """Return the keys of the addresses of *servers* on kube-ipvs0, and of virtual servers at exactly *servers*."""
    servers = tuple(dict.fromkeys(servers))
    addresses = (Address(server.address) for server in servers)
    return (*addresses, *(VirtualServer(server.address, server.port, "TCP") for server in servers))


def release_plan(actual: Rows, servers: Collection[SocketAddress], node_addresses: Iterable[IP]) -> Plan:
    """Return the steps that delete what hides *servers* from this node.

    Args:
        actual: The rows of the kernel: addresses, virtual servers, and entries of SETS.
        servers: Where this agent reaches the API server.
        node_addresses: The addresses of this host, where NodePorts may be served.
    """
    cluster_ips = _cluster_ips(actual)
    ours = filter_removable(actual, node_addresses)
    to_delete = (key for key in hiding_keys(servers) if key in ours and key.address not in cluster_ips)  # type: ignore[attr-defined]
    return Plan(tuple(Step("delete", key, None, actual[key]) for key in dict.fromkeys(to_delete)))


def _cluster_ips(actual: Iterable[Key]) -> set[IP]:
    entries = (key.entry for key in actual if isinstance(key, IpsetEntry) and key.set in _CLUSTER_IP_SETS)
    return {entry.partition(",")[0] for entry in entries}
