"""Install what is missing: the Debian packages that the lab needs, and programs that tests need.

With LAB=qemu the emulator and its kernel are installed too.  The programs are unpacked below build/, not installed.
"""

from __future__ import annotations

import os
import shutil
import subprocess

from lab import cluster_tools, prometheus, qemu
from lab.job import LabError
from lab.xstate import UML_XSTATE_BYTES, xstate_bytes

_KERNEL_AND_TOOLS = ("user-mode-linux", "kmod", "iproute2", "iptables", "ipset", "ipvsadm")
_FOR_TESTS = ("nftables", "conntrack", "procps", "systemd", "zsh", "fish", "mandoc")
PACKAGES = (*_KERNEL_AND_TOOLS, *_FOR_TESTS)
BROWSER = ("chromium", "fonts-dejavu-core")  # for the tests of the page /ui, which run on the host
_FOR_LARGE_XSTATE = ("gcc", "libc6-dev")  # see xstate.c


def required(*, for_tests: bool = True) -> tuple[str, ...]:
    """Return the packages that this processor and backend need, for `make run` or *for_tests* too."""
    for_xstate = _FOR_LARGE_XSTATE if xstate_bytes() > UML_XSTATE_BYTES else ()
    return (PACKAGES if for_tests else _KERNEL_AND_TOOLS) + for_xstate + (qemu.PACKAGES if _with_qemu() else ())


def missing(wanted: tuple[str, ...]) -> tuple[str, ...]:
    """Return those of *wanted* that dpkg does not list as installed."""
    argv = ["dpkg-query", "--show", "--showformat", "${Package} ${db:Status-Status}\n", *wanted]
    listed = subprocess.run(argv, capture_output=True, text=True, check=False).stdout.splitlines()
    return tuple(name for name in wanted if f"{name} installed" not in listed)


def install(*, for_tests: bool = True) -> tuple[str, ...]:
    """Install the missing packages and return their names.

    Raises:
        LabError: There is no apt-get, or this user may not use it.
    """
    names = install_packages(required(for_tests=for_tests))
    return names + (qemu.unpack_kernel() if _with_qemu() else ())


def install_tools() -> tuple[str, ...]:
    """Unpack the programs that tests need beside the lab, if they are missing, and return their names.

    Raises:
        LabError: One of them cannot be downloaded.
    """
    names: tuple[str, ...] = ()
    if prometheus.is_missing():
        names += (_unpack_prometheus(),)
    if cluster_tools.is_missing():
        names += (cluster_tools.unpack(),)
    return names


def _unpack_prometheus() -> str:
    try:
        return prometheus.unpack()
    except LabError:  # apt's lists of packages are missing, or too old
        _apt_get("update")
        return prometheus.unpack()


def _with_qemu() -> bool:
    return os.environ.get("LAB") == "qemu"


def install_packages(wanted: tuple[str, ...]) -> tuple[str, ...]:
    """Install those of *wanted* that are missing and return their names.

    Raises:
        LabError: There is no apt-get, or this user may not use it.
    """
    names = missing(wanted) if shutil.which("dpkg-query") else wanted
    if not names:
        return ()
    if shutil.which("apt-get") is None:
        raise LabError(
            "apt-get not found; only Debian and its derivatives have the user-mode-linux package",
            f"install {' '.join(names)} by hand",
        )
    print(f"Installing these Debian packages, which are missing: {' '.join(names)}", flush=True)
    _apt_get("update")
    _apt_get("install", "--yes", "--no-install-recommends", *names)
    return names


def _apt_get(*words: str) -> None:
    prefix = [] if os.geteuid() == 0 else ["sudo"]
    if prefix and shutil.which("sudo") is None:
        raise LabError("only root can install packages, and there is no sudo", "run this once as root")
    command = [*prefix, "env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "-q", *words]
    if subprocess.run(command, check=False).returncode:
        raise LabError(f"{' '.join(command)} failed", "see its messages above")
