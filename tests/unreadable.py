"""Paths that cannot be read as a file, each for another reason."""

import os
import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path

_NOBODY = 65534
_ROOT = 0
_IMPORTED_LATE = (
    "kubernetes.client.rest",
    "kubernetes.config",
    "kubeproxy_py.commands.plan",
    "kubeproxy_py.events.poster",
    "kubeproxy_py.plan.render",
    "kubeproxy_py.sources.kubernetes.source",
)

UNREADABLE = {
    "a folder": re.escape("Is a directory (name a file; a hostPath volume makes a directory where there was no file)"),
    "in a closed folder": r"Permission denied: the directory .*/closed may not be entered \(run as a user who",
    "a closed file": r"Permission denied \(run as a user who may read it",
    "below a file": r"Not a directory \(a part of the path before the last one is a file\)",
    "a link to itself": r"Too many levels of symbolic links \(its symbolic links lead to each other\)",
    "a name that is too long": r"File name too long \(check the path\)",
    "a name with NUL": r"the path has a NUL character \(check the path\)",
    "a pipe": r"is not a regular file",
    "a socket": r"is not a regular file",
    "nothing": r"No such file or directory \(check the path, and that it is mounted\)",
}
"""What a path is, and the error that names it, as a regular expression."""


def make_unreadable(folder: Path, kind: str) -> Path:
    """Make a path of *kind* in *folder*."""
    path = folder / "unreadable"
    match kind:
        case "a folder":
            path.mkdir()
        case "in a closed folder":
            closed = folder / "closed"
            closed.mkdir()
            path = closed / "file"
            path.touch()
            closed.chmod(0)
        case "a closed file":
            path.touch(mode=0)
        case "below a file":
            path.touch()
            path /= "file"
        case "a link to itself":
            path.symlink_to(path)
        case "a name that is too long":
            path = folder / ("x" * 300)
        case "a name with NUL":
            path = folder / "a\0b"
        case "a pipe":
            os.mkfifo(path)
        case "a socket":
            with socket.socket(socket.AF_UNIX) as listener:
                listener.bind(str(path))
    return path


@contextmanager
def as_nobody(folder: Path) -> Iterator[None]:
    """Have the thread's access to files be that of nobody, to whom *folder* and what is above it is open."""
    if os.geteuid() != _ROOT:  # modes already apply
        yield
        return
    for module in _IMPORTED_LATE:  # nobody may not be able to read this project's folder
        import_module(module)
    for parent in (folder, *folder.parents):
        if not parent.stat().st_mode & 1:
            parent.chmod(parent.stat().st_mode | 0o011)
    before = os.getegid()
    os.seteuid(_NOBODY)
    try:
        yield
    finally:
        os.seteuid(_ROOT)
        os.setegid(before)
