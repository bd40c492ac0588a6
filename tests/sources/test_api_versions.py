"""The same cluster, served by API servers of Kubernetes 1.20 to 1.36, has the same real servers, without a warning."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from kubeproxy_py import cli
from kubeproxy_py.commands import plan as plan_module
from lab.job import REPOSITORY
from tests.apiserver import ApiServer
from tests.kubernetes_schemas import validate
from tests.sources import api_fields
from tests.sources.api_versions import (
    ADDED,
    CLUSTER_IP,
    LB_IP,
    MINORS,
    NODE,
    NODE_ADDRESS,
    PODS,
    endpoints_of,
    node,
    service_of,
)
from tests.sources.conftest import PATIENCE_S

_WITH_SCHEMA = [minor for minor in MINORS if minor >= 25]


@pytest.fixture
def server() -> Iterator[ApiServer]:
    created = ApiServer()
    created.start()
    yield created
    created.stop()


def planned(server: ApiServer, minor: int, capsys: pytest.CaptureFixture[str]) -> list[dict[str, object]]:
    """Return the steps of a first sync with a server of Kubernetes 1.*minor*; fail if a line is logged."""
    if minor < 21:
        server.faults.missing_types = {"endpointslices"}
    server.apply(node())
    server.apply(service_of(minor))
    server.apply(endpoints_of(minor))
    argv = ["plan", "--assume-empty", "--output=json", f"--hostname-override={NODE}", f"--master={server.url}"]
    assert cli.main([*argv, "--cluster-cidr=10.244.0.0/16"]) == 2
    printed = capsys.readouterr()
    assert printed.err == ""
    return list(json.loads(printed.out))


@pytest.mark.parametrize("minor", MINORS)
def test_server_of_each_version_gives_the_same_kernel_state(
    server: ApiServer, minor: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(plan_module, "LIST_TIMEOUT_S", PATIENCE_S)
    steps = planned(server, minor, capsys)
    real_servers = {str(step["key"]) for step in steps if step["kind"] == "RealServer"}
    frontends = (f"{CLUSTER_IP}:80/TCP", f"{LB_IP}:80/TCP", f"{NODE_ADDRESS}:30080/TCP")
    assert real_servers == {f"{front} -> {pod}:8080" for front in frontends for pod in PODS}


@pytest.mark.parametrize("minor", _WITH_SCHEMA)
def test_objects_are_valid_in_the_schema_of_their_version(minor: int) -> None:
    for item in (service_of(minor), endpoints_of(minor), node()):
        validate(item, f"1.{minor}")


@pytest.mark.parametrize("minor", api_fields.CLIENTS)
def test_objects_have_no_field_that_the_api_of_their_version_does_not_have(minor: int) -> None:
    types = api_fields.known()[minor]
    for item in (service_of(minor), endpoints_of(minor), node()):
        assert api_fields.unknown_fields(item, types) == []


def test_a_field_of_a_later_version_is_found() -> None:
    """Which the test above would not be worth otherwise."""
    known = api_fields.known()
    assert api_fields.unknown_fields(service_of(22), known[20]) == ["Service.spec.internalTrafficPolicy"]
    assert api_fields.unknown_fields(service_of(34), known[24]) == [
        "Service.spec.trafficDistribution",
        "Service.status.loadBalancer.ingress.ipMode",
    ]
    assert api_fields.unknown_fields(endpoints_of(21), known[20]) == ["EndpointSlice"]


def test_each_version_has_schema_or_fields_of_its_own() -> None:
    assert {*api_fields.CLIENTS, *_WITH_SCHEMA} == set(MINORS)


def test_page_lists_what_each_version_added() -> None:
    page = (REPOSITORY / "docs/support.md").read_text()
    for added in ADDED:
        assert f"| 1.{added.minor} | {added.text} |" in page
    assert f"1.{MINORS[0]} to 1.{MINORS[-1]}" in page
