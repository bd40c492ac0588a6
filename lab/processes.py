"""processes: end a whole tree of processes, and know that it has ended.

The kernel, as user-mode-linux, is many host processes, some of them traced and stopped; they share one session, and a
session's members can be found after their parent died.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_PATIENCE_S = 5.0


def session_members(session: int) -> list[int]:
    """The processes of *session* that still run or could run (zombies left out)."""
    pids = (int(path.name) for path in Path("/proc").glob("[0-9]*"))
    return [pid for pid in pids if _session_of(pid) == session]


def kill_session(session: int) -> None:
    """SIGKILL each member of *session* until none is left.

    Raises TimeoutError if one outlives that by 5 s (it hangs in the host's kernel).
    """
    deadline = time.monotonic() + _PATIENCE_S
    while members := session_members(session):
        if time.monotonic() > deadline:
            raise TimeoutError(f"processes {members} can't be killed")
        for pid in members:
            _kill(pid)
        time.sleep(0.01)


@contextmanager
def swept(session: int, folder: Path) -> Iterator[None]:
    """At the end, or if this process is killed outright, *session* is killed and *folder* removed.

    A small process waits for the pipe from this one to close; SIGKILL leaves no one else to do it.
    """
    script = 'read _; kill -9 "-$1"; rm -rf -- "$2"'
    words = ["sh", "-c", script, "sh", str(session), str(folder)]
    with subprocess.Popen(words, stdin=subprocess.PIPE, start_new_session=True) as sweeper:
        try:
            yield
        finally:
            kill_session(session)
            sweeper.kill()  # the number may soon be another's


def _kill(pid: int) -> None:
    with suppress(ProcessLookupError):  # it may have ended by itself
        os.kill(pid, signal.SIGKILL)


def _session_of(pid: int) -> int | None:
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return None
    # proc(5): "PID (NAME) STATE PPID PGRP SESSION ..."; a name may hold blanks and brackets.
    state, _, _, session = stat.rpartition(b")")[2].split()[:4]
    return None if state in (b"Z", b"X") else int(session)
