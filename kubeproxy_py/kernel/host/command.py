"""Run programs: the only module that starts a process.

Invariants:
- A program is given as a list of arguments, never as a line for a shell.
- It gets a given or empty stdin, a minimal environment and a time limit.
- A program that could not be run is a KernelError with a hint.  A program that ran and failed is a Result, because only
  the caller knows what its exit code means.
"""

import os
import shutil
from collections.abc import Sequence
from errno import ENOENT, ETIMEDOUT

from msgspec import Struct

from kubeproxy_py.kernel.errors import KernelError

TIMEOUT_S = 30.0  # time limit of a program

# Where the tools of a node are if PATH (of a container, of a systemd unit) leaves out the system folders.
_SYSTEM_PATH = "/usr/local/sbin:/usr/sbin:/sbin:/usr/local/bin:/usr/bin:/bin"

_PACKAGES = {  # program -> Debian package that contains it
    "ipset": "ipset",
    "ipvsadm": "ipvsadm",
    "modprobe": "kmod",
    "ip": "iproute2",
    "conntrack": "conntrack",
}


class Result(Struct, frozen=True, gc=False):
    """How a program ended: its exit code (negative: the signal that ended it) and all its output."""

    exit_code: int
    stdout: bytes
    stderr: bytes

    @property
    def error_text(self) -> str:
        """The program's stderr as one line for a log; its exit code if stderr is empty."""
        text = " ".join(self.stderr.decode("utf-8", "replace").split())
        return text or f"exit code {self.exit_code}"


def run(argv: Sequence[str], *, stdin: bytes = b"", timeout_s: float = TIMEOUT_S) -> Result:
    """Run *argv* until it ends and return its exit code and output.

    LC_ALL is C, so that parsed output does not depend on the host's language.

    Raises:
        KernelError: The program is not installed, may not be run, or did not end within *timeout_s* (it is killed
        then).
    """
    import subprocess  # 10 ms and 1 MiB at start; a host where netlink does everything never pays

    path = find_program(argv[0])
    if path is None:
        raise KernelError(f"{argv[0]} is not installed", errno=ENOENT, hint=_install_hint(argv[0]))
    try:
        completed = subprocess.run(  # noqa: S603 - a list of arguments, not a shell line, and all of them are ours
            list(argv),
            executable=path,
            input=stdin,
            capture_output=True,
            timeout=timeout_s,
            env=_environment(),
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise KernelError(
            f"{argv[0]} did not end within {timeout_s:g} s",
            errno=ETIMEDOUT,
            hint="it was killed; run it by hand to see what it waits for, a module that does not load for example",
        ) from None
    except OSError as error:
        raise KernelError(
            f"{argv[0]} could not be started: {error.strerror}",
            errno=error.errno or 0,
            hint=f"check the permissions of {path}",
        ) from None
    return Result(completed.returncode, completed.stdout, completed.stderr)


def load_module(name: str) -> None:
    """Try to load the kernel module *name* with modprobe; a module that cannot be loaded is no error here.

    Raises:
        KernelError: modprobe could not be run.
    """
    run(["modprobe", name])


def find_program(name: str) -> str | None:
    """Return the path of program *name*, or None; a name with a slash is its own path."""
    return shutil.which(name, path=_search_path())


def _search_path() -> str:
    """Return PATH followed by the system folders."""
    return f"{path}:{_SYSTEM_PATH}" if (path := os.environ.get("PATH", "")) else _SYSTEM_PATH


def _environment() -> dict[str, str]:
    """Return the environment of a program: PATH and language, but no tokens and no proxies of this process."""
    return {"LC_ALL": "C", "PATH": _search_path()}


def _install_hint(name: str) -> str:
    """Return which Debian package contains *name*."""
    base = name.rsplit("/", 1)[-1]
    package = "iptables" if "tables" in base else _PACKAGES.get(base)
    return f"apt-get install {package}, or your distribution's package for it" if package else "check PATH"
