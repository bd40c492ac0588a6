"""Packages of any Debian suite, for what is built from them below the user's cache.

apt gets a sources list, package lists and a cache of its own, so this machine's stay as they are.
"""

from __future__ import annotations

import fcntl
import os
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from lab.job import LabError

_MIRROR = "http://deb.debian.org/debian"
_KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")


def cache(name: str, env: Mapping[str, str] = os.environ) -> Path:
    """Return the folder *name* of this project in the user's cache; it need not exist."""
    base = env.get("XDG_CACHE_HOME") or str(Path(env.get("HOME") or "~").expanduser() / ".cache")
    return Path(base) / "kubeproxy-py" / name


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Wait until no other process builds in *folder*; no other one begins within the `with`."""
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


class Apt:
    """apt with the lists of one *suite*, in *folder*; with those of source packages, too, if *sources* is set."""

    def __init__(self, folder: Path, suite: str, *, sources: bool = False) -> None:
        self._folder = folder / suite
        for name in ("state/lists/partial", "cache/archives/partial"):
            (self._folder / name).mkdir(parents=True, exist_ok=True)
        signed = f"[signed-by={_KEYRING}] " if _KEYRING.exists() else ""
        lines = [f"{kind} {signed}{_MIRROR} {suite} main\n" for kind in ("deb", "deb-src")[: 1 + sources]]
        (self._folder / "sources.list").write_text("".join(lines))

    def update(self) -> None:
        """Download the lists.  Raises LabError."""
        do([*self._command("apt-get"), "-q", "update"])

    def query(self, *words: str) -> str:
        """Return the output of apt-cache.  Raises LabError."""
        return output([*self._command("apt-cache"), *words])

    def download(self, package: str, target: Path) -> Path:
        """Download *package*, a name or NAME=VERSION, to the folder *target* and return its path.  Raises LabError."""
        do([*self._command("apt-get"), "-q", "download", package], target)
        [path] = target.glob(f"{package.split('=')[0]}_*.deb")
        return path

    def download_source(self, package: str, target: Path) -> Path:
        """Download a source package to the folder *target*; return its upstream archive.  Raises LabError."""
        do([*self._command("apt-get"), "-q", "source", "--download-only", "--only-source", package], target)
        [path] = target.glob("*.orig.tar.*")
        return path

    def _command(self, program: str) -> list[str]:
        options = {
            "Dir::State": self._folder / "state",
            "Dir::State::status": "/var/lib/dpkg/status",
            "Dir::Cache": self._folder / "cache",
            "Dir::Etc::sourcelist": self._folder / "sources.list",
            "Dir::Etc::sourceparts": "/dev/null",
            "APT::Sandbox::User": "root",  # the user _apt may not read a home directory
            "Acquire::Languages": "none",
        }
        return [program, *(word for name, value in options.items() for word in ("-o", f"{name}={value}"))]


def do_logged(words: list[str], folder: Path, log: Path, env: Mapping[str, str] | None = None) -> None:
    """Run *words* in *folder*, with its output in the file *log*.  Raises LabError, with the end of that."""
    try:
        with log.open("ab") as written:
            do(words, folder, stdout=written, env=env)
    except LabError as error:
        end = "\n".join(log.read_text(errors="replace").splitlines()[-30:])
        raise LabError(f"{error.reason}\n{end}", "the lines above are the end of the build's output") from error


def do(words: list[str], folder: Path | None = None, **options: object) -> None:
    """Run *words* in *folder*; *options* are those of subprocess.run.  Raises LabError."""
    done = subprocess.run(words, cwd=folder, check=False, stderr=subprocess.STDOUT, **options)  # type: ignore[call-overload]
    if done.returncode:
        raise LabError(f"{' '.join(words)} failed with status {done.returncode}", "see its messages above")


def output(words: list[str]) -> str:
    """Run *words* and return its output.  Raises LabError."""
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode:
        raise LabError(f"{' '.join(words)} failed: {done.stderr.strip()}", "see its message")
    return done.stdout
