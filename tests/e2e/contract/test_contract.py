"""Requests for each row of the contract, in each configuration, to a node where the agent runs; and traces of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import pytest

from kubeproxy_py.diagnose.trace.result import Trace
from tests.e2e.client_requests import Request, RequestResult
from tests.e2e.contract.ends import Case, cases, is_dropped_at_once, is_refused_by_host
from tests.e2e.contract.sending import SETTINGS, Run, Setting, running
from tests.e2e.contract.table import CONFIGURATIONS, DIFFERENCES, ROWS, Row
from tests.e2e.manifests import Folder
from tests.e2e.tracing import MODES, Mode, asked, disagreement, tracings

pytestmark = pytest.mark.kernel

_DISTINCT_ROWS_MIN = 99
_TRACED = tuple(setting for setting in SETTINGS if setting.policies == "exact")

Traces = Mapping[tuple[Mode, Request], Trace]


class Sent(NamedTuple):
    """What became of all requests, and what traces say of them, in settings in which they are traced."""

    run: Run
    traces: Traces


@pytest.fixture(scope="module", params=SETTINGS, ids=str)
def sent(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sent]:
    folder = Folder(tmp_path_factory.mktemp("manifests"))
    setting: Setting = request.param
    with running(setting, folder) as run:
        yield Sent(run, _traces(run, folder) if setting in _TRACED else {})


def _traces(run: Run, folder: Folder) -> Traces:
    with tracings(run.cluster, folder.path, **run.setting.flags) as made:
        return {(mode, request): made[mode].trace(asked(request)) for mode in MODES for request in run.results}


@pytest.mark.parametrize("row", ROWS, ids=str)
def test_request_ends_as_its_row_says(sent: Sent, row: Row) -> None:
    run = sent.run
    disagreements = [case.disagreement(run.results[case.request]) for case in cases(*run.setting, row)]
    assert [text for text in disagreements if text] == []


@pytest.mark.parametrize("row", ROWS, ids=str)
def test_traces_say_what_packets_meet(sent: Sent, row: Row) -> None:
    all_cases = cases(*sent.run.setting, row) if sent.traces else []
    found = {f"{mode}: {case.request}": _trace_disagreement(sent, mode, case) for mode in MODES for case in all_cases}
    assert {what: text for what, text in found.items() if text} == {}


def _trace_disagreement(sent: Sent, mode: Mode, case: Case) -> str:
    traced = sent.traces[mode, case.request]
    if case.fate.end == "host":  # whether a program of the host listens need not be known
        fate = traced.outcomes[0].fate
        return "" if traced.is_certain and fate in ("host", "refused") else fate
    return disagreement(traced, _as_traced(sent.run.results[case.request]))


def _as_traced(results: Counter[RequestResult]) -> Counter[RequestResult]:
    """Return *results* with the words of a trace for what the sender's kernel says of its own packets."""
    return Counter({_word(result): count for result, count in results.items()})


def _word(result: RequestResult) -> RequestResult:
    if is_refused_by_host(result):
        return RequestResult("refused")
    return RequestResult("dropped") if is_dropped_at_once(result) else result


def test_no_two_rows_describe_the_same_request() -> None:
    requests = Counter(case.request for row in ROWS for case in cases("kube-proxy", CONFIGURATIONS[0], row))
    assert [request for request, rows in requests.items() if rows > 1] == []


def test_the_contract_is_complete() -> None:
    assert len({(row.service, row.front, row.client) for row in ROWS}) >= _DISTINCT_ROWS_MIN


def test_each_difference_has_a_row() -> None:
    assert {differs.why for row in ROWS for differs in row.differs.values()} == set(DIFFERENCES)
