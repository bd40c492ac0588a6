"""A fresh Debian 12 machine, booted by systemd, on which the package of this project is installed by dpkg.

Its files are a tree that mmdebstrap made of Debian's archive (`make deb-machine`), with an overlay for what is written.
Nothing of this checkout is in it, except the packages in its NODE_FOLDER.

As a program, `python debian_host.py FOLDER` becomes its process 1.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from lab import linux
from lab.job import REPOSITORY
from lab.pristine import LAB
from tests.deploy.systemd_host import NODE_FOLDER, SystemdHost, become_machine, enter, writable_copy

MACHINE = REPOSITORY / "build/deb/machine"
PACKAGES = REPOSITORY / "build/deb"
# Mounted by a container manager before systemd starts.
_BOUND = ("/dev", "/sys")


class DebianHost(SystemdHost):
    """A machine that runs within the `with`; *folder* is its NODE_FOLDER."""

    program = __file__

    def __init__(self, namespace: object, folder: Path) -> None:
        super().__init__(namespace, folder, options="")  # type: ignore[arg-type]


def _make_files(folder: Path) -> None:
    root = writable_copy(MACHINE)
    for mounted in _BOUND:
        linux.mount(mounted, f"{root}{mounted}", flags=linux.MS_BIND | linux.MS_REC)
    linux.mount("cgroup2", f"{root}/sys/fs/cgroup", "cgroup2")
    for empty in ("/run", "/tmp"):
        linux.mount("tmpfs", f"{root}{empty}", "tmpfs", 0, "mode=755")
    (root / "opt/node").mkdir()
    linux.mount(str(folder), f"{root}{NODE_FOLDER}", flags=linux.MS_BIND)
    (root / "run" / LAB.name).mkdir()  # the program by which iptables loads modules is there (kernel.modprobe)
    linux.mount(str(LAB), f"{root}/run/{LAB.name}", flags=linux.MS_BIND)
    (root / "usr/lib/modules").mkdir(exist_ok=True)
    for release in (LAB / "lib/modules").iterdir():
        (root / "usr/lib/modules" / release.name).symlink_to(release)
        outside = release.resolve()  # LAB has a link to the modules, which are elsewhere on this host
        (root / str(outside)[1:]).mkdir(parents=True)
        linux.mount(str(outside), f"{root}{outside}", flags=linux.MS_BIND)
    enter(root)


if __name__ == "__main__":
    become_machine(Path(sys.argv[1]), _make_files)
