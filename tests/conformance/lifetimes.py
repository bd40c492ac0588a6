"""Run one case on this kernel, with the agent in this process: without a restart, or with several.

With any stops and starts of the agent, and any order of the objects, the kernel must reach the expected state, and no
row that is desired at the end may be deleted in between.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from zlib import crc32

from kubeproxy_py.model.rows import DRAINING, ChainSpec, RealServer, Rows
from kubeproxy_py.model.steps import Step
from tests.conformance.agent_lifetime import AgentLifetime, KilledError
from tests.conformance.agent_process import OBJECTS, write_atomically
from tests.conformance.case import Case, MalformedCaseError, Stage
from tests.conformance.case_files import read_case
from tests.conformance.kernel_snapshot import snapshot_sysctls
from tests.conformance.node import clean_kernel, prepare
from tests.conformance.runner import compare
from tests.conformance.verdict import Verdict, incomplete_parts

_DIES_AT = (0.5, 0.8, 1.0)
"""Parts of the first plan, chosen by the name of the case: during sets and rules, during servers, after the last."""

_Run = Callable[[Case, Path, Callable[[Stage, AgentLifetime], None]], None]


def run_without_restart(path: Path) -> Verdict:
    """Start the agent once, and apply all stages as often as the case specifies."""
    return _run(path, _without_restart)


def run_with_restarts(path: Path) -> Verdict:
    """Start the agent with half of the objects in reverse order, and kill it during its first plan.

    Then start it again with all objects, and again for each further stage, as if that came while it was stopped.
    """
    return _run(path, _with_restarts)


def _without_restart(case: Case, folder: Path, check: Callable[[Stage, AgentLifetime], None]) -> None:
    write_atomically(folder / OBJECTS, case.stages[0].objects)
    with AgentLifetime(folder, case.config) as agent:
        for repetition in range(case.repetitions):
            for stage in case.stages:
                write_atomically(folder / OBJECTS, stage.objects)
                agent.sync_until_idle()
                if repetition + 1 == case.repetitions:
                    check(stage, agent)


def _with_restarts(case: Case, folder: Path, check: Callable[[Stage, AgentLifetime], None]) -> None:
    documents = _documents(case.stages[0].objects)
    dies_at = _DIES_AT[crc32(case.name.encode()) % len(_DIES_AT)]
    with _start(folder, case, documents[len(documents) // 2 :][::-1], dies_at) as agent, suppress(KilledError):
        agent.sync_until_idle()
    for stage in case.stages:
        with _start(folder, case, _documents(stage.objects)[::-1]) as agent:
            agent.sync_until_idle()
            agent.problems += interruptions(agent.steps, agent.desired)
            check(stage, agent)


def _start(folder: Path, case: Case, documents: Iterable[str], dies_at: float | None = None) -> AgentLifetime:
    write_atomically(folder / OBJECTS, "\n---\n".join(documents))
    return AgentLifetime(folder, case.config, dies_at=dies_at)


def _documents(text: str) -> list[str]:
    return [part for part in re.split(r"^---$", text, flags=re.MULTILINE) if part.strip()]


def interruptions(steps: Iterable[Step], desired: Rows) -> Iterator[str]:
    """The steps that removed something that is desired in the end."""
    for step in steps:
        if step.key not in desired:
            continue
        drained = isinstance(step.key, RealServer) and step.spec == DRAINING
        if step.verb == "delete" or drained or _lost_rules(step, desired):
            yield f"interrupted: {step.verb} {type(step.key).__name__} {step.key}"


def _lost_rules(step: Step, desired: Rows) -> set[str]:
    want = desired[step.key]
    specs = (step.before, step.spec, want)
    if not all(isinstance(spec, ChainSpec) for spec in specs):
        return set()
    before, after, wanted = (set(spec.rules) for spec in specs if isinstance(spec, ChainSpec))
    return before & wanted - after


def _run(path: Path, run: _Run) -> Verdict:
    try:
        case = read_case(path)
    except MalformedCaseError as error:
        return Verdict(path.stem, error=f"malformed: {error}")
    differing: dict[str, dict[str, list[str]]] = {}
    problems: list[str] = []

    with clean_kernel(), tempfile.TemporaryDirectory(prefix="case-", dir="/run") as scratch:
        before = snapshot_sysctls()
        notes = prepare(case)

        def check(stage: Stage, agent: AgentLifetime) -> None:
            if diff := compare(stage, before):
                differing[stage.name] = diff
            problems.extend(line for line in agent.problems if line not in problems)

        run(case, Path(scratch), check)
    errors = [*notes, *(line for line in problems if line.startswith(("interrupted", "not idle")))]
    return Verdict(case.name, differing, "; ".join(errors), incomplete_parts(case), problems)
