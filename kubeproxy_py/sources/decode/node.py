"""Decode a Node from its wire form.

An invalid part of a Node is left out, with an error; the other parts are used.
"""

from collections.abc import Collection, Mapping
from sys import intern
from typing import Any

import msgspec
from msgspec import Raw, Struct

from kubeproxy_py.model.node import Node
from kubeproxy_py.net import IP
from kubeproxy_py.sources.decode.errors import FieldError, read_cidr, read_each, read_ip
from kubeproxy_py.sources.decode.schema import (
    NO_LABELS,
    NO_META,
    NodeAddressWire,
    NodeSpecWire,
    NodeStatusWire,
    NodeWire,
)

_AUTOSCALER_TAINT = "ToBeDeletedByClusterAutoscaler"
_ADDRESS_TYPES = ("InternalIP", "ExternalIP")  # in kube-proxy's order of preference


def read_node(name: str, wire: NodeWire) -> tuple[Node, list[FieldError]]:
    """Return the Node *name*, and the errors of the parts that were left out."""
    meta, spec = wire.metadata or NO_META, wire.spec or NodeSpecWire()
    pod_cidrs, cidr_errors = read_each(
        "spec.podCIDRs", spec.pod_cidrs or ([spec.pod_cidr] if spec.pod_cidr else []), read_cidr
    )
    addresses, address_errors = _addresses(wire.status or NodeStatusWire())
    tainted = any(taint.key == _AUTOSCALER_TAINT for taint in spec.taints or ())
    node = Node(
        name,
        (meta.labels or NO_LABELS).zone or "",
        addresses,
        tuple(pod_cidrs),
        meta.deletion_timestamp is not None or tainted,
    )
    return node, [*address_errors, *cidr_errors]


class _MetaWire(Struct, gc=False):
    labels: dict[str, Any] | None = None


class _ObjectWire(Struct, gc=False):
    metadata: _MetaWire | None = None


_DECODER = msgspec.json.Decoder(_ObjectWire)


def read_labels(
    body: bytes | Raw | Mapping[str, Any], keys: Collection[str]
) -> tuple[tuple[str, ...], list[FieldError]]:
    """Return the labels of the Node *body* that have one of *keys*, as ``key=value``, and what is wrong with them.

    Raises the errors of msgspec; none for what was decoded before.
    """
    wire = msgspec.convert(body, _ObjectWire) if isinstance(body, Mapping) else _DECODER.decode(body)
    labels = (wire.metadata.labels if wire.metadata else None) or {}
    found = [(key, labels[key]) for key in sorted(keys) if key in labels]
    errors = [
        FieldError(f"metadata.labels[{key}]", "is not text", "put the value in quotes", is_warning=True)
        for key, value in found
        if not isinstance(value, str)
    ]
    # Interned: thousands of nodes have the same few.
    return tuple(intern(f"{key}={value}") for key, value in found if isinstance(value, str)), errors


def _addresses(status: NodeStatusWire) -> tuple[tuple[IP, ...], list[FieldError]]:
    """Return the addresses by preference of their type."""
    addresses, errors = read_each("status.addresses", status.addresses, _typed_address)
    return tuple(ip for preferred in _ADDRESS_TYPES for kind, ip in addresses if kind == preferred), errors


def _typed_address(wire: NodeAddressWire) -> tuple[str, IP]:
    """Return type and address; the address is "" if the type is of no use.  Raises FieldError."""
    if wire.type not in _ADDRESS_TYPES:
        return wire.type, ""
    return wire.type, read_ip(wire.address, "address")
