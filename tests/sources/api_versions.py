"""One cluster as the API server of each Kubernetes release serves it, read from api_objects.yaml.

The objects are ours, not recorded from a running server.  Their fields are those of the test data that the release
published (api_fields.py); api_objects.yaml says on what the choice rests which of them are written.

Usage: python -m tests.sources.api_versions 1.28 prints the objects of a release, as a List in YAML.
"""

from __future__ import annotations

import sys
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from tests.apiserver.objects import Json
from tests.sources.api_fields import MINORS

FILE = Path(__file__).with_name("api_objects.yaml")
FIRST_WITH_SLICES = 21  # minor version; before, EndpointSlices are v1beta1


class _Since(NamedTuple):
    """A value that changed: minor version -> value from that release on; it is absent before."""

    values: dict[int, Any]

    def at(self, minor: int) -> Any:
        """Return the value of Kubernetes 1.*minor*; _GONE if there is none."""
        return self.values.get(max((since for since in self.values if since <= minor), default=-1), _GONE)


_GONE = object()


class _Loader(yaml.SafeLoader):
    """Knows the tags of api_objects.yaml."""

    def construct_since(self, node: yaml.Node) -> _Since:
        """Return the value of a node with the tag !since."""
        assert isinstance(node, yaml.MappingNode)
        return _Since({int(str(minor)): value for minor, value in self.construct_mapping(node, deep=True).items()})


_Loader.add_constructor("!since", _Loader.construct_since)
_Loader.add_constructor("!gone", lambda loader, node: _GONE)


@cache
def _objects_of_all() -> list[Any]:
    return list(yaml.load(FILE.read_text(), _Loader))


def objects_of(minor: int) -> list[Json]:
    """Return all objects as the server of Kubernetes 1.*minor* serves them, without kinds that it does not have."""
    objects: list[Json] = _resolve(_objects_of_all(), minor)
    return [item for item in objects if item["kind"] != "EndpointSlice" or minor >= FIRST_WITH_SLICES]


def _resolve(value: Any, minor: int) -> Any:
    """Return *value* as Kubernetes 1.*minor* has it: a new one."""
    if isinstance(value, _Since):
        return _resolve(value.at(minor), minor)
    if isinstance(value, dict):
        parts = {key: _resolve(part, minor) for key, part in value.items()}
        kept = {key: part for key, part in parts.items() if part is not _GONE}
        return _GONE if parts and not kept else kept  # Go leaves out a map without entries
    if isinstance(value, list):
        return [part for each in value if (part := _resolve(each, minor)) is not _GONE]
    return value.replace("{minor}", str(minor)) if isinstance(value, str) else value


def named(minor: int, kind: str, name: str) -> Json:
    """Return the object *kind* *name* of Kubernetes 1.*minor*."""
    [found] = [item for item in objects_of(minor) if item["kind"] == kind and item["metadata"]["name"] == name]
    return found


def main(release: str) -> None:
    """Print the objects of *release*."""
    minor = int(release.removeprefix("1."))
    if minor not in MINORS:
        sys.exit(f"one of 1.{MINORS[0]} to 1.{MINORS[-1]}")
    print(yaml.safe_dump({"apiVersion": "v1", "kind": "List", "items": objects_of(minor)}, sort_keys=False), end="")


if __name__ == "__main__":
    main(sys.argv[1])
