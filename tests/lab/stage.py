"""stage: makes a bare kernel into a machine that a node agent could run on, and keeps the host's files clean.

What the command writes to /tmp, /run and most of /var goes to memory.  Kernel modules load by themselves.  `iptables`
means the legacy flavour, because user-mode-linux 6.1 has nf_tables without families; the host's choice is untouched.
`lo` is up.  The sysctls of the fresh kernel are noted, for `pristine.reset_host_state`.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from tests.lab import linux, pristine
from tests.lab.job import Job
from tests.lab.pristine import LAB

UML_MODULES = Path("/usr/lib/uml/modules")
_IN_MEMORY = ("/tmp", "/var/tmp", "/var/lib", "/var/log", "/dev/shm")
_SCHEDULERS = ("rr", "wrr", "lc", "wlc", "lblc", "lblcr", "sh", "dh", "sed", "nq", "fo", "ovf", "mh")
# Loaded at the start because the agent, or a test, finds them by what they leave in /proc; the rest load on demand.
MODULES = ("ip_vs", *(f"ip_vs_{name}" for name in _SCHEDULERS), "nf_conntrack_netlink", "dummy", "veth", "br_netfilter", "sctp")
_LEGACY = "/usr/sbin/xtables-legacy-multi"


def separate() -> None:
    """Give this process its own network, mounts, host name, IPC and (for children) pids; nothing it mounts leaks out."""
    linux.unshare(
        linux.CLONE_NEWNET | linux.CLONE_NEWNS | linux.CLONE_NEWUTS | linux.CLONE_NEWIPC | linux.CLONE_NEWPID
    )
    linux.mount("none", "/", flags=linux.MS_REC | linux.MS_PRIVATE)


def prepare(job: Job, folder: Path) -> None:
    """Set the kernel up for *job*; *folder* and what the job shares stay visible."""
    _mount_all((str(folder), *job.shared))
    linux.raise_loopback()
    _choose_legacy_iptables()
    _load_modules()
    pristine.note_sysctls()


def environment(job: Job) -> dict[str, str]:
    """The job's environment and how to load modules; LAB_INSIDE says that this is the lab."""
    options = {"MODPROBE_OPTIONS": f"-d {LAB}"} if _is_uml() else {}
    return {**job.env, **options, "LAB_INSIDE": "uml" if _is_uml() else "host"}


def _is_uml() -> bool:
    return UML_MODULES.joinpath(os.uname().release).is_dir()


def _mount_all(shared: tuple[str, ...]) -> None:
    linux.mount("proc", "/proc", "proc")
    linux.mount("sysfs", "/sys", "sysfs")
    kept = _hold(shared)
    for path in _IN_MEMORY:
        if os.path.isdir(path):
            linux.mount("tmpfs", path, "tmpfs", linux.MS_NOSUID | linux.MS_NODEV, "mode=1777")
    for held, path in kept:
        _make_target(held, path)
        linux.mount(held, path, flags=linux.MS_BIND)
    if os.path.isdir("/dev/pts"):
        linux.mount("devpts", "/dev/pts", "devpts")


def _hold(shared: tuple[str, ...]) -> list[tuple[str, str]]:
    """Bind what a tmpfs is about to hide to a place below LAB; -> (that place, the path to give it back)."""
    hidden = [path for path in shared if any(path.startswith(f"{top}/") for top in (*_IN_MEMORY, "/run"))]
    roots = [path for path in sorted(hidden) if not any(path.startswith(f"{other}/") for other in hidden)]
    opened = [(os.open(path, os.O_PATH), path) for path in roots]  # /run itself is hidden first, so hold by descriptor
    linux.mount("tmpfs", "/run", "tmpfs", linux.MS_NOSUID | linux.MS_NODEV, "mode=755")
    kept = []
    for number, (descriptor, path) in enumerate(opened):
        source, held = f"/proc/self/fd/{descriptor}", f"{LAB}/held/{number}"
        _make_target(source, held)
        linux.mount(source, held, flags=linux.MS_BIND)
        os.close(descriptor)
        kept.append((held, path))
    LAB.mkdir(exist_ok=True)
    return kept


def _make_target(source: str, target: str) -> None:
    is_folder = os.path.isdir(source)
    os.makedirs(target if is_folder else os.path.dirname(target), exist_ok=True)
    if not is_folder:
        Path(target).touch()


def _choose_legacy_iptables() -> None:
    """Cover /etc/alternatives by a copy in which the iptables commands mean legacy, as update-alternatives would do it."""
    alternatives = Path("/etc/alternatives")
    if not _is_uml() or not alternatives.is_dir() or not os.path.exists(_LEGACY):
        return
    links = {entry.name: os.readlink(entry) for entry in os.scandir(alternatives) if entry.is_symlink()}
    linux.mount("tmpfs", str(alternatives), "tmpfs", 0, "mode=755")
    for name, target in links.items():
        legacy = name.removesuffix("-save").removesuffix("-restore") in ("iptables", "ip6tables")
        os.symlink(_LEGACY if legacy else target, alternatives / name)


def _load_modules() -> None:
    """Load MODULES, and let the kernel load what else it needs.

    UML's modules lie where neither modprobe nor the kernel looks.
    """
    if not _is_uml():
        return
    (LAB / "lib").mkdir()
    (LAB / "lib/modules").symlink_to(UML_MODULES)
    loader = LAB / "modprobe"
    loader.write_text(f'#!/bin/sh\nexec /sbin/modprobe -d {LAB} "$@"\n')
    loader.chmod(0o755)
    Path("/proc/sys/kernel/modprobe").write_text(str(loader))
    subprocess.run(["/sbin/modprobe", "-d", str(LAB), "-a", *MODULES], check=True, env={})
