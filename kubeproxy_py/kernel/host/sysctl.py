"""Sysctl rows: kernel settings as files below /proc/sys, or with an absolute path below /sys.

Invariants:
- Adding or updating a row writes the file.  Deleting one does nothing: a setting of the host is never restored, because
  other programs may rely on it by now (kube-proxy does not restore it either).
- A file that does not exist is not a row.
"""

import os
from collections.abc import Iterable, Sequence
from errno import EACCES, EINVAL, ENOENT, EPERM, EROFS
from pathlib import Path

from msgspec import Struct

from kubeproxy_py.kernel import SYSCTLS, Mark, MarkReader, Scope
from kubeproxy_py.kernel.errors import errno_text
from kubeproxy_py.model.rows import Rows, Sysctl
from kubeproxy_py.model.steps import Step, StepFailure

_READ_ONLY = (
    "set it on the host with `sysctl -w {name}={value}`, or run once with --init-only in a privileged container"
)
_VALUE_MAX_BYTES = 4096
_HINTS = {
    EACCES: _READ_ONLY,
    EPERM: _READ_ONLY,
    EROFS: _READ_ONLY,
    ENOENT: "load the kernel module that provides it: modprobe {module}",
    EINVAL: "the kernel does not accept this value",
}
_MODULES = {  # prefix of a path -> module that provides it
    "net/ipv4/vs/": "ip_vs",
    "net/netfilter/": "nf_conntrack",
    "/sys/module/nf_conntrack/": "nf_conntrack",
}


class SysctlAdapter:
    """Reads the sysctls at *paths* and writes any; *root* is the folder that contains the host's proc and sys."""

    def __init__(self, paths: Iterable[str], *, root: Path = Path("/")) -> None:
        self._paths = tuple(dict.fromkeys(paths))
        self._root = root
        self._descriptors: dict[str, int] = {}  # of the files that marks are read from

    def scopes(self) -> list[Scope]:
        """Return the one scope that contains all sysctls."""
        return [SYSCTLS]

    def read(self, scope: Scope) -> Rows:
        """Return the sysctls that exist and are readable, without surrounding white space."""
        return {Sysctl(path): value for path in self._paths if (value := self._value(path)) is not None}

    def apply(self, steps: Sequence[Step]) -> list[StepFailure]:
        """Write the added and updated sysctls; each failure names the sysctl, its value and the remedy."""
        return [failure for step in steps if step.verb != "delete" and (failure := self._write(step))]

    def mark_readers(self) -> list[MarkReader]:
        """Return one reader, of all values."""
        return [MarkReader("sysctls", self._read_mark)]

    def close(self) -> None:
        """Close the files; a later use opens them again."""
        for descriptor in self._descriptors.values():
            os.close(descriptor)
        self._descriptors.clear()

    def _read_mark(self) -> dict[str, Mark]:
        return {str(SYSCTLS): Mark(SYSCTLS, hash(tuple(map(self._content, self._paths))))}

    def _content(self, path: str) -> bytes | None:
        """Return the content of a file, which stays open; None if it cannot be read now."""
        try:
            if path not in self._descriptors:
                self._descriptors[path] = os.open(_file(path, self._root), os.O_RDONLY)
            return os.pread(self._descriptors[path], _VALUE_MAX_BYTES, 0)
        except OSError:  # it does not exist, or its module was unloaded
            if path in self._descriptors:
                os.close(self._descriptors.pop(path))
            return None

    def _value(self, path: str) -> str | None:
        return read_sysctl(path, root=self._root)

    def _write(self, step: Step) -> StepFailure | None:
        failure = write_sysctl(str(step.key), str(step.spec), root=self._root)
        return StepFailure(step, failure.errno, failure.text) if failure else None


class WriteFailure(Struct, frozen=True, gc=False):
    """Why a sysctl could not be set, with the remedy."""

    errno: int
    text: str


def read_sysctl(path: str, *, root: Path = Path("/")) -> str | None:
    """Return the value of the sysctl at *path* without surrounding white space; None if it cannot be read.

    *path* is as in a Sysctl row, and *root* the folder that contains the host's proc and sys.
    """
    try:
        return _file(path, root).read_text(errors="replace").strip()
    except OSError:
        return None


def is_writable(path: str, *, root: Path = Path("/")) -> bool:
    """Return whether this process may write the sysctl at *path*; not, for example, below a read-only /proc/sys."""
    return os.access(_file(path, root), os.W_OK, effective_ids=True)


def write_sysctl(path: str, value: str, *, root: Path = Path("/")) -> WriteFailure | None:
    """Set the sysctl at *path* to *value*, and return why that failed."""
    try:
        # Without O_CREAT: /proc and /sys do not allow it, and a test's folder in their place must behave the same.
        with os.fdopen(os.open(_file(path, root), os.O_WRONLY | os.O_TRUNC), "w") as file:
            file.write(value)
    except OSError as error:
        errno = error.errno or EINVAL
        return WriteFailure(errno, _error_text(path, value, errno))
    return None


def _file(path: str, root: Path) -> Path:
    return root / (path.lstrip("/") if path.startswith("/") else f"proc/sys/{path}")


def _error_text(path: str, value: str, errno: int) -> str:
    """Return what was rejected and what the operator can do."""
    module = next((module for prefix, module in _MODULES.items() if path.startswith(prefix)), "(unknown)")
    hint = _HINTS.get(errno, "").format(name=path, value=value, module=module)
    text = f"{path} could not be set to {value}: {errno_text(errno)}"
    return f"{text} ({hint})" if hint else text
