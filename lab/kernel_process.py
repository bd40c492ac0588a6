"""Run one job in a lab kernel that is a process of this host.

A run makes a folder, writes the job to it, boots the kernel, copies what the guest appends to stdout and stderr, and
reads the status.

Invariants:
  - After the run the complete process tree and the folder are removed, however the run ends.
"""

from __future__ import annotations

import os
import re
import resource
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from pathlib import Path

from lab import LAB_FAILED, TIMED_OUT, linux
from lab.job import Job
from lab.processes import killed_on_exit

_POLL_S = 0.01
_LONGEST_POLL_S = 0.05  # of a run that has lasted for some seconds
_CONSOLE_LINES = 60
_KERNEL_ERROR = re.compile(r"Kernel panic|BUG:|Oops|Call Trace|segfault|Out of memory")


def run_kernel(job: Job, boot: Callable[[Path], subprocess.Popen[bytes]], *, timeout_s: float) -> int:
    """Boot, run *job* and power off; return the status as `lab.run` does.

    Args:
        job: The command to run.
        boot: Starts the kernel, given the job's folder.
        timeout_s: Seconds until the kernel is killed.
    """
    folder = Path(tempfile.mkdtemp(prefix="kernel-lab-"))
    try:
        job.write(folder)
        kernel = boot(folder)
        with kernel, killed_on_exit(kernel.pid, folder):
            ended = _follow(kernel, folder, job, time.monotonic() + timeout_s)
            return _status(folder, job) if ended else _timed_out(job, timeout_s)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def start_kernel(
    words: Sequence[str], folder: Path, env: Mapping[str, str], *, cpus: Collection[int] = ()
) -> subprocess.Popen[bytes]:
    """Start a kernel in its own session, with its console in *folder*, on *cpus* only; it dies with this process."""
    with (folder / "console").open("wb") as console:
        return subprocess.Popen(
            words,
            stdin=subprocess.DEVNULL,
            stdout=console,
            stderr=console,
            env=env,
            start_new_session=True,
            preexec_fn=partial(_before_boot, cpus),
        )


def _before_boot(cpus: Collection[int]) -> None:
    if cpus:
        os.sched_setaffinity(0, cpus)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a panic aborts; its core dump would be the guest's memory
    linux.die_with_parent(signal.SIGKILL)


def _follow(kernel: subprocess.Popen[bytes], folder: Path, job: Job, deadline: float) -> bool:
    """Copy the guest's output until the kernel ends (True) or *deadline* has passed (False)."""
    began = time.monotonic()
    copies = [(_open_new(folder / "stdout"), job.stdout), (_open_new(folder / "stderr"), job.stderr)]
    try:
        while True:
            ended = kernel.poll() is not None  # read before copying, so that the last output is copied
            for source, target in copies:
                _copy_new(source, target)
            now = time.monotonic()
            if ended or now > deadline:
                return ended
            time.sleep(min(max(_POLL_S, (now - began) / 100), _LONGEST_POLL_S))
    finally:
        for source, _ in copies:
            os.close(source)


def _open_new(path: Path) -> int:
    return os.open(path, os.O_RDONLY | os.O_CREAT, 0o600)


def _copy_new(source: int, target: int) -> None:
    while chunk := os.read(source, 1 << 16):
        while chunk:
            chunk = chunk[os.write(target, chunk) :]


def _status(folder: Path, job: Job) -> int:
    """Return the status that the guest wrote; without one the kernel died, and the end of its console is printed."""
    console = (folder / "console").read_text(encoding="utf-8", errors="replace")
    written = folder / "status"
    if not written.exists():
        _report(job, f"the kernel died; the end of its console:\n{_tail(console)}")
        return LAB_FAILED
    if _KERNEL_ERROR.search(console):
        _report(job, f"the kernel reported an error; the end of its console:\n{_tail(console)}")
    return int(written.read_text())


def _timed_out(job: Job, timeout_s: float) -> int:
    _report(job, f"not finished after {timeout_s:g} s, killed")
    return TIMED_OUT


def _tail(console: str) -> str:
    return "\n".join(console.splitlines()[-_CONSOLE_LINES:])


def _report(job: Job, text: str) -> None:
    os.write(job.stderr, f"lab: {text}\n".encode())
