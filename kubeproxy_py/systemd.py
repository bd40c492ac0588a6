"""SystemdNotifier: reports the state of this process to its supervisor by systemd's protocol.

Invariants:
- What is reported is true when it is reported: READY after the first sync, when Services are served; WATCHDOG by the
  thread that syncs, so that a hang is noticed; RELOADING until the configuration file was read.
- Reporting never blocks and never fails. Without NOTIFY_SOCKET nothing is sent.

Source: sd_notify(3), sd_watchdog_enabled(3).
"""

import os
import socket
from collections.abc import Callable, Mapping
from contextlib import suppress
from time import monotonic, monotonic_ns
from typing import Literal

from kubeproxy_py.reconcile.report import Report, StaleFlowReport
from kubeproxy_py.reconcile.report_text import report_text

State = Literal["starting", "ready", "reloading", "stopping"]

_STATUS_MAX_CHARACTERS = 200  # it is one line of `systemctl status`
_NEVER = float("inf")


class SystemdNotifier:
    """Sends notifications to the socket that NOTIFY_SOCKET of *environment* names.

    The thread that syncs calls ``on_report`` with each report and ``alive`` in each cycle; the other methods may be
    called in any thread.
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
        timeout_s = _watchdog_s(environment, os.getpid() if pid is None else pid)
        self._watchdog_period_s = timeout_s / 2  # as sd_watchdog_enabled(3) advises
        self._watchdog_due_s = -_NEVER
        self._state: State = "starting"

    def on_report(self, report: Report) -> None:
        """Report READY after the first sync, and each sync that changed something as the status."""
        if self._state == "starting":
            self._state = "ready"
            self._send("READY=1", _status(report))
        elif not isinstance(report, StaleFlowReport) and (report.steps or report.failures):
            self._send(_status(report))

    def alive(self) -> float:
        """Report that the calling thread is not stuck; return in how many seconds to call again (inf: no watchdog)."""
        if self._watchdog_period_s == _NEVER:
            return _NEVER
        now_s = self._clock()
        if now_s >= self._watchdog_due_s:
            self._send("WATCHDOG=1")
            self._watchdog_due_s = now_s + self._watchdog_period_s
        return self._watchdog_due_s - now_s

    def reloading(self) -> None:
        """Report that the configuration is being read; before the first sync there is nothing to reload."""
        if self._state == "ready":
            self._state = "reloading"
            self._send("RELOADING=1", f"MONOTONIC_USEC={monotonic_ns() // 1000}")

    def reloaded(self) -> None:
        """Report that the configuration was applied, rejected, or found unchanged."""
        if self._state == "reloading":
            self._state = "ready"
            self._send("READY=1")

    def stopping(self) -> None:
        """Report that the process ends on purpose."""
        self._state = "stopping"
        self._send("STOPPING=1")

    def _send(self, *assignments: str) -> None:
        if self._socket:
            with suppress(OSError):
                self._socket.sendto("\n".join(assignments).encode(), self._address)


def _address(name: str) -> str | bytes:
    """Return the socket's address: a path, or an abstract name, in which a leading @ means NUL."""
    if name.startswith("@"):
        return b"\0" + os.fsencode(name[1:])
    return name if name.startswith("/") else ""


def _socket() -> socket.socket:
    datagrams = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
    datagrams.setblocking(False)  # noqa: FBT003 - the signature is the library's
    return datagrams


def _watchdog_s(environment: Mapping[str, str], pid: int) -> float:
    """Return the longest silence that the supervisor allows, in seconds; inf if it does not watch this process."""
    microseconds, watched_pid = environment.get("WATCHDOG_USEC", ""), environment.get("WATCHDOG_PID", "")
    if not microseconds.isdecimal() or int(microseconds) == 0 or watched_pid not in ("", str(pid)):
        return _NEVER
    return int(microseconds) / 1e6


def _status(report: Report) -> str:
    return f"STATUS={report_text(report)[:_STATUS_MAX_CHARACTERS]}"
