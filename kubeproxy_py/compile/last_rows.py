"""The last rows of a Service that cannot be compiled: which they are, and which of them stay."""

from collections.abc import Iterable

from kubeproxy_py.model import kube_names
from kubeproxy_py.model.kube_names import NODE_PORT_BITMAPS, names_of, server_entry
from kubeproxy_py.model.rows import Address, IpsetEntry, Key, RealServer, Rows, VirtualServer, is_draining_spec
from kubeproxy_py.model.services import Service
from kubeproxy_py.net import IP, Family, Protocol, family_of

_Port = tuple[Family, Protocol, int]


_ADDRESS_SETS = names_of(kube_names.IPVS_IPS)
# Of endpoints, and of the whole Service.
_OTHER_SETS = names_of(kube_names.LOOP_BACK, kube_names.HEALTH_CHECK_NODE_PORT)


def without_frontends(rows: Rows, lost: Iterable[VirtualServer]) -> Rows:
    """Return the *rows* of one Service without those of its frontends *lost*.

    An address or an entry that its other frontends need, too, stays, and so does what belongs to no frontend.
    """
    lost = frozenset(lost)
    left = {key for key in rows if isinstance(key, VirtualServer)} - lost
    entries = {server_entry(server) for server in lost}
    addresses = {server.address for server in lost} - {server.address for server in left}
    ports = _ports(lost) - _ports(left - _with_address_entry(rows))

    def is_lost(key: Key) -> bool:
        match key:
            case VirtualServer():
                return key in lost
            case RealServer():
                return key.virtual_server in lost
            case Address():
                return key.address in addresses
            case IpsetEntry():
                return _is_lost(key, entries, addresses, ports)
        return False

    return {key: spec for key, spec in rows.items() if not is_lost(key)}


def _is_lost(key: IpsetEntry, entries: set[str], addresses: set[IP], ports: set[_Port]) -> bool:
    """Return whether *key* names one of the frontends *entries*, or one of *addresses* or *ports*."""
    if key.set in _ADDRESS_SETS:
        return key.entry in addresses
    if key.set in NODE_PORT_BITMAPS:
        return (*NODE_PORT_BITMAPS[key.set], int(key.entry)) in ports
    return key.set not in _OTHER_SETS and _frontend_of(key) in entries


def _ports(servers: Iterable[VirtualServer]) -> set[_Port]:
    return {(family_of(server.address), server.protocol, server.port) for server in servers}


def _with_address_entry(rows: Rows) -> set[VirtualServer]:
    """Return the virtual servers that an entry names with their address, not only with a NodePort."""
    named = {_frontend_of(key) for key in rows if isinstance(key, IpsetEntry) and key.set not in _OTHER_SETS}
    return {key for key in rows if isinstance(key, VirtualServer) and server_entry(key) in named}


def _frontend_of(key: IpsetEntry) -> str:
    """Return the address and port with which the entry *key* begins; any other text if it has none."""
    address, _, rest = key.entry.partition(",")
    return f"{address},{rest.partition(',')[0]}"


def last_rows(rows: Rows, service: Service) -> Rows:
    """Return those of the kernel's *rows* that a predecessor programmed for *service*, by its addresses and ports.

    They are the last rows of a Service that could not be compiled since this process started.
    """
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
                return key.virtual_server in servers and not is_draining_spec(rows[key])
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
