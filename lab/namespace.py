"""Network namespaces that act as machines; the calling thread can enter one and return.

A socket stays in the namespace in which it was made, so one process can have sockets of all machines.
Each namespace is also bound to /run/netns/NAME for `ip netns exec NAME` (NAME-2 if a second cluster is up).
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

from lab import linux

_NETNS = Path("/run/netns")
_OWN = "/proc/thread-self/ns/net"


class Namespace:
    """One network namespace, with `lo` up; closed at the end of a `with`."""

    def __init__(self, name: str, path: Path) -> None:
        self.name = name
        self.path = path
        self.descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def __repr__(self) -> str:
        return f"Namespace({self.name!r})"

    @contextmanager
    def inside(self) -> Iterator[None]:
        """Run the `with` block with the calling thread in this namespace."""
        before = os.open(_OWN, os.O_RDONLY)
        try:
            linux.setns(self.descriptor, linux.CLONE_NEWNET)
            yield
        finally:
            linux.setns(before, linux.CLONE_NEWNET)
            os.close(before)

    def enter(self) -> None:
        """Move the calling thread into this namespace permanently; usable as subprocess's preexec_fn."""
        linux.setns(self.descriptor, linux.CLONE_NEWNET)

    def wrap(self, argv: list[str]) -> list[str]:
        """Return *argv* as a command that runs in this namespace."""
        return ["nsenter", f"--net={self.path}", "--", *argv]

    def set_sysctl(self, name: str, value: int | str) -> None:
        """Write a sysctl of this namespace; *name* is a path below /proc/sys/net, as `ipv4/ip_forward`."""
        with self.inside():
            Path("/proc/sys/net", name).write_text(str(value))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the namespace; the kernel removes it once no process or socket is in it."""
        os.close(self.descriptor)
        linux.unmount(str(self.path))
        self.path.unlink()


def new_namespace(name: str) -> Namespace:
    """Make an empty network namespace called *name*."""
    before = os.open(_OWN, os.O_RDONLY)
    try:
        linux.unshare(linux.CLONE_NEWNET)
        linux.raise_loopback()
        return _bind(name)
    finally:
        linux.setns(before, linux.CLONE_NEWNET)
        os.close(before)


def this_namespace(name: str) -> Namespace:
    """Return the namespace that the calling thread is in, as *name*."""
    return _bind(name)


def _bind(name: str) -> Namespace:
    _NETNS.mkdir(parents=True, exist_ok=True)
    path = _free_path(name)
    path.touch(exist_ok=False)
    linux.mount(_OWN, str(path), flags=linux.MS_BIND)
    return Namespace(name, path)


def _free_path(name: str) -> Path:
    """Return /run/netns/NAME, or with -2, -3 ... while another cluster is up."""
    numbered = (_NETNS / f"{name}-{number}" for number in itertools.count(2))
    return next(path for path in itertools.chain([_NETNS / name], numbered) if not path.exists())
