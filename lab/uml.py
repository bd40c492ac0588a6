"""Backend "uml": user-mode-linux, a kernel as an ordinary process with the host's files as its root (hostfs).

kernels.py chooses the kernel.  guest.py is its init; what it writes to the job's folder is visible outside at once.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from lab.cpu import reserve_cpu
from lab.job import Job, LabError
from lab.kernel_process import run_kernel, start_kernel
from lab.kernels import UmlKernel, choose_iptables, choose_kernel
from lab.xstate import preload_for_large_xstate

_MODPROBE = Path("/sbin/modprobe")


def unavailable() -> LabError | None:
    """Return the reason why this machine cannot run user-mode-linux, or None."""
    try:
        kernel = choose_kernel()
        iptables = choose_iptables()
    except LabError as error:
        return error
    missing = kernel.missing() + ([] if _MODPROBE.exists() else [str(_MODPROBE)])
    if missing:
        return LabError(f"not installed: {', '.join(missing)}", "run python3 -m lab install")
    if iptables not in kernel.modules:
        return LabError(
            "Debian's user-mode-linux has no iptables-nft", "run make lab-kernels, or use LAB_IPTABLES=legacy"
        )
    return None


def describe() -> str:
    """Return the kernel's name for people."""
    kernel = choose_kernel()
    mode = "seccomp" if kernel.has_seccomp_mode else "ptrace"
    return f"Linux {kernel.release} ({kernel.name}, {mode}), iptables-{choose_iptables()}"


def run(job: Job, *, timeout_s: float, memory: str) -> int:
    """Boot, run *job* and power off; return the status as `lab.run` does."""
    kernel, iptables = choose_kernel(), choose_iptables()
    with reserve_cpu() as cpu:
        prepared = job.booting(kernel.modules[iptables], iptables)
        return run_kernel(prepared, lambda folder: _boot(kernel, folder, memory, cpu), timeout_s=timeout_s)


def _boot(kernel: UmlKernel, folder: Path, memory: str, cpu: int) -> subprocess.Popen[bytes]:
    init = [sys.executable, str(Path(__file__).with_name("guest.py")), str(folder), "uml"]
    if any(character.isspace() for word in init for character in word):
        raise LabError(f"a path on the kernel command line contains a space: {init}", "move the checkout or set TMPDIR")
    settings = {
        "mem": memory,
        "root": "/dev/root",
        "rootfstype": "hostfs",
        "rootflags": "/",
        "init": init[0],
        "con": "null",
        "con0": "fd:0,fd:1",
        "uml_dir": f"{folder}/",
        "umid": "kernel",
        **({"seccomp": "auto"} if kernel.has_seccomp_mode else {}),
    }
    words = [
        str(kernel.program),
        *(f"{name}={value}" for name, value in settings.items()),
        "rw",
        "quiet",
        "--",
        "-IS",
        *init[1:],
    ]
    env = {
        "PATH": os.environ.get("PATH", ""),
        "TMPDIR": str(_memory_folder(memory)),
        **({} if kernel.has_seccomp_mode else preload_for_large_xstate(folder)),
    }
    return start_kernel(words, folder, env, cpus={cpu})


def _memory_folder(memory: str) -> Path:
    """Return a folder for the (unlinked) file that backs the guest's memory; it must not be mounted noexec.

    In a container /dev/shm is often 64 MiB, and a guest that outgrows its file dies of SIGBUS.
    """
    size_bytes = int(memory[:-1]) << {"K": 10, "M": 20, "G": 30}[memory[-1].upper()]
    for folder in (Path("/dev/shm"), Path(tempfile.gettempdir()), Path("/var/tmp")):
        if folder.is_dir() and os.access(folder, os.W_OK):
            status = os.statvfs(folder)
            if status.f_bavail * status.f_frsize >= size_bytes and not status.f_flag & os.ST_NOEXEC:
                return folder
    raise LabError(f"no folder has {memory} free for the guest's memory", "free some, set TMPDIR, or use --mem 512M")
