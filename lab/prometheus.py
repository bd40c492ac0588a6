"""Find Debian's prometheus and promtool; unpack them below build/ if they are not on PATH.

They are not installed, because the package would add a user, a service and a listening port.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from lab.job import REPOSITORY, LabError

TREE = REPOSITORY / "build/prometheus"
_PACKAGE = "prometheus"


def program(name: str) -> Path:
    """Return the path of the program *name*.  Raises LabError if it is missing."""
    path = shutil.which(name) or shutil.which(name, path=str(TREE / "usr/bin"))
    if path is None:
        raise LabError(f"{name} not found", "run python3 -m lab install-tools")
    return Path(path)


def is_missing() -> bool:
    """Return whether one of the two programs is missing."""
    path = f"{TREE}/usr/bin"
    return not all(shutil.which(name) or shutil.which(name, path=path) for name in ("prometheus", "promtool"))


def unpack() -> str:
    """Download the package, unpack it into TREE and return its name.  Raises LabError if apt fails."""
    partial = TREE.with_name("prometheus-partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    _do(["apt-get", "-q", "download", _PACKAGE], partial)
    [package] = partial.glob("*.deb")
    _do(["dpkg", "-x", str(package), str(partial)], partial)
    package.unlink()
    shutil.rmtree(TREE, ignore_errors=True)
    partial.rename(TREE)  # complete or absent
    return _PACKAGE


def _do(words: list[str], folder: Path) -> None:
    if subprocess.run(words, cwd=folder, check=False).returncode:
        raise LabError(f"{' '.join(words)} failed", "run apt-get update; see the messages above")
