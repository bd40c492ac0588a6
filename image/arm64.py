"""Unpack image and Debian package for arm64, so that tests run the agent in them under qemu-user.

Invariants:
  - What runs is the program of the image, with its interpreter, libraries and paths, in a root of its own (chroot);
    only the emulator is added.  The Debian package is unpacked into the same root, which has Debian's Python.
  - All output is in build/arm64.

Usage: python3 -m image.arm64, after `make image-arm64 deb-arm64`.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from image.archive import Archive
from image.build import REPOSITORY, archive_path
from image.deb import package_path

PROCESSOR = "arm64"
FOLDER = REPOSITORY / "build/arm64"
ROOT = FOLDER / "root"
EMULATOR = "qemu-aarch64-static"
MANIFESTS = "/tmp/manifests"
_PYTHON = "/opt/kubeproxy-py/bin/python"  # first line of the entry point: the kernel would look for an arm64 machine
_ENTRY_POINT = "/usr/local/bin/kube-proxy"
_PACKAGED = ("/usr/lib/kubeproxy-py/bin/python3.11", "/usr/sbin/kubeproxy-py")


def unpack(archive: Path, root: Path) -> None:
    """Unpack the image in *archive* to *root*, with the emulator and the example manifests."""
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir(parents=True)
    tar = ["tar", "--extract", "--gzip", "--no-same-owner", "--directory", str(root)]
    subprocess.run(tar, input=Archive(archive).layer_bytes(), check=True)
    emulator = shutil.which(EMULATOR)
    assert emulator, f"{EMULATOR} is not installed; hint: make test-qemu"
    shutil.copy(emulator, root / EMULATOR)
    shutil.copytree(REPOSITORY / "deploy/examples", root / MANIFESTS[1:])


def run(*words: str) -> subprocess.CompletedProcess[str]:
    """Return the result of a program of arm64 in the tree."""
    words = ("unshare", "--map-root-user", f"--root={ROOT}", f"/{EMULATOR}", *words)
    environment = {"PATH": "/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
    return subprocess.run(words, env=environment, capture_output=True, text=True, check=False)


def run_python(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Return the result of the image's Python with *arguments*."""
    return run(_PYTHON, *arguments)


def run_agent(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Return the result of the image's entry point with *arguments*."""
    return run_python(_ENTRY_POINT, *arguments)


def run_packaged(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Return the result of the Debian package's program with *arguments*."""
    return run(*_PACKAGED, *arguments)


if __name__ == "__main__":
    unpack(archive_path(PROCESSOR), ROOT)
    subprocess.run(["dpkg-deb", "--extract", str(package_path(PROCESSOR)), str(ROOT)], check=True)
