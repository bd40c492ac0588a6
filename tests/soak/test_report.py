"""Attribution of probes to faults, figures of faults, and what exceeds a limit."""

from __future__ import annotations

from dataclasses import replace

import msgspec
import pytest

from tests.soak.report import (
    Counts,
    Injected,
    Kind,
    Outcome,
    Probe,
    Report,
    RoundResult,
    count,
    fault_figures,
    round_results,
    text,
    violations,
)

FLUSHED = Injected(("flushed",), 10.0, 10.1, 11.6, 11.6)
PAIR = Injected(("flushed", "killed"), 20.0, 20.5, 23.0, 23.0)
KEPT = Report(
    seed=1,
    duration_s=60.0,
    kernel="Linux 7.2",
    rounds=[RoundResult(("flushed",), 1.5, 1.0, Counts(probes=50, failed=4, pings=60))],
    without_fault=Counts(probes=1000, pings=1000),
    changes=100,
    agents=1,
    resources={"RSS MiB": (50.0, 52.0), "slab MiB": (10.0, 90.0)},
)


def probe(start_s: float, end_s: float, outcome: Outcome = "ok", kind: Kind = "new TCP") -> Probe:
    return Probe(kind, "ClusterIP", start_s, end_s, outcome)


@pytest.mark.parametrize(
    ("start_s", "end_s", "belongs_to"),
    [
        (9.0, 9.9, None),
        (9.9, 10.0, 0),  # under way when the fault came
        (10.5, 12.5, 0),
        (11.0, 21.0, 0),  # begun in the first round, ended in the second
        (11.7, 12.0, None),
        (19.0, 20.2, 1),
        (23.1, 24.0, None),
    ],
)
def test_probe_belongs_to_the_earliest_round_active_during_it(
    start_s: float, end_s: float, belongs_to: int | None
) -> None:
    results, without_fault = round_results([FLUSHED, PAIR], [probe(start_s, end_s)])
    assert [result.counts.probes for result in results] == [int(number == belongs_to) for number in (0, 1)]
    assert without_fault.probes == int(belongs_to is None)


def test_recovery_counts_from_the_injection_and_outage_from_its_start_to_the_last_failure() -> None:
    failing = [probe(10.2, 10.3, "failed"), probe(10.4, 10.9, "failed"), probe(10.95, 11.0)]
    results, _ = round_results([FLUSHED], failing)
    assert results[0].recovery_s == pytest.approx(1.5)
    assert results[0].outage_s == pytest.approx(0.9)


def test_counts_tell_held_connections_from_new_ones() -> None:
    probes = [
        probe(0.0, 0.1),
        probe(0.0, 1.5, "slow"),
        probe(0.0, 2.0, "failed", "UDP"),
        probe(0.0, 0.1, kind="held TCP"),
        probe(0.0, 3.0, "slow", "held TCP"),
        probe(0.0, 0.2, "reset", "held TCP"),
    ]
    assert count(probes) == Counts(
        probes=3, failed=1, slow=1, pings=3, reset=1, stalled=1, longest_stall_s=3.0, last_failure_s=2.0
    )


def test_figures_of_a_fault_leave_out_rounds_with_two() -> None:
    results, _ = round_results([FLUSHED, FLUSHED._replace(start_s=30.0, injected_s=30.1, recovered_s=33.1), PAIR], [])
    figures = fault_figures(results)
    assert set(figures) == {"flushed"}
    assert figures["flushed"].injected == 2
    assert figures["flushed"].recovery_median_s == pytest.approx(2.25)
    assert figures["flushed"].recovery_worst_s == pytest.approx(3.0)


def test_nothing_is_exceeded_when_all_limits_are_kept() -> None:
    assert violations(KEPT, frozenset()) == []


RESET = Counts(probes=50, pings=60, reset=1)


@pytest.mark.parametrize(
    ("report", "line"),
    [
        (replace(KEPT, rounds=[RoundResult(("flushed",), 1.5, 0.0, RESET)]), "flushed: 1 established"),
        (
            replace(KEPT, rounds=[RoundResult(("flushed", "killed"), 1.5, 0.0, RESET)]),
            "flushed + killed: 1 established",
        ),
        (replace(KEPT, rounds=[RoundResult(("flushed",), None, 0.0, Counts())]), "flushed: not recovered"),
        (replace(KEPT, without_fault=Counts(probes=1000, pings=1000, reset=1)), "no fault: 1 established"),
        (replace(KEPT, without_fault=Counts(probes=1000, failed=2)), "no fault: 2 of 1000"),
        (replace(KEPT, rounds=[RoundResult(("flushed",), 1.5, 9.0, Counts(probes=99, failed=80))]), "80 of 1099"),
        (replace(KEPT, resources={"RSS MiB": (50.0, 90.0)}), "RSS MiB of the agent grew from 50 to 90"),
        (replace(KEPT, drift_left=["ipsets: - add X"]), "drift left: ipsets: - add X"),
        (replace(KEPT, mistakes=["the agent ended by itself"]), "the agent ended by itself"),
        (replace(KEPT, rounds=[], without_fault=Counts()), "no probe was sent"),
    ],
)
def test_what_exceeds_a_limit_is_named(report: Report, line: str) -> None:
    found = violations(report, frozenset({"other"}))
    assert len(found) == 1
    assert found[0].startswith(line)


def test_fault_that_resets_connections_itself_may_do_so_alone_and_with_another() -> None:
    alone = RoundResult(("flushed",), 1.5, 0.0, RESET)
    report = replace(KEPT, rounds=[alone, replace(alone, faults=("killed", "flushed"))])
    assert violations(report, frozenset({"flushed"})) == []


def test_text_names_the_seed_the_faults_and_what_is_exceeded() -> None:
    shown = text(KEPT, ["something"])
    assert "seed 1" in shown
    assert "flushed" in shown
    assert "LIMIT EXCEEDED: something" in shown
    assert "all limits kept" in text(KEPT, [])


def test_report_is_read_back_from_its_file() -> None:
    assert msgspec.json.decode(msgspec.json.encode(KEPT), type=Report) == KEPT
