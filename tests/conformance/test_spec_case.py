"""Reading written cases: what is said counts, and what can't be understood is Malformed."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.conformance.case import Case, Malformed
from tests.conformance.expect import expected_lines
from tests.conformance.find import find_cases, read_case
from tests.conformance.objects import endpoint_slice, expand, service, words

TESTS = Path(__file__).resolve().parents[1]
WRITTEN = find_cases(TESTS / "spec_cases")
LEAST: dict[str, Any] = {"says": "nothing", "spec": "0", "expect": {}}


def read(folder: Path, **said: Any) -> Case:
    path = folder / "case.yaml"
    path.write_text(yaml.safe_dump({**LEAST, **said}))
    return read_case(path)


@pytest.mark.parametrize("path", WRITTEN, ids=lambda path: path.stem)
def test_each_written_case_can_be_judged(path: Path) -> None:
    assert all(stage.expected["ipset-save.txt"] for stage in read_case(path).stages)


def test_there_are_many_and_no_two_show_the_same() -> None:
    rules = [yaml.safe_load(path.read_text())["says"] for path in WRITTEN]
    assert (len(rules) >= 30, len(set(rules))) == (True, len(rules))


@pytest.mark.parametrize(
    ("said", "complaint"),
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
def test_what_is_not_understood_is_named(tmp_path: Path, said: dict[str, Any], complaint: str) -> None:
    document = {key: value for key, value in {**LEAST, **said}.items() if value is not None}
    path = tmp_path / "case.yaml"
    path.write_text(yaml.safe_dump(document))
    with pytest.raises(Malformed, match=re.escape(complaint)):
        read_case(path)


def test_a_step_changes_what_it_names_and_no_more(tmp_path: Path) -> None:
    steps = [{"less": {"services": {"one": None}, "expect": {"addresses": "10.96.0.2"}}}]
    expect = {"addresses": "10.96.0.[1-2]", "timeouts": "1 2 3"}
    services = {name: {"ip": ip, "ports": [80]} for name, ip in (("one", "10.96.0.1"), ("two", "10.96.0.2"))}
    stage = read(tmp_path, services=services, steps=steps, expect=expect).stages[1]
    names = [each["metadata"]["name"] for each in yaml.safe_load_all(stage.objects)]
    assert (names, stage.expected["addresses.txt"]) == (["node-a", "node-b", "two"], ["inet 10.96.0.2/32"])
    assert stage.expected["timeouts.txt"] == ["Timeout (tcp tcpfin udp): 1 2 3"]


def test_ranges_are_expanded() -> None:
    assert expand("10.[1-2].[9-10]") == ["10.1.9", "10.1.10", "10.2.9", "10.2.10"]
    assert words(["a[1-2] b", 3]) == ["a1", "a2", "b", "3"]


def test_a_service_is_written_as_the_api_would_serve_it() -> None:
    made = service(
        "shop/web", {"ip": "10.96.0.1 fd00::1", "ports": ["http 80/UDP node 30080"], "ingress": ["203.0.113.1"]}
    )
    assert made["metadata"] == {"name": "web", "namespace": "shop"}
    assert made["spec"]["ipFamilies"] == ["IPv4", "IPv6"]
    assert made["spec"]["ports"] == [{"name": "http", "port": 80, "protocol": "UDP", "nodePort": 30080}]
    assert made["status"]["loadBalancer"]["ingress"] == [{"ip": "203.0.113.1", "ipMode": "VIP"}]


def test_an_endpoint_has_the_conditions_that_it_is_given_and_no_others() -> None:
    made = endpoint_slice("web-1", {"of": "web", "endpoints": ["10.244.1.5 node-a not-ready terminating zones=a+b"]})
    assert made["endpoints"] == [
        {
            "addresses": ["10.244.1.5"],
            "conditions": {"ready": False, "terminating": True},
            "nodeName": "node-a",
            "hints": {"forZones": [{"name": "a"}, {"name": "b"}]},
        }
    ]


def test_a_rule_of_a_set_stands_with_its_entries_and_in_its_family() -> None:
    lines = expected_lines({"sets": {"KUBE-6-LOOP-BACK": "fd00::1,tcp:80,="}}, settings=False)
    assert "add KUBE-6-LOOP-BACK fd00::1,tcp:80,fd00::1" in lines["ipset-save.txt"]
    assert any("--match-set KUBE-6-LOOP-BACK" in line for line in lines["ip6tables-save.txt"])
    assert not any("--match-set KUBE-LOOP-BACK" in line for line in lines["iptables-save.txt"])


def test_the_baseline_is_what_was_recorded_without_a_service() -> None:
    """The IPv6 side of a recording that has no IPv6 Service."""
    recorded = read_case(TESTS / "recorded_cases" / "clusterip").stages[0].expected
    baseline = expected_lines({}, settings=True)
    assert recorded["ip6tables-save.txt"] == baseline["ip6tables-save.txt"]
    assert recorded["sysctls.txt"] == baseline["sysctls.txt"]
    headers = [line for line in recorded["ipset-save.txt"] if line.startswith("create")]
    assert headers == baseline["ipset-save.txt"]
