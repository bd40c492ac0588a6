"""uml: the lab kernel as an ordinary process, Debian's user-mode-linux with the host's files as its root (hostfs).

One run: make a folder, write the job in it, start the kernel with guest.py as its init, copy what the guest appends to
stdout and stderr, read the status.  Whatever happens, the whole process tree and the folder are gone afterwards.
"""

from __future__ import annotations

import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.lab import LAB_FAILED, TIMED_OUT, linux
from tests.lab.job import Job, LabError
from tests.lab.processes import swept
from tests.lab.stage import UML_MODULES
from tests.lab.xstate import preload_for_large_xstate

KERNEL = Path("/usr/bin/linux.uml")
_POLL_S = 0.01
_CONSOLE_LINES = 60
_TROUBLE = re.compile(r"Kernel panic|BUG:|Oops|Call Trace|segfault|Out of memory")


def obstacle() -> LabError | None:
    """Why this machine can't run user-mode-linux, or None."""
    needed = (KERNEL, UML_MODULES, Path("/sbin/modprobe"))
    missing = [str(path) for path in needed if not path.exists()]
    if missing:
        return LabError(f"not installed: {', '.join(missing)}", "python3 -m tests.lab install")
    return None


def run(job: Job, *, timeout_s: float, memory: str) -> int:
    """Boot, run *job*, power off; see `tests.lab.run` for the status."""
    folder = Path(tempfile.mkdtemp(prefix="kernel-lab-"))
    try:
        job.write(folder)
        kernel = _boot(folder, memory)
        with kernel, swept(kernel.pid, folder):
            ended = _follow(kernel, folder, job, time.monotonic() + timeout_s)
            return _status(folder, job) if ended else _timed_out(job, timeout_s)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _boot(folder: Path, memory: str) -> subprocess.Popen[bytes]:
    init = [sys.executable, str(Path(__file__).with_name("guest.py")), str(folder)]
    if any(character.isspace() for word in init for character in word):
        raise LabError(f"a path with a space can't be passed to a kernel: {init}", "move the checkout or set TMPDIR")
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
    }
    words = [
        str(KERNEL),
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
        **preload_for_large_xstate(folder),
    }
    with (folder / "console").open("wb") as console:
        return subprocess.Popen(
            words,
            stdin=subprocess.DEVNULL,
            stdout=console,
            stderr=console,
            env=env,
            start_new_session=True,
            preexec_fn=_before_boot,
        )


def _before_boot() -> None:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a panic aborts; its core would be the guest's whole memory
    linux.die_with_parent(signal.SIGKILL)


def _memory_folder(memory: str) -> Path:
    """A folder for the (unlinked) file that backs the guest's memory: the kernel maps code from it, so exec is needed.

    In a container /dev/shm is often 64 MiB, and a guest that outgrows its file dies of SIGBUS.
    """
    needed = int(memory[:-1]) << {"K": 10, "M": 20, "G": 30}[memory[-1].upper()]
    for folder in (Path("/dev/shm"), Path(tempfile.gettempdir()), Path("/var/tmp")):
        if folder.is_dir() and os.access(folder, os.W_OK):
            about = os.statvfs(folder)
            if about.f_bavail * about.f_frsize >= needed and not about.f_flag & os.ST_NOEXEC:
                return folder
    raise LabError(f"no folder has room for {memory} of guest memory", "free some, set TMPDIR, or use --mem 512M")


def _follow(kernel: subprocess.Popen[bytes], folder: Path, job: Job, deadline: float) -> bool:
    """Copy the guest's output until the kernel ends (True) or *deadline* has passed (False)."""
    copies = [(_open_new(folder / "stdout"), job.stdout), (_open_new(folder / "stderr"), job.stderr)]
    try:
        while True:
            ended = kernel.poll() is not None  # asked before the copying, so that the last words are copied
            for source, target in copies:
                _copy_new(source, target)
            if ended or time.monotonic() > deadline:
                return ended
            time.sleep(_POLL_S)
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
    """The status that the guest wrote; if it wrote none, the kernel died, and its last words are shown."""
    console = (folder / "console").read_text(encoding="utf-8", errors="replace")
    written = folder / "status"
    if not written.exists():
        _say(job, f"the kernel died; the end of its console:\n{_tail(console)}")
        return LAB_FAILED
    if _TROUBLE.search(console):
        _say(job, f"the kernel complained; the end of its console:\n{_tail(console)}")
    return int(written.read_text())


def _timed_out(job: Job, timeout_s: float) -> int:
    _say(job, f"not finished after {timeout_s:g} s, killed")
    return TIMED_OUT


def _tail(console: str) -> str:
    return "\n".join(console.splitlines()[-_CONSOLE_LINES:])


def _say(job: Job, text: str) -> None:
    os.write(job.stderr, f"lab: {text}\n".encode())
