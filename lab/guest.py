"""Process 1 of the lab kernel: sets the kernel up (guest_setup.py), runs the job's command and reports its status.

Started as `python -IS guest.py FOLDER BACKEND`, with the job in FOLDER/job.json.  In user-mode-linux and qemu it is
the kernel's init: it copies the output through pipes to FOLDER/stdout and FOLDER/stderr, writes the status to
FOLDER/status and powers off.  For the backend `host` it makes namespaces first, and the command inherits the output.
"""

from __future__ import annotations

import os
import select
import signal
import sys
import traceback
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from lab import LAB_FAILED, guest_setup, linux
from lab.job import Job, read_job

_CHUNK_BYTES = 1 << 16
_REAP_INTERVAL_MS = 1000  # zombies of orphaned processes are reaped at least this often


def main(folder: Path, backend: str) -> int:
    """Run the job in *folder* and return its exit status."""
    job = read_job(folder)
    if backend == "host":
        return _in_namespaces(job, folder)
    status = LAB_FAILED
    try:
        guest_setup.prepare(job, folder, backend)
        status = _run_piped(job, folder, backend)
    except BaseException:  # process 1 must never exit: the kernel would panic and hide the reason
        _append(folder / "stderr", traceback.format_exc().encode())
    _append(folder / "status", str(status).encode())
    os.sync()  # hostfs writes through, 9p with a cache does not
    linux.power_off()
    return status


def _in_namespaces(job: Job, folder: Path) -> int:
    linux.die_with_parent(signal.SIGKILL)
    guest_setup.unshare_all()
    pid = os.fork()  # the child is process 1 of the new pid namespace: its descendants die with it
    if pid == 0:
        linux.die_with_parent(signal.SIGKILL)
        guest_setup.prepare(job, folder, "host")
        os._exit(_relay(_spawn(job, "host", job.stdout, job.stderr), {}))
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) % 256


def _run_piped(job: Job, folder: Path, backend: str) -> int:
    # Pipes, not the files themselves, so that /dev/stdout works as the command expects.
    out_read, out_write = os.pipe()
    err_read, err_write = os.pipe() if job.stderr != job.stdout else (-1, out_write)
    pid = _spawn(job, backend, out_write, err_write)
    for descriptor in {out_write, err_write}:
        os.close(descriptor)
    return _relay(pid, {out_read: folder / "stdout", err_read: folder / "stderr"})


def _spawn(job: Job, backend: str, stdout: int, stderr: int) -> int:
    """Start the job's command in its own session; exit with 127 or 126 if it cannot start, as a shell does."""
    pid = os.fork()
    if pid:
        return pid
    try:
        os.setsid()
        os.dup2(os.open("/dev/null", os.O_RDONLY), 0)
        os.dup2(stdout, 1)
        os.dup2(stderr, 2)
        os.closerange(3, 256)
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # the command must not inherit Python's signal settings
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
        os.chdir(job.cwd)
        os.execvpe(job.argv[0], job.argv, guest_setup.environment(job, backend))
    except OSError as error:
        os.write(2, f"lab: can't run {job.argv[0]}: {error.strerror}\n".encode())
        os._exit(127 if isinstance(error, FileNotFoundError) else 126)


def _relay(command: int, copies: dict[int, Path]) -> int:
    """Copy each pipe to its file and reap orphans until *command* has ended; return its status (128 + N: signal N)."""
    poll = select.poll()
    ended = os.pidfd_open(command)
    for descriptor in (ended, *(d for d in copies if d >= 0)):
        poll.register(descriptor, select.POLLIN)
    status = None
    while status is None:
        for descriptor, _ in poll.poll(_REAP_INTERVAL_MS):
            if descriptor != ended and not _copy(descriptor, copies[descriptor]):
                poll.unregister(descriptor)
        status = _reap(command)
    for descriptor in (d for d in copies if d >= 0):
        os.set_blocking(descriptor, False)
        while _copy(descriptor, copies[descriptor]):
            pass
    return status if status >= 0 else 128 - status


def _reap(command: int) -> int | None:
    while True:
        try:
            pid, wait_status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return None
        if pid == command:
            return os.waitstatus_to_exitcode(wait_status)
        if pid == 0:
            return None


def _copy(descriptor: int, target: Path) -> bool:
    try:
        chunk = os.read(descriptor, _CHUNK_BYTES)
    except BlockingIOError:
        return False
    _append(target, chunk)
    return bool(chunk)


def _append(path: Path, content: bytes) -> None:
    # Neither hostfs nor the folder's 9p mount has a cache: what is written here can be read outside at once.
    if content:
        with path.open("ab") as file:
            file.write(content)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), sys.argv[2]))  # user-mode-linux appends console=tty0
