"""What `trace` says of each request of the policies table is what the packets of the request met."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import pytest

from kubeproxy_py.diagnose.trace.result import Trace
from lab.echo import PROTOCOLS, EchoServers, Listener
from lab.network import BY_NAME
from tests.e2e.agent_process import AgentProcess
from tests.e2e.client_requests import Request, RequestResult, Series, send_series
from tests.e2e.manifests import Folder
from tests.e2e.policies_services import HOST_PORT, SERVED, objects, place
from tests.e2e.policies_table import BOUND_NODE, CASES, Case
from tests.e2e.serving import cluster_and_servers
from tests.e2e.tracing import MODES, Mode, asked, disagreement, tracings

pytestmark = pytest.mark.kernel

TIMES = 2  # one round of rr: no Service has more pods


class Run(NamedTuple):
    """What packets met, and what the traces say, by request."""

    results: Mapping[Request, Counter[RequestResult]]
    traces: Mapping[tuple[Mode, Request], Trace]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    folder = Folder(tmp_path_factory.mktemp("manifests"))
    folder.write("all", objects())
    requests = {request_of(case): Series(TIMES, case.row.fate.waits_s) for case in CASES}
    with (
        cluster_and_servers() as (cluster, servers),
        EchoServers(Listener("node-a", cluster.node_a, protocol, HOST_PORT) for protocol in PROTOCOLS),
        AgentProcess(cluster.node_a, folder.path) as agent,
    ):
        agent.wait_synced()
        results = send_series(cluster, servers, requests)
        with tracings(cluster, folder.path) as made:
            traces = {(mode, request): made[mode].trace(asked(request)) for mode in MODES for request in requests}
        yield Run(results, traces)


def request_of(case: Case) -> Request:
    address, port = place(SERVED[case.service], case.front, case.version)
    if case.client == BOUND_NODE:
        node = BY_NAME["node-a"]
        return Request("node-a", case.protocol, address, port, node.ipv4 if case.version == 4 else node.ipv6)
    return Request(case.client, case.protocol, address, port)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_trace_says_what_packets_meet(run: Run, case: Case, mode: Mode) -> None:
    request = request_of(case)
    assert disagreement(run.traces[mode, request], run.results[request]) == ""


def test_every_answer_that_was_lost_was_foretold(run: Run) -> None:
    """A note about lost answers is not there for every packet, or it would say nothing."""
    noted = {request for (_, request), trace in run.traces.items() if trace.outcomes[0].notes}
    lost = {request for request, results in run.results.items() if any(result.outcome == "lost" for result in results)}
    assert lost
    assert lost <= noted
    assert len(noted) < len(run.results) / 2
