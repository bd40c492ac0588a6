"""The only place that starts a process.

Law: a program is given as its words, never as a line for a shell; it gets a closed or given stdin, a plain
environment and a bounded time; and a program that could not be run at all is a KernelError with a hint, whereas one
that ran and failed is a Result, for its caller knows what its exit code means.
"""

import os
import shutil
from collections.abc import Sequence

from msgspec import Struct

from kubeproxy_py.kernel.errors import KernelError

# Where the tools of a node live when PATH (of a container, of a unit) leaves out the system folders.
_SYSTEM_PATH = "/usr/local/sbin:/usr/sbin:/sbin:/usr/local/bin:/usr/bin:/bin"

_PACKAGES = {  # program -> what brings it; told as a hint
    "ipset": "ipset",
    "ipvsadm": "ipvsadm",
    "modprobe": "kmod",
    "ip": "iproute2",
    "conntrack": "conntrack",
}


class Result(Struct, frozen=True, gc=False):
    """How a program ended: its exit code (negative: the signal that ended it) and all that it printed."""

    exit_code: int
    stdout: bytes
    stderr: bytes

    @property
    def complaint(self) -> str:
        """What it said on stderr, as one line for a log; its exit code where it said nothing."""
        said = " ".join(self.stderr.decode("utf-8", "replace").split())
        return said or f"exit code {self.exit_code}"


def run(argv: Sequence[str], *, stdin: bytes = b"", timeout_s: float = 30.0) -> Result:
    """Run *argv* to its end and give back what it printed.

    LC_ALL is C, so that what is parsed does not depend on the host's language.  Raises KernelError if the program
    is not installed, may not be run, or has not ended after *timeout_s*; it is killed then.
    """
    import subprocess  # 10 ms and 1 MiB at start; a host where netlink does everything never pays

    path = find(argv[0])
    if path is None:
        raise KernelError(f"{argv[0]} is not installed", errno=2, hint=_install_hint(argv[0]))
    try:
        done = subprocess.run(  # noqa: S603  words, not a line; and they are all our own
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
            f"{argv[0]} did not end within {timeout_s:g} s", errno=110, hint="does another program hold its lock?"
        ) from None
    except OSError as error:
        raise KernelError(
            f"{argv[0]} could not be started: {error.strerror}", errno=error.errno or 0, hint=f"look at {path}"
        ) from None
    return Result(done.returncode, done.stdout, done.stderr)


def find(name: str) -> str | None:
    """The path of program *name*, or None; a name with a slash is its own path."""
    return shutil.which(name, path=_search_path())


def _search_path() -> str:
    """PATH, and behind it the system's folders."""
    return f"{path}:{_SYSTEM_PATH}" if (path := os.environ.get("PATH", "")) else _SYSTEM_PATH


def _environment() -> dict[str, str]:
    """What a program is told of ours: where to find others, and to speak plainly; no tokens, no proxies."""
    return {"LC_ALL": "C", "PATH": _search_path()}


def _install_hint(name: str) -> str:
    """Which Debian package brings *name*."""
    base = name.rsplit("/", 1)[-1]
    package = "iptables" if "tables" in base else _PACKAGES.get(base)
    return f"apt-get install {package}, or your distribution's name for it" if package else "is it in PATH?"
