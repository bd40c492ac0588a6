"""lives: one case on this kernel, with the agent in this process: in one life, or in several.

Law: however the agent came and went, and in whatever order it met the objects, the kernel ends as expected, and what
stays was never taken away on the way.
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
from tests.conformance.agent import OBJECTS, write_whole
from tests.conformance.case import Case, Malformed, Stage
from tests.conformance.find import read_case
from tests.conformance.life import Killed, Life
from tests.conformance.look import snapshot_sysctls
from tests.conformance.node import clean_kernel, prepare
from tests.conformance.run import compare
from tests.conformance.verdict import Verdict, torn_parts

_DIES_AT = (0.5, 0.8, 1.0)
"""Of its first plan, by the case's name: amidst the sets and rules, amidst the servers, when all is done."""

Live = Callable[[Case, Path, Callable[[Stage, Life], None]], None]


def run_in_one_life(path: Path) -> Verdict:
    """The agent is started once and lives through all stages, *times* times."""
    return _run(path, _one_life)


def run_in_several_lives(path: Path) -> Verdict:
    """The agent meets the objects in reverse, half of them at first, and is killed in the middle of what they ask.

    Then it is started again with all of them, and once more for each further stage, which came about while it was down.
    """
    return _run(path, _several_lives)


def _one_life(case: Case, folder: Path, check: Callable[[Stage, Life], None]) -> None:
    write_whole(folder / OBJECTS, case.stages[0].objects)
    with Life(folder, case.config) as life:
        for time in range(case.times):
            for stage in case.stages:
                write_whole(folder / OBJECTS, stage.objects)
                life.settle()
                if time + 1 == case.times:
                    check(stage, life)


def _several_lives(case: Case, folder: Path, check: Callable[[Stage, Life], None]) -> None:
    documents = _documents(case.stages[0].objects)
    dies_at = _DIES_AT[crc32(case.name.encode()) % len(_DIES_AT)]
    with _begin(folder, case, documents[len(documents) // 2 :][::-1], dies_at) as life, suppress(Killed):
        life.settle()
    for stage in case.stages:
        with _begin(folder, case, _documents(stage.objects)[::-1]) as life:
            life.settle()
            life.said += cut(life.steps, life.desired)
            check(stage, life)


def _begin(folder: Path, case: Case, documents: Iterable[str], dies_at: float | None = None) -> Life:
    write_whole(folder / OBJECTS, "\n---\n".join(documents))
    return Life(folder, case.config, dies_at=dies_at)


def _documents(text: str) -> list[str]:
    return [part for part in re.split(r"^---$", text, flags=re.MULTILINE) if part.strip()]


def cut(steps: Iterable[Step], desired: Rows) -> Iterator[str]:
    """The steps that took away what is wanted in the end."""
    for step in steps:
        if step.key not in desired:
            continue
        drained = isinstance(step.key, RealServer) and step.spec == DRAINING
        if step.verb == "delete" or drained or _lost_rules(step, desired):
            yield f"cut though it stays: {step.verb} {type(step.key).__name__} {step.key}"


def _lost_rules(step: Step, desired: Rows) -> set[str]:
    want = desired[step.key]
    specs = (step.before, step.spec, want)
    if not all(isinstance(spec, ChainSpec) for spec in specs):
        return set()
    before, after, wanted = (set(spec.rules) for spec in specs if isinstance(spec, ChainSpec))
    return before & wanted - after


def _run(path: Path, live: Live) -> Verdict:
    try:
        case = read_case(path)
    except Malformed as error:
        return Verdict(path.stem, trouble=f"malformed: {error}")
    differing: dict[str, dict[str, list[str]]] = {}
    said: list[str] = []

    with clean_kernel(), tempfile.TemporaryDirectory(prefix="case-", dir="/run") as scratch:
        before = snapshot_sysctls()
        notes = prepare(case)

        def check(stage: Stage, life: Life) -> None:
            if diff := compare(stage, before):
                differing[stage.name] = diff
            said.extend(line for line in life.said if line not in said)

        live(case, Path(scratch), check)
    wrong = [*notes, *(line for line in said if line.startswith(("cut though", "not at rest")))]
    return Verdict(case.name, differing, "; ".join(wrong), torn_parts(case), said)
