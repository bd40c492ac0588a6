"""Commands of this Python as an ordinary user, with few capabilities or none.

The interpreter and this checkout may be in a directory that only root can read (a home directory), so the process gets
mounts of its own.
"""

from __future__ import annotations

import shlex
import sys
import sysconfig
from pathlib import Path

from lab.job import REPOSITORY, SYSTEM_PATH
from lab.namespace import Namespace

USER = 65532  # the image's
PLACE = Path("/run/least-rights")  # on the lab's tmpfs
_MOUNTED = {"python": sys.base_prefix, "packages": sysconfig.get_path("purelib"), "code": str(REPOSITORY)}
_PYTHON = PLACE / "python" / Path(sys.executable).resolve().relative_to(sys.base_prefix)
_LIBRARIES = f"LD_LIBRARY_PATH={PLACE / 'python/lib'}"  # not a system's libpython of another patch release
_PATH = ":".join(SYSTEM_PATH)  # without directories that only root can read
_MOUNTS = (
    *(f"mount --bind {shlex.quote(path)} {PLACE / name}" for name, path in _MOUNTED.items()),
    "mount -o bind,ro /proc/sys /proc/sys",  # as in every container that is not privileged
)


def with_rights(*capabilities: str) -> list[str]:
    """Return the prefix of a command that runs it as USER, with only these capabilities, and without gaining others."""
    only = ",".join(("-all", *(f"+{name}" for name in capabilities)))
    user = [f"--reuid={USER}", f"--regid={USER}", "--clear-groups", "--no-new-privs"]
    return ["setpriv", *user, f"--bounding-set={only}", f"--inh-caps={only}", f"--ambient-caps={only}"]


class LeastRights(Namespace):
    """*namespace*, where commands of this Python run as USER with *capabilities* and no others."""

    def __init__(self, namespace: Namespace, capabilities: tuple[str, ...] = ("net_admin", "net_raw")) -> None:
        self.name, self.path, self.descriptor = namespace.name, namespace.path, namespace.descriptor
        self._capabilities = capabilities
        for mounted in _MOUNTED:
            (PLACE / mounted).mkdir(parents=True, exist_ok=True)

    def wrap(self, argv: list[str]) -> list[str]:
        script = "; ".join((*_MOUNTS, 'exec "$@"'))
        environment = (
            "env",
            "--chdir=/",
            f"PATH={_PATH}",
            f"PYTHONPATH={PLACE / 'code'}:{PLACE / 'packages'}",
            _LIBRARIES,
        )
        mounted = ["unshare", "--mount", "--propagation=private", "sh", "-ec", script, "sh"]
        return super().wrap([*mounted, *with_rights(*self._capabilities), *environment, str(_PYTHON), *argv[1:]])
