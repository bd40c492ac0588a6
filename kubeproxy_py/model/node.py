"""The contents of the Node object of this node, and the addresses of its interfaces."""

from msgspec import Struct

from kubeproxy_py.net import CIDR, IP


class Node(Struct, frozen=True, gc=False):
    """One Node object."""

    name: str
    zone: str = ""  # label topology.kubernetes.io/zone
    addresses: tuple[IP, ...] = ()  # all InternalIPs, then all ExternalIPs: kube-proxy's order of preference
    pod_cidrs: tuple[CIDR, ...] = ()
    being_deleted: bool = False  # deletionTimestamp, or the taint ToBeDeletedByClusterAutoscaler
    labels: tuple[str, ...] = ()  # of a peer: "key=value" of those that are needed (model/peers.py), in order


class HostAddress(Struct, frozen=True, gc=False, order=True):
    """One address of one network interface of this host."""

    interface: str
    address: IP
    prefix_length: int = 0  # of the network that the interface is in; 0: unknown
    is_gone: bool = False  # it was there until a moment ago, and may come back


class Neighbour(Struct, frozen=True, gc=False):
    """A machine on a link of this host that answered for an address (ARP, neighbour discovery)."""

    interface: str
    address: IP
    mac: str  # "52:54:00:12:34:56"
