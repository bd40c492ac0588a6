"""The fields of the objects that the agent reads, in the API of Kubernetes 1.20 to 1.36.

api_fields.json is made of the test data that each release of k8s.io/api published (testdata/HEAD at the tag
kubernetes-1.X.0): one object of each kind with all its fields, as that release serialises it.  Only names and types of
the fields are kept, since the values are random.  A field is a path: ``spec.ports[].name`` is the name of each port,
``spec.selector.*`` the value of each key.

Usage: python -m tests.sources.api_fields REPOSITORY reads the tags of a clone of github.com/kubernetes/api.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

FILE = Path(__file__).with_name("api_fields.json")
MINORS = tuple(range(20, 37))  # of Kubernetes 1.
META = "metadata"  # the same for each kind, so it has a table of its own
_DATA = {
    "Service": "core.v1.Service",
    "Endpoints": "core.v1.Endpoints",
    "Node": "core.v1.Node",
    "EndpointSlice": "discovery.k8s.io.v1.EndpointSlice",
}
_MAPS = (
    *("metadata.labels", "metadata.annotations", "spec.selector", "endpoints[].deprecatedTopology"),
    *("status.capacity", "status.allocatable"),
)
_INT_OR_STRING = "spec.ports[].targetPort"  # the published data has one or the other
OPAQUE = "metadata.managedFields[].fieldsV1"  # the API has no fields within it
# Not in the published data before 1.24, where times and what is unset by chance are left out, but in the API of 1.20.
_LEFT_OUT = (
    *("metadata.deletionTimestamp", "metadata.managedFields[].time", OPAQUE),
    *("spec.taints[].timeAdded", "spec.unschedulable"),
)


class Field(NamedTuple):
    """A field of a kind, and the releases that have it."""

    type: str  # str, int, bool
    first: int  # minor version
    last: int

    def is_in(self, minor: int) -> bool:
        """Return whether Kubernetes 1.*minor* has the field."""
        return self.first <= minor <= self.last


@cache
def known() -> Mapping[str, Mapping[str, Field]]:
    """Return the fields of each kind, by path; those of META are without a kind."""
    tables = json.loads(FILE.read_text())
    return {kind: {path: Field(*field) for path, field in fields.items()} for kind, fields in tables.items()}


def fields_of(kind: str) -> Mapping[str, Field]:
    """Return all fields of *kind* by path, with those of its metadata."""
    return {**known()[kind], **known()[META]}


def errors(document: Mapping[str, Any], minor: int) -> list[str]:
    """Return what of *document* the API of Kubernetes 1.*minor* does not have: fields, and types of fields."""
    fields = fields_of(document["kind"])
    return [error for path, value in leaves(document) if (error := _error(fields, path, value, minor))]


def _error(fields: Mapping[str, Field], path: str, value: object, minor: int) -> str | None:
    if path.startswith(f"{OPAQUE}."):
        return None
    if value is None or value == {}:  # a list that is served as null, a structure with nothing in it
        inside = [field for known_path, field in fields.items() if known_path.startswith((f"{path}.", f"{path}[]"))]
        return None if any(field.is_in(minor) for field in inside) else f"{path}: unknown"
    field = fields.get(path)
    if not field or not field.is_in(minor):
        return f"{path}: unknown"
    return None if type(value).__name__ in field.type.split() else f"{path}: {value!r} is not {field.type}"


def leaves(value: object, path: str = "", *, with_keys: bool = False) -> Iterator[tuple[str, Any]]:
    """Yield path and value of each value within *value* that has no parts; *with_keys*: of maps, too."""
    if isinstance(value, Mapping) and value:
        for key, part in value.items():
            name = "*" if path in _MAPS and not with_keys else key
            yield from leaves(part, f"{path}.{name}" if path else name, with_keys=with_keys)
    elif isinstance(value, list) and value:
        for part in value:
            yield from leaves(part, f"{path}[]", with_keys=with_keys)
    else:
        yield path, value


def read_tags(repository: Path) -> dict[str, dict[str, Field]]:
    """Return the fields of each kind in the published data of all releases."""
    tables: dict[str, dict[str, Field]] = {META: {}}
    for kind, name in _DATA.items():
        fields = tables.setdefault(kind, {})
        for minor in MINORS:
            published = _published(repository, minor, name)
            for path, value in leaves(published) if published else ():
                table = tables[META] if path.startswith(f"{META}.") else fields
                _add(table, path, value, minor)
    return {kind: dict(sorted(fields.items())) for kind, fields in tables.items()}


def _published(repository: Path, minor: int, name: str) -> Any:
    """Return an object of the published data of Kubernetes 1.*minor*; None if there is none of this name."""
    tag = f"kubernetes-1.{minor}.0"
    found = subprocess.run(
        ["git", "-C", str(repository), "show", f"{tag}:testdata/HEAD/{name}.json"], capture_output=True, check=False
    )
    return json.loads(found.stdout) if found.returncode == 0 else None


def _add(table: dict[str, Field], path: str, value: object, minor: int) -> None:
    type_name = "int str" if path == _INT_OR_STRING else type(value if value is not None else "").__name__
    first = MINORS[0] if path in _LEFT_OUT else minor
    before = table.get(path, Field(type_name, first, minor))
    if before.type != type_name or before.last < minor - 1:
        raise ValueError(f"{path} of 1.{minor} is {type_name}, before it was {before}")
    table[path] = before._replace(last=minor)


def main(repository: Path) -> None:
    """Write the file, a line for each field."""
    tables = [
        f' "{kind}": {{\n' + ",\n".join(f"  {json.dumps(path)}: {json.dumps(field)}" for path, field in fields.items())
        for kind, fields in read_tags(repository).items()
    ]
    FILE.write_text("{\n" + "\n },\n".join(tables) + "\n }\n}\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
