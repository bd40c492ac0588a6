"""Install wheels, locked by hash, for a processor that need not be this machine's; nothing of them is run.

Usage: wheels.py PROCESSOR LOCK-FILE FOLDER; PROCESSOR as dpkg names it.  FOLDER becomes a site-packages folder.
"""

import shutil
import subprocess
import sys
from pathlib import Path

MACHINES = {"amd64": "x86_64", "arm64": "aarch64"}
# PEP 600: the C library that a wheel needs; Debian 12 has 2.36.
_OLDEST, _NEWEST = 17, 36


def main(processor: str, lock: Path, folder: Path) -> None:
    """Install the wheels of *lock* into *folder*."""
    words = [
        "install",
        "--quiet",
        "--no-compile",
        "--require-hashes",
        "--no-warn-conflicts",
        *platform_words(processor),
    ]
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", *words]
    subprocess.run([*pip, f"--target={folder}", f"--requirement={lock}"], check=True)
    shutil.rmtree(folder / "bin", ignore_errors=True)  # programs of the libraries, which --target puts there


def platform_words(processor: str) -> list[str]:
    """Return the words with which pip chooses wheels for Python 3.11 of Debian 12 on *processor*."""
    machine = MACHINES[processor]
    names = [f"manylinux_2_{minor}_{machine}" for minor in range(_NEWEST, _OLDEST - 1, -1)] + [
        f"manylinux2014_{machine}"
    ]
    if processor == "amd64":
        names += [
            f"manylinux_2_12_{machine}",
            f"manylinux2010_{machine}",
            f"manylinux_2_5_{machine}",
            f"manylinux1_{machine}",
        ]
    platforms = [f"--platform={name}" for name in names]
    return ["--only-binary=:all:", "--python-version=3.11", "--implementation=cp", *platforms]


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))
