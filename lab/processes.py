"""Kill a process tree and wait until it has ended.

A user-mode-linux kernel is many host processes, some of them traced and stopped.  They share one session, and the
members of a session can be found after their parent has died.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_KILL_TIMEOUT_S = 60.0


def session_members(session: int) -> list[int]:
    """Return the pids of *session*, without zombies."""
    pids = (int(path.name) for path in Path("/proc").glob("[0-9]*"))
    return [pid for pid in pids if _session_of(pid) == session]


def kill_session(session: int) -> None:
    """Send SIGKILL to each member of *session* until none is left.

    Raises:
        TimeoutError: A process still exists after a minute (it hangs in the host's kernel).
    """
    deadline = time.monotonic() + _KILL_TIMEOUT_S
    while members := session_members(session):
        if time.monotonic() > deadline:
            raise TimeoutError(f"processes {members} cannot be killed")
        for pid in members:
            _kill(pid)
        time.sleep(0.01)


@contextmanager
def killed_on_exit(session: int, folder: Path) -> Iterator[None]:
    """Kill *session* at the end of the `with`; if this process is killed, also remove *folder*.

    A small process waits until the pipe from this process closes, because this one cannot handle SIGKILL.
    """
    script = 'read _; kill -9 "-$1"; rm -rf -- "$2"'
    words = ["sh", "-c", script, "sh", str(session), str(folder)]
    with subprocess.Popen(words, stdin=subprocess.PIPE, start_new_session=True) as sweeper:
        try:
            yield
        finally:
            kill_session(session)
            sweeper.kill()  # before the session number can be reused


def _kill(pid: int) -> None:
    with suppress(ProcessLookupError):  # it may have ended already
        os.kill(pid, signal.SIGKILL)


def _session_of(pid: int) -> int | None:
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return None
    # proc(5): "PID (NAME) STATE PPID PGRP SESSION ..."; a name may contain blanks and brackets.
    state, _, _, session = stat.rpartition(b")")[2].split()[:4]
    return None if state in (b"Z", b"X") else int(session)
