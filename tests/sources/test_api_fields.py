"""The fields that the agent reads are in the API of each release, and in what its servers write."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from msgspec import Struct

from kubeproxy_py.sources.decode import schema
from kubeproxy_py.sources.decode.known_fields import unknown_fields
from tests.kubernetes_schemas import validate
from tests.sources import api_fields
from tests.sources.api_fields import MINORS
from tests.sources.api_versions import FIRST_WITH_SLICES, named, objects_of

_WITH_SCHEMA = [minor for minor in MINORS if minor >= 25]
_WIRES: dict[str, type[Struct]] = {
    "Service": schema.ServiceWire,
    "EndpointSlice": schema.SliceWire,
    "Endpoints": schema.EndpointsWire,
    "Node": schema.NodeWire,
}
_MAPS = (schema.LabelsWire, schema.AnnotationsWire)

# From which release on the API has a field that the agent reads, if not from the first one on.
_IN_API = {"spec.internalTrafficPolicy": 21, "status.loadBalancer.ingress[].ipMode": 29}
_IN_API |= {"endpoints[].hints.forNodes[].name": 33}
# From which release on the objects have it.
_WRITTEN = {
    "spec.ipFamilies[]": 21,
    "spec.internalTrafficPolicy": 22,
    "endpoints[].conditions.serving": 22,
    "endpoints[].conditions.terminating": 22,
    "endpoints[].hints.forZones[].name": 24,
    "status.loadBalancer.ingress[].ipMode": 30,
    "endpoints[].hints.forNodes[].name": 34,
}
_NOT_WRITTEN = {kind: {"metadata.deletionTimestamp"} for kind in _WIRES}  # an object with it is about to go
_NOT_WRITTEN["Node"].add("metadata.namespace")


def read_fields(kind: str) -> set[str]:
    """Return the paths of the fields of *kind* that the agent reads."""
    return set(_paths(msgspec.inspect.type_info(_WIRES[kind])))


def _paths(form: Any, path: str = "") -> Iterator[str]:
    if isinstance(form, msgspec.inspect.UnionType):
        for option in form.types:
            if not isinstance(option, msgspec.inspect.NoneType):
                yield from _paths(option, path)
    elif isinstance(form, msgspec.inspect.ListType):
        yield from _paths(form.item_type, f"{path}[]")
    elif isinstance(form, msgspec.inspect.StructType) and form.cls not in _MAPS:
        for part in form.fields:
            yield from _paths(part.type, f"{path}.{part.encode_name}" if path else part.encode_name)
    else:
        yield f"{path}.*" if isinstance(form, msgspec.inspect.StructType) else path


def first_of(kind: str) -> int:
    """Return the first release that has *kind*."""
    return FIRST_WITH_SLICES if kind == "EndpointSlice" else MINORS[0]


@pytest.mark.parametrize("kind", _WIRES)
def test_fields_that_are_read_are_in_the_api_of_each_release(kind: str) -> None:
    published = api_fields.fields_of(kind)
    found = {path: published[path] for path in read_fields(kind)}
    assert {path: field.last for path, field in found.items()} == dict.fromkeys(found, MINORS[-1])
    later = {path: field.first for path, field in found.items() if field.first > first_of(kind)}
    assert later == {path: minor for path, minor in _IN_API.items() if path in found}


@pytest.mark.parametrize("minor", MINORS)
@pytest.mark.parametrize("kind", _WIRES)
def test_fields_that_are_read_are_in_the_objects_of_each_release(kind: str, minor: int) -> None:
    objects = [item for item in objects_of(minor) if item["kind"] == kind]
    written = {path for item in objects for path, _ in api_fields.leaves(item)}
    read = read_fields(kind) - _NOT_WRITTEN[kind] if minor >= first_of(kind) else set()
    assert {path for path in read if _WRITTEN.get(path, minor) > minor} == read - written


@pytest.mark.parametrize("minor", MINORS)
def test_objects_have_only_fields_of_the_api_of_their_release(minor: int) -> None:
    assert [error for item in objects_of(minor) for error in api_fields.errors(item, minor)] == []


@pytest.mark.parametrize("minor", _WITH_SCHEMA)
def test_objects_are_valid_in_the_schema_of_their_release(minor: int) -> None:
    for item in objects_of(minor):
        validate(item, f"1.{minor}")


def test_field_of_another_release_or_type_is_found() -> None:
    """Which the test above would not be worth otherwise."""
    web = named(36, "Service", "web")
    assert api_fields.errors(web, 28) == [
        "spec.trafficDistribution: unknown",
        "status.loadBalancer.ingress[].ipMode: unknown",
    ]
    old = named(22, "Service", "mail")
    old["metadata"]["clusterName"] = "here"
    assert api_fields.errors(old, 24) == [] and api_fields.errors(old, 25) == ["metadata.clusterName: unknown"]
    node = named(36, "Node", "node-a")
    node["status"]["nodeInfo"]["swap"] = {}
    node["spec"] = {"podCIDR": 7, "podCIDRs": "198.51.100.0/26", "taint": None}
    assert api_fields.errors(node, 32) == [
        "spec.podCIDR: 7 is not str",
        "spec.podCIDRs: unknown",
        "spec.taint: unknown",
        "status.nodeInfo.swap: unknown",
        "status.declaredFeatures[]: unknown",
    ]


def test_server_of_1_20_has_no_slices() -> None:
    assert {item["kind"] for item in objects_of(20)} == {"Node", "Service", "Endpoints"}


# Manifests: fields that are not read


def with_all_fields(kind: str, minor: int) -> dict[str, Any]:
    """Return an object with a value at each field that *kind* has in a release."""
    whole: dict[str, Any] = {}
    for path, field in api_fields.fields_of(kind).items():
        if field.is_in(minor):
            _set(whole, path.split("."), field.type)
    return whole


def _set(part: dict[str, Any], names: list[str], value: object) -> None:
    name, *rest = names
    is_list = name.endswith("[]")
    name = name.removesuffix("[]")
    if not rest:
        part[name] = [value] if is_list else value
    elif is_list:
        _set(part.setdefault(name, [{}])[0], rest, value)
    else:
        _set(part.setdefault(name, {}), rest, value)


@pytest.mark.parametrize("minor", MINORS)
@pytest.mark.parametrize("kind", _WIRES)
def test_manifests_may_have_all_fields_of_each_release(kind: str, minor: int) -> None:
    """But for two that are gone: topologyKeys, which were off by default, and clusterName, which nobody ever set."""
    unknown = {each.path for each in unknown_fields(_WIRES[kind], with_all_fields(kind, minor))}
    gone = {"metadata.clusterName"} if minor < 25 else set()
    if kind == "Service" and minor < 22:
        gone.add("spec.topologyKeys")
    assert unknown == gone
