"""Make a tree of an arm64 machine with the agent and its libraries, for tests under qemu-user.

Invariants:
  - Nothing of arm64 is run, and nothing of this machine is changed: mmdebstrap only unpacks Debian's packages, and pip
    only downloads wheels, locked by the same hashes as those of the image.
  - All output is in build/arm64: wheels; root, the tree, in which the libraries and the agent are in PLACE.

Usage: python3 -m image.arm64, as root.  It is not the image: that needs the packages' scripts, and so an arm64 builder.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
FOLDER = REPOSITORY / "build/arm64"
ROOT = FOLDER / "root"
PLACE = "opt/kubeproxy-py"
EMULATOR = "qemu-aarch64-static"
_PACKAGES = "python3.11,iptables,ipset,kmod"
_PLATFORMS = ("manylinux_2_17_aarch64", "manylinux2014_aarch64", "manylinux_2_28_aarch64", "manylinux_2_34_aarch64")
_READY = FOLDER / "ready"


def make() -> None:
    """Make the tree, unless it is there and as the lock file says; the agent is copied each time."""
    lock = (REPOSITORY / "image/requirements.lock").read_text()
    if not _READY.exists() or _READY.read_text() != lock:
        shutil.rmtree(FOLDER, ignore_errors=True)
        FOLDER.mkdir(parents=True)
        words = ["mmdebstrap", "--quiet", "--mode=root", "--variant=extract", "--architectures=arm64"]
        subprocess.run([*words, f"--include={_PACKAGES}", "bookworm", str(ROOT)], check=True)
        _download_wheels(FOLDER / "wheels")
        for wheel in (FOLDER / "wheels").glob("*.whl"):
            with zipfile.ZipFile(wheel) as files:
                files.extractall(ROOT / PLACE)
        _READY.write_text(lock)
    target = ROOT / PLACE / "kubeproxy_py"
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(REPOSITORY / "kubeproxy_py", target, ignore=shutil.ignore_patterns("__pycache__"))


def _download_wheels(folder: Path) -> None:
    words = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--require-hashes"]
    words += ["--only-binary=:all:", "--python-version=3.11", "--implementation=cp", f"--dest={folder}"]
    words += [f"--platform={platform}" for platform in _PLATFORMS]
    subprocess.run([*words, f"--requirement={REPOSITORY}/image/requirements.lock"], check=True)


def emulated(*arguments: str) -> tuple[list[str], dict[str, str]]:
    """Return the command line and the environment with which the tree's Python runs *arguments* here."""
    environment = {"PYTHONHOME": str(ROOT / "usr"), "PYTHONPATH": str(ROOT / PLACE), "PYTHONDONTWRITEBYTECODE": "1"}
    return [EMULATOR, "-L", str(ROOT), str(ROOT / "usr/bin/python3.11"), *arguments], environment


if __name__ == "__main__":
    make()
