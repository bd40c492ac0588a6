"""stage: makes a bare kernel into a machine that a node agent could run on, and keeps the host's files clean.

What the command writes to /tmp, /run and most of /var goes to memory.  Kernel modules load by themselves.  In
user-mode-linux `iptables` means the legacy flavour, because 6.1 has nf_tables without families there; elsewhere it is
the host's choice, which is untouched.
`lo` is up.  The sysctls of the fresh kernel are noted, for `pristine.reset_host_state`.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from lab import linux, pristine
from lab.job import REPOSITORY, Job
from lab.pristine import LAB

UML_MODULES = Path("/usr/lib/uml/modules")
QEMU_MODULES = REPOSITORY / "build/qemu/lib/modules"
_MODULES_OF = {"uml": UML_MODULES, "qemu": QEMU_MODULES}  # the ways where the whole kernel is ours
_IN_MEMORY = ("/tmp", "/var/tmp", "/var/lib", "/var/log", "/dev/shm")
_SCHEDULERS = ("rr", "wrr", "lc", "wlc", "lblc", "lblcr", "sh", "dh", "sed", "nq", "fo", "ovf", "mh")
# Loaded at the start because the agent, or a test, finds them by what they leave in /proc; the rest load on demand.
MODULES = (
    "ip_vs",
    *(f"ip_vs_{name}" for name in _SCHEDULERS),
    "nf_conntrack_netlink",
    "dummy",
    "veth",
    "br_netfilter",
    "sctp",
)
_LEGACY = Path("/usr/sbin/xtables-legacy-multi")


def separate() -> None:
    """Give this process its own network, mounts, host name, IPC and (for children) pids; its mounts don't leak out."""
    linux.unshare(linux.CLONE_NEWNET | linux.CLONE_NEWNS | linux.CLONE_NEWUTS | linux.CLONE_NEWIPC | linux.CLONE_NEWPID)
    linux.mount("none", "/", flags=linux.MS_REC | linux.MS_PRIVATE)


def prepare(job: Job, folder: Path, way: str) -> None:
    """Set the kernel up for *job*; *folder* and what the job shares stay visible.

    *way* is "uml" or "qemu" where the whole kernel is ours, "host" where only namespaces are.
    """
    linux.mount("proc", "/proc", "proc")
    linux.mount("sysfs", "/sys", "sysfs")
    if way in _MODULES_OF:
        _complete_dev()
    _hide_behind_memory((str(folder), *job.shared))
    linux.raise_loopback()
    if way == "uml":
        _choose_legacy_iptables()
    if way in _MODULES_OF:
        _load_modules(_MODULES_OF[way])
    pristine.note_sysctls()


def environment(job: Job, way: str) -> dict[str, str]:
    """The job's environment and how to load modules; LAB_INSIDE says that this is the lab."""
    options = {"MODPROBE_OPTIONS": f"-d {LAB}"} if way in _MODULES_OF else {}
    return {**job.env, **options, "LAB_INSIDE": way}


def _complete_dev() -> None:
    """Add what the kernel's own /dev lacks: pseudo-terminals and POSIX shared memory."""
    Path("/dev/pts").mkdir()
    Path("/dev/shm").mkdir()
    linux.mount("devpts", "/dev/pts", "devpts")


def _hide_behind_memory(shared: tuple[str, ...]) -> None:
    kept = _hold(shared)
    for path in _IN_MEMORY:
        if Path(path).is_dir():
            linux.mount("tmpfs", path, "tmpfs", linux.MS_NOSUID | linux.MS_NODEV, "mode=1777")
    for held, path in kept:
        _make_target(held, path)
        linux.mount(held, path, flags=linux.MS_BIND)


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
    is_folder = Path(source).is_dir()
    folder = Path(target) if is_folder else Path(target).parent
    folder.mkdir(parents=True, exist_ok=True)
    if not is_folder:
        Path(target).touch()


def _choose_legacy_iptables() -> None:
    """Cover /etc/alternatives by a copy in which iptables is the legacy one, as update-alternatives would make it."""
    alternatives = Path("/etc/alternatives")
    if not alternatives.is_dir() or not _LEGACY.exists():
        return
    links = {link.name: link.readlink() for link in alternatives.iterdir() if link.is_symlink()}
    linux.mount("tmpfs", str(alternatives), "tmpfs", 0, "mode=755")
    for name, target in links.items():
        legacy = name.removesuffix("-save").removesuffix("-restore") in ("iptables", "ip6tables")
        (alternatives / name).symlink_to(_LEGACY if legacy else target)


def _load_modules(folder: Path) -> None:
    """Load MODULES, and let the kernel load what else it needs.

    They lie in *folder*, where neither modprobe nor the kernel looks.
    """
    (LAB / "lib").mkdir()
    (LAB / "lib/modules").symlink_to(folder)
    loader = LAB / "modprobe"
    loader.write_text(f'#!/bin/sh\nexec /sbin/modprobe -d {LAB} "$@"\n')
    loader.chmod(0o755)
    Path("/proc/sys/kernel/modprobe").write_text(str(loader))
    subprocess.run(["/sbin/modprobe", "-d", str(LAB), "-a", *MODULES], check=True, env={})
