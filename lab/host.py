"""Backend "host": the host's own kernel, in separate namespaces for network, mounts, pids and host name.

The fastest backend, but global sysctls (nf_conntrack_max) cannot be written, and modules are loaded into the host's
kernel; so it is the second choice.
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


def unavailable() -> LabError | None:
    """Return the reason why this kernel cannot be the lab, or None."""
    if os.geteuid() != 0:
        return LabError("only root can use this kernel", "use sudo, or LAB=uml")
    missing = [name for name in _NEEDED if not _has_module(name)]
    if missing:
        return LabError(f"this kernel has no {' and no '.join(missing)}", "use LAB=uml")
    return None


def describe() -> str:
    """Return the kernel's name for people."""
    return f"Linux {os.uname().release}, this machine's own"


def run(job: Job, *, timeout_s: float, memory: str) -> int:
    """Run *job* in new namespaces; *memory* is ignored."""
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
    """Load the module *name*; return whether it is loaded or built in."""
    if Path("/sys/module", name).exists():
        return True
    modprobe = shutil.which("modprobe", path="/sbin:/usr/sbin")
    return modprobe is not None and subprocess.run([modprobe, "-q", name], check=False).returncode == 0
