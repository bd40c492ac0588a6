"""Reading spec cases: anything that is not understood makes a case malformed."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.conformance.case import Case, MalformedCaseError
from tests.conformance.case_files import find_cases, read_case
from tests.conformance.expectation import expected_lines
from tests.conformance.objects import endpoint_slice, expand, service, words

TESTS = Path(__file__).resolve().parents[1]
SPEC_CASES = find_cases(TESTS / "spec_cases")
MINIMAL: dict[str, Any] = {"rule": "nothing", "upstream": "none", "expect": {}}


def read(folder: Path, **fields: Any) -> Case:
    path = folder / "case.yaml"
    path.write_text(yaml.safe_dump({**MINIMAL, **fields}))
    return read_case(path)


@pytest.mark.parametrize("path", SPEC_CASES, ids=lambda path: path.stem)
def test_each_spec_case_can_be_read(path: Path) -> None:
    assert all(stage.expected["ipset-save.txt"] for stage in read_case(path).stages)


def test_there_are_many_spec_cases_with_distinct_rules() -> None:
    rules = [yaml.safe_load(path.read_text())["rule"] for path in SPEC_CASES]
    assert (len(rules) >= 30, len(set(rules))) == (True, len(rules))


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({"serivces": {}}, "unknown serivces"),
        ({"expect": {"server": []}}, "unknown server"),
        ({"expect": {"servers": ["10.96.0.1:80"]}}, "not a virtual server"),
        ({"expect": {"sets": {"KUBE-CLUSTER": "1"}}}, "KUBE-CLUSTER is no set"),
        ({"expect": {"sets": {"KUBE-IPVS-IPS": "10.96.0.1"}}}, "follows from the addresses"),
        ({"services": {"web": {"ports": ["http"]}}}, "'http' is not a port"),
        ({"slices": {"web": {"endpoint": []}}}, "unknown endpoint"),
        ({"slices": {"web": {"endpoints": ["10.244.1.5 redy"]}}}, "unknown word 'redy'"),
        ({"node": {"zones": "zone-b"}}, "zones"),
        ({"steps": [{"one": {"service": {}}}]}, "step 1"),
        ({"expect": None}, "no expect"),
    ],
)
def test_error_names_what_is_not_understood(tmp_path: Path, fields: dict[str, Any], error: str) -> None:
    document = {key: value for key, value in {**MINIMAL, **fields}.items() if value is not None}
    path = tmp_path / "case.yaml"
    path.write_text(yaml.safe_dump(document))
    with pytest.raises(MalformedCaseError, match=re.escape(error)):
        read_case(path)


def test_step_changes_only_what_it_mentions(tmp_path: Path) -> None:
    steps = [{"less": {"services": {"one": None}, "expect": {"addresses": "10.96.0.2"}}}]
    expect = {"addresses": "10.96.0.[1-2]", "timeouts": "1 2 3"}
    services = {name: {"ip": ip, "ports": [80]} for name, ip in (("one", "10.96.0.1"), ("two", "10.96.0.2"))}
    stage = read(tmp_path, services=services, steps=steps, expect=expect).stages[1]
    names = [document["metadata"]["name"] for document in yaml.safe_load_all(stage.objects)]
    assert (names, stage.expected["addresses.txt"]) == (["node-a", "node-b", "two"], ["inet 10.96.0.2/32"])
    assert stage.expected["timeouts.txt"] == ["Timeout (tcp tcpfin udp): 1 2 3"]


def test_ranges_are_expanded() -> None:
    assert expand("10.[1-2].[9-10]") == ["10.1.9", "10.1.10", "10.2.9", "10.2.10"]
    assert words(["a[1-2] b", 3]) == ["a1", "a2", "b", "3"]


def test_service_has_the_form_of_the_api() -> None:
    built = service(
        "shop/web", {"ip": "10.96.0.1 fd00::1", "ports": ["http 80/UDP node 30080"], "ingress": ["203.0.113.1"]}
    )
    assert built["metadata"] == {"name": "web", "namespace": "shop"}
    assert built["spec"]["ipFamilies"] == ["IPv4", "IPv6"]
    assert built["spec"]["ports"] == [{"name": "http", "port": 80, "protocol": "UDP", "nodePort": 30080}]
    assert built["status"]["loadBalancer"]["ingress"] == [{"ip": "203.0.113.1", "ipMode": "VIP"}]


def test_endpoint_has_only_the_given_conditions() -> None:
    built = endpoint_slice("web-1", {"of": "web", "endpoints": ["10.244.1.5 node-a not-ready terminating zones=a+b"]})
    assert built["endpoints"] == [
        {
            "addresses": ["10.244.1.5"],
            "conditions": {"ready": False, "terminating": True},
            "nodeName": "node-a",
            "hints": {"forZones": [{"name": "a"}, {"name": "b"}]},
        }
    ]


def test_rule_on_a_set_exists_with_entries_of_its_family() -> None:
    lines = expected_lines({"sets": {"KUBE-6-LOOP-BACK": "fd00::1,tcp:80,="}}, sysctls=False)
    assert "add KUBE-6-LOOP-BACK fd00::1,tcp:80,fd00::1" in lines["ipset-save.txt"]
    assert any("--match-set KUBE-6-LOOP-BACK" in line for line in lines["ip6tables-save.txt"])
    assert not any("--match-set KUBE-LOOP-BACK" in line for line in lines["iptables-save.txt"])


def test_baseline_equals_a_recording_without_services() -> None:
    """The IPv6 side of a recording that has no IPv6 Service."""
    recorded = read_case(TESTS / "recorded_cases" / "clusterip").stages[0].expected
    baseline = expected_lines({}, sysctls=True)
    assert recorded["ip6tables-save.txt"] == baseline["ip6tables-save.txt"]
    assert recorded["sysctls.txt"] == baseline["sysctls.txt"]
    headers = [line for line in recorded["ipset-save.txt"] if line.startswith("create")]
    assert headers == baseline["ipset-save.txt"]
