"""The cases written by hand, on a real kernel: without a restart of the agent, and with several."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.conformance.case_files import find_cases
from tests.conformance.lifetimes import run_with_restarts, run_without_restart
from tests.conformance.node import pristine_node
from tests.conformance.verdict import Verdict

pytestmark = pytest.mark.kernel

TESTS = Path(__file__).resolve().parents[1]
RECORDED, SPEC = find_cases(TESTS / "recorded_cases"), find_cases(TESTS / "spec_cases")


@pytest.fixture(scope="module", autouse=True)
def _node() -> Iterator[None]:
    with pristine_node():
        yield


def _assert_equal(verdict: Verdict) -> None:
    assert verdict.is_equal, "\n".join(verdict.lines())


@pytest.mark.parametrize("path", SPEC, ids=lambda path: path.stem)
def test_kernel_state_equals_the_expectation(path: Path) -> None:
    _assert_equal(run_without_restart(path))


@pytest.mark.parametrize("path", [*RECORDED, *SPEC], ids=lambda path: path.stem)
def test_restarts_during_a_sync_reach_the_state_without_interruptions(path: Path) -> None:
    _assert_equal(run_with_restarts(path))


_CASE: dict[str, Any] = {
    "rule": "A Service of which something else is expected differs.",
    "upstream": "none",
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
def test_other_expectation_is_a_difference_in_the_right_files(
    tmp_path: Path, other: dict[str, Any], differing: set[str]
) -> None:
    path = tmp_path / "case.yaml"
    path.write_text(yaml.safe_dump({**_CASE, "expect": {**_CASE["expect"], **other}}))
    assert set(run_without_restart(path).differing["start"]) == differing


def test_failed_preparation_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "case.yaml"
    path.write_text(yaml.safe_dump({**_CASE, "before": "echo half; false; true"}))
    assert "exited with status 1: half" in run_without_restart(path).error
