"""The names of all fields that objects may have, so that a misspelt one is found.

Invariants:
- The fields that we read are those of the wire form (schema.py); this module adds those that we do not read.
- Recognizing that an object has no unknown field costs nothing: a strict twin of its wire form is decoded instead.
"""

from collections.abc import Iterator, Mapping
from functools import cache
from types import UnionType
from typing import Any, get_args, get_origin

import msgspec
from msgspec import Raw, Struct
from msgspec.structs import FieldInfo
from msgspec.structs import fields as fields_of_struct

from kubeproxy_py.sources.decode import schema

_UNREAD: dict[type[Struct], tuple[str, ...]] = {
    # by wire form: the fields of Kubernetes 1.36 that it omits
    schema.MetaWire: (
        *("deletionGracePeriodSeconds", "finalizers", "generateName", "generation", "managedFields"),
        *("ownerReferences", "selfLink", "uid"),
    ),
    schema.ServiceSpecWire: (
        *("allocateLoadBalancerNodePorts", "externalName", "ipFamilyPolicy", "loadBalancerClass", "loadBalancerIP"),
        *("publishNotReadyAddresses", "selector", "trafficDistribution"),
    ),
    schema.ServicePortWire: ("appProtocol", "targetPort"),
    schema.ServiceStatusWire: ("conditions",),
    schema.IngressWire: ("hostname", "ports"),
    schema.EndpointWire: ("deprecatedTopology", "hostname"),
    schema.TargetWire: ("apiVersion", "fieldPath", "namespace", "resourceVersion", "uid"),
    schema.EndpointPortWire: ("appProtocol",),
    schema.EndpointAddressWire: ("hostname",),
    schema.NodeSpecWire: ("configSource", "externalID", "providerID", "unschedulable"),
    schema.NodeStatusWire: (
        *("allocatable", "capacity", "conditions", "config", "daemonEndpoints", "declaredFeatures", "features"),
        *("images", "nodeInfo", "phase", "runtimeHandlers", "volumesAttached", "volumesInUse"),
    ),
    schema.TaintWire: ("effect", "timeAdded", "value"),
}
_UNREAD_OF_OBJECTS = ("apiVersion",)


class UnknownField(Struct, frozen=True, gc=False):
    """A field of an object that Kubernetes does not have."""

    path: str  # "spec.ports[0].nodeport"
    key: str
    read: tuple[str, ...]  # the fields that are read there
    unread: tuple[str, ...]  # the other fields that may be there
    present: frozenset[str]  # the fields that are there


def unknown_fields(wire: type[Struct], plain: object, path: str = "") -> Iterator[UnknownField]:
    """Yield the fields of *plain*, plain values with the wire form *wire*, that Kubernetes does not have."""
    if not isinstance(plain, Mapping):
        return
    nested = _read_fields(wire)
    unread = _unread(wire)
    for key in plain:
        if isinstance(key, str) and key not in nested and key not in unread:
            yield UnknownField(_join(path, key), key, tuple(nested), unread, frozenset(map(str, plain)))
    for key, (inner, is_list) in nested.items():
        if inner is None or not plain.get(key):
            continue
        if not is_list:
            yield from unknown_fields(inner, plain[key], _join(path, key))
        elif isinstance(plain[key], list):
            for index, item in enumerate(plain[key]):
                yield from unknown_fields(inner, item, f"{_join(path, key)}[{index}]")


@cache
def _read_fields(wire: type[Struct]) -> dict[str, tuple[type[schema.Wire] | None, bool]]:
    """Return the fields of *wire*, each with the wire form of its value, or of the items of its list."""
    return {info.encode_name: _wire_within(info) for info in fields_of_struct(wire)}


def strict(wire: type[Struct]) -> type[Struct]:
    """Return a subclass of *wire* that has all fields of Kubernetes, and whose decoder rejects others."""
    own = [(info.name, _strict_type(info), info.default) for info in fields_of_struct(wire)]
    names = {info.name: info.encode_name for info in fields_of_struct(wire)}
    others = [(name, Raw, None) for name in _unread(wire)]
    return msgspec.defstruct(
        f"Strict{wire.__name__}", [*own, *others], bases=(wire,), rename=names, forbid_unknown_fields=True, gc=False
    )


def _unread(wire: type[Struct]) -> tuple[str, ...]:
    return _UNREAD_OF_OBJECTS if issubclass(wire, schema.ObjectWire) else _UNREAD.get(wire, ())


def _strict_type(info: FieldInfo) -> Any:
    inner, is_list = _wire_within(info)
    if inner is None:
        return info.type
    twin: Any = strict(inner)
    return (list[twin] if is_list else twin) | None


def _wire_within(info: FieldInfo) -> tuple[type[schema.Wire] | None, bool]:
    """Return the wire form of a field, or of the items of its list, and whether it is a list."""
    of_list = False
    options = get_args(info.type) if isinstance(info.type, UnionType) else (info.type,)
    for option in options:
        of_list = get_origin(option) is list
        inner = get_args(option)[0] if of_list else option
        if isinstance(inner, type) and issubclass(inner, schema.Wire):
            return inner, of_list
    return None, False


def _join(path: str, key: str) -> str:
    return f"{path}.{key}" if path else key
