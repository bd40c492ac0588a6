"""The job of a lab kernel: the command to run, passed into the kernel as JSON.

A job contains everything that the command depends on; guest.py, which runs it, reads nothing else from outside.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import IO

REPOSITORY = Path(__file__).resolve().parents[1]
SHARED_VARIABLES = ("KUBEBUILDER_ASSETS", "KUBE_PROXY_BIN")  # environment variables that name programs of the command
SYSTEM_PATH = ("/usr/sbin", "/usr/bin", "/sbin", "/bin", "/usr/local/sbin", "/usr/local/bin")


class LabError(Exception):
    """The lab cannot do what was requested on this machine: the reason, and a hint that names the remedy."""

    def __init__(self, reason: str, hint: str) -> None:
        super().__init__(f"{reason} (hint: {hint})")
        self.reason = reason
        self.hint = hint


@dataclass(frozen=True)
class Job:
    """One command for the lab.

    shared: files and directories that must stay visible although a new tmpfs hides /tmp and similar paths.
    stdout, stderr: descriptors outside the lab; equal if both are the same file, so that lines stay in order.
    modules: the folder that has a folder RELEASE with the kernel's modules; empty if the lab boots no kernel.
    iptables: what `iptables` is: "legacy", "nft", or empty for the host's choice.
    """

    argv: tuple[str, ...]
    env: dict[str, str]
    cwd: str
    shared: tuple[str, ...]
    stdout: int
    stderr: int
    modules: str = ""
    iptables: str = ""

    def booting(self, modules: Path, iptables: str = "") -> Job:
        """Return this job for a kernel with these *modules*, which stay visible, and this *iptables*."""
        return replace(self, modules=str(modules), iptables=iptables, shared=(*self.shared, str(modules)))

    def write(self, folder: Path) -> None:
        """Write the job to *folder*, where `read_job` finds it."""
        (folder / "job.json").write_text(json.dumps(asdict(self)), encoding="utf-8")


def read_job(folder: Path) -> Job:
    """Read the job that `Job.write` wrote to *folder*."""
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
    """Return a job from the arguments; what they do not give is taken from this process.

    Raises:
        LabError: *argv* is empty, or *cwd* is not a directory.
    """
    where = Path.cwd() / (cwd or "")
    if not argv:
        raise LabError("no command was given", "use python3 -m lab run -- COMMAND ARG...")
    if not where.is_dir():
        raise LabError(f"{where} is not a directory", "set cwd to an existing directory")
    out, err = _descriptor(stdout, 1), _descriptor(stderr, 2)
    environment = os.environ if env is None else env
    program = shutil.which(argv[0], path=environment.get("PATH")) if "/" not in argv[0] else None
    words = (program or argv[0], *argv[1:])  # found by the caller's PATH, not by the lab's
    return Job(
        argv=words,
        env=_environment(environment),
        cwd=str(where),
        shared=_shared_paths(words, str(where), environment),
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
    """Return *env* with the system's directories first on PATH and TMPDIR on the lab's tmpfs.

    A user's PATH often lacks the sbin directories.  They come first because each directory in which a program is not
    found costs a new address space in user-mode-linux: 1 ms, and 40 ms for a large process.
    """
    path = [*SYSTEM_PATH, *env.get("PATH", "").split(":")]
    return {**env, "PATH": ":".join(dict.fromkeys(filter(None, path))), "TMPDIR": "/tmp"}


def _shared_paths(argv: Sequence[str], cwd: str, env: Mapping[str, str]) -> tuple[str, ...]:
    """Return the paths that the command needs.

    They are this repository, its interpreter, its cwd, and the paths in *argv* and in SHARED_VARIABLES of *env*.
    """
    named = [*argv, *(env.get(name, "") for name in SHARED_VARIABLES)]
    paths = [str(REPOSITORY), cwd, sys.prefix, sys.base_prefix, *(word for word in named if word.startswith("/"))]
    return tuple(dict.fromkeys(path for path in paths if Path(path).exists()))
