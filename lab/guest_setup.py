"""Set a bare kernel up as a machine on which a node agent can run, without changing the host's files.

What the command writes to /tmp, /run and most of /var goes to a tmpfs.  Kernel modules are loaded on demand.
`iptables` is the variant that the job names, or the host's choice.  `lo` is set up.  The sysctls of the new kernel are
saved for `pristine.reset_host_state`.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from lab import linux, pristine
from lab.job import Job
from lab.pristine import LAB

_TMPFS_PATHS = ("/tmp", "/var/tmp", "/var/lib", "/var/log", "/dev/shm")
_SCHEDULERS = ("rr", "wrr", "lc", "wlc", "lblc", "lblcr", "sh", "dh", "sed", "nq", "fo", "ovf", "mh")
# Loaded at boot because the agent, or a test, finds them by their files in /proc; others are loaded on demand.
MODULES = (
    "ip_vs",
    *(f"ip_vs_{name}" for name in _SCHEDULERS),
    "nf_conntrack_netlink",
    "dummy",
    "veth",
    "br_netfilter",
    "sctp",
)
_PROGRAM = "/usr/sbin/xtables-{}-multi"


def unshare_all() -> None:
    """Give this process its own network, mounts, host name, IPC and (for children) pids; its mounts stay private."""
    linux.unshare(linux.CLONE_NEWNET | linux.CLONE_NEWNS | linux.CLONE_NEWUTS | linux.CLONE_NEWIPC | linux.CLONE_NEWPID)
    linux.mount("none", "/", flags=linux.MS_REC | linux.MS_PRIVATE)


def prepare(job: Job, folder: Path, backend: str) -> None:
    """Set the kernel up for *job*.

    Args:
        job: The job; the paths that it shares stay visible.
        folder: The job's folder, which stays visible too.
        backend: "uml" or "qemu", which boot a kernel; or "host", which only makes namespaces.
    """
    linux.mount("proc", "/proc", "proc")
    linux.mount("sysfs", "/sys", "sysfs")
    if job.modules:
        _add_missing_devices()
    _mount_tmpfs((str(folder), *job.shared))
    linux.raise_loopback()
    if job.iptables:
        _choose_iptables(Path(_PROGRAM.format(job.iptables)))
    if job.modules:
        _load_modules(Path(job.modules))
    pristine.save_sysctls()


def environment(job: Job, backend: str) -> dict[str, str]:
    """Return the job's environment, with modprobe's options, and LAB_INSIDE as a mark of the lab."""
    options = {"MODPROBE_OPTIONS": f"-d {LAB}"} if job.modules else {}
    variant = {"LAB_IPTABLES": job.iptables} if job.iptables else {}
    return {**job.env, **options, **variant, "LAB_INSIDE": backend}


def _add_missing_devices() -> None:
    """Add pseudo-terminals and POSIX shared memory to /dev."""
    Path("/dev/pts").mkdir()
    Path("/dev/shm").mkdir()
    linux.mount("devpts", "/dev/pts", "devpts")


def _mount_tmpfs(shared: tuple[str, ...]) -> None:
    saved = _save_shared(shared)
    for path in _TMPFS_PATHS:
        if Path(path).is_dir():
            linux.mount("tmpfs", path, "tmpfs", linux.MS_NOSUID | linux.MS_NODEV, "mode=1777")
    for copy, path in saved:
        _make_target(copy, path)
        linux.mount(copy, path, flags=linux.MS_BIND)


def _save_shared(shared: tuple[str, ...]) -> list[tuple[str, str]]:
    """Bind the shared paths that a tmpfs will hide to paths below LAB; return pairs (path below LAB, shared path)."""
    hidden = [path for path in shared if any(path.startswith(f"{top}/") for top in (*_TMPFS_PATHS, "/run"))]
    roots = [path for path in sorted(hidden) if not any(path.startswith(f"{other}/") for other in hidden)]
    opened = [(os.open(path, os.O_PATH), path) for path in roots]  # descriptors, because /run itself is hidden first
    linux.mount("tmpfs", "/run", "tmpfs", linux.MS_NOSUID | linux.MS_NODEV, "mode=755")
    saved = []
    for number, (descriptor, path) in enumerate(opened):
        source, copy = f"/proc/self/fd/{descriptor}", f"{LAB}/shared/{number}"
        _make_target(source, copy)
        linux.mount(source, copy, flags=linux.MS_BIND)
        os.close(descriptor)
        saved.append((copy, path))
    LAB.mkdir(exist_ok=True)
    return saved


def _make_target(source: str, target: str) -> None:
    is_folder = Path(source).is_dir()
    folder = Path(target) if is_folder else Path(target).parent
    folder.mkdir(parents=True, exist_ok=True)
    if not is_folder:
        Path(target).touch()


def _choose_iptables(program: Path) -> None:
    """Mount a copy of /etc/alternatives in which iptables is *program*, as update-alternatives makes it."""
    alternatives = Path("/etc/alternatives")
    if not alternatives.is_dir() or not program.exists():
        return
    links = {link.name: link.readlink() for link in alternatives.iterdir() if link.is_symlink()}
    linux.mount("tmpfs", str(alternatives), "tmpfs", 0, "mode=755")
    for name, target in links.items():
        of_iptables = name.removesuffix("-save").removesuffix("-restore") in ("iptables", "ip6tables")
        (alternatives / name).symlink_to(program if of_iptables else target)


def _load_modules(folder: Path) -> None:
    """Load MODULES from *folder*, and set /proc/sys/kernel/modprobe so that the kernel loads others from there too."""
    (LAB / "lib").mkdir()
    (LAB / "lib/modules").symlink_to(folder)
    loader = LAB / "modprobe"
    loader.write_text(f'#!/bin/sh\nexec /sbin/modprobe -d {LAB} "$@"\n')
    loader.chmod(0o755)
    Path("/proc/sys/kernel/modprobe").write_text(str(loader))
    subprocess.run(["/sbin/modprobe", "-d", str(LAB), "-a", *MODULES], check=True, env={})
