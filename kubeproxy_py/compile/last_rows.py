"""The rows that a predecessor programmed for a Service, recognized by its addresses and ports.

Only for a Service that cannot be compiled since this process started: what it has in the kernel stays.
"""

from kubeproxy_py.model.rows import DRAINING, Address, IpsetEntry, Key, RealServer, Rows, VirtualServer
from kubeproxy_py.model.services import Service


def last_rows(rows: Rows, service: Service) -> Rows:
    """Return those of the kernel's *rows* that belong to *service*."""
    addresses = frozenset((*service.cluster_ips, *service.external_ips, *service.load_balancer_ips))
    node_ports = frozenset((port.protocol, port.node_port) for port in service.ports if port.node_port)

    def is_server(key: VirtualServer) -> bool:
        if key.address in addresses:
            return True
        return (key.protocol, key.port) in node_ports and Address(key.address) not in rows

    servers = {key for key in rows if isinstance(key, VirtualServer) and is_server(key)}
    pods = {key.address for key in rows if isinstance(key, RealServer) and key.virtual_server in servers}
    numbers = frozenset(map(str, (*(number for _, number in node_ports), service.health_check_node_port)))

    def is_kept(key: Key) -> bool:
        match key:
            case VirtualServer():
                return key in servers
            case RealServer():
                return key.virtual_server in servers and rows[key] != DRAINING
            case Address():
                return key.address in addresses
            case IpsetEntry():
                return _names_one_of(key.entry, addresses, pods, numbers)
        return False

    return {key: spec for key, spec in rows.items() if is_kept(key)}


def _names_one_of(entry: str, addresses: frozenset[str], pods: set[str], numbers: frozenset[str]) -> bool:
    """Return whether *entry* is of such an address or port, or of the hairpin traffic of a pod.

    It is ``10.96.0.10,tcp:80``, ``30080``, ``192.168.3.10,sctp:30080`` or ``POD,tcp:8080,POD``.
    """
    first, _, rest = entry.partition(",")
    port = rest.partition(",")[0].rpartition(":")[2]
    return first in addresses or first in numbers or port in numbers or (first in pods and rest.endswith(f",{first}"))
