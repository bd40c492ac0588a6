"""InstanceLock: at most one agent programs a network namespace.

The lock is an abstract Unix socket. Its name belongs to the network namespace, as what the agent programs does: the
agents of two pods with hostNetwork compete for it, those of two nodes in containers do not. The kernel frees it when
the process ends, however that ends; there is no file to clean up, to mount or to share.

Any process may bind the name. One that has no right to program the network cannot be an agent, and must not keep the
agent from starting.

Source: unix(7), "Abstract sockets" and SO_PEERCRED; capabilities(7).
"""

import socket
from errno import EADDRINUSE
from pathlib import Path
from struct import Struct

import msgspec

NAME = b"\0kubeproxy-py"
_BACKLOG = 128  # a process that asks who holds the lock stays in the queue, because nobody accepts
_CREDENTIALS = Struct("=iII")  # struct ucred: pid, uid, gid
_NET_ADMIN = 1 << 12  # CAP_NET_ADMIN


class Holder(msgspec.Struct, frozen=True, gc=False):
    """The process that holds the lock."""

    pid: int | None = None  # 0: it is in a PID namespace that we do not see; None: cannot be determined
    uid: int | None = None  # None: cannot be determined
    may_be_an_agent: bool = True  # False: it has no right to program the network

    def __str__(self) -> str:
        user = f", uid {self.uid}" if self.uid else ""
        if self.pid is None:
            return "pid unknown"
        return f"pid {self.pid}{user}" if self.pid else f"pid not visible here: it runs in another container{user}"


class InstanceLock:
    """The lock of the network namespace of the calling thread; held until the process ends."""

    def __init__(self) -> None:
        self._socket: socket.socket | None = None

    def acquire(self) -> bool:
        """Take the lock; return whether we hold it now.

        Raises:
            OSError: Unix sockets cannot be used.
        """
        candidate = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        try:
            candidate.bind(NAME)
            candidate.listen(_BACKLOG)
        except OSError as error:
            candidate.close()
            if error.errno != EADDRINUSE:
                raise
            return False
        self._socket = candidate
        return True

    def release(self) -> None:
        """Free the lock before the process ends."""
        if self._socket:
            self._socket.close()
            self._socket = None


def find_holder() -> Holder:
    """Return the process that holds the lock of this network namespace.  Raises OSError as InstanceLock."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as client:
        client.setblocking(False)  # noqa: FBT003 - the signature is the library's
        try:
            client.connect(NAME)
        except OSError:  # it has ended meanwhile, does not listen yet, or its queue is full
            return Holder()
        credentials = client.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    pid, uid, _gid = _CREDENTIALS.unpack(credentials)
    return Holder(pid, uid, pid == 0 or _may_program(pid))


def _may_program(pid: int, proc: Path = Path("/proc")) -> bool:
    """Return whether the process has CAP_NET_ADMIN; true if that cannot be determined."""
    try:
        lines = (proc / str(pid) / "status").read_text(errors="replace").splitlines()
        effective = next(line for line in lines if line.startswith("CapEff:"))
        return bool(int(effective.split()[1], 16) & _NET_ADMIN)
    except (OSError, StopIteration, ValueError, IndexError):
        return True
