"""Notify: what a supervisor is told of this process, by systemd's protocol.

Law: it is told what is true, when it becomes true: READY after the first sync, which is when the node's Services are
served; WATCHDOG by the thread that syncs, so one that hangs is found out; RELOADING until the file was looked at.
Telling never blocks and never fails: a supervisor that does not listen is its own trouble.  Nobody listens where
NOTIFY_SOCKET is not set, and then nothing is done.

Source: sd_notify(3), sd_watchdog_enabled(3).
"""

import os
import socket
from collections.abc import Callable, Mapping
from contextlib import suppress
from time import monotonic, monotonic_ns
from typing import Literal

from kubeproxy_py.reconcile.report import SyncReport

State = Literal["starting", "ready", "reloading", "stopping"]

_STATUS_MAX_CHARACTERS = 200  # it is one line of `systemctl status`
_NEVER = float("inf")


class SystemdNotifier:
    """Whoever listens at NOTIFY_SOCKET of *environment*.

    ``told`` is called by the thread that syncs after each sync, ``alive`` at each of its turns; the others may be
    called by any thread.
    """

    def __init__(
        self,
        environment: Mapping[str, str] = os.environ,
        clock: Callable[[], float] = monotonic,
        pid: int | None = None,
    ) -> None:
        self._address = _address(environment.get("NOTIFY_SOCKET", ""))
        self._socket = _socket() if self._address else None
        self._clock = clock
        self._beat_s = _watchdog_s(environment, os.getpid() if pid is None else pid) / 2  # half, as sd_watchdog advises
        self._beat_due_s = -_NEVER
        self._state: State = "starting"

    def told(self, report: SyncReport) -> None:
        """A sync was made: the first one makes us ready; those that did something are the status."""
        if self._state == "starting":
            self._state = "ready"
            self._tell("READY=1", _status(report))
        elif report.steps or report.failed:
            self._tell(_status(report))

    def alive(self) -> float:
        """The thread that syncs is not stuck; in how many seconds it should say so again (inf: nobody asks)."""
        if self._beat_s == _NEVER:
            return _NEVER
        now_s = self._clock()
        if now_s >= self._beat_due_s:
            self._tell("WATCHDOG=1")
            self._beat_due_s = now_s + self._beat_s
        return self._beat_due_s - now_s

    def reloading(self) -> None:
        """The configuration is being looked at.  Before the first sync there is nothing that could be reloaded."""
        if self._state == "ready":
            self._state = "reloading"
            self._tell("RELOADING=1", f"MONOTONIC_USEC={monotonic_ns() // 1000}")

    def reloaded(self) -> None:
        """The configuration was followed, or refused, or was as before."""
        if self._state == "reloading":
            self._state = "ready"
            self._tell("READY=1")

    def stopping(self) -> None:
        """The process ends on purpose."""
        self._state = "stopping"
        self._tell("STOPPING=1")

    def _tell(self, *words: str) -> None:
        if self._socket:
            with suppress(OSError):
                self._socket.sendto("\n".join(words).encode(), self._address)


def _address(name: str) -> str | bytes:
    """The socket's address: a path, or an abstract name, which is written with @ for its leading NUL."""
    if name.startswith("@"):
        return b"\0" + os.fsencode(name[1:])
    return name if name.startswith("/") else ""


def _socket() -> socket.socket:
    made = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
    made.setblocking(False)
    return made


def _watchdog_s(environment: Mapping[str, str], pid: int) -> float:
    """How many seconds of silence the supervisor allows; inf if it does not watch this process."""
    microseconds, of = environment.get("WATCHDOG_USEC", ""), environment.get("WATCHDOG_PID", "")
    if not microseconds.isdecimal() or int(microseconds) == 0 or of not in ("", str(pid)):
        return _NEVER
    return int(microseconds) / 1e6


def _status(report: SyncReport) -> str:
    return f"STATUS={str(report)[:_STATUS_MAX_CHARACTERS]}"
