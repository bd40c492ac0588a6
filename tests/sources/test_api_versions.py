"""The same cluster, served by API servers of Kubernetes 1.20 to 1.36, means the same to the agent."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from msgspec.structs import replace

from kubeproxy_py import cli
from kubeproxy_py.commands import plan as plan_module
from kubeproxy_py.model.services import EndpointSlice, SlicePort
from kubeproxy_py.sources.decode.objects import Value, decode
from lab.job import REPOSITORY
from tests.apiserver import ApiServer
from tests.apiserver.objects import Json
from tests.sources.api_expected import node, real_servers, services, slices, slices_of_endpoints
from tests.sources.api_fields import MINORS
from tests.sources.api_versions import FIRST_WITH_SLICES, objects_of
from tests.sources.conftest import PATIENCE_S
from tests.support import api_page

_WITH_SLICES = [minor for minor in MINORS if minor >= FIRST_WITH_SLICES]


def values_of(objects: list[Json]) -> dict[str, list[Value]]:
    """Return the values of *objects*, which a server sent, by kind; fail at a problem."""
    values: dict[str, list[Value]] = {}
    for item in objects:
        result = decode(item["kind"], json.dumps(item).encode(), origin="API")
        assert result.problems == () and not result.broken
        values.setdefault(item["kind"], []).extend(result.values)
    return values


@pytest.mark.parametrize("minor", MINORS)
def test_objects_of_each_release_are_decoded(minor: int) -> None:
    expected: dict[str, list[Any]] = {
        "Node": [node(minor)],
        "Service": services(minor),
        "Endpoints": slices_of_endpoints(minor),
    }
    if minor >= FIRST_WITH_SLICES:
        expected["EndpointSlice"] = slices(minor)
    assert values_of(objects_of(minor)) == expected


@pytest.mark.parametrize("minor", MINORS)
def test_objects_of_each_release_are_manifests_without_a_warning(minor: int) -> None:
    """As `kubectl get -o yaml` saves them."""
    objects = objects_of(minor)
    found = [decode(item["kind"], item, origin="manifest") for item in objects]
    assert [each.problems for each in found] == [()] * len(objects)
    from_server = values_of(objects)
    assert [value for each in found for value in each.values if each.kind == "Service"] == from_server["Service"]


# What is unset

_ENDPOINT_DEFAULTS: dict[str, Json] = {
    "conditions": {"ready": True, "serving": True, "terminating": False},
    "conditions.ready": {"ready": True},
    "conditions.serving": {"serving": True},
    "conditions.terminating": {"terminating": False},
    "deprecatedTopology": {},
    "hints": {"zone_hints": (), "node_hints": ()},
    "hints.forNodes": {"node_hints": ()},
    "hints.forZones": {"zone_hints": ()},
    "hostname": {},
    "nodeName": {"node": ""},
    "targetRef": {},
    "zone": {"zone": ""},
}
_SERVICE_DEFAULTS: dict[str, Json] = {
    "metadata.annotations": {},
    "metadata.labels": {},
    "metadata.managedFields": {},
    "spec.allocateLoadBalancerNodePorts": {},
    "spec.externalIPs": {"external_ips": ()},
    "spec.externalTrafficPolicy": {"external_local": False},
    "spec.healthCheckNodePort": {"health_check_node_port": 0},
    "spec.internalTrafficPolicy": {},
    "spec.ipFamilies": {},
    "spec.ipFamilyPolicy": {},
    "spec.loadBalancerSourceRanges": {"source_ranges": ()},
    "spec.selector": {},
    "spec.sessionAffinity": {"affinity_timeout_s": 0},
    "spec.sessionAffinityConfig": {},
    "spec.trafficDistribution": {},
    "status": {"load_balancer_ips": ()},
    "status.loadBalancer": {"load_balancer_ips": ()},
    "status.loadBalancer.ingress": {"load_balancer_ips": ()},
}
_UNSET = ("absent", "null")


def unset(item: Json, path: str, how: str) -> None:
    """Make the field *path* of *item* absent or null; nothing if what it is in is absent."""
    *parents, name = path.split(".")
    part: Any = item
    for parent in parents:
        part = (part or {}).get(parent)
    if part is not None:
        part.pop(name, None)
        if how == "null":
            part[name] = None


@pytest.mark.parametrize("how", _UNSET)
@pytest.mark.parametrize("path", _ENDPOINT_DEFAULTS)
def test_unset_field_of_endpoints_has_its_default(path: str, how: str) -> None:
    found, expected = {}, {}
    for minor in _WITH_SLICES:
        objects = [item for item in objects_of(minor) if item["kind"] == "EndpointSlice"]
        for item in objects:
            for endpoint in item["endpoints"] or ():
                unset(endpoint, path, how)
        values = values_of(objects)["EndpointSlice"]
        found[minor] = [value.endpoints for value in values if isinstance(value, EndpointSlice)]
        expected[minor] = [
            tuple(replace(endpoint, **_ENDPOINT_DEFAULTS[path]) for endpoint in each.endpoints)
            for each in slices(minor)
        ]
    assert found == expected


@pytest.mark.parametrize("how", _UNSET)
@pytest.mark.parametrize("path", _SERVICE_DEFAULTS)
def test_unset_field_of_services_has_its_default(path: str, how: str) -> None:
    found, expected = {}, {}
    for minor in MINORS:
        objects = [item for item in objects_of(minor) if item["kind"] == "Service"]
        for item in objects:
            unset(item, path, how)
        found[minor] = values_of(objects)["Service"]
        expected[minor] = [replace(each, **_SERVICE_DEFAULTS[path]) for each in services(minor)]
    assert found == expected


@pytest.mark.parametrize("field", ["appProtocol", "name"])
@pytest.mark.parametrize("how", _UNSET)
def test_unset_field_of_slice_ports_has_its_default(field: str, how: str) -> None:
    """Of legacy, whose port has no name; the API server writes the protocol always."""
    objects = [item for item in objects_of(MINORS[-1]) if item["metadata"]["name"] == "legacy-p4xnd"]
    unset(objects[0]["ports"][0], field, how)
    [value] = values_of(objects)["EndpointSlice"]
    assert isinstance(value, EndpointSlice) and value.ports == (SlicePort("", "TCP", 2525),)


# Fields of later releases


def with_unknown(value: Any, unknown: object) -> Any:
    """Return *value* with a field in each of its structures and maps that no release has."""
    if isinstance(value, dict):
        return {key: with_unknown(part, unknown) for key, part in value.items()} | {"fieldOfTomorrow": unknown}
    return [with_unknown(part, unknown) for part in value] if isinstance(value, list) else value


@pytest.mark.parametrize("unknown", ["text", 7, None, True, [], [{"a": None}], {}, {"a": {"name": 1, "ports": [1]}}])
@pytest.mark.parametrize("minor", MINORS)
def test_unknown_fields_of_a_later_release_do_not_matter(minor: int, unknown: object) -> None:
    objects = objects_of(minor)
    assert values_of([with_unknown(item, unknown) for item in objects]) == values_of(objects)


def test_unknown_value_of_a_field_that_is_not_read_does_not_matter() -> None:
    objects = objects_of(MINORS[-1])
    changed = json.loads(json.dumps(objects).replace('"PreferSame', '"PreferOther').replace("DualStack", "ManyStack"))
    assert changed != objects
    assert values_of(changed) == values_of(objects)


# A first sync


@pytest.fixture
def server() -> Iterator[ApiServer]:
    created = ApiServer()
    created.start()
    yield created
    created.stop()


def planned(server: ApiServer, objects: list[Json], capsys: pytest.CaptureFixture[str]) -> tuple[set[str], str]:
    """Return the real servers of a first sync with *objects*, and what is logged."""
    for item in objects:
        server.apply(item)
    argv = ["plan", "--assume-empty", "--output=json", "--hostname-override=node-a", f"--master={server.url}"]
    assert cli.main([*argv, "--cluster-cidr=198.51.100.0/24"]) == 2
    printed = capsys.readouterr()
    return {str(step["key"]) for step in json.loads(printed.out) if step["kind"] == "RealServer"}, printed.err


@pytest.mark.parametrize("minor", MINORS)
def test_server_of_each_release_gives_the_same_real_servers(
    server: ApiServer, minor: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(plan_module, "LIST_TIMEOUT_S", PATIENCE_S)
    if minor < FIRST_WITH_SLICES:
        server.faults.missing_types = {"endpointslices"}
    expected = real_servers(minor, from_slices=minor >= FIRST_WITH_SLICES)
    assert planned(server, objects_of(minor), capsys) == (expected, "")


@pytest.mark.parametrize("minor", _WITH_SLICES)
def test_endpoints_of_each_release_give_the_same_real_servers_without_slices(
    server: ApiServer, minor: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(plan_module, "LIST_TIMEOUT_S", PATIENCE_S)
    server.faults.missing_types = {"endpointslices"}
    objects = [item for item in objects_of(minor) if item["kind"] != "EndpointSlice"]
    found, logged = planned(server, objects, capsys)
    assert found == real_servers(minor, from_slices=False)
    assert logged.count("\n") == 1 and "shop/edge" in logged and "no IPv6 endpoint" in logged


def test_page_is_up_to_date() -> None:
    page = (REPOSITORY / "docs/support.md").read_text()
    assert f"{api_page.BEGIN}{api_page.table()}{api_page.END}" in page
    assert f"1.{MINORS[0]} to 1.{MINORS[-1]}" in page
