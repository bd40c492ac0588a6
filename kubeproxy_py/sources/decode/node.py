"""Node: from its wire form to the value that we use.

Law: what can't be read of a Node is left out, with a Flaw; the rest of it is used.
"""

from kubeproxy_py.model.node import Node
from kubeproxy_py.model.services import IP
from kubeproxy_py.sources.decode.address import canonical_cidr, canonical_ip
from kubeproxy_py.sources.decode.errors import FieldError, read_each
from kubeproxy_py.sources.decode.schema import (
    NO_LABELS,
    NO_META,
    NodeAddressWire,
    NodeSpecWire,
    NodeStatusWire,
    NodeWire,
)

_AUTOSCALER_TAINT = "ToBeDeletedByClusterAutoscaler"
_ADDRESS_TYPES = ("InternalIP", "ExternalIP")  # in upstream's order of preference


def read_node(name: str, wire: NodeWire, flaws: list[FieldError]) -> Node:
    meta, spec = wire.metadata or NO_META, wire.spec or NodeSpecWire()
    pod_cidrs = spec.pod_cidrs or ([spec.pod_cidr] if spec.pod_cidr else [])
    tainted = any(taint.key == _AUTOSCALER_TAINT for taint in spec.taints or ())
    return Node(
        name,
        (meta.labels or NO_LABELS).zone or "",
        _addresses(wire.status or NodeStatusWire(), flaws),
        tuple(read_each("spec.podCIDRs", pod_cidrs, canonical_cidr, flaws)),
        meta.deletion_timestamp is not None or tainted,
    )


def _addresses(status: NodeStatusWire, flaws: list[FieldError]) -> tuple[IP, ...]:
    def typed(wire: NodeAddressWire) -> tuple[str, IP]:
        if wire.type not in _ADDRESS_TYPES:
            return wire.type, ""
        try:
            return wire.type, canonical_ip(wire.address)
        except FieldError as flaw:
            raise flaw.under("address") from None

    read = read_each("status.addresses", status.addresses, typed, flaws)
    return tuple(ip for wanted in _ADDRESS_TYPES for kind, ip in read if kind == wanted)
