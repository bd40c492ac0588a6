"""run: one case on this kernel -> a Verdict.

Law: every case starts from a kernel without a trace of the one before, on the network that the recordings were made
in.  A stage is equal once the kernel has been seen equal twice with HOLD_S between.  Where it was so at the first look,
it is watched for longer, since the agent may not have woken up yet.
"""

from __future__ import annotations

import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from msgspec import Struct

from tests.conformance.agent import OBJECTS, AgentProcess, running, write_whole
from tests.conformance.canon import SYSCTLS, differences, torn_tables
from tests.conformance.case import START, Case, Malformed, Stage, read_case
from tests.conformance.look import Sysctls, look, snapshot_sysctls
from tests.lab.network import Cluster
from tests.lab.pristine import reset_host_state

DEADLINE_S = 15.0
HOLD_S = 0.3
START_HOLD_S = 6.0  # longer than the agent takes to start and sync
STEP_HOLD_S = 1.5  # longer than it leaves its folder alone
_POLL_S = 0.1
_PREPARE_TIMEOUT_S = 60.0
_LINKS = Path("/sys/class/net")


class Verdict(Struct, frozen=True, gc=False):
    """How a case ended: equal, or *differing* lines by stage and file, or what kept it from being judged.

    *torn* names what the recording caught half made and could not be compared (canon.py).  *notes* are what helps to
    understand a difference: what pre.sh said, the end of the agent's log.
    """

    name: str
    differing: Mapping[str, Mapping[str, Sequence[str]]] = {}
    trouble: str = ""
    torn: Sequence[str] = ()
    notes: Sequence[str] = ()

    @property
    def is_equal(self) -> bool:
        return not self.differing and not self.trouble

    def lines(self) -> Iterator[str]:
        """`NAME  equal`, or `NAME  DIFFERS` and what differs, by stage and file."""
        yield f"{self.name:<32}{'equal' if self.is_equal else 'DIFFERS'}"
        for where in self.torn:
            yield f"    {where}: recorded without the rules in kube-proxy's chains, which are not compared"
        if self.trouble:
            yield f"    {self.trouble}"
        for stage, files in self.differing.items():
            for file, diff in files.items():
                yield f"    {stage}: {file}   (- recorded only, + ours only)"
                yield from (f"      {line}" for line in diff)
        if not self.is_equal:
            yield from (f"    | {note}" for note in self.notes)


Alter = Callable[[str], str]
BeforeStart = Callable[[Path, Path, Path], None]


def run_folder(folder: Path, *, alter: Alter = str, before_start: BeforeStart | None = None) -> Verdict:
    """Judge the case in *folder*.

    For tests which say that something must not matter: *alter* is applied to the text of each objects.yaml;
    *before_start* is called with the paths of manifests, configuration and log before the agent is started.
    """
    try:
        case = read_case(folder)
    except Malformed as error:
        return Verdict(folder.name, trouble=f"malformed: {error}")
    with _pristine_node(), tempfile.TemporaryDirectory(prefix="case-", dir="/run") as scratch:
        try:
            return _run(case, Path(scratch), alter, before_start)
        except (OSError, subprocess.SubprocessError) as error:
            return Verdict(case.name, trouble=f"could not be run: {error}")


def _run(case: Case, scratch: Path, alter: Alter, before_start: BeforeStart | None) -> Verdict:
    manifests, log = scratch / "manifests", scratch / "log"  # on tmpfs, where the kernel tells of changes
    manifests.mkdir()
    notes = _prepare(case)
    before = snapshot_sysctls()
    write_whole(manifests / OBJECTS, alter(case.stages[0].objects))
    if before_start:
        before_start(manifests, case.config, log)
    with running(manifests, case.config, log) as agent:
        for stage in case.stages:
            write_whole(manifests / OBJECTS, alter(stage.objects))
            differing = settle(stage, before, agent)
            if differing or agent.status is not None:
                return _differs(case, stage, differing, agent, notes)
        return Verdict(case.name, torn=_torn(case), notes=[*notes, *agent.last_words()])


def _differs(
    case: Case, stage: Stage, differing: Mapping[str, Sequence[str]], agent: AgentProcess, notes: Sequence[str]
) -> Verdict:
    ended = "" if agent.status is None else f"{stage.name}: the agent ended by itself, with status {agent.status}"
    differs = {stage.name: differing} if differing else {}
    return Verdict(case.name, differs, ended, _torn(case), [*notes, *agent.last_words()])


def _torn(case: Case) -> list[str]:
    return [
        f"{stage.name}: {file}, table {table}"
        for stage in case.stages
        for file, lines in stage.expected.items()
        for table in torn_tables(file, lines)
    ]


def settle(stage: Stage, before: Sysctls, agent: AgentProcess) -> Mapping[str, Sequence[str]]:
    """Wait until the kernel is as *stage* expects and stays so; what differs when time is up, or nothing."""
    deadline = time.monotonic() + DEADLINE_S
    hold_s = START_HOLD_S if stage.name == START else STEP_HOLD_S
    while True:
        differing = _compare(stage, before)
        if not differing:
            time.sleep(hold_s)
            differing = _compare(stage, before)
            if not differing:
                return {}
        hold_s = HOLD_S
        if time.monotonic() > deadline or agent.status is not None:
            return differing
        time.sleep(_POLL_S)


def _compare(stage: Stage, before: Sysctls) -> dict[str, list[str]]:
    """What differs now; settings, which are dear to read, are looked at once all else is equal."""
    dear = {file: lines for file, lines in stage.expected.items() if file == SYSCTLS}
    rest = {file: lines for file, lines in stage.expected.items() if file != SYSCTLS}
    return differences(rest, look(rest, before)) or differences(dear, look(dear, before, dear.get(SYSCTLS, ())))


def _prepare(case: Case) -> list[str]:
    """Run pre.sh if the case has one; a note if it failed."""
    if not case.prepare:
        return []
    with tempfile.TemporaryFile() as output:  # no pipe: what it leaves in the background would keep that open
        words = ["/bin/bash", str(case.prepare)]
        ended = subprocess.run(words, cwd=case.folder, stdout=output, stderr=output, timeout=_PREPARE_TIMEOUT_S)
        output.seek(0)
        text = output.read().decode(errors="replace").strip()
    return [f"pre.sh ended with status {ended.returncode}: {text}"] if ended.returncode else []


@contextmanager
def _pristine_node() -> Iterator[None]:
    """This namespace as node A of the recordings, on a kernel as freshly booted; what a case leaves is removed."""
    _forget()
    links = set(_links())
    try:
        with Cluster(node_a="initial"):
            yield
    finally:
        _forget()
        for link in set(_links()) - links:
            subprocess.run(["ip", "link", "del", link], check=False, capture_output=True)


def _links() -> Iterator[str]:
    return (path.name for path in _LINKS.iterdir())


def _forget() -> None:
    """Reset the kernel, and unload the modules of iptables' tables: a table that was once used stays to be printed."""
    reset_host_state()
    loaded = [line.split()[0] for line in Path("/proc/modules").read_text().splitlines()]
    tables = [name for name in loaded if name.startswith(("iptable_", "ip6table_"))]
    if tables:
        subprocess.run(["rmmod", *tables], check=True, capture_output=True)
