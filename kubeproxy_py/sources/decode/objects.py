"""decode: one object, from JSON bytes or from a YAML dict, to the values that we use.

The one decoder for the API and for manifests.  Law: it never raises for what an object says; all that is wrong is
told as Problems, which name the object, the field and what to do.  An object that is ``broken`` is not used, and
whoever knows an older version of it keeps that.
"""

import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import datetime
from sys import intern
from typing import Any, Literal, TypeVar

import msgspec
from msgspec import Raw, Struct

from kubeproxy_py.model.events import ObjectProblem
from kubeproxy_py.model.node import Node
from kubeproxy_py.model.services import EndpointSlice, ObjectName, Service
from kubeproxy_py.sources.decode.endpoints import read_endpoints, read_slice
from kubeproxy_py.sources.decode.errors import UNREADABLE, FieldError, of_syntax_error, of_type_error
from kubeproxy_py.sources.decode.node import read_node
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

Kind = Literal["Service", "EndpointSlice", "Endpoints", "Node"]
Value = Service | EndpointSlice | Node
Body = bytes | Raw | Mapping[str, Any]

_NAME = re.compile(r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?", re.ASCII)  # RFC 1123, as for every object's name
_UNKNOWN = "(unnamed)"


class Decoded(Struct, frozen=True, gc=False):
    """What an object says.

    Several values come of Endpoints only; none of an object that we have no use for (a slice of host names), or
    that is broken.
    """

    kind: Kind
    name: ObjectName | None  # None: it doesn't tell.  A Node's has no namespace.
    resource_version: str = ""
    values: tuple[Value, ...] = ()
    problems: tuple[ObjectProblem, ...] = ()
    broken: bool = False
    triggered_s: float = 0.0  # when the change was made that an EndpointSlice tells of, since 1970; 0: it doesn't say


WireType = TypeVar("WireType", ServiceWire, SliceWire, EndpointsWire, NodeWire)
Typed = Callable[[Any, type], Any]


def _service(name: ObjectName, wire: ServiceWire, flaws: list[FieldError]) -> tuple[Value, ...]:
    service = read_service(name, wire, flaws)
    if flaws:
        raise flaws.pop()
    return (service,)


def _slice(name: ObjectName, wire: SliceWire, flaws: list[FieldError]) -> tuple[Value, ...]:
    value = read_slice(name, wire, wire.endpoints, wire.ports, flaws)
    return (value,) if value else ()


def _endpoints(name: ObjectName, wire: EndpointsWire, flaws: list[FieldError]) -> tuple[Value, ...]:
    return read_endpoints(name, wire, flaws)


def _node(name: ObjectName, wire: NodeWire, flaws: list[FieldError]) -> tuple[Value, ...]:
    return (read_node(name.name, wire, flaws),)


_WIRES: dict[Kind, tuple[type[Any], Callable[[ObjectName, Any, list[FieldError]], tuple[Value, ...]]]] = {
    "Service": (ServiceWire, _service),
    "EndpointSlice": (SliceWire, _slice),
    "Endpoints": (EndpointsWire, _endpoints),
    "Node": (NodeWire, _node),
}
_DECODERS = {kind: msgspec.json.Decoder(wire) for kind, (wire, _) in _WIRES.items()}


def decode(kind: Kind, body: Body, *, within: str = "", namespace: str = "") -> Decoded:
    """What the object *body* of *kind* says.

    *within* is where it was found (``games.yaml, document 3``), for its Problems; *namespace* is the one of objects
    that name none (manifests: ``default``; the API always names it).
    """
    try:
        return _decode(kind, body, within, namespace)
    except msgspec.ValidationError as error:
        return _decode_mistyped(kind, body, within, namespace, of_type_error(error))
    except UNREADABLE as error:
        raw = b"" if isinstance(body, Mapping) else bytes(body)
        return _broken(kind, None, within, "", [of_syntax_error(error, raw)])


def _decode(kind: Kind, body: Body, within: str, namespace: str) -> Decoded:
    wire_type, read = _WIRES[kind]
    wire = msgspec.convert(body, wire_type) if isinstance(body, Mapping) else _DECODERS[kind].decode(body)
    meta: MetaWire = wire.metadata or NO_META
    flaws: list[FieldError] = []
    name = None
    try:
        name = _name(kind, meta, namespace)
        values = read(name, wire, flaws)
    except FieldError as flaw:
        return _broken(kind, name, within, meta.resource_version, [*flaws, flaw])
    problems = _problems(kind, name, within, flaws)
    return Decoded(kind, name, meta.resource_version, values, problems, triggered_s=_triggered_s(meta))


def _triggered_s(meta: MetaWire) -> float:
    """What the controller that wrote it says; a time that can't be read is no reason not to use the object."""
    text = (meta.annotations or NO_ANNOTATIONS).triggered
    if not text:
        return 0.0
    with suppress(ValueError, OverflowError):
        return datetime.fromisoformat(text).timestamp()
    return 0.0


def _name(kind: Kind, meta: MetaWire, namespace: str) -> ObjectName:
    if not _NAME.fullmatch(meta.name):
        message = f"{meta.name!r:.64} is not a name" if meta.name else "is missing"
        raise FieldError("metadata.name", message, "small letters, digits, - and .")
    if kind == "Node":
        return ObjectName("", meta.name)
    within = meta.namespace or namespace
    if not _NAME.fullmatch(within):
        message = f"{within!r:.64} is not a name" if within else "is missing"
        raise FieldError("metadata.namespace", message, "small letters, digits, - and .")
    return ObjectName(intern(within), meta.name)  # one text for each namespace, of which there are few


def _problems(kind: Kind, name: ObjectName | None, within: str, flaws: list[FieldError]) -> tuple[ObjectProblem, ...]:
    if not flaws:
        return ()
    who = _UNKNOWN if name is None else str(name).lstrip("/")
    where = f"{within}: {kind} {who}" if within else f"{kind} {who}"
    return tuple(flaw.problem(where) for flaw in flaws)


def _broken(kind: Kind, name: ObjectName | None, within: str, version: str, flaws: list[FieldError]) -> Decoded:
    return Decoded(kind, name, version, (), _problems(kind, name, within, flaws), broken=True)


# Wrong types -----------------------------------------------------------------------------------------------------
# msgspec stops at the first value of a wrong type.  That is rare, so it may be slow: read again as plain objects.


def _decode_mistyped(kind: Kind, body: Body, within: str, namespace: str, flaw: FieldError) -> Decoded:
    try:
        plain = body if isinstance(body, Mapping) else msgspec.json.decode(body)
    except UNREADABLE as error:
        return _broken(kind, None, within, "", [of_syntax_error(error, b"")])
    meta = _lenient_meta(plain)
    try:
        name = _name(kind, meta, namespace)
    except FieldError:
        return _broken(kind, None, within, meta.resource_version, [flaw])
    if kind == "EndpointSlice":
        return _decode_slice_in_parts(name, plain, within, meta.resource_version)
    return _broken(kind, name, within, meta.resource_version, [flaw])


def _lenient_meta(plain: Any) -> MetaWire:
    """Who an object is, as far as that can be told in spite of wrong types."""
    meta = plain.get("metadata") if isinstance(plain, Mapping) else None
    if not isinstance(meta, Mapping):
        return NO_META
    texts = {key: text for key, text in meta.items() if isinstance(text, str)}
    return MetaWire(texts.get("name", ""), texts.get("namespace", ""), texts.get("resourceVersion", ""))


def _decode_slice_in_parts(name: ObjectName, plain: Mapping[str, Any], within: str, version: str) -> Decoded:
    """A slice of which a part has a wrong type: each endpoint and port is read for itself."""
    flaws: list[FieldError] = []
    parts = {key: plain.get(key) for key in ("endpoints", "ports")}
    lists = {key: part if isinstance(part, list) else None for key, part in parts.items()}
    shell = {**plain, **{key: None if lists[key] is not None else part for key, part in parts.items()}}
    try:
        wire = _typed(shell, SliceWire)
        value = read_slice(name, wire, lists["endpoints"], lists["ports"], flaws, _typed)
    except FieldError as flaw:
        return _broken("EndpointSlice", name, within, version, [*flaws, flaw])
    values = (value,) if value else ()
    return Decoded("EndpointSlice", name, version, values, _problems("EndpointSlice", name, within, flaws))


def _typed(part: Any, wire_type: type[Any]) -> Any:
    try:
        return msgspec.convert(part, wire_type)
    except (msgspec.ValidationError, RecursionError) as error:
        raise of_type_error(error) from None
