"""Checks across fields, each of which is valid by itself."""

from typing import Any

import pytest

from tests.config.build import document, from_file, problems


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        (
            {"ipvs.minSyncPeriod": "31s"},
            "ipvs.minSyncPeriod: 31s is longer than ipvs.syncPeriod, 30s (at most ipvs.syncPeriod)",
        ),
        (
            {"detectLocalMode": "BridgeInterface"},
            "detectLocal.bridgeInterface: empty, but detectLocalMode is BridgeInterface "
            "(the pods' bridge, such as cni0)",
        ),
        (
            {"detectLocalMode": "InterfaceNamePrefix", "detectLocal.bridgeInterface": "cni0"},
            "detectLocal.interfaceNamePrefix: empty, but detectLocalMode is InterfaceNamePrefix "
            "(the prefix of the pods' interfaces, such as veth)",
        ),
        (
            {"logging.format": "json", "logging.vmodule": [{"filePattern": "a", "verbosity": 1}]},
            "logging.vmodule: requires the log format text (remove it, or set logging.format: text)",
        ),
    ],
)
def test_a_contradiction_is_reported_at_the_field_to_fix(fields: dict[str, Any], problem: str) -> None:
    assert problems(document(fields)) == [problem]


def test_an_invalid_field_is_not_compared() -> None:
    [problem] = problems(document({"ipvs.minSyncPeriod": "31s", "ipvs.syncPeriod": "soon"}))
    assert problem.startswith("ipvs.syncPeriod: 'soon' is not a duration")


def test_equal_periods_are_valid() -> None:
    ipvs = from_file({"ipvs.minSyncPeriod": "10s", "ipvs.syncPeriod": "10s"}).config.ipvs
    assert ipvs.min_sync_period_s == ipvs.sync_period_s == 10


def test_every_problem_is_reported_in_the_order_of_the_fields() -> None:
    fields = {"oomScoreAdj": 2000, "bindAddress": "x", "ipvs.scheduler": "x", "clusterCIDR": "x", "conntrack": 5}
    paths = [problem.partition(":")[0] for problem in problems(document(fields))]
    assert paths == ["bindAddress", "ipvs.scheduler", "clusterCIDR", "oomScoreAdj", "conntrack"]
