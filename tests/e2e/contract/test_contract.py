"""Requests for each row of the contract, in each configuration, to a node where the agent runs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import pytest

from tests.e2e.agent_process import AgentProcess
from tests.e2e.client_requests import Request, RequestResult, send_series
from tests.e2e.contract.ends import cases
from tests.e2e.contract.icmp import refused_ports
from tests.e2e.contract.services import NODE_PORT_ADDRESSES, SERVICE_CIDR, contract_objects
from tests.e2e.contract.table import CONFIGURATIONS, DIFFERENCES, POLICIES, ROWS, Configuration, Policies, Row
from tests.e2e.manifests import Folder
from tests.e2e.serving import cluster_and_servers

pytestmark = pytest.mark.kernel

_DISTINCT_ROWS_MIN = 99


class Setting(NamedTuple):
    """How the agent is configured."""

    policies: Policies
    configuration: Configuration

    def __str__(self) -> str:
        return f"{self.policies}, {self.configuration}"


SETTINGS = tuple(Setting(policies, configuration) for policies in POLICIES for configuration in CONFIGURATIONS)
Results = Mapping[Request, Counter[RequestResult]]


def flags_of(setting: Setting) -> list[str]:
    flags = [f"--nodeport-addresses={NODE_PORT_ADDRESSES}"]
    if setting.policies != "kube-proxy":
        flags += [f"--policies={setting.policies}", f"--service-cidr={SERVICE_CIDR}"]
    if not setting.configuration.detector:
        flags.append("--cluster-cidr=")
    if setting.configuration.masquerade_all:
        flags.append("--masquerade-all")
    return flags


@pytest.fixture(scope="module", params=SETTINGS, ids=str)
def sent(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Setting, Results]]:
    """Yield one setting and the results of all requests, sent at once because each lost one takes a second."""
    setting: Setting = request.param
    folder = Folder(tmp_path_factory.mktemp("manifests"))
    folder.write("all", contract_objects())
    requests = {case.request: case.series for row in ROWS for case in cases(*setting, row)}
    with (
        cluster_and_servers() as (cluster, servers),
        AgentProcess(cluster.node_a, folder.path, *flags_of(setting)) as agent,
        refused_ports(cluster[name] for name in {request.client for request in requests}) as ports,
    ):
        agent.wait_synced()
        yield setting, send_series(cluster, servers, requests, ports)


@pytest.mark.parametrize("row", ROWS, ids=str)
def test_request_ends_as_its_row_says(sent: tuple[Setting, Results], row: Row) -> None:
    setting, results = sent
    all_cases = cases(*setting, row)
    disagreements = [case.disagreement(results[case.request]) for case in all_cases]
    assert [text for text in disagreements if text] == []


def test_no_two_rows_describe_the_same_request() -> None:
    requests = Counter(case.request for row in ROWS for case in cases("kube-proxy", CONFIGURATIONS[0], row))
    assert [request for request, rows in requests.items() if rows > 1] == []


def test_the_contract_is_complete() -> None:
    assert len({(row.service, row.front, row.client) for row in ROWS}) >= _DISTINCT_ROWS_MIN


def test_each_difference_has_a_row() -> None:
    assert {differs.why for row in ROWS for differs in row.differs.values()} == set(DIFFERENCES)
