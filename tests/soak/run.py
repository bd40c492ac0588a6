"""Carries a soak out: injects the rounds of the plan one after the other, while traffic and changes go on."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from concurrent.futures import ThreadPoolExecutor
from itertools import takewhile
from pathlib import Path
from platform import release
from time import monotonic, sleep, strftime

from tests.e2e.kernel_state import kernel_state
from tests.soak.faults import FAULTS, choices
from tests.soak.node import Check, Churn, Node, running_node
from tests.soak.plan import Injection, Round, rounds
from tests.soak.report import ACTIVE_S, Injected, Probe, Report, round_results
from tests.soak.traffic import Traffic

WARM_UP_S = 5.0
POLL_S = 0.1
LONG_STALL_S = 3.0
LOG = "agents.log"


class Soak:
    """One soak on *node*: carries rounds out; times are since its creation."""

    def __init__(self, node: Node, patience: float) -> None:
        self.start_s = monotonic()
        self.injected: list[Injected] = []
        self._node = node
        self._patience = patience

    def now_s(self) -> float:
        return monotonic() - self.start_s

    def carry_out(self, planned: Round) -> Injected:
        """Inject the faults of *planned*, wait until the node has recovered, and pause."""
        start_s = self.now_s()
        with ThreadPoolExecutor(len(planned.injections)) as threads:
            alone = len(planned.injections) == 1
            checks = list(threads.map(lambda injection: self._inject(injection, alone=alone), planned.injections))
        injected_s = self.now_s()
        within_s = max(FAULTS[name].within_s for name in planned.faults) * self._patience
        recovered_s = self._wait_for([check for check in checks if check], within_s)
        while self.now_s() < injected_s + ACTIVE_S:
            sleep(POLL_S)
        self._node.require_agent()
        done = Injected(planned.faults, start_s, injected_s, recovered_s, self.now_s())
        self.injected.append(done)
        sleep(planned.pause_s)
        return done

    def _inject(self, injection: Injection, *, alone: bool) -> Check | None:
        sleep(injection.after_s)
        try:
            return FAULTS[injection.fault].inject(self._node)
        except (AssertionError, OSError) as error:
            if alone:  # of two faults one may prevent the other: there is no address to delete without the device
                self._node.mistakes.append(f"{injection.fault}: {error}")
            return None

    def _wait_for(self, checks: list[Check], within_s: float) -> float | None:
        deadline_s = self.now_s() + within_s
        while True:
            missing = [(check, found) for check in checks if (found := check())]
            if not missing:
                return self.now_s()
            if self.now_s() > deadline_s:
                self._node.mistakes += [f"missing after {within_s:g} s: {found[:3]}" for _, found in missing]
                return None
            checks = [check for check, _ in missing]
            sleep(POLL_S)


def resources(node: Node) -> dict[str, float]:
    """Return what the agent and the kernel use."""
    process = Path(f"/proc/{node.agent.pid}")
    status, memory = (process / "status").read_text(), Path("/proc/meminfo").read_text()
    state = kernel_state(node.cluster.node_a)
    return {
        "RSS MiB": _number("VmRSS", status) / 1024,
        "threads": _number("Threads", status),
        "descriptors": len(list((process / "fd").iterdir())),
        "slab MiB": _number("Slab", memory) / 1024,
        **{f"{part}, lines": len(lines) for part, lines in state.items() if part != "settings"},
    }


def _number(name: str, listed: str) -> float:
    found = re.search(rf"^{name}:\s+(\d+)", listed, re.MULTILINE)
    assert found, name
    return float(found[1])


def soak(folder: Path, seed: int, seconds: float, patience: float, names: Collection[str] = ()) -> Report:
    """Run a soak with the faults of *names* (none: all) and return its report.

    It ends after *seconds*, but not before it had a fault of each kind.
    The logs of its agents are written to *folder*/agents.log.
    """
    chosen = [choice for choice in choices() if not names or choice.name in names]
    kinds = len({choice.kind for choice in chosen})
    with running_node(folder) as node:
        sleep(WARM_UP_S)
        begin = resources(node)
        run = Soak(node, patience)
        with Traffic(node.cluster, run.start_s) as traffic:
            with Churn(node, seed) as churn:
                planned_rounds = rounds(seed, chosen)
                for planned in takewhile(lambda _: run.now_s() < seconds or len(run.injected) < kinds, planned_rounds):
                    show(run.carry_out(planned))
            drift_left = node.wait_calm()
        end = resources(node)
        (folder / LOG).write_text("\n".join([*node.log, *node.agent.lines(), ""]))
        for line in [*reset_lines(traffic.probes), *stall_lines(traffic.probes), *traffic.waiting]:
            print(line)
        results, without_fault = round_results(run.injected, traffic.probes)
        return Report(
            seed=seed,
            duration_s=run.now_s(),
            kernel=f"Linux {release()}",
            rounds=results,
            without_fault=without_fault,
            changes=churn.made,
            agents=node.agents,
            resources={name: (begin[name], end[name]) for name in begin},
            drift_left=drift_left,
            mistakes=[*node.mistakes, *traffic.mistakes, *node.internal_errors()],
        )


def show(done: Injected) -> None:
    recovered = "not recovered" if done.recovered_s is None else f"{done.recovered_s - done.injected_s:.2f} s"
    print(f"{strftime('%H:%M:%S')} {done.start_s:7.1f} s  {' + '.join(done.faults):<60} {recovered}", flush=True)


def reset_lines(probes: Iterable[Probe]) -> list[str]:
    """Return a line for each held connection that was reset."""
    return [
        f"{probe.end_s:7.1f} s  reset: {probe.target}, {probe.end_s - probe.start_s:.2f} s after its last answer: "
        f"{probe.error}"
        for probe in probes
        if probe.outcome == "reset"
    ]


def stall_lines(probes: Iterable[Probe]) -> list[str]:
    """Return a line for each line on a held connection that was answered only after LONG_STALL_S."""
    return [
        f"{probe.start_s:7.1f} s  answered after {probe.end_s - probe.start_s:.1f} s: {probe.target}"
        for probe in probes
        if probe.outcome == "slow" and probe.end_s - probe.start_s > LONG_STALL_S
    ]
