"""What a soak found: probes by the fault that was active, recovery times, resources, and what exceeds a limit; pure.

Invariants:
  - A probe belongs to the earliest round that was active at any time between its start and its end.  That of a held
    connection that was reset starts with the last answer.  A round is active from its first injection until the node
    has recovered from it.
  - Times are seconds since the start of the soak.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Literal, NamedTuple

Kind = Literal["new TCP", "UDP", "held TCP"]
Outcome = Literal["ok", "slow", "failed", "reset"]

ACTIVE_S = 1.0  # a round is active at least so long, so that each held connection sends a line meanwhile
DRIFT_SHOWN = 20  # lines
NO_FAULT = "no fault"
GROWTH_MAX: Mapping[str, float] = {"RSS MiB": 24.0, "descriptors": 16, "threads": 6}  # of the agent


class Probe(NamedTuple):
    """One request: a new connection, a datagram, or a line on a connection that is held open.

    slow: answered after traffic.SLOW_S.  failed: refused or not answered.  reset: a held connection ended.
    """

    kind: Kind
    target: str
    start_s: float
    end_s: float
    outcome: Outcome
    error: str = ""


class Injected(NamedTuple):
    """A round that was carried out.

    injected_s: when its last injection was complete: the command had ended, or the outage was over.
    recovered_s: when the node had recovered; None if it had not within the limit.
    """

    faults: tuple[str, ...]
    start_s: float
    injected_s: float
    recovered_s: float | None
    end_s: float


@dataclass(frozen=True)
class Counts:
    """The probes of one round, or of all times without a fault."""

    probes: int = 0  # new connections and datagrams
    failed: int = 0
    slow: int = 0
    pings: int = 0  # lines on held connections
    reset: int = 0
    stalled: int = 0
    longest_stall_s: float = 0.0
    last_failure_s: float | None = None  # the end of the last failed probe


@dataclass(frozen=True)
class RoundResult:
    """What happened in one round."""

    faults: tuple[str, ...]
    recovery_s: float | None
    outage_s: float  # from the first injection to the end of the last failed probe
    counts: Counts


@dataclass(frozen=True)
class Report:
    """The result of one soak; what the report file contains.

    resources: at the beginning and at the end.  drift_left: lines of kernel state that differ at the end.
    """

    seed: int
    duration_s: float
    kernel: str
    rounds: list[RoundResult]
    without_fault: Counts
    changes: int
    agents: int
    resources: dict[str, tuple[float, float]]
    drift_left: list[str] = field(default_factory=list)
    mistakes: list[str] = field(default_factory=list)  # injections that failed, an agent that ended, internal errors

    def counts(self) -> Iterable[Counts]:
        yield self.without_fault
        yield from (result.counts for result in self.rounds)


class FaultFigures(NamedTuple):
    """Figures of one fault, from the rounds in which it came alone; times in seconds."""

    injected: int
    recovery_median_s: float
    recovery_worst_s: float
    outage_median_s: float
    outage_worst_s: float
    probes: int
    failed: int
    pings: int
    reset: int
    longest_stall_s: float


class Limits(NamedTuple):
    """Shares of new connections and datagrams that may fail.  No limit is about resets: none is ever allowed."""

    failed_without_fault: float = 0.001  # of those outside of faults
    failed: float = 0.05  # of all


LIMITS = Limits()


def round_results(injected: Sequence[Injected], probes: Iterable[Probe]) -> tuple[list[RoundResult], Counts]:
    """Return the result of each round, and the counts of the probes without a fault."""
    of_round: list[list[Probe]] = [[] for _ in injected]
    others: list[Probe] = []
    for probe in probes:
        active = (
            number
            for number, done in enumerate(injected)
            if probe.start_s <= done.end_s and done.start_s <= probe.end_s
        )
        number = next(active, None)
        (others if number is None else of_round[number]).append(probe)
    results = [_round_result(done, found) for done, found in zip(injected, of_round, strict=True)]
    return results, count(others)


def count(probes: Iterable[Probe]) -> Counts:
    """Return the counts of *probes*."""
    outcomes: Counter[tuple[bool, Outcome]] = Counter()
    longest_stall_s, last_failure_s = 0.0, None
    for probe in probes:
        held = probe.kind == "held TCP"
        outcomes[held, probe.outcome] += 1
        if held and probe.outcome == "slow":
            longest_stall_s = max(longest_stall_s, probe.end_s - probe.start_s)
        if not held and probe.outcome == "failed":
            last_failure_s = max(last_failure_s or 0.0, probe.end_s)
    return Counts(
        probes=sum(number for (held, _), number in outcomes.items() if not held),
        failed=outcomes[False, "failed"],
        slow=outcomes[False, "slow"],
        pings=sum(number for (held, _), number in outcomes.items() if held),
        reset=outcomes[True, "reset"],
        stalled=outcomes[True, "slow"],
        longest_stall_s=longest_stall_s,
        last_failure_s=last_failure_s,
    )


def fault_figures(results: Iterable[RoundResult]) -> dict[str, FaultFigures]:
    """Return the figures of each fault that came alone, by its name."""
    alone: dict[str, list[RoundResult]] = {}
    for result in results:
        if len(result.faults) == 1:
            alone.setdefault(result.faults[0], []).append(result)
    return {name: _figures(found) for name, found in sorted(alone.items())}


def violations(report: Report, may_reset: frozenset[str], limits: Limits = LIMITS) -> list[str]:
    """Return what exceeds the limits, as lines for humans.

    A round with a fault of *may_reset* may reset established connections.
    """
    found = list(report.mistakes)
    for result in report.rounds:
        name = " + ".join(result.faults)
        if result.recovery_s is None:
            found.append(f"{name}: not recovered within the limit")
        if result.counts.reset and not may_reset.intersection(result.faults):
            found.append(f"{name}: {result.counts.reset} established connections were reset")
    idle = report.without_fault
    if idle.reset:
        found.append(f"{NO_FAULT}: {idle.reset} established connections were reset")
    if idle.failed > limits.failed_without_fault * idle.probes:
        found.append(f"{NO_FAULT}: {idle.failed} of {idle.probes} new connections and datagrams failed")
    failed, probes = sum(one.failed for one in report.counts()), sum(one.probes for one in report.counts())
    if failed > limits.failed * probes:
        found.append(f"{failed} of {probes} new connections and datagrams failed, more than {limits.failed:.0%}")
    if not probes:
        found.append("no probe was sent")
    for name, most in GROWTH_MAX.items():
        begin, end = report.resources.get(name, (0.0, 0.0))
        if end - begin > most:
            found.append(f"{name} of the agent grew from {begin:g} to {end:g}")
    left = report.drift_left
    further = [f"drift left: {len(left) - DRIFT_SHOWN} further lines"] if len(left) > DRIFT_SHOWN else []
    return [*found, *(f"drift left: {line}" for line in left[:DRIFT_SHOWN]), *further]


def text(report: Report, broken: Sequence[str]) -> str:
    """Return the report for humans; *broken* are its violations."""
    injected = sum(len(result.faults) for result in report.rounds)
    lines = [
        f"soak: seed {report.seed}, {report.duration_s:.0f} s, {report.kernel}",
        f"{injected} faults in {len(report.rounds)} rounds, {report.changes} changes of Services, "
        f"{report.agents} agents started",
        "",
        f"{'fault':<44} {'n':>3} {'recovery':>13} {'outage':>13} {'new failed':>12} {'held reset':>12} {'stall':>6}",
        f"{'':<44} {'':>3} {'median worst':>13} {'median worst':>13} {'of':>12} {'of pings':>12} {'s':>6}",
    ]
    lines += [_figures_line(name, figures) for name, figures in fault_figures(report.rounds).items()]
    pairs = [result.counts for result in report.rounds if len(result.faults) > 1]
    lines += [_counts_line(f"two faults at a time ({len(pairs)} rounds)", total(pairs))]
    lines += [_counts_line(NO_FAULT, report.without_fault), _counts_line("all", total(report.counts())), ""]
    lines += [f"{name:<28} {begin:10.6g} -> {end:.6g}" for name, (begin, end) in report.resources.items()]
    lines += ["", *(f"LIMIT EXCEEDED: {line}" for line in broken)]
    lines.append(f"{len(broken)} limits exceeded" if broken else "all limits kept")
    return "\n".join(lines)


def _round_result(done: Injected, probes: Sequence[Probe]) -> RoundResult:
    counts = count(probes)
    recovery_s = None if done.recovered_s is None else max(0.0, done.recovered_s - done.injected_s)
    outage_s = 0.0 if counts.last_failure_s is None else counts.last_failure_s - done.start_s
    return RoundResult(done.faults, recovery_s, outage_s, counts)


def _figures(results: Sequence[RoundResult]) -> FaultFigures:
    recoveries_s = [float("inf") if result.recovery_s is None else result.recovery_s for result in results]
    outages_s = [result.outage_s for result in results]
    counts = total(result.counts for result in results)
    return FaultFigures(
        len(results),
        median(recoveries_s),
        max(recoveries_s),
        median(outages_s),
        max(outages_s),
        counts.probes,
        counts.failed,
        counts.pings,
        counts.reset,
        counts.longest_stall_s,
    )


def total(counts: Iterable[Counts]) -> Counts:
    """Return *counts* together, without the time of the last failure."""
    several = list(counts)
    return Counts(
        probes=sum(one.probes for one in several),
        failed=sum(one.failed for one in several),
        slow=sum(one.slow for one in several),
        pings=sum(one.pings for one in several),
        reset=sum(one.reset for one in several),
        stalled=sum(one.stalled for one in several),
        longest_stall_s=max((one.longest_stall_s for one in several), default=0.0),
    )


def _figures_line(name: str, figures: FaultFigures) -> str:
    return (
        f"{name:<44} {figures.injected:3} {figures.recovery_median_s:6.2f} {figures.recovery_worst_s:6.2f} "
        f"{figures.outage_median_s:6.2f} {figures.outage_worst_s:6.2f} {figures.failed:5}/{figures.probes:6} "
        f"{figures.reset:5}/{figures.pings:6} {figures.longest_stall_s:6.2f}"
    )


def _counts_line(name: str, counts: Counts) -> str:
    return (
        f"{name:<44} {'':3} {'':13} {'':13} {counts.failed:5}/{counts.probes:6} {counts.reset:5}/{counts.pings:6} "
        f"{counts.longest_stall_s:6.2f}"
    )
