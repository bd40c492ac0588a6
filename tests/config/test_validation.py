"""Fields that are right alone and do not fit together."""

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
            "detectLocal.bridgeInterface: empty, and detectLocalMode is BridgeInterface "
            "(the pods' bridge, such as cni0)",
        ),
        (
            {"detectLocalMode": "InterfaceNamePrefix", "detectLocal.bridgeInterface": "cni0"},
            "detectLocal.interfaceNamePrefix: empty, and detectLocalMode is InterfaceNamePrefix "
            "(how the pods' interfaces begin, such as veth)",
        ),
        (
            {"logging.format": "json", "logging.vmodule": [{"filePattern": "a", "verbosity": 1}]},
            "logging.vmodule: needs the log format text (leave it out, or logging.format: text)",
        ),
    ],
)
def test_a_contradiction_is_told_at_the_field_to_mend(fields: dict[str, Any], problem: str) -> None:
    assert problems(document(fields)) == [problem]


def test_a_field_that_could_not_be_read_is_not_compared() -> None:
    [problem] = problems(document({"ipvs.minSyncPeriod": "31s", "ipvs.syncPeriod": "soon"}))
    assert problem.startswith("ipvs.syncPeriod: 'soon' is not a duration")


def test_equal_periods_are_fine() -> None:
    ipvs = from_file({"ipvs.minSyncPeriod": "10s", "ipvs.syncPeriod": "10s"}).config.ipvs
    assert ipvs.min_sync_period_s == ipvs.sync_period_s == 10


def test_all_problems_are_told_at_once_in_the_order_of_the_fields() -> None:
    fields = {"oomScoreAdj": 2000, "bindAddress": "x", "ipvs.scheduler": "x", "clusterCIDR": "x", "conntrack": 5}
    found = [problem.partition(":")[0] for problem in problems(document(fields))]
    assert found == ["bindAddress", "ipvs.scheduler", "clusterCIDR", "oomScoreAdj", "conntrack"]
