"""The user-mode-linux kernels of this machine: those that `make lab-kernels` built, and Debian's package.

A built kernel lies in the user's cache, outside the checkout, so that the next checkout finds it again:

    ~/.cache/kubeproxy-py/lab-kernels/7.2.13-1-3f9c0a1d/     version of Debian's source package, digest of uml.config
        linux               the kernel, a program
        modules/RELEASE     all of its modules, those of nf_tables included
        legacy/RELEASE      without nf_tables, as on a node whose kernel has none: who looks finds legacy iptables only

LAB_KERNEL names the kernel to run: "newest" of those built, a version ("7.2", "6.12"), or "debian" for Debian's
package.  Without it the newest one runs, and the package where none was built.  build_kernel.py builds them.
"""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

from lab import debian
from lab.job import LabError

Iptables = Literal["legacy", "nft"]

CONFIGURATION = Path(__file__).with_name("uml.config")
DEBIAN, NEWEST = "debian", "newest"
_SECCOMP_SINCE = (6, 16)  # user processes are no longer traced: a system call costs less than half
_NUMBER = re.compile(r"\d+")
_RUN_TIMEOUT_S = 60.0


@dataclass(frozen=True)
class UmlKernel:
    """One kernel: its program, and for each kind of iptables a folder that has its modules in a folder RELEASE."""

    name: str  # "debian", or the name of its folder
    program: Path
    modules: Mapping[Iptables, Path]

    @cached_property
    def release(self) -> str | None:
        """As `uname -r` prints it in this kernel; None if the program does not run here (another libc, no x86)."""
        try:
            argv = [str(self.program), "--version"]
            done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=_RUN_TIMEOUT_S)
        except (OSError, subprocess.TimeoutExpired):
            return None
        return done.stdout.split()[-1] if done.returncode == 0 and done.stdout.strip() else None

    @property
    def version(self) -> tuple[int, int]:
        """Major and minor version, as (7, 2); (0, 0) if the program does not run here."""
        numbers = _numbers(self.release or "")
        return (numbers[0], numbers[1]) if len(numbers) > 1 else (0, 0)

    @property
    def has_seccomp_mode(self) -> bool:
        """Return whether it can run user processes without ptrace."""
        return self.version >= _SECCOMP_SINCE

    def missing(self) -> list[str]:
        """Return the paths that are not there."""
        return [str(path) for path in (self.program, *self.modules.values()) if not path.exists()]


def debian_kernel() -> UmlKernel:
    """Return the kernel of the package user-mode-linux; it has no families of nf_tables."""
    return UmlKernel(DEBIAN, Path("/usr/bin/linux.uml"), {"legacy": Path("/usr/lib/uml/modules")})


def cache(env: Mapping[str, str] = os.environ) -> Path:
    """Return the folder of the built kernels; it need not exist."""
    return debian.cache("lab-kernels", env)


def configuration_digest() -> str:
    """Return the part of a folder's name that changes with the configuration."""
    return hashlib.sha256(CONFIGURATION.read_bytes()).hexdigest()[:8]


def folder_name(package_version: str) -> str:
    """Return the name of the folder of the kernel that is built from this version of Debian's source package."""
    return f"{package_version.replace('~', '-').replace(':', '-')}-{configuration_digest()}"


def built_kernels(folder: Path) -> list[UmlKernel]:
    """Return the kernels in *folder* that were built with this checkout's configuration, the newest first."""
    paths = sorted(folder.glob(f"[0-9]*-{configuration_digest()}"), key=lambda path: _numbers(path.name), reverse=True)
    kernels = [
        UmlKernel(path.name, path / "linux", {"legacy": path / "legacy", "nft": path / "modules"}) for path in paths
    ]
    return [kernel for kernel in kernels if not kernel.missing()]


def choose_kernel(env: Mapping[str, str] = os.environ) -> UmlKernel:
    """Return the kernel to run: the one that LAB_KERNEL names, else the newest that was built, else Debian's.

    Raises:
        LabError: LAB_KERNEL names one that is not there, or that does not run here.
    """
    named = env.get("LAB_KERNEL", "")
    if named == DEBIAN:
        return debian_kernel()
    built = built_kernels(cache(env))
    for kernel in built:
        if named in ("", NEWEST) and kernel.release:
            return kernel
        if kernel.name == named or kernel.name.startswith((f"{named}.", f"{named}-")):
            if kernel.release is None:
                raise LabError(
                    f"{kernel.program} does not run here", f"delete {kernel.program.parent}, and build again"
                )
            return kernel
    if not named:
        return debian_kernel()
    names = ", ".join(kernel.name for kernel in built) or "none"
    raise LabError(
        f"LAB_KERNEL={named} is not a kernel of this machine; built: {names}",
        f"use LAB_KERNEL=debian, or build it: make lab-kernels KERNELS={named}",
    )


def choose_iptables(env: Mapping[str, str] = os.environ) -> Iptables:
    """Return the kind of iptables that LAB_IPTABLES names; legacy if it names none.

    Raises:
        LabError: It is neither "legacy" nor "nft".
    """
    match env.get("LAB_IPTABLES", ""):
        case "" | "legacy":
            return "legacy"
        case "nft":
            return "nft"
        case other:
            raise LabError(f"LAB_IPTABLES={other} is not a kind of iptables", "use legacy or nft")


def _numbers(text: str) -> list[int]:
    return [int(number) for number in _NUMBER.findall(text)]
