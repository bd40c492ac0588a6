"""The stand-in's objects, their versions and their history.

One counter numbers all changes of all objects, like etcd's revision; an object's resourceVersion is the number of its
last change.  Objects are stored as the bytes that lists and watches send, so that 10,000 are cheap.
"""

import json
import threading
import time
import uuid
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

Json = dict[str, Any]
Key = tuple[str, str]
"""Namespace ("" for nodes) and name."""

FIRST_VERSION = 100  # as in a server that has run for a while
OLDEST_VERSION = 1  # it remembers all versions until its history is compacted

HISTORY_MAX = 50_000  # changes of a type


class ApiType(NamedTuple):
    plural: str
    api_version: str
    kind: str
    namespaced: bool = True

    @property
    def root(self) -> str:
        return "/api/v1" if self.api_version == "v1" else f"/apis/{self.api_version}"


TYPES = (
    ApiType("services", "v1", "Service"),
    ApiType("endpoints", "v1", "Endpoints"),
    ApiType("nodes", "v1", "Node", namespaced=False),
    ApiType("namespaces", "v1", "Namespace", namespaced=False),  # needed by nothing
    ApiType("endpointslices", "discovery.k8s.io/v1", "EndpointSlice"),
    ApiType("events", "events.k8s.io/v1", "Event"),
)
BY_KIND = {(api_type.api_version, api_type.kind): api_type for api_type in TYPES}


class StatusError(Exception):
    """The request fails with this Status."""

    def __init__(self, code: int, reason: str, message: str, cause: str = "") -> None:
        super().__init__(message)
        self.code, self.reason, self.message, self.cause = code, reason, message, cause


class Stored(NamedTuple):
    """An object as of one version."""

    key: Key
    labels: dict[str, str]
    fields: dict[str, str]
    version: int
    body: bytes  # JSON without apiVersion and kind, as items of lists are

    def parsed(self) -> Json:
        return dict(json.loads(self.body))


class Change(NamedTuple):
    version: int
    before: Stored | None
    after: Stored | None


class Backup(NamedTuple):
    """All objects as of one version."""

    version: int
    objects: dict[str, dict[Key, Stored]]


@dataclass
class Table:
    """The objects of one type and their history."""

    api_type: ApiType
    objects: dict[Key, Stored] = field(default_factory=dict)
    history: list[Change] = field(default_factory=list)
    version: int = 0  # of the last change


class Store:
    """All objects.  Thread-safe; ``changed`` is notified of each change."""

    def __init__(self) -> None:
        self.changed = threading.Condition()
        self.version = FIRST_VERSION
        self.oldest = OLDEST_VERSION  # history before it was compacted
        self.tables = {api_type.plural: Table(api_type) for api_type in TYPES}
        self._pages: dict[tuple[str, int], list[Stored]] = {}  # lists that are being read by pages

    def compact(self) -> None:
        """Delete all history, and the lists that are being read by pages."""
        with self.changed:
            self.oldest = self.version
            self._pages.clear()
            for table in self.tables.values():
                table.history.clear()

    def backup(self) -> "Backup":
        """Return all objects as of now."""
        with self.changed:
            return Backup(self.version, {plural: dict(table.objects) for plural, table in self.tables.items()})

    def restore(self, backup: "Backup") -> None:
        """Replace all objects by those of *backup*, with its version, as etcd does when it is restored."""
        with self.changed:
            self.version = self.oldest = backup.version
            self._pages.clear()
            for plural, table in self.tables.items():
                table.objects = dict(backup.objects[plural])
                table.history.clear()
                table.version = 0
            self.changed.notify_all()

    def snapshot(self, plural: str) -> tuple[int, list[Stored]]:
        """Return the current version, and all objects of a type sorted by key."""
        with self.changed:
            objects = self.tables[plural].objects
            return self.version, [objects[key] for key in sorted(objects)]

    def save_pages(self, plural: str, version: int, remaining: list[Stored]) -> None:
        with self.changed:
            self._pages[plural, version] = remaining

    def saved_pages(self, plural: str, version: int) -> list[Stored]:
        with self.changed:
            if (plural, version) not in self._pages:
                raise StatusError(
                    410, "Expired", "The provided continue parameter is too old to display a consistent list"
                )
            return self._pages[plural, version]

    def changes_since(self, plural: str, version: int) -> list[Change]:
        """Return the changes after *version*; the caller has locked ``changed``."""
        history = self.tables[plural].history
        start = len(history)
        while start and history[start - 1].version > version:
            start -= 1
        return history[start:]

    def get(self, plural: str, key: Key) -> Stored:
        with self.changed:
            return self._existing(plural, key)

    def reject_taken_address(self, body: Json) -> None:
        """Raise StatusError (422) if a Service has the clusterIP that the new Service *body* asks for."""
        address = (body.get("spec") or {}).get("clusterIP") or "None"
        with self.changed:
            taken = {stored.fields["spec.clusterIP"] for stored in self.tables["services"].objects.values()}
        if address != "None" and address in taken:
            name = (body.get("metadata") or {}).get("name")
            reason = f'Invalid value: ["{address}"]: failed to allocate IP {address}: provided IP is already allocated'
            raise StatusError(422, "Invalid", f'Service "{name}" is invalid: spec.clusterIPs: {reason}')

    def create(self, plural: str, body: Json) -> Stored:
        with self.changed:
            key = _key(body)
            if key in self.tables[plural].objects:
                raise StatusError(409, "AlreadyExists", f'{plural} "{key[1]}" already exists')
            return self._write(plural, key, body, None)

    def create_all(self, objects: Iterable[Json]) -> None:
        """Create *objects*, which have kind and apiVersion."""
        for body in objects:
            self.create(BY_KIND[body["apiVersion"], body["kind"]].plural, body)

    def replace(self, plural: str, key: Key, change: Callable[[Json], Json]) -> Stored:
        """Replace the object by the result of *change* for the current one; return it as stored."""
        with self.changed:
            before = self._existing(plural, key)
            now = before.parsed()
            body = change(now)
            expected = body["metadata"].get("resourceVersion")
            if expected and int(expected) != before.version:
                raise StatusError(409, "Conflict", f'Operation cannot be fulfilled on {plural} "{key[1]}": modified')
            body["metadata"]["uid"] = now["metadata"]["uid"]
            body["metadata"]["creationTimestamp"] = now["metadata"]["creationTimestamp"]
            return self._write(plural, key, body, before)

    def delete(self, plural: str, key: Key) -> Stored:
        with self.changed:
            before = self._existing(plural, key)
            self.version += 1
            del self.tables[plural].objects[key]
            self._record(plural, Change(self.version, before, None))
            return before

    def _existing(self, plural: str, key: Key) -> Stored:
        try:
            return self.tables[plural].objects[key]
        except KeyError:
            raise StatusError(404, "NotFound", f'{plural} "{key[1]}" not found') from None

    def _write(self, plural: str, key: Key, body: Json, before: Stored | None) -> Stored:
        self.version += 1
        after = stored(key, body, self.version)
        self.tables[plural].objects[key] = after
        self._record(plural, Change(self.version, before, after))
        return after

    def _record(self, plural: str, change: Change) -> None:
        table = self.tables[plural]
        history, table.version = table.history, change.version
        history.append(change)
        if len(history) > HISTORY_MAX:
            self.oldest = history[HISTORY_MAX // 2].version
            del history[: HISTORY_MAX // 2 + 1]
        self.changed.notify_all()


def stored(key: Key, body: Json, version: int) -> Stored:
    """Return *body* as it is stored, with the metadata that a server adds."""
    meta = {
        "uid": str(uuid.uuid4()),
        "creationTimestamp": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        **body["metadata"],
        "resourceVersion": str(version),
    }
    remaining = {name: part for name, part in body.items() if name not in ("apiVersion", "kind", "metadata")}
    spec = body.get("spec") or {}
    fields = {
        "metadata.name": key[1],
        "metadata.namespace": key[0],
        "spec.clusterIP": spec.get("clusterIP") or "",
        "spec.type": spec.get("type") or "ClusterIP",
    }
    text = json.dumps({"metadata": meta, **remaining}, separators=(",", ":"))
    return Stored(key, meta.get("labels") or {}, fields, version, text.encode())


def at_version(old: Stored, version: int) -> Stored:
    """Return *old* with a newer version, as a watch sends objects that its selector no longer matches."""
    return stored(old.key, old.parsed(), version)


def _key(body: Json) -> Key:
    meta = body.get("metadata") or {}
    if not meta.get("name"):
        raise StatusError(422, "Invalid", "metadata.name: Required value")
    return meta.get("namespace") or "", meta["name"]
