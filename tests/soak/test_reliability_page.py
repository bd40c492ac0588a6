"""docs/reliability.md: its text follows from figures, and the page is the one of the figures that were measured."""

from __future__ import annotations

from dataclasses import replace

from tests.soak.faults import FAULTS, MAY_RESET
from tests.soak.reliability_page import PAGE, combine, page, read_measured
from tests.soak.report import Counts, Report, RoundResult

KILLED, FLUSHED = RoundResult(("agent killed",), 1.0, 0.0, Counts(probes=40, pings=60)), "conntrack flushed"
REPORT = Report(
    seed=5,
    duration_s=60.0,
    kernel="Linux 7.2",
    rounds=[
        KILLED,
        replace(KILLED, recovery_s=3.0),
        RoundResult(("all sets emptied",), 1.5, 1.2, Counts(probes=40, failed=10, pings=60, longest_stall_s=2.0)),
        RoundResult((FLUSHED,), 0.0, 0.0, Counts(probes=40, pings=60, reset=4)),
        RoundResult(("agent killed", FLUSHED), 2.0, 0.0, Counts(probes=40, pings=60, reset=2)),
    ],
    without_fault=Counts(probes=1000, pings=1500),
    changes=200,
    agents=4,
    resources={},
)


def row(fault: str) -> list[str]:
    text = page(combine([REPORT], MAY_RESET))
    found = next(line for line in text.splitlines() if line.startswith(f"| {fault} |"))
    return [cell.strip() for cell in found.strip("|").split("|")]


def test_row_of_a_fault_that_nobody_notices_has_its_median_and_worst_recovery() -> None:
    assert row("agent killed")[2:] == ["nothing", "2", "2.0 s", "3.0 s"]


def test_row_states_what_fails_and_how_long_connections_wait() -> None:
    seen = row("all sets emptied")[2]
    assert "10 of 40 new connections and datagrams fail, for 1.2 s (worst 1.2 s)" in seen
    assert "wait, 2.0 s at most" in seen


def test_row_of_a_fault_that_resets_connections_states_the_reason() -> None:
    assert FAULTS[FLUSHED].may_reset in row(FLUSHED)[2]


def test_every_fault_has_a_row_of_six_cells() -> None:
    rounds = [RoundResult((name,), 1.0, 0.0, Counts(probes=40, pings=60)) for name in FAULTS]
    text = page(combine([replace(REPORT, rounds=rounds)], MAY_RESET))
    rows = [line for line in text.splitlines() if line.startswith("| ")]
    assert {line.count("|") for line in rows} == {7}
    assert len(rows) == len(FAULTS) + 1


def test_first_paragraph_states_the_usual_and_the_latest_repair_of_drift() -> None:
    late = RoundResult(("a scheduler changed",), 21.4, 0.0, Counts(probes=40))
    soon = RoundResult(("a chain emptied",), 0.4, 0.0, Counts(probes=40))
    text = page(combine([replace(REPORT, rounds=[*REPORT.rounds, late, soon])], MAY_RESET))
    assert "was back within 1.5 s for half of the faults, the latest after 21 s (a scheduler changed)." in text


def test_first_paragraph_states_the_share_of_connections_that_failed() -> None:
    text = page(combine([REPORT], MAY_RESET))
    assert "0.00% (0 of 1,000) and 0.83% (10 of 1,200)" in text


def test_several_reports_are_counted_together() -> None:
    measured = combine([REPORT, replace(REPORT, seed=6)], MAY_RESET)
    assert (measured.seeds, measured.injected, measured.pairs, measured.all.reset) == ([5, 6], 12, 2, 12)


def test_resets_by_faults_that_must_not_are_counted() -> None:
    assert combine([REPORT], MAY_RESET).resets_by_others == 0
    assert combine([REPORT], frozenset()).resets_by_others == 6


def test_page_is_the_one_of_the_measured_figures() -> None:
    assert PAGE.read_text() == page(read_measured()), "hint: make reliability-page"


def test_measured_figures_are_of_known_faults_and_have_no_unexpected_reset() -> None:
    measured = read_measured()
    assert set(measured.faults) <= set(FAULTS)
    assert measured.resets_by_others == 0
