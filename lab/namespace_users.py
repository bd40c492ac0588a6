"""What keeps network namespaces: threads, open descriptors, sockets of this process, mounts.

A namespace, and with it its rules, sets and virtual servers, lives until nothing uses it.  One use cannot be seen: a
closed socket whose last data or end the peer does not acknowledge.  Linux keeps TCP's for 2 to 4 minutes, SCTP's for 5.
"""

from __future__ import annotations

import fcntl
import os
import stat
from collections import defaultdict
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

_SIOCGSKNS = 0x894C  # opens the namespace of a socket; linux/sockios.h
_COMMAND_CHARACTERS = 80


def namespace_users() -> dict[int, list[str]]:
    """Return the users of each network namespace but the caller's and that of process 1, by inode number."""
    own = {Path(f"/proc/{task}/ns/net").stat().st_ino for task in ("thread-self", "1")}
    users = defaultdict(list)
    for inode, user in _users():
        if inode not in own:
            users[inode].append(user)
    return dict(users)


def describe_users() -> str:
    """Return `namespace_users` as text."""
    lines = [f"  net:[{inode}]: {', '.join(users)}" for inode, users in namespace_users().items()]
    return "\n".join(lines or ["  none that can be seen; maybe a closed socket whose peer acknowledges nothing"])


def _users() -> Iterator[tuple[int, str]]:
    nsfs = Path("/proc/self/ns/net").stat().st_dev
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it has ended
            yield from _users_in_process(process, nsfs)
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        root, target = line.split()[3:5]
        if root.startswith("net:["):
            yield int(root[5:-1]), f"mount {target}"


def _users_in_process(process: Path, nsfs: int) -> Iterator[tuple[int, str]]:
    command = (process / "cmdline").read_text(errors="replace").replace("\0", " ").strip()
    name = f"process {process.name} ({command[:_COMMAND_CHARACTERS]})"
    for thread in (process / "task").iterdir():
        with suppress(OSError):
            yield (thread / "ns/net").stat().st_ino, f"thread {thread.name} of {name}"
    is_own = int(process.name) == os.getpid()
    for descriptor in (process / "fd").iterdir():
        with suppress(OSError):
            file = descriptor.stat()
            if file.st_dev == nsfs:
                yield file.st_ino, f"descriptor {descriptor.name} of {name}"
            elif is_own and stat.S_ISSOCK(file.st_mode):
                yield _namespace_of(int(descriptor.name)), f"socket {descriptor.name} of {name}"


def _namespace_of(sock: int) -> int:
    """Return the inode number of a socket's namespace.  Raises OSError if this is another file by now."""
    namespace = fcntl.ioctl(sock, _SIOCGSKNS)
    try:
        return os.fstat(namespace).st_ino
    finally:
        os.close(namespace)
