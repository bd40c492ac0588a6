"""The kernel lab: run a command on a Linux kernel that has IPVS.

Many kernels have no IPVS, and a test that changes kernel state must not change the user's kernel.  The lab therefore
starts a kernel of its own: `python3 -m lab run -- COMMAND` or `lab.run(argv)`.

Invariants:
  - The command sees the same files, environment and working directory as outside, but another kernel.
  - Its output and exit status are returned unchanged.
  - It ends within its timeout.
  - Only files that it wrote outside of /tmp, /run and /var remain afterwards.
  - Only the standard library is needed, so the lab runs on a fresh machine.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import IO

TIMED_OUT = 124  # as timeout(1)
LAB_FAILED = 125  # as env(1), chroot(1) and docker run: the lab failed, not the command


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
    """Run *argv* as root on a kernel with IPVS.

    Args:
        argv: The command and its arguments.
        timeout_s: Seconds until the kernel is killed.
        memory: Memory of the kernel, as "2G" or "512M".
        env: Environment of the command; default: that of this process.
        cwd: Working directory of the command; default: that of this process.
        stdout: File or descriptor for its output; default: 1.
        stderr: File or descriptor for its error output; default: 2.

    Returns:
        Its exit status; 128 + N if signal N killed it, TIMED_OUT, or LAB_FAILED if the kernel died.

    Raises:
        LabError: This machine cannot run such a kernel; the error names the reason and the remedy.
    """
    # Imported here because PID 1 of the lab kernel imports this package too, and each import costs time there.
    from lab.backends import choose_backend
    from lab.job import new_job

    job = new_job(argv, env=env, cwd=cwd, stdout=stdout, stderr=stderr)
    return choose_backend().run(job, timeout_s=timeout_s, memory=memory)
