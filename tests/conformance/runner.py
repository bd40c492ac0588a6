"""Run one case on this kernel, with the agent as a process, and return a Verdict.

The first stage is compared after the agent has logged its first sync; comparing earlier would only take the CPU that
the agent needs.  A stage is equal once the kernel was equal twice with HOLD_S between.  If a later stage is equal at
the first comparison, it is observed for longer, because the agent may not have reacted yet.
"""

from __future__ import annotations

import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from tests.conformance.agent_process import OBJECTS, AgentProcess, running, write_atomically
from tests.conformance.canonical import SYSCTLS, differences
from tests.conformance.case import START, Case, MalformedCaseError, Stage
from tests.conformance.case_files import read_case
from tests.conformance.kernel_snapshot import Sysctls, kernel_snapshot, snapshot_sysctls
from tests.conformance.node import prepare, pristine_node
from tests.conformance.verdict import Verdict, incomplete_parts

START_TIMEOUT_S = 60.0
DEADLINE_S = 60.0  # for a stage, after the first sync
HOLD_S = 0.3
STEP_HOLD_S = 1.5  # longer than the interval at which it polls its folder
_POLL_S = 0.1
_LOG_POLL_S = 0.02

BeforeStart = Callable[[Path, Path, Path], None]


def run_case(path: Path, *, before_start: BeforeStart | None = None) -> Verdict:
    """Run the case at *path*.

    *before_start* is for tests: it is called with the paths of manifests, configuration and log before the agent
    starts.
    """
    try:
        case = read_case(path)
    except MalformedCaseError as error:
        return Verdict(path.stem, error=f"malformed: {error}")
    with pristine_node(), tempfile.TemporaryDirectory(prefix="case-", dir="/run") as scratch:
        try:
            return _run(case, Path(scratch), before_start)
        except (OSError, subprocess.SubprocessError) as error:
            return Verdict(case.name, error=f"could not be run: {error}")


def _run(case: Case, scratch: Path, before_start: BeforeStart | None) -> Verdict:
    manifests, config, log = scratch / "manifests", scratch / "config.yaml", scratch / "log"
    manifests.mkdir()  # on tmpfs, which supports inotify
    config.write_text(case.config, encoding="utf-8")
    notes = prepare(case)
    before = snapshot_sysctls()
    write_atomically(manifests / OBJECTS, case.stages[0].objects)
    if before_start:
        before_start(manifests, config, log)
    with running(manifests, config, log) as agent:
        for stage in case.stages:
            write_atomically(manifests / OBJECTS, stage.objects)
            differing = _wait_for_stage(stage, before, agent)
            if differing or agent.status is not None:
                return _differs(case, stage, differing, agent, notes)
        return Verdict(case.name, incomplete=incomplete_parts(case), notes=[*notes, *agent.log_tail()])


def _differs(
    case: Case, stage: Stage, differing: Mapping[str, Sequence[str]], agent: AgentProcess, notes: Sequence[str]
) -> Verdict:
    exited = "" if agent.status is None else f"{stage.name}: the agent exited by itself with status {agent.status}"
    differs = {stage.name: differing} if differing else {}
    return Verdict(case.name, differs, exited, incomplete_parts(case), [*notes, *agent.log_tail()])


def _wait_for_stage(stage: Stage, before: Sysctls, agent: AgentProcess) -> Mapping[str, Sequence[str]]:
    """Wait until the kernel has the state of *stage*, and still has it later; the differences at the deadline."""
    if stage.name == START:
        _wait_for_first_sync(agent)
    deadline = time.monotonic() + DEADLINE_S
    hold_s = HOLD_S if stage.name == START else STEP_HOLD_S
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


def _wait_for_first_sync(agent: AgentProcess) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while agent.status is None and not agent.has_synced() and time.monotonic() < deadline:
        time.sleep(_LOG_POLL_S)


def compare(stage: Stage, before: Sysctls) -> dict[str, list[str]]:
    """The present differences; sysctls, which are slow to read, are compared only if all else is equal."""
    sysctls = {file: lines for file, lines in stage.expected.items() if file == SYSCTLS}
    others = {file: lines for file, lines in stage.expected.items() if file != SYSCTLS}
    return differences(others, kernel_snapshot(others, before)) or differences(
        sysctls, kernel_snapshot(sysctls, before, sysctls.get(SYSCTLS, ()))
    )
