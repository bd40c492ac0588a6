"""The cases written from the specification, on a real kernel: in one life of the agent, and in several."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.conformance.find import find_cases
from tests.conformance.lives import run_in_one_life, run_in_several_lives
from tests.conformance.node import pristine_node
from tests.conformance.verdict import Verdict

pytestmark = pytest.mark.kernel

TESTS = Path(__file__).resolve().parents[1]
RECORDED, WRITTEN = find_cases(TESTS / "recorded_cases"), find_cases(TESTS / "spec_cases")


@pytest.fixture(scope="module", autouse=True)
def _node() -> Iterator[None]:
    with pristine_node():
        yield


def _assert_equal(verdict: Verdict) -> None:
    assert verdict.is_equal, "\n".join(verdict.lines())


@pytest.mark.parametrize("path", WRITTEN, ids=lambda path: path.stem)
def test_kernel_state_is_what_the_specification_says(path: Path) -> None:
    _assert_equal(run_in_one_life(path))


@pytest.mark.parametrize("path", [*RECORDED, *WRITTEN], ids=lambda path: path.stem)
def test_restarted_half_way_and_in_reverse_it_gets_there_and_cuts_nothing(path: Path) -> None:
    _assert_equal(run_in_several_lives(path))


_CASE: dict[str, Any] = {
    "says": "A Service of which something else is expected differs.",
    "spec": "none",
    "services": {"web": {"ip": "10.96.99.1", "ports": [80]}},
    "slices": {"web-1": {"of": "web", "ports": [8080], "endpoints": ["10.244.1.5 node-a"]}},
    "expect": {
        "servers": ["tcp 10.96.99.1:80 -> 10.244.1.5:8080"],
        "addresses": "10.96.99.1",
        "sets": {"KUBE-CLUSTER-IP": "10.96.99.1,tcp:80", "KUBE-LOOP-BACK": "10.244.1.5,tcp:8080,="},
    },
}


@pytest.mark.parametrize(
    ("other", "differing"),
    [
        ({"servers": ["tcp 10.96.99.1:80"]}, {"ipvsadm-save.txt"}),
        ({"scheduler": "wrr"}, {"ipvsadm-save.txt"}),
        ({"addresses": ""}, {"addresses.txt", "ipset-save.txt"}),
        ({"sets": {"KUBE-CLUSTER-IP": "10.96.99.1,tcp:80"}}, {"ipset-save.txt", "iptables-save.txt"}),
        ({"drop": "10.96.99.1,tcp:80"}, {"iptables-save.txt"}),
        ({"not-local": {"IPv4": "src,dst"}}, {"iptables-save.txt"}),
        ({"mark": "0x8000"}, {"iptables-save.txt", "ip6tables-save.txt"}),
        ({"timeouts": "900 120 301"}, {"timeouts.txt"}),
        ({"sysctls": {"net/ipv4/ip_forward": 0}}, {"sysctls.txt"}),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_whatever_is_expected_otherwise_is_told(tmp_path: Path, other: dict[str, Any], differing: set[str]) -> None:
    path = tmp_path / "case.yaml"
    path.write_text(yaml.safe_dump({**_CASE, "expect": {**_CASE["expect"], **other}}))
    assert set(run_in_one_life(path).differing["start"]) == differing


def test_preparations_that_fail_are_trouble(tmp_path: Path) -> None:
    path = tmp_path / "case.yaml"
    path.write_text(yaml.safe_dump({**_CASE, "before": "echo half; false; true"}))
    assert "ended with status 1: half" in run_in_one_life(path).trouble
