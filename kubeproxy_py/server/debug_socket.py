"""DebugServer: the documents of the agent's state on a Unix socket that only root, and the agent's own user, may use.

Invariants:
- Who connects is identified by the kernel (SO_PEERCRED), whatever the permissions of the file.
- The socket file of a process that is gone is replaced, never that of a live one.
"""

import logging
import os
import stat
import struct
import time
from contextlib import suppress
from pathlib import Path
from socket import AF_UNIX, SO_PEERCRED, SOCK_NONBLOCK, SOCK_STREAM, SOL_SOCKET, socket

from kubeproxy_py.logging_setup import values
from kubeproxy_py.server.http import Handler, HttpServer

CLIENTS_MAX = 32
RETRY_S = 5.0
_BACKLOG = 128
_CREDENTIALS = struct.Struct("3i")  # struct ucred: pid, uid, gid
_PRIVATE = 0o700

log = logging.getLogger(__name__)


class DebugServer:
    """Serves *handler* at the socket file *path*, in a thread of its own."""

    def __init__(self, path: str, handler: Handler) -> None:
        self._path = path
        self._handler = handler
        self._server = HttpServer("debug", clients_max=CLIENTS_MAX)
        self._listener: socket | None = None
        self._inode = (0, 0)
        self._check_due_s = 0.0
        self._logged = ""
        self._server.call_periodically(self._check)

    def start(self) -> None:
        """Serve until the process ends; where the socket cannot be made, try again every few seconds."""
        self._check()
        self._server.start()

    def _check(self) -> None:
        """Listen, unless this process does; a socket file that somebody deleted is made again."""
        now_s = time.monotonic()
        if now_s < self._check_due_s:
            return
        self._check_due_s = now_s + RETRY_S
        if self._listener and _inode_of(self._path) == self._inode:
            return
        try:
            listener = listening_unix_socket(self._path)
        except OSError as error:
            self._log_failure(error.strerror or str(error))
            return
        if self._listener:
            self._server.close(self._listener)
        self._listener, self._inode, self._logged = listener, _inode_of(self._path), ""
        self._server.add(listener, self._handler, is_admitted)
        log.info("Serving the state of this agent", extra=values(socket=self._path))

    def _log_failure(self, error: str) -> None:
        if error != self._logged:
            self._logged = error
            log.warning(
                "Failed to serve the state of this agent, retrying; Services are not affected, and `status` reads the "
                "kernel itself",
                extra=values(socket=self._path, err=error),
            )


def is_admitted(client: socket) -> bool:
    """Return whether the process that connected *client* is root's, or of the user of this process."""
    try:
        _, uid, _ = _CREDENTIALS.unpack(client.getsockopt(SOL_SOCKET, SO_PEERCRED, _CREDENTIALS.size))
    except OSError:
        return False
    return uid in (0, os.geteuid())


def listening_unix_socket(path: str) -> socket:
    """Return a socket that listens at *path*; its directory is made private, if nothing else is in it.

    Raises:
        OSError: Another process listens there, or the file cannot be made.
    """
    file = Path(path)
    file.parent.mkdir(mode=_PRIVATE, parents=True, exist_ok=True)
    if {*file.parent.iterdir()} <= {file}:  # not /run itself, for example
        file.parent.chmod(_PRIVATE)
    _remove_stale(file)
    listener = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK)
    try:
        listener.bind(path)
        file.chmod(0o600)  # before listen(), until which nobody can connect
        listener.listen(_BACKLOG)
    except OSError:
        listener.close()
        raise
    return listener


def _remove_stale(file: Path) -> None:
    """Remove the socket *file* of a process that is gone.  Raises OSError if it is none, or one listens there."""
    try:
        mode = file.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise FileExistsError(17, "a file that is no socket is there; remove it, or set another --debug-socket")
    with socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK) as probe:
        try:
            probe.connect(str(file))
        except ConnectionRefusedError:
            with suppress(FileNotFoundError):
                file.unlink()
            return
        except OSError:  # EAGAIN: its backlog is full, so it lives
            pass
    raise OSError(98, "another process listens there")


def _inode_of(path: str) -> tuple[int, int]:
    try:
        found = os.stat(path)  # noqa: PTH116 - a Path for each check is not needed
    except OSError:
        return 0, 0
    return found.st_dev, found.st_ino
