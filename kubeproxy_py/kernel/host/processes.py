"""The processes of this host that can be seen, and what answers on it.

Source: proc(5). A process of another PID namespace is not seen (a pod without hostPID), nor with ProtectProc one that
has more rights.
"""

import os
import socket
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

_COMMAND_LINE_MAX_BYTES = 4096
_ANSWER_MAX_BYTES = 4096
_PROGRAMMING_PROTOCOLS = ("12", "16")  # NETLINK_NETFILTER, NETLINK_GENERIC


def processes(proc: Path = Path("/proc")) -> Iterator[tuple[int, list[str]]]:
    """Yield the PID and the command line of each process but this one and its children.

    A child has this process' command line until it executes its program.
    """
    own = os.getpid()
    for entry in proc.iterdir():
        if not entry.name.isdecimal() or int(entry.name) == own:
            continue
        # It has ended meanwhile, or its status is not as proc(5) says.
        with suppress(OSError, ValueError, IndexError), (entry / "cmdline").open("rb") as file:
            text = file.read(_COMMAND_LINE_MAX_BYTES).decode(errors="replace")
            if _parent(entry) != own:
                yield int(entry.name), text.rstrip("\0").split("\0")


def netlink_users(proc: Path = Path("/proc")) -> list[tuple[int, str]]:
    """Return PID and program of the processes with netlink sockets by which rules, sets or IPVS can be changed.

    Only sockets whose number is that of their process are attributed, which is the first one of a process; sockets of
    other network namespaces are not listed.
    """
    try:
        lines = (proc / "self/net/netlink").read_text().splitlines()[1:]
    except OSError:
        return []
    own = os.getpid()
    fields = (line.split() for line in lines)
    pids = {int(port) for _, protocol, port, *_ in fields if protocol in _PROGRAMMING_PROTOCOLS}
    users: list[tuple[int, str]] = []
    for pid in sorted(pids - {0, own}):
        with suppress(OSError):  # no process has this number: the kernel chose it
            users.append((pid, (proc / str(pid) / "comm").read_text().strip()))
    return users


def _parent(entry: Path) -> int:
    """Return the PID of the parent; the name of a process, in parentheses, may contain anything.

    Raises OSError, ValueError, IndexError.
    """
    return int((entry / "stat").read_text(errors="replace").rpartition(")")[2].split()[1])


def is_in_our_network(pid: int, proc: Path = Path("/proc")) -> bool:
    """Return whether the process is in this process' network namespace.

    The files below /proc/PID/net have the same inode for all processes of one namespace, and reading it takes no right
    to trace the process, unlike the link /proc/PID/ns/net.
    """
    try:
        return (proc / str(pid) / "net/dev").stat().st_ino == (proc / "self/net/dev").stat().st_ino
    except OSError:
        return False


def get_local(port: int, path: str, timeout_s: float = 1.0) -> str:
    """Return the body of HTTP GET *path* at *port* of 127.0.0.1; "" if nothing answers in time."""
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout_s) as connection:
        connection.sendall(f"GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n".encode())
        answer = b""
        while len(answer) < _ANSWER_MAX_BYTES and (part := connection.recv(_ANSWER_MAX_BYTES)):
            answer += part
        return answer.partition(b"\r\n\r\n")[2].decode(errors="replace")
    return ""
