"""Parse one manifest file into the objects that we use.

A file contains what ``kubectl apply`` accepts: YAML documents or one JSON text, with objects or lists of them.  Objects
of other kinds are ignored.

Invariants:
- Nothing but the bytes of the file is read.
- Each object is decoded separately: what is wrong with one is reported and does not affect the others.
"""

from collections.abc import Collection, Mapping
from typing import Any

import msgspec
from msgspec import UNSET, Raw, Struct, UnsetType
from msgspec.structs import replace

from kubeproxy_py.model.problem import Problem
from kubeproxy_py.model.services import ObjectName
from kubeproxy_py.sources.decode.errors import (
    UNREADABLE,
    FieldError,
    from_decode_error,
    from_validation_error,
    json_type_name,
)
from kubeproxy_py.sources.decode.objects import Body, Decoded, Kind, Value, decode, object_text
from kubeproxy_py.sources.decode.schema import KindWire
from kubeproxy_py.sources.manifests.mistakes import VERSIONS, mistaken_fields, mistaken_type
from kubeproxy_py.sources.object_cache import Identity

TypeName = tuple[str | None, str | None]
"""apiVersion and kind; None: missing."""

_KINDS: dict[TypeName, Kind] = {(version, kind): kind for kind, version in VERSIONS.items()}
_LISTS: dict[TypeName, TypeName] = {
    # the type of items that have none themselves
    ("v1", "List"): (None, None),
    **{(version, f"{kind}List"): (version, kind) for version, kind in _KINDS},
}
_DEFAULT_NAMESPACE = "default"
_EMPTY_LIST_HINT = "write items: [] for an empty list"
_DECODER = msgspec.json.Decoder(KindWire)


class Manifest(Struct, frozen=True, gc=False):
    """The contents of a file."""

    objects: dict[Identity, tuple[Value, ...]] = {}
    broken: frozenset[Identity] = frozenset()  # objects that are in the file but cannot be used
    problems: tuple[Problem, ...] = ()
    complete: bool = True  # False: there are parts of which not even the object's name can be read
    empty: bool = False  # there is no document in it


def parse_manifest(file_name: str, body: bytes, node_name: str, labels: Collection[str] = ()) -> Manifest:
    """Return the objects in *body*, Nodes with those *labels* (keys).

    Problems of Nodes but *node_name* are dropped unless there are *labels*.
    """
    parser = _Parser(node_name, labels)
    if file_name.endswith(".json"):
        parser.add(body, file_name)
    else:
        parser.add_yaml(body, file_name)
    return Manifest(parser.objects, frozenset(parser.broken), tuple(parser.problems), parser.complete, parser.empty)


class _Parser:
    """Collects the objects of one file."""

    def __init__(self, node_name: str, labels: Collection[str]) -> None:
        self._node = ObjectName("", node_name)
        self._labels = labels
        self.objects: dict[Identity, tuple[Value, ...]] = {}
        self.broken: set[Identity] = set()
        self.problems: list[Problem] = []
        self.complete = True
        self.empty = False

    def add_yaml(self, body: bytes, file_name: str) -> None:
        """Add each document of a YAML file."""
        try:
            text = body.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            self._skip(file_name, from_decode_error(error, body))
            return
        # Imported here: 70 ms in user-mode-linux, which a folder of JSON does not pay.
        from kubeproxy_py.sources.manifests.yaml_documents import load_document, split_documents

        self.empty = True
        for document in split_documents(text):
            self.empty = False
            within = f"{file_name}, document {document.number}"
            try:
                value, duplicates = load_document(document)
                self.problems += [duplicate.to_problem(within) for duplicate in duplicates]
                self._add(_require_mapping(value), within, None)
            except FieldError as error:
                self._skip(within, error)

    def add(self, body: Body, within: str, item_type: TypeName | None = None) -> None:
        """Add an object, or the items of a list.

        Args:
            body: The object or the list.
            within: Where it is: the file, document and item.
            item_type: The type of an item of a list that names the type of its items.
        """
        try:
            self._add(body, within, item_type)
        except FieldError as error:
            self._skip(within, error)

    def _add(self, body: Body, within: str, item_type: TypeName | None) -> None:
        """Add an object, or the items of a list.  Raises FieldError if it cannot be identified."""
        (version, kind), items = _read_type(body)
        default = item_type or (None, None)
        type_name = (version or default[0], kind or default[1])
        if type_name in _KINDS:
            self._add_object(_KINDS[type_name], body, within)
        elif type_name in _LISTS:
            if item_type:  # JSON would be parsed again for each level
                raise FieldError("kind", "is a list within a list", "put the items into the outer list")
            if not isinstance(items, list):  # not an empty list: that would delete what the file contained before
                raise FieldError("items", "is null" if items is None else "is missing", _EMPTY_LIST_HINT)
            for number, item in enumerate(items, 1):
                self.add(item, f"{within}, item {number}", _LISTS[type_name])
        elif None in type_name:
            raise _missing_type(type_name)
        elif mistake := mistaken_type(type_name[0] or "", type_name[1] or ""):
            raise mistake

    def _add_object(self, kind: Kind, body: Body, within: str) -> None:
        decoded = _decode(kind, body, within, self._labels if kind == "Node" else ())
        if decoded.name is None:
            self.complete = False
        elif decoded.kind == "Node" and decoded.name != self._node and not self._labels:
            # Only its addresses may be of use, for direct server return.
            self._record((decoded.kind, decoded.name), decoded, within)
            return
        else:
            self._record((decoded.kind, decoded.name), decoded, within)
        self.problems.extend(decoded.problems)

    def _record(self, identity: Identity, decoded: Decoded, within: str) -> None:
        if identity in self.objects or identity in self.broken:
            where = f"{within}: {object_text(decoded.kind, decoded.name)}"
            self.problems.append(
                Problem(where, "metadata.name", "occurs more than once in this file", "the first one is used")
            )
        elif decoded.broken:
            self.broken.add(identity)
        else:
            self.objects[identity] = decoded.values

    def _skip(self, where: str, error: FieldError) -> None:
        """Report a part of the file of which not even the object's name can be read."""
        self.problems.append(error.to_problem(where))
        self.complete = False


def _read_type(body: Body) -> tuple[TypeName, list[Any] | UnsetType | None]:
    """Return the type of *body*, and its items, UNSET if it has none.  Raises FieldError."""
    try:
        if isinstance(body, bytes | Raw):
            wire = _DECODER.decode(body)
            return (wire.api_version, wire.kind), wire.items
        mapping = _require_mapping(body)
        type_fields = msgspec.convert({key: mapping.get(key) for key in ("apiVersion", "kind")}, KindWire)
        return (type_fields.api_version, type_fields.kind), _items_of(mapping)
    except msgspec.ValidationError as error:
        raise from_validation_error(error) from None
    except UNREADABLE as error:
        raise from_decode_error(error, b"" if isinstance(body, Mapping) else bytes(body)) from None


def _missing_type(type_name: TypeName) -> FieldError:
    field = "apiVersion" if type_name[0] is None else "kind"
    return FieldError(field, "is missing", "each object begins with both, such as apiVersion: v1 and kind: Service")


def _decode(kind: Kind, body: Body, within: str, labels: Collection[str]) -> Decoded:
    """Decode an object; one whose misspelt field it cannot do without is broken."""
    decoded = decode(kind, body, within=within, namespace=_DEFAULT_NAMESPACE, labels=labels)
    if decoded.broken or decoded.name is None:
        return decoded
    if decoded.fields_are_known:  # reading JSON again as plain values would cost as much as half of all else
        return decoded
    try:
        fatal, others = mistaken_fields(kind, body if isinstance(body, Mapping) else msgspec.json.decode(body))
    except UNREADABLE as error:  # in a field that is not read otherwise
        fatal, others = [from_decode_error(error, b"" if isinstance(body, Mapping) else bytes(body))], []
    if not fatal and not others:
        return decoded
    where = f"{within}: {object_text(kind, decoded.name)}"
    problems = [error.to_problem(where, is_warning=not fatal) for error in fatal or others]
    values = () if fatal else decoded.values
    return replace(decoded, values=values, broken=bool(fatal), problems=(*decoded.problems, *problems))


def _items_of(mapping: Mapping[str, Any]) -> list[Any] | UnsetType | None:
    """Return the items of a list that was YAML; UNSET if it has none.  Raises FieldError."""
    items = mapping.get("items", UNSET)
    if not isinstance(items, list | UnsetType | None):
        raise FieldError("items", f"expected array, got {json_type_name(items)}")
    return items


def _require_mapping(value: Any) -> Mapping[str, Any]:
    """Return *value* if it is a mapping; bytes (YAML's !!binary) are not JSON.  Raises FieldError."""
    if not isinstance(value, Mapping):
        raise FieldError("", f"expected object, got {json_type_name(value)}")
    return value
