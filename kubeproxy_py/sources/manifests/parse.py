"""One manifest file: its bytes to the objects that we use.

Law: nothing is read but the bytes; each object stands alone, so that what is wrong with one is told and spoils no
other.  Files hold what ``kubectl apply`` takes: YAML documents or one JSON text, objects or lists of them, and any
other kinds, which are passed over.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import msgspec
from msgspec import Raw, Struct

from kubeproxy_py.model.events import ObjectProblem
from kubeproxy_py.model.services import ObjectName
from kubeproxy_py.sources.decode.errors import UNREADABLE, FieldError, of_syntax_error, of_type_error
from kubeproxy_py.sources.decode.objects import Body, Decoded, Kind, Value, decode
from kubeproxy_py.sources.decode.schema import KindWire
from kubeproxy_py.sources.object_cache import Identity

TypeName = tuple[str | None, str | None]
"""apiVersion and kind."""

_KINDS: dict[TypeName, Kind] = {
    ("v1", "Service"): "Service",
    ("v1", "Endpoints"): "Endpoints",
    ("v1", "Node"): "Node",
    ("discovery.k8s.io/v1", "EndpointSlice"): "EndpointSlice",
}
_LISTS: dict[TypeName, TypeName] = {
    # what items are that don't say it themselves
    ("v1", "List"): (None, None),
    **{(version, f"{kind}List"): (version, kind) for version, kind in _KINDS},
}
_DEFAULT_NAMESPACE = "default"
_DECODER = msgspec.json.Decoder(KindWire)


class Manifest(Struct, frozen=True, gc=False):
    """What a file says.

    An object that is *broken* is there, but can't be used; a file that is not *whole* has parts that don't even say
    which objects they are.
    """

    objects: dict[Identity, tuple[Value, ...]] = {}
    broken: frozenset[Identity] = frozenset()
    problems: tuple[ObjectProblem, ...] = ()
    whole: bool = True


def read_manifest(file_name: str, body: bytes, node_name: str) -> Manifest:
    """The objects in *body*.  Of Nodes, only *node_name*'s is read; others may be as they like."""
    reader = _Reader(node_name)
    for within, part in _parts(file_name, body, reader):
        try:
            reader.take(part, within)
        except FieldError as flaw:
            reader.miss(within, flaw)
    return Manifest(reader.objects, frozenset(reader.broken), tuple(reader.problems), reader.whole)


def _parts(file_name: str, body: bytes, reader: "_Reader") -> Iterator[tuple[str, Body]]:
    """Each document, with the words that say where it is."""
    if file_name.endswith(".json"):
        yield file_name, body
        return
    try:
        text = body.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        reader.miss(file_name, of_syntax_error(error, body))
        return
    from kubeproxy_py.sources.manifests import (
        yaml_documents as yaml_text,  # 70 ms in user-mode-linux, which a folder of JSON does not pay
    )

    for document in yaml_text.documents(text):
        within = f"{file_name}, document {document.number}"
        try:
            value = yaml_text.load(document)
            if not isinstance(value, Mapping):
                raise FieldError("", f"expected object, got {type(value).__name__}")
            yield within, value
        except FieldError as flaw:
            reader.miss(within, flaw)


class _Reader:
    """Collects what a file says."""

    def __init__(self, node_name: str) -> None:
        self._node = ObjectName("", node_name)
        self.objects: dict[Identity, tuple[Value, ...]] = {}
        self.broken: set[Identity] = set()
        self.problems: list[ObjectProblem] = []
        self.whole = True

    def miss(self, where: str, flaw: FieldError) -> None:
        """Part of the file can't be read at all."""
        self.problems.append(flaw.problem(where))
        self.whole = False

    def take(self, body: Body, within: str, item_of: TypeName | None = None) -> None:
        """The object or the list *body*; *item_of* is what it is if its list says it.  Raises Flaw."""
        (version, kind), items = _head(body)
        default = item_of or (None, None)
        type_name = (version or default[0], kind or default[1])
        if type_name in _KINDS:
            self._take_object(decode(_KINDS[type_name], body, within=within, namespace=_DEFAULT_NAMESPACE), within)
        elif type_name in _LISTS:
            if item_of:  # JSON would be parsed again for each level
                raise FieldError("kind", "is a list within a list", "put the items into the outer list")
            self._take_items(items, within, _LISTS[type_name])
        elif None in type_name:
            raise FieldError("apiVersion" if type_name[0] is None else "kind", "is missing")
        elif type_name[1] == "EndpointSlice":
            self.problems.append(ObjectProblem(within, "apiVersion", "is not known", "discovery.k8s.io/v1"))

    def _take_items(self, items: list[Any], within: str, type_name: TypeName) -> None:
        for number, item in enumerate(items, 1):
            place = f"{within}, item {number}"
            try:
                self.take(item, place, type_name)
            except FieldError as flaw:
                self.miss(place, flaw)

    def _take_object(self, decoded: Decoded, within: str) -> None:
        if decoded.name is None:
            self.whole = False
        elif decoded.kind == "Node" and decoded.name != self._node:
            return
        else:
            self._record((decoded.kind, decoded.name), decoded, within)
        self.problems.extend(decoded.problems)

    def _record(self, identity: Identity, decoded: Decoded, within: str) -> None:
        if identity in self.objects or identity in self.broken:
            where = f"{within}: {decoded.kind} {decoded.name}"
            self.problems.append(
                ObjectProblem(where, "metadata.name", "stands twice in this file", "the first is used")
            )
        elif decoded.broken:
            self.broken.add(identity)
        else:
            self.objects[identity] = decoded.values


def _head(body: Body) -> tuple[TypeName, list[Any]]:
    """What *body* is, and its items if it is a list.  Raises Flaw."""
    try:
        if isinstance(body, bytes | Raw):
            wire = _DECODER.decode(body)
            return (wire.api_version, wire.kind), wire.items or []
        if not isinstance(body, Mapping):
            raise FieldError("", f"expected object, got {type(body).__name__}")
        items = body.get("items")
        head = msgspec.convert({key: body.get(key) for key in ("apiVersion", "kind")}, KindWire)
        return (head.api_version, head.kind), items if isinstance(items, list) else []
    except msgspec.ValidationError as error:
        raise of_type_error(error) from None
    except UNREADABLE as error:
        raise of_syntax_error(error, b"" if isinstance(body, Mapping) else bytes(body)) from None
