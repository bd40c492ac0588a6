"""The node we run on: what its Node object says, and which addresses its interfaces have."""

from msgspec import Struct

from kubeproxy_py.model.services import CIDR, IP


class Node(Struct, frozen=True, gc=False):
    """One Node object.

    ``addresses`` has all InternalIPs, then all ExternalIPs (upstream's order of preference).
    """

    name: str
    zone: str = ""  # label topology.kubernetes.io/zone
    addresses: tuple[IP, ...] = ()
    pod_cidrs: tuple[CIDR, ...] = ()
    being_deleted: bool = False  # deletionTimestamp, or the taint ToBeDeletedByClusterAutoscaler


class HostAddress(Struct, frozen=True, gc=False, order=True):
    """One address of one network interface of this host."""

    interface: str
    address: IP
