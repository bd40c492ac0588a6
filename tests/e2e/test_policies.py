"""Traffic policies on a real kernel: each row of the table, asked of a node that the agent keeps."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator, Mapping

import pytest

from lab.echo import PROTOCOLS, EchoServers, Listener
from lab.network import BY_NAME
from tests.e2e.agent_process import AgentProcess
from tests.e2e.client_requests import Met, Request, ask_all
from tests.e2e.manifests import Folder
from tests.e2e.policies_differences import DIFFERENCES
from tests.e2e.policies_services import ALL_FRONTS, HOST_PORT, SERVED, VERSIONS, Version, objects, place
from tests.e2e.policies_table import BOUND_NODE, CASES, EVERYONE, ROWS, Case, Seen
from tests.e2e.serving import cluster_and_servers

pytestmark = pytest.mark.kernel

TIMES = 2  # a round of rr: no Service has more pods

# What node A shows to a pod when it masquerades: the address of its interface towards it.
_MASQUERADED = {
    4: {"node-a": "10.244.1.1", "node-b": "192.168.3.10"},
    6: {"node-a": "fd00:10:244:1::1", "node-b": "fd00:3::10"},
}


@pytest.fixture(scope="module")
def met(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mapping[Request, Counter[Met]]]:
    """What the requests of all cases met: made at once, for each that is lost costs a second."""
    folder = Folder(tmp_path_factory.mktemp("manifests"))
    folder.put("all", objects())
    with (
        cluster_and_servers() as (cluster, servers),
        EchoServers(Listener("node-a", cluster.node_a, protocol, HOST_PORT) for protocol in PROTOCOLS),
        AgentProcess(cluster.node_a, folder.path) as agent,
    ):
        agent.wait_synced()
        yield ask_all(cluster, servers, {request_of(case) for case in CASES}, TIMES)


def request_of(case: Case) -> Request:
    address, port = place(SERVED[case.service], case.front, case.version)
    if case.client == BOUND_NODE:
        return Request("node-a", case.protocol, address, port, _own_address("node-a", case.version))
    return Request(case.client, case.protocol, address, port)


def expected_of(case: Case) -> Counter[Met]:
    """The row's words as addresses; each pod gets its exact share."""
    answered, lost, end = case.row.fate
    if end == "refused":
        return Counter({Met("refused"): TIMES})
    unanswered = case.protocol != "udp"
    if end == "dropped":
        return Counter({Met("unanswered" if unanswered else "dropped"): TIMES})
    expected = Counter[Met]()
    share = TIMES // len(answered | lost)
    for pod, saw in answered.items():
        expected[Met("answered", pod, _address(case, pod, saw))] += share
    for pod, saw in lost.items():
        expected[Met("unanswered") if unanswered else Met("lost", pod, _address(case, pod, saw))] += share
    return expected


def _address(case: Case, pod: str, saw: Seen) -> str:
    """The address that *pod* sees; a Row's words for it are `Seen`."""
    match saw:
        case "own":
            return _own_address(request_of(case).client, case.version)
        case "node":
            return _MASQUERADED[case.version][BY_NAME[pod].plugged_into]
        case "front":
            return place(SERVED[case.service], case.front, case.version)[0]


def _own_address(machine: str, version: Version) -> str:
    return BY_NAME[machine].ipv4 if version == 4 else BY_NAME[machine].ipv6


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_request_meets_the_fate_of_its_row(met: Mapping[Request, Counter[Met]], case: Case) -> None:
    assert met[request_of(case)] == expected_of(case)


def test_every_policy_is_asked_by_every_client_at_every_front() -> None:
    asked = {(case.service, case.front, case.client, case.version, case.protocol) for case in CASES}
    services = [
        f"{where}{policies}"
        for where in ("near", "far")
        for policies in ("", ", external Local", ", internal Local", ", both Local")
    ]
    wanted = itertools.product(services, ALL_FRONTS, EVERYONE, VERSIONS, ("tcp", "udp"))
    assert set(wanted) <= asked


def test_no_two_rows_speak_of_one_request() -> None:
    assert [request for request, rows in Counter(map(request_of, CASES)).items() if rows > 1] == []


def test_each_difference_from_iptables_mode_is_seen_in_some_row() -> None:
    assert {name for row in ROWS for name in row.differs} == set(DIFFERENCES)
