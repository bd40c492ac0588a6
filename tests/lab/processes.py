"""processes: end a whole tree of processes, and know that it has ended.

The kernel, as user-mode-linux, is many host processes, some of them traced and stopped; they share one session, and a
session's members can be found after their parent died.
"""

from __future__ import annotations

import os
import signal
import time

_PATIENCE_S = 5.0


def session_members(session: int) -> list[int]:
    """The processes of *session* that still run or could run (zombies left out)."""
    return [pid for pid in map(int, filter(str.isdigit, os.listdir("/proc"))) if _session_of(pid) == session]


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


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        pass  # it ended by itself


def _session_of(pid: int) -> int | None:
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            state, _, _, session = file.read().rpartition(b")")[2].split()[:4]
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if state in (b"Z", b"X") else int(session)
