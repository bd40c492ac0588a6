"""The kernel lab: run a command on a Linux kernel that has IPVS.

Many kernels have no IPVS, and a test that touches the kernel must not touch that of its user.  So the lab
starts one: `python3 -m lab run -- COMMAND` or `lab.run(argv)`.  Its law: the command sees the same files,
environment and working directory as outside, but its own kernel; its output and exit status come back unchanged;
it ends within its time; and nothing but what it wrote outside of /tmp, /run and /var stays behind.

Needs the standard library only, so that it runs on a fresh machine.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import IO

TIMED_OUT = 124  # as timeout(1)
LAB_FAILED = 125  # as env(1), chroot(1), docker run: the carrier failed, not the command


def run(
    argv: Sequence[str],
    *,
    timeout_s: float = 600.0,
    memory: str = "2G",
    env: Mapping[str, str] | None = None,
    cwd: str | None = None,
    stdout: int | IO[bytes] | None = None,
    stderr: int | IO[bytes] | None = None,
) -> int:
    """Run *argv* on a kernel with IPVS, as root there, and return its exit status.

    128 + N if signal N ended it, TIMED_OUT after *timeout_s* seconds, LAB_FAILED if the kernel died.  *env* replaces
    the environment (default: this process's), *memory* is the kernel's, as "2G" or "512M"; *stdout* and *stderr* are
    files or descriptors (default: 1 and 2).

    Raises LabError if this machine can't give such a kernel; it says why and what to do.
    """
    # Imported late: PID 1 of the lab kernel imports this package too, where each import costs time.
    from lab.choose import choose
    from lab.job import new_job

    job = new_job(argv, env=env, cwd=cwd, stdout=stdout, stderr=stderr)
    return choose().run(job, timeout_s=timeout_s, memory=memory)
