"""run: one case on this kernel, with the agent as a process -> a Verdict.

Law: a stage is equal once the kernel has been seen equal twice with HOLD_S between.  Where it was so at the first look,
it is watched for longer, since the agent may not have woken up yet.
"""

from __future__ import annotations

import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from tests.conformance.agent import OBJECTS, AgentProcess, running, write_whole
from tests.conformance.canon import SYSCTLS, differences
from tests.conformance.case import START, Case, Malformed, Stage
from tests.conformance.find import read_case
from tests.conformance.look import Sysctls, look, snapshot_sysctls
from tests.conformance.node import prepare, pristine_node
from tests.conformance.verdict import Verdict, torn_parts

DEADLINE_S = 60.0
HOLD_S = 0.3
START_HOLD_S = 6.0  # longer than the agent takes to start and sync
STEP_HOLD_S = 1.5  # longer than it leaves its folder alone
_POLL_S = 0.1

BeforeStart = Callable[[Path, Path, Path], None]


def run_case(path: Path, *, before_start: BeforeStart | None = None) -> Verdict:
    """Judge the case at *path*.

    *before_start* is for tests: it is called with the paths of manifests, configuration and log before the agent is
    started.
    """
    try:
        case = read_case(path)
    except Malformed as error:
        return Verdict(path.stem, trouble=f"malformed: {error}")
    with pristine_node(), tempfile.TemporaryDirectory(prefix="case-", dir="/run") as scratch:
        try:
            return _run(case, Path(scratch), before_start)
        except (OSError, subprocess.SubprocessError) as error:
            return Verdict(case.name, trouble=f"could not be run: {error}")


def _run(case: Case, scratch: Path, before_start: BeforeStart | None) -> Verdict:
    manifests, config, log = scratch / "manifests", scratch / "config.yaml", scratch / "log"
    manifests.mkdir()  # on tmpfs, where the kernel tells of changes
    config.write_text(case.config, encoding="utf-8")
    notes = prepare(case)
    before = snapshot_sysctls()
    write_whole(manifests / OBJECTS, case.stages[0].objects)
    if before_start:
        before_start(manifests, config, log)
    with running(manifests, config, log) as agent:
        for stage in case.stages:
            write_whole(manifests / OBJECTS, stage.objects)
            differing = _settle(stage, before, agent)
            if differing or agent.status is not None:
                return _differs(case, stage, differing, agent, notes)
        return Verdict(case.name, torn=torn_parts(case), notes=[*notes, *agent.last_words()])


def _differs(
    case: Case, stage: Stage, differing: Mapping[str, Sequence[str]], agent: AgentProcess, notes: Sequence[str]
) -> Verdict:
    ended = "" if agent.status is None else f"{stage.name}: the agent ended by itself, with status {agent.status}"
    differs = {stage.name: differing} if differing else {}
    return Verdict(case.name, differs, ended, torn_parts(case), [*notes, *agent.last_words()])


def _settle(stage: Stage, before: Sysctls, agent: AgentProcess) -> Mapping[str, Sequence[str]]:
    """Wait until the kernel is as *stage* expects and stays so; what differs when time is up, or nothing."""
    deadline = time.monotonic() + DEADLINE_S
    hold_s = START_HOLD_S if stage.name == START else STEP_HOLD_S
    while True:
        differing = compare(stage, before)
        if not differing:
            time.sleep(hold_s)
            differing = compare(stage, before)
            if not differing:
                return {}
        hold_s = HOLD_S
        if time.monotonic() > deadline or agent.status is not None:
            return differing
        time.sleep(_POLL_S)


def compare(stage: Stage, before: Sysctls) -> dict[str, list[str]]:
    """What differs now; settings, which are dear to read, are looked at once all else is equal."""
    dear = {file: lines for file, lines in stage.expected.items() if file == SYSCTLS}
    rest = {file: lines for file, lines in stage.expected.items() if file != SYSCTLS}
    return differences(rest, look(rest, before)) or differences(dear, look(dear, before, dear.get(SYSCTLS, ())))
