"""host: the lab kernel is this one, in namespaces of its own: network, mounts, pids, host name.

Faster than any other way, but global sysctls (nf_conntrack_max) can't be written there, and modules get loaded into the
host's kernel; so it is the second choice.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

from lab import TIMED_OUT, linux
from lab.job import Job, LabError

_NEEDED = ("ip_vs", "dummy")


def obstacle() -> LabError | None:
    """Why this kernel can't be the lab, or None."""
    if os.geteuid() != 0:
        return LabError("this kernel can be used by root only", "use sudo, or LAB=uml")
    missing = [name for name in _NEEDED if not _has_module(name)]
    if missing:
        return LabError(f"this kernel has no {' and no '.join(missing)}", "use LAB=uml")
    return None


def run(job: Job, *, timeout_s: float, memory: str) -> int:
    """Run *job* in new namespaces; *memory* is not limited here."""
    folder = Path(tempfile.mkdtemp(prefix="kernel-lab-"))
    guest = [sys.executable, "-IS", str(Path(__file__).with_name("guest.py")), str(folder), "host"]
    process = None
    try:
        job.write(folder)
        passed = tuple({job.stdout, job.stderr} - {0, 1, 2})
        process = subprocess.Popen(guest, pass_fds=passed, start_new_session=True, preexec_fn=_before_start)
        return process.wait(timeout_s)
    except subprocess.TimeoutExpired:
        os.write(job.stderr, f"lab: not finished after {timeout_s:g} s, killed\n".encode())
        return TIMED_OUT
    finally:
        if process:
            process.kill()
            process.wait()
        shutil.rmtree(folder, ignore_errors=True)


def _before_start() -> None:
    linux.die_with_parent(signal.SIGKILL)


def _has_module(name: str) -> bool:
    """Whether the module is loaded, built in or loadable; loads it."""
    if Path("/sys/module", name).exists():
        return True
    modprobe = shutil.which("modprobe", path="/sbin:/usr/sbin")
    return modprobe is not None and subprocess.run([modprobe, "-q", name], check=False).returncode == 0
