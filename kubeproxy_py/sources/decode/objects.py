"""Decode one object, from JSON bytes or from a YAML mapping, into the values of the model.

The one decoder for the API and for manifests.

Invariants:
- No content of an object raises an exception, not even content that triggers a bug.  Everything that is wrong is
  returned as Problems, which name the object, the field and the remedy.
- A ``broken`` object is not used; a caller that has an older valid version continues to use that.
- What an API server sends was valid there: a value that we do not know is from a newer version.  It is read as
  kube-proxy reads it, with a warning, and the object is used.  In a manifest it is a mistake, and an error.
"""

import logging
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import suppress
from datetime import datetime
from functools import cache
from sys import intern
from typing import Any, Literal

import msgspec
from msgspec import Raw, Struct

from kubeproxy_py.logging_setup import values
from kubeproxy_py.model.node import Node
from kubeproxy_py.model.problem import Problem
from kubeproxy_py.model.services import EndpointSlice, ObjectName, Service
from kubeproxy_py.sources.decode.api_rules import missing_fields, node_warnings, port_name_warnings, service_warnings
from kubeproxy_py.sources.decode.endpoints import read_endpoints, read_slice, unknown_address_type
from kubeproxy_py.sources.decode.errors import UNREADABLE, FieldError, from_decode_error, from_validation_error, quoted
from kubeproxy_py.sources.decode.known_fields import UnknownField, strict, unknown_fields
from kubeproxy_py.sources.decode.node import read_labels, read_node
from kubeproxy_py.sources.decode.schema import (
    NO_ANNOTATIONS,
    NO_META,
    EndpointsWire,
    MetaWire,
    NodeWire,
    ServiceWire,
    SliceWire,
)
from kubeproxy_py.sources.decode.service import read_service
from kubeproxy_py.sources.decode.settings import annotations_of, read_settings

Kind = Literal["Service", "EndpointSlice", "Endpoints", "Node"]
Value = Service | EndpointSlice | Node
Body = bytes | Raw | Mapping[str, Any]
Origin = Literal["API", "manifest"]
"""Where an object is from: an API server, which has validated it, or a file."""
Reader = Callable[[ObjectName, Any, Origin], tuple[tuple[Value, ...], list[FieldError]]]
"""Returns the values of an object, given as its wire form, and its errors; raises FieldError if it cannot be used."""

_NAME = re.compile(r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?", re.ASCII)  # RFC 1123, as for every object's name
_NAME_HINT = "lowercase letters, digits, - and ."
_UNNAMED = "(unnamed)"

log = logging.getLogger(__name__)


class Decoded(Struct, frozen=True, gc=False):
    """A decoded object.

    Only Endpoints yield several values.  There are none for a broken object, and for one that is of no use (a slice of
    host names).
    """

    kind: Kind
    name: ObjectName | None  # None: missing or invalid.  A Node's has no namespace.
    resource_version: str = ""
    values: tuple[Value, ...] = ()
    problems: tuple[Problem, ...] = ()
    broken: bool = False
    of_another_kind: bool = False  # as it says itself
    fields_are_known: bool = False  # all fields are Kubernetes'; False: nobody looked, or not all are
    triggered_s: float = 0.0  # when the change that an EndpointSlice reflects was made, in s since 1970; 0: unknown


def _read_service(name: ObjectName, wire: ServiceWire, origin: Origin) -> tuple[tuple[Value, ...], list[FieldError]]:
    service, errors = read_service(name, wire)
    if origin == "API" and errors and not service.cluster_ips:
        # Without the address that it has, all of the Service would be deleted.
        for error in errors:
            if error.field.startswith("spec.clusterIP"):
                raise error
    if origin == "manifest" and wire.spec:
        errors += missing_fields(wire.spec, service)
        if not errors or all(error.is_warning for error in errors):
            errors += service_warnings(wire.spec, service)
    return (service,), errors


def _read_slice(name: ObjectName, wire: SliceWire, origin: Origin) -> tuple[tuple[Value, ...], list[FieldError]]:
    if origin == "API" and (error := unknown_address_type(wire)):
        return (), [error]  # as kube-proxy, which uses only slices of the families that it knows
    value, errors = read_slice(name, wire, wire.endpoints, wire.ports)
    if origin == "manifest":
        errors += port_name_warnings("ports", wire.ports)
    return (value,) if value else (), errors


def _read_endpoints(
    name: ObjectName, wire: EndpointsWire, origin: Origin
) -> tuple[tuple[Value, ...], list[FieldError]]:
    slices, errors = read_endpoints(name, wire)
    if origin == "manifest":
        for index, subset in enumerate(wire.subsets or ()):
            errors += port_name_warnings(f"subsets[{index}].ports", subset.ports)
    return slices, errors


def _read_node(name: ObjectName, wire: NodeWire, origin: Origin) -> tuple[tuple[Value, ...], list[FieldError]]:
    node, errors = read_node(name.name, wire)
    if origin == "manifest":
        errors += node_warnings(node)
    return (node,), errors


_READERS: dict[Kind, tuple[type[Any], Reader]] = {
    "Service": (ServiceWire, _read_service),
    "EndpointSlice": (SliceWire, _read_slice),
    "Endpoints": (EndpointsWire, _read_endpoints),
    "Node": (NodeWire, _read_node),
}
_ALL_OR_NOTHING: Kind = "Service"
"""The kind of which a manifest with any error is not used; of the others, only the invalid parts are left out."""

_DECODERS = {kind: msgspec.json.Decoder(wire) for kind, (wire, _) in _READERS.items()}


@cache  # a process that is configured by an API server needs none
def _strict_decoder(kind: Kind) -> msgspec.json.Decoder[Any]:
    return msgspec.json.Decoder(strict(_READERS[kind][0]))


def unknown_fields_of(kind: Kind, plain: Mapping[str, Any]) -> Iterator[UnknownField]:
    """Yield the fields of an object, given as plain values, that Kubernetes does not have."""
    return unknown_fields(_READERS[kind][0], plain)


def decode(  # noqa: PLR0913 - all that decoding depends on
    kind: Kind,
    body: Body,
    *,
    within: str = "",
    namespace: str = "",
    origin: Origin = "manifest",
    labels: Collection[str] = (),
) -> Decoded:
    """Decode an object.

    Args:
        kind: The object's kind.
        body: The object.
        within: Where it is (``games.yaml, document 3``), for its Problems.
        namespace: Namespace of objects that have none (manifests: ``default``; objects of the API always have one).
        origin: Where the object is from.
        labels: The keys of the labels of a Node that are read.
    """
    try:
        decoded = _decode(kind, body, within, namespace, origin)
        return _with_labels(decoded, body, labels, within) if labels and kind == "Node" and decoded.values else decoded
    except msgspec.ValidationError as error:
        return _decode_mistyped(kind, body, within, namespace, from_validation_error(error))
    except UNREADABLE as error:
        raw = b"" if isinstance(body, Mapping) else bytes(body)
        return _broken(kind, None, within, "", [from_decode_error(error, raw)])
    except Exception as error:  # a bug: this object keeps its last valid version, and all others are decoded
        log.exception("Internal error while decoding an object (please report)", extra=values(kind=kind, within=within))
        return _decode_failed(kind, body, within, namespace, error)


def _decode(kind: Kind, body: Body, within: str, namespace: str, origin: Origin) -> Decoded:
    read = _READERS[kind][1]
    wire, fields_are_known = _to_wire(kind, body, origin)
    meta: MetaWire = wire.metadata or NO_META
    name = None
    if wire.kind and wire.kind != kind:
        error = FieldError("kind", f"is {quoted(wire.kind)} instead of {kind}")
        broken = _broken(kind, None, within, meta.resource_version, [error])
        return msgspec.structs.replace(broken, of_another_kind=True)
    try:
        name = _object_name(kind, meta, namespace)
        values, errors = read(name, wire, origin)
    except FieldError as error:
        return _broken(kind, name, within, meta.resource_version, [error])
    if meta.annotations is not None and kind == "Service" and (annotations := annotations_of(body)):
        values = _with_settings(values, annotations)
    if errors and kind == _ALL_OR_NOTHING and origin == "manifest" and not all(error.is_warning for error in errors):
        return _broken(kind, name, within, meta.resource_version, errors)
    problems = _problems(kind, name, within, errors, are_warnings=origin == "API")
    return Decoded(
        kind,
        name,
        meta.resource_version,
        values,
        problems,
        fields_are_known=fields_are_known,
        triggered_s=_triggered_s(meta),
    )


def _with_settings(values: tuple[Value, ...], annotations: Mapping[str, Any]) -> tuple[Value, ...]:
    """Return the Service in *values* with what *annotations* set for it."""
    settings = read_settings(annotations)
    return tuple(
        msgspec.structs.replace(value, settings=settings) if isinstance(value, Service) else value for value in values
    )


def _with_labels(decoded: Decoded, body: Body, keys: Collection[str], within: str) -> Decoded:
    """Return *decoded*, a Node, with the labels of *keys* that *body* has."""
    labels, errors = read_labels(body, keys)
    values = tuple(msgspec.structs.replace(node, labels=labels) for node in decoded.values if isinstance(node, Node))
    problems = (*decoded.problems, *_problems(decoded.kind, decoded.name, within, errors))
    return msgspec.structs.replace(decoded, values=values, problems=problems)


def _to_wire(kind: Kind, body: Body, origin: Origin) -> tuple[Any, bool]:
    """Return the wire form of *body*, and whether all its fields are known.  Raises the errors of msgspec.

    Only those of manifests are looked at: an API server drops fields that it does not know.
    """
    if isinstance(body, Mapping):
        wire = msgspec.convert(body, _READERS[kind][0])
        return wire, origin == "manifest" and not any(unknown_fields_of(kind, body))
    if origin == "manifest":
        try:
            return _strict_decoder(kind).decode(body), True
        except msgspec.ValidationError:  # suppress() would cost as much as a tenth of the decoding
            pass
    return _DECODERS[kind].decode(body), False


def _triggered_s(meta: MetaWire) -> float:
    """Return the time in the annotation of the endpoints controller; 0 if it is absent or invalid."""
    text = (meta.annotations or NO_ANNOTATIONS).triggered
    if not text:
        return 0.0
    with suppress(ValueError, OverflowError):
        return datetime.fromisoformat(text).timestamp()
    return 0.0


def _object_name(kind: Kind, meta: MetaWire, namespace: str) -> ObjectName:
    """Return the object's name.  Raises FieldError."""
    if not _NAME.fullmatch(meta.name):
        message = f"{quoted(meta.name)} is not a name" if meta.name else "is missing"
        raise FieldError("metadata.name", message, _NAME_HINT)
    if kind == "Node":
        return ObjectName("", meta.name)
    own_namespace = meta.namespace or namespace
    if not _NAME.fullmatch(own_namespace):
        message = f"{quoted(own_namespace)} is not a name" if own_namespace else "is missing"
        raise FieldError("metadata.namespace", message, _NAME_HINT)
    return ObjectName(intern(own_namespace), meta.name)  # interned: there are few namespaces


def object_text(kind: Kind, name: ObjectName | None) -> str:
    """Return ``Service shop/web`` or ``Node node-a``."""
    return f"{kind} {_UNNAMED if name is None else str(name).lstrip('/')}"


def _problems(
    kind: Kind, name: ObjectName | None, within: str, errors: list[FieldError], *, are_warnings: bool = False
) -> tuple[Problem, ...]:
    if not errors:
        return ()
    where = f"{within}: {object_text(kind, name)}" if within else object_text(kind, name)
    return tuple(error.to_problem(where, is_warning=are_warnings) for error in errors)


def _broken(kind: Kind, name: ObjectName | None, within: str, version: str, errors: list[FieldError]) -> Decoded:
    return Decoded(kind, name, version, (), _problems(kind, name, within, errors), broken=True)


# Wrong types
# msgspec stops at the first value of a wrong type.  That is rare, so the slow way is good enough: read the object
# again as plain values.


def _decode_mistyped(kind: Kind, body: Body, within: str, namespace: str, type_error: FieldError) -> Decoded:
    try:
        plain = body if isinstance(body, Mapping) else msgspec.json.decode(body)
    except UNREADABLE as error:
        return _broken(kind, None, within, "", [from_decode_error(error, b"")])
    meta = _lenient_meta(plain)
    try:
        name = _object_name(kind, meta, namespace)
    except FieldError:
        return _broken(kind, None, within, meta.resource_version, [type_error])
    if kind == "EndpointSlice":
        return _decode_slice_in_parts(name, plain, within, meta.resource_version)
    return _broken(kind, name, within, meta.resource_version, [type_error])


def _decode_failed(kind: Kind, body: Body, within: str, namespace: str, error: Exception) -> Decoded:
    """Return *body*, whose decoding raised *error*, as a broken object, with its name if that can be read."""
    internal = [FieldError("", f"internal error {type(error).__name__}", "please report it, with the log")]
    try:
        meta = _lenient_meta(body if isinstance(body, Mapping) else msgspec.json.decode(body))
        name = _object_name(kind, meta, namespace)
    except (FieldError, *UNREADABLE):
        return _broken(kind, None, within, "", internal)
    return _broken(kind, name, within, meta.resource_version, internal)


def _lenient_meta(plain: Any) -> MetaWire:
    """Return those of name, namespace and resource version that have the right type."""
    meta = plain.get("metadata") if isinstance(plain, Mapping) else None
    if not isinstance(meta, Mapping):
        return NO_META
    texts = {key: text for key, text in meta.items() if isinstance(text, str)}
    return MetaWire(texts.get("name", ""), texts.get("namespace", ""), texts.get("resourceVersion", ""))


def _decode_slice_in_parts(name: ObjectName, plain: Mapping[str, Any], within: str, version: str) -> Decoded:
    """Decode a slice of which a part has a wrong type: convert each endpoint and port separately."""
    parts = {key: plain.get(key) for key in ("endpoints", "ports")}
    lists = {key: part if isinstance(part, list) else None for key, part in parts.items()}
    without_lists = {**plain, **{key: None if lists[key] is not None else part for key, part in parts.items()}}
    try:
        wire = _convert(without_lists, SliceWire)
        value, errors = read_slice(name, wire, lists["endpoints"], lists["ports"], _convert)
    except FieldError as error:
        return _broken("EndpointSlice", name, within, version, [error])
    values = (value,) if value else ()
    return Decoded("EndpointSlice", name, version, values, _problems("EndpointSlice", name, within, errors))


def _convert(part: Any, wire_type: type[Any]) -> Any:
    """Return the wire form of *part*.  Raises FieldError."""
    try:
        return msgspec.convert(part, wire_type)
    except (msgspec.ValidationError, RecursionError) as error:
        raise from_validation_error(error) from None
