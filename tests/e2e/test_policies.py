"""Traffic policies on a real kernel: requests for each row of the table, to a node where the agent runs."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator, Mapping

import pytest

from lab.echo import PROTOCOLS, EchoServers, Listener
from lab.network import BY_NAME
from tests.e2e.agent_process import AgentProcess
from tests.e2e.client_requests import Request, RequestResult, Series, send_series
from tests.e2e.manifests import Folder
from tests.e2e.policies_differences import DIFFERENCES
from tests.e2e.policies_services import ALL_FRONTS, HOST_PORT, SERVED, VERSIONS, Version, objects, place
from tests.e2e.policies_table import ALL_CLIENTS, BOUND_NODE, CASES, ROWS, Case, SourceSeen
from tests.e2e.serving import cluster_and_servers

pytestmark = pytest.mark.kernel

TIMES = 2  # one round of rr: no Service has more pods

# The source address that a pod sees when node A masquerades: that of the interface towards the pod.
_MASQUERADED = {
    4: {"node-a": "10.244.1.1", "node-b": "192.168.3.10"},
    6: {"node-a": "fd00:10:244:1::1", "node-b": "fd00:3::10"},
}


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mapping[Request, Counter[RequestResult]]]:
    """The results of the requests of all cases, sent at once because each lost one takes a second."""
    folder = Folder(tmp_path_factory.mktemp("manifests"))
    folder.write("all", objects())
    with (
        cluster_and_servers() as (cluster, servers),
        EchoServers(Listener("node-a", cluster.node_a, protocol, HOST_PORT) for protocol in PROTOCOLS),
        AgentProcess(cluster.node_a, folder.path) as agent,
    ):
        agent.wait_synced()
        yield send_series(cluster, servers, {request_of(case): Series(TIMES, case.row.fate.waits_s) for case in CASES})


def request_of(case: Case) -> Request:
    address, port = place(SERVED[case.service], case.front, case.version)
    if case.client == BOUND_NODE:
        return Request("node-a", case.protocol, address, port, _own_address("node-a", case.version))
    return Request(case.client, case.protocol, address, port)


def expected_of(case: Case) -> Counter[RequestResult]:
    """The results that the row expects; each pod gets its exact share."""
    answered, lost, end = case.row.fate
    if end == "refused":
        return Counter({RequestResult("refused"): TIMES})
    unanswered = case.protocol != "udp"
    if end == "dropped":
        return Counter({RequestResult("unanswered" if unanswered else "dropped"): TIMES})
    expected = Counter[RequestResult]()
    share = TIMES // len(answered | lost)
    for pod, source in answered.items():
        expected[RequestResult("answered", pod, _address(case, pod, source))] += share
    for pod, source in lost.items():
        expected[
            RequestResult("unanswered") if unanswered else RequestResult("lost", pod, _address(case, pod, source))
        ] += share
    return expected


def _address(case: Case, pod: str, source: SourceSeen) -> str:
    """The source address that *pod* sees."""
    match source:
        case "own":
            return _own_address(request_of(case).client, case.version)
        case "node":
            return _MASQUERADED[case.version][BY_NAME[pod].plugged_into]
        case "front":
            return place(SERVED[case.service], case.front, case.version)[0]


def _own_address(machine: str, version: Version) -> str:
    return BY_NAME[machine].ipv4 if version == 4 else BY_NAME[machine].ipv6


@pytest.mark.parametrize("case", CASES, ids=str)
def test_request_has_the_result_of_its_row(results: Mapping[Request, Counter[RequestResult]], case: Case) -> None:
    assert results[request_of(case)] == expected_of(case)


def test_every_policy_is_tested_by_every_client_at_every_frontend() -> None:
    tested = {(case.service, case.front, case.client, case.version, case.protocol) for case in CASES}
    services = [
        f"{where}{policies}"
        for where in ("near", "far")
        for policies in ("", ", external Local", ", internal Local", ", both Local")
    ]
    required = itertools.product(services, ALL_FRONTS, ALL_CLIENTS, VERSIONS, ("tcp", "udp"))
    assert set(required) <= tested


def test_no_two_rows_describe_the_same_request() -> None:
    assert [request for request, rows in Counter(map(request_of, CASES)).items() if rows > 1] == []


def test_each_difference_from_iptables_mode_has_a_row() -> None:
    assert {name for row in ROWS for name in row.differs} == set(DIFFERENCES)
