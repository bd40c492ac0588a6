"""Read a file that an operator named, or say what is wrong with its path and what to do.

Invariants:
- For every path (a folder, in a folder that we may not enter, a link to itself, a pipe without a writer) the result
  is an UnreadableError: never another exception, and never a wait.
"""

import os
from errno import EACCES, EISDIR, ELOOP, ENAMETOOLONG, ENOENT, ENOTDIR, EPERM
from pathlib import Path
from stat import S_ISDIR, S_ISREG

from kubeproxy_py.hinted_error import HintedError

_PERMISSION = "run as a user who may read it and enter its directories, or change their modes"
_HINTS = {
    ENOENT: "check the path, and that it is mounted",
    EACCES: _PERMISSION,
    EPERM: _PERMISSION,
    EISDIR: "name a file; a hostPath volume makes a directory where there was no file",
    ENOTDIR: "a part of the path before the last one is a file",
    ELOOP: "its symbolic links lead to each other",
    ENAMETOOLONG: "check the path",
}


class UnreadableError(HintedError):
    """A file cannot be read."""


def read_file(path: str | Path, limit: int, *, regular: bool = True) -> bytes:
    """Return the first *limit* bytes of the file *path*, in which ``~`` is the home folder.

    Args:
        path: The file.
        limit: The most bytes to read.
        regular: Refuse pipes and devices, which may have no end, or nobody who writes.

    Raises:
        UnreadableError: It cannot be read.
    """
    full = Path(path)
    try:
        full = full.expanduser().absolute()
        if regular:
            _require_regular(full)
        with full.open("rb") as file:
            return file.read(limit)
    except OSError as error:
        raise UnreadableError(_message(full, error), _HINTS.get(error.errno or 0, "")) from None
    except RuntimeError:
        raise UnreadableError("~ is the home directory of nobody here", "write the full path") from None
    except ValueError:
        raise UnreadableError("the path has a NUL character", "check the path") from None


def _require_regular(path: Path) -> None:
    """Raise UnreadableError or OSError unless *path* is a regular file or a link to one."""
    mode = path.stat().st_mode
    if not S_ISREG(mode) and not S_ISDIR(mode):  # opening a folder raises the error that says so
        raise UnreadableError("is not a regular file", "name a file")


def _may_enter(folder: Path) -> bool:
    return os.access(folder, os.X_OK, effective_ids=True)


def _message(path: Path, error: OSError) -> str:
    """Return what *error* says, with the folder that may not be entered if that is the cause."""
    message = error.strerror or type(error).__name__
    if error.errno == EACCES:
        closed = next((folder for folder in reversed(path.parents) if not _may_enter(folder)), None)
        if closed:
            return f"{message}: the directory {closed} may not be entered"
    return message
