"""Job: what to run in the lab kernel, as a value that crosses into it as JSON.

A job holds all that the command may depend on; what runs it (guest.py) asks nothing else of the outside.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO

REPOSITORY = Path(__file__).resolve().parents[1]
SYSTEM_PATH = ("/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin")


class LabError(Exception):
    """This machine can't do what was asked of the lab: the reason, and a hint what to do."""

    def __init__(self, reason: str, hint: str) -> None:
        super().__init__(f"{reason} (hint: {hint})")
        self.reason = reason
        self.hint = hint


@dataclass(frozen=True)
class Job:
    """One command for the lab.

    *shared* are the files and folders that must stay visible although a fresh tmpfs hides /tmp and its like.
    *stdout* and *stderr* are descriptors outside; equal if the two are one file there, so that lines keep their order.
    """

    argv: tuple[str, ...]
    env: dict[str, str]
    cwd: str
    shared: tuple[str, ...]
    stdout: int
    stderr: int

    def write(self, folder: Path) -> None:
        (folder / "job.json").write_text(json.dumps(asdict(self)), encoding="utf-8")


def read_job(folder: Path) -> Job:
    """The job that `Job.write` left in *folder*."""
    fields = json.loads((folder / "job.json").read_text(encoding="utf-8"))
    return Job(**{**fields, "argv": tuple(fields["argv"]), "shared": tuple(fields["shared"])})


def new_job(
    argv: Sequence[str],
    *,
    env: Mapping[str, str] | None = None,
    cwd: str | None = None,
    stdout: int | IO[bytes] | None = None,
    stderr: int | IO[bytes] | None = None,
) -> Job:
    """A job from what the caller gave and, for the rest, from this process.

    Raises LabError if *argv* is empty or *cwd* is no folder.
    """
    where = Path.cwd() / (cwd or "")
    if not argv:
        raise LabError("no command was given", "python3 -m lab run -- COMMAND ARG...")
    if not where.is_dir():
        raise LabError(f"{where} is not a folder", "give cwd= a folder that exists")
    out, err = _descriptor(stdout, 1), _descriptor(stderr, 2)
    return Job(
        argv=tuple(argv),
        env=_environment(os.environ if env is None else env),
        cwd=str(where),
        shared=_shared(argv, str(where)),
        stdout=out,
        stderr=out if _same_file(out, err) else err,
    )


def _descriptor(target: int | IO[bytes] | None, default: int) -> int:
    if target is None:
        return default
    return target if isinstance(target, int) else target.fileno()


def _same_file(one: int, other: int) -> bool:
    return os.path.samestat(os.fstat(one), os.fstat(other))


def _environment(env: Mapping[str, str]) -> dict[str, str]:
    """*env* with the system's sbin folders on PATH (a user's PATH often lacks them) and TMPDIR on the lab's tmpfs."""
    path = env.get("PATH", "").split(":")
    path += [folder for folder in SYSTEM_PATH if folder not in path]
    return {**env, "PATH": ":".join(filter(None, path)), "TMPDIR": "/tmp"}


def _shared(argv: Sequence[str], cwd: str) -> tuple[str, ...]:
    """What the command needs wherever it lies: this repository, its interpreter, its folder and the paths it names."""
    wanted = [str(REPOSITORY), cwd, sys.prefix, sys.base_prefix, *(word for word in argv if word.startswith("/"))]
    return tuple(dict.fromkeys(path for path in wanted if Path(path).exists()))
