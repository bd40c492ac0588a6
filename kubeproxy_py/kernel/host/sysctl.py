"""Kernel settings as rows: files below /proc/sys, or with a whole path below /sys.

Law: adding or updating is writing, and deleting is leaving be: a setting of the host is never put back, for nobody
knows who else has come to rely on it (kube-proxy never does either).  A file that is not there is no row.
"""

import os
from collections.abc import Iterable, Sequence
from errno import EACCES, EINVAL, ENOENT, EPERM, EROFS
from pathlib import Path

from kubeproxy_py.kernel import SYSCTLS, Scope
from kubeproxy_py.model.rows import Rows, Sysctl
from kubeproxy_py.model.steps import Step, StepFailure

_READ_ONLY = (
    "set it on the host with `sysctl -w {name}={value}`, or run once with --init-only in a privileged container"
)
_HINTS = {
    EACCES: _READ_ONLY,
    EPERM: _READ_ONLY,
    EROFS: _READ_ONLY,
    ENOENT: "load the module that brings it: modprobe {module}",
    EINVAL: "the kernel does not take this value",
}
_MODULES = {"net/ipv4/vs/": "ip_vs", "net/netfilter/": "nf_conntrack", "/sys/module/nf_conntrack/": "nf_conntrack"}


class SysctlAdapter:
    """Reads the settings at *paths*, writes any; *root* is where the host's file tree begins."""

    def __init__(self, paths: Iterable[str], *, root: Path = Path("/")) -> None:
        self._paths = tuple(dict.fromkeys(paths))
        self._root = root

    def scopes(self) -> list[Scope]:
        """One scope holds them all."""
        return [SYSCTLS]

    def read(self, scope: Scope) -> Rows:
        """The settings that exist and may be read, without white space around them."""
        return {Sysctl(path): value for path in self._paths if (value := self._value(path)) is not None}

    def apply(self, steps: Sequence[Step]) -> list[StepFailure]:
        """Write what is added or updated; each failure names the setting, its value and what to do."""
        return [failed for step in steps if step.verb != "delete" and (failed := self._write(step))]

    def close(self) -> None:
        """Nothing to give back."""

    def _value(self, path: str) -> str | None:
        try:
            return self._file(path).read_text().strip()
        except OSError:
            return None

    def _write(self, step: Step) -> StepFailure | None:
        path, value = str(step.key), str(step.spec)
        try:
            # Never made: /proc and /sys wouldn't let us, and a folder that stands for them in a test must not.
            with os.fdopen(os.open(self._file(path), os.O_WRONLY), "w") as file:
                file.write(value)
        except OSError as error:
            errno = error.errno or EINVAL
            return StepFailure(step, errno, _message(path, value, errno))
        return None

    def _file(self, path: str) -> Path:
        return self._root / (path.lstrip("/") if path.startswith("/") else f"proc/sys/{path}")


def _message(path: str, value: str, errno: int) -> str:
    """What was refused and what the operator can do."""
    module = next((module for prefix, module in _MODULES.items() if path.startswith(prefix)), "(unknown)")
    hint = _HINTS.get(errno, "").format(name=path, value=value, module=module)
    said = f"{path} could not be set to {value}: {os.strerror(errno)}"
    return f"{said} ({hint})" if hint else said
