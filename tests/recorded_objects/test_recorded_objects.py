"""What the agent makes of the objects that real API servers served: the expected state, written by hand."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

from kubeproxy_py import cli
from kubeproxy_py.sources.kubernetes.resources import SERVICES as SERVICE_RESOURCE
from kubeproxy_py.sources.kubernetes.resources import SLICES
from lab.job import REPOSITORY
from tests.recorded_objects import Json, recorded, versions
from tests.recorded_objects.written import NODE, SERVICES

NEAR, BOTH = "1", "12"  # the nodes with the endpoints, by their pod networks
# Each frontend, with the number of its pods and its target port.
FRONTENDS = {
    "10.96.1.1:80/TCP": (1, 8080),
    "10.96.1.1:53/UDP": (1, 5353),
    "10.96.1.1:3868/SCTP": (1, 3868),
    "10.96.1.2:443/TCP": (2, 443),
    "10.96.1.3:80/TCP": (5, 8080),
    "203.0.113.3:80/TCP": (5, 8080),
    "10.96.1.4:80/TCP": (6, 8080),
    "10.96.1.5:80/TCP": (7, 8080),
    "10.96.1.5:53/UDP": (7, 5353),
    "192.168.3.10:30080/TCP": (7, 8080),
    "192.168.3.10:30053/UDP": (7, 5353),
    "10.96.1.6:80/TCP": (8, 8080),
    "10.96.1.7:80/TCP": (9, 8080),
    "203.0.113.7:80/TCP": (9, 8080),
    "192.168.3.10:30081/TCP": (9, 8080),
    "10.96.1.8:80/TCP": (10, 8080),
    "10.96.1.10:80/TCP": (12, 8080),
}
# Frontends whose endpoints are not on both nodes, by the first version (of Kubernetes 1.) that has the field.
NEAR_SINCE = {
    "203.0.113.7:80/TCP": 0,  # externalTrafficPolicy: Local
    "192.168.3.10:30081/TCP": 0,
    "10.96.1.6:80/TCP": 22,  # internalTrafficPolicy: Local
    "10.96.1.8:80/TCP": 24,  # hints of endpoints, whether or not the Service asks for them, as in kube-proxy
}
SELECTOR_SINCE = 31  # of Kubernetes 1.: spec.clusterIP
ENTRIES = {
    "KUBE-EXTERNAL-IP 203.0.113.3,tcp:80",
    "KUBE-LOAD-BALANCER 203.0.113.7,tcp:80",
    "KUBE-LOAD-BALANCER-FW 203.0.113.7,tcp:80",
    "KUBE-LOAD-BALANCER-LOCAL 203.0.113.7,tcp:80",
    "KUBE-LOAD-BALANCER-SOURCE-CIDR 203.0.113.7,tcp:80,198.51.100.0/24",
    "KUBE-NODE-PORT-TCP 30080",
    "KUBE-NODE-PORT-TCP 30081",
    "KUBE-NODE-PORT-LOCAL-TCP 30081",
    "KUBE-NODE-PORT-UDP 30053",
    "KUBE-HEALTH-CHECK-NODE-PORT 30082",
}
_OF_ALL = ("KUBE-CLUSTER-IP", "KUBE-IPVS-IPS", "KUBE-LOOP-BACK")  # sets that follow from the frontends above

Planned = tuple[str, list[Json]]


@pytest.fixture(params=versions())
def planned(request: pytest.FixtureRequest, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Iterator[Planned]:
    """Return a version, and the steps of a first sync with its objects."""
    lists = recorded(request.param)
    items = [
        {"apiVersion": listed["apiVersion"], "kind": listed["kind"].removesuffix("List"), **item}
        for path, listed in lists.items()
        for item in listed["items"]
        if SLICES.path not in lists or SLICES.fallback is None or path != SLICES.fallback.path
    ]
    (tmp_path / "all.json").write_text(json.dumps({"apiVersion": "v1", "kind": "List", "items": items}))
    argv = ["plan", "--assume-empty", "--output=json", f"--manifests={tmp_path}", f"--hostname-override={NODE}"]
    assert cli.main([*argv, "--cluster-cidr=10.244.0.0/16"]) == 2
    printed = capsys.readouterr()
    # Nobody writes the endpoints of the server's own Service, and nothing else is wrong.
    assert [line for line in printed.err.splitlines() if "service: default/kubernetes;" not in line and line] == []
    yield request.param, json.loads(printed.out)


def test_oldest_and_a_current_version_are_recorded() -> None:
    assert {"1.20.2", "1.36.2"} <= set(versions())


def test_page_lists_the_recorded_releases() -> None:
    _, _, section = (REPOSITORY / "docs/support.md").read_text().partition("### Recorded servers\n\n")
    table, _, _ = section.partition("\n\n")
    rows = [line.split("|")[1].split(", ") for line in table.splitlines()[2:]]
    assert sorted(name.strip() for row in rows for name in row) == sorted(versions())


def test_each_frontend_has_the_endpoints_that_its_fields_name(planned: Planned) -> None:
    version, steps = planned
    minor = _minor(version)
    found = defaultdict(set)
    for step in steps:
        if step["kind"] == "RealServer":
            frontend, _, endpoint = str(step["key"]).partition(" -> ")
            found[frontend].add(endpoint)
    assert found == {
        frontend: {f"10.244.{node}.{pod}:{port}" for node in (NEAR if minor >= NEAR_SINCE.get(frontend, 99) else BOTH)}
        for frontend, (pod, port) in FRONTENDS.items()
    }


def test_sets_have_the_frontends_from_outside(planned: Planned) -> None:
    keys = {str(step["key"]) for step in planned[1] if step["kind"] == "IpsetEntry"}
    assert {key for key in keys if not key.startswith(_OF_ALL)} == ENTRIES


def test_affinity_has_its_timeout(planned: Planned) -> None:
    servers = {str(step["key"]): step["spec"] for step in planned[1] if step["kind"] == "VirtualServer"}
    assert {key for key, spec in servers.items() if "persistent" in spec} == {"10.96.1.4:80/TCP"}
    assert servers["10.96.1.4:80/TCP"] == "rr persistent 60"


@pytest.mark.parametrize("version", versions())
def test_services_of_other_proxies_are_not_sent(version: str) -> None:
    """And headless ones neither, where the server knows the selector."""
    names = {item["metadata"]["name"] for item in recorded(version)[SERVICE_RESOURCE.path]["items"]}
    without = {"not-ours", *(["headless"] if _minor(version) >= SELECTOR_SINCE else [])}
    assert names - {"kubernetes"} == set(SERVICES) - without


def _minor(version: str) -> int:
    return int(version.split(".")[1])
