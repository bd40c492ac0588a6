"""prometheus: Debian's prometheus and promtool, unpacked below build/ and not installed: no user, no service, no port.

Either is the one on PATH where there is one.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from lab.job import REPOSITORY, LabError

TREE = REPOSITORY / "build/prometheus"
_PACKAGE = "prometheus"


def program(name: str) -> Path:
    """Where *name* is.  Raises LabError if it was not fetched."""
    found = shutil.which(name) or shutil.which(name, path=str(TREE / "usr/bin"))
    if found is None:
        raise LabError(f"{name} is not there", "python3 -m lab install")
    return Path(found)


def is_missing() -> bool:
    """Whether one of the two programs is not there."""
    path = f"{TREE}/usr/bin"
    return not all(shutil.which(name) or shutil.which(name, path=path) for name in ("prometheus", "promtool"))


def unpack() -> str:
    """Fetch the package and unpack it into TREE; its name.  Raises LabError if apt has none."""
    partial = TREE.with_name("prometheus-partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    _do(["apt-get", "-q", "download", _PACKAGE], partial)
    [package] = partial.glob("*.deb")
    _do(["dpkg", "-x", str(package), str(partial)], partial)
    package.unlink()
    shutil.rmtree(TREE, ignore_errors=True)
    partial.rename(TREE)  # whole or not there
    return _PACKAGE


def _do(words: list[str], folder: Path) -> None:
    if subprocess.run(words, cwd=folder, check=False).returncode:
        raise LabError(f"{' '.join(words)} failed", "apt-get update; its messages are above")
