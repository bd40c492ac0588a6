"""Build the Debian package from deploy/debian by debhelper, and the machine on which tests install it.

Invariants:
  - The package depends only on the checkout, the time of its last commit, and Debian 12's tools.
  - Nothing of another processor is run to build the package for it: its libraries are unpacked.
  - All output is in build/deb: kubeproxy-py_VERSION_PROCESSOR.deb with .changes; machine, the tree.

Usage: python3 -m image.deb build|tools [PROCESSOR] | machine.  tools and machine need root.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from email.utils import formatdate
from pathlib import Path

from image import unpack
from image.build import own_processor
from image.wheels import MACHINES

REPOSITORY = Path(__file__).resolve().parents[1]
FOLDER = REPOSITORY / "build/deb"
MACHINE = FOLDER / "machine"
TOOLS = ("dpkg-dev", "debhelper", "lintian", "python3.11", "python3.11-venv", "fakeroot", "mmdebstrap")
# Programs for the files of another processor, and the packages whose libraries the wheels need.
_CROSS_TOOLS = {"arm64": "binutils-aarch64-linux-gnu", "amd64": "binutils-x86-64-linux-gnu"}
_LIBRARIES = ("libc6", "libgcc-s1", "libstdc++6", "zlib1g")
# What the package depends on and recommends, systemd, and what tests call.
_MACHINE_PACKAGES = "systemd,dbus,iproute2,procps,python3,iptables,kmod,ipset,ipvsadm"
_MACHINE_MAX_AGE_S = 7 * 24 * 3600
_SOURCES = ("LICENSE", "README.md", "pyproject.toml", "image", "kubeproxy_py", "deploy")
_CHANGELOG = """\
kubeproxy-py ({version}) bookworm; urgency=medium

  * Release {version}; CHANGELOG.md describes it.

 -- kubeproxy-py maintainers <maintainers@kubeproxy-py.invalid>  {date}
"""


def build(processor: str) -> None:
    """Build the package for *processor*."""
    epoch = os.environ.get("SOURCE_DATE_EPOCH") or _say("git", "-C", str(REPOSITORY), "log", "-1", "--format=%ct")
    source = FOLDER / "source"
    shutil.rmtree(source, ignore_errors=True)
    source.mkdir(parents=True)
    for old in FOLDER.glob(f"kubeproxy-py_*_{processor}.*"):
        old.unlink()
    for name in _SOURCES:
        _copy(REPOSITORY / name, source / name)
    shutil.copytree(source / "deploy/debian", source / "debian")
    (source / "debian/changelog").write_text(_CHANGELOG.format(version=_version(), date=formatdate(int(epoch))))
    environment = {**os.environ, "SOURCE_DATE_EPOCH": epoch}
    if processor != own_processor():
        environment["LIBRARY_WORDS"] = " ".join(_library_words(processor, FOLDER / "libraries"))
    words = ["dpkg-buildpackage", "--build=binary", "--no-sign", "--no-check-builddeps", f"--host-arch={processor}"]
    with (FOLDER / "build.log").open("wb") as log:
        done = subprocess.run(words, cwd=source, check=False, stdout=log, stderr=log, env=environment)
    if done.returncode:
        sys.exit(f"{' '.join(words)} failed:\n{(FOLDER / 'build.log').read_text()[-4000:]}")
    shutil.rmtree(source)
    shutil.rmtree(FOLDER / "libraries", ignore_errors=True)
    package = package_path(processor)
    print(package.relative_to(REPOSITORY), f"{package.stat().st_size / 1e6:.1f} MB")


def package_path(processor: str) -> Path:
    """Return the file of the package for *processor*."""
    return FOLDER / f"kubeproxy-py_{_version()}_{processor}.deb"


def _library_words(processor: str, folder: Path) -> list[str]:
    """Return the words with which dpkg-shlibdeps finds the libraries of *processor*, unpacked in *folder*."""
    shutil.rmtree(folder, ignore_errors=True)  # of a build that failed
    unpack.main(processor, folder, _LIBRARIES)
    database = folder / "dpkg"
    unpack.write_database(folder, database)
    return [f"--admindir={database}", f"-l{folder}/root/usr/lib/{MACHINES[processor]}-linux-gnu"]


def install_tools(processor: str) -> None:
    """Install the tools that are missing to build for *processor*, by apt-get."""
    tools = TOOLS if processor == own_processor() else (*TOOLS, _CROSS_TOOLS[processor])
    words = ["dpkg-query", "--show", "--showformat", "${Package} ${db:Status-Status}\n", *tools]
    listed = subprocess.run(words, capture_output=True, text=True, check=False).stdout.splitlines()
    if missing := [name for name in tools if f"{name} installed" not in listed]:
        subprocess.run(["apt-get", "update", "-qq"], check=True)
        subprocess.run(["apt-get", "install", "-qq", "--yes", "--no-install-recommends", *missing], check=True)


def make_machine() -> None:
    """Make the tree of a fresh Debian 12 machine with what the package depends on, unless there is a recent one."""
    if MACHINE.exists() and time.time() - MACHINE.stat().st_mtime < _MACHINE_MAX_AGE_S:
        return
    partial = MACHINE.with_name("machine-partial")
    shutil.rmtree(partial, ignore_errors=True)
    FOLDER.mkdir(parents=True, exist_ok=True)
    words = ["mmdebstrap", "--quiet", "--mode=root", "--variant=minbase", f"--include={_MACHINE_PACKAGES}"]
    subprocess.run([*words, "bookworm", str(partial)], check=True)
    shutil.rmtree(MACHINE, ignore_errors=True)
    partial.rename(MACHINE)  # complete or absent
    MACHINE.touch()


def _version() -> str:
    text = (REPOSITORY / "kubeproxy_py/__init__.py").read_text()
    return text.split('__version__ = "')[1].split('"')[0]


def _copy(path: Path, target: Path) -> None:
    if path.is_dir():
        shutil.copytree(path, target, ignore=shutil.ignore_patterns("__pycache__"))
    else:
        shutil.copy(path, target)


def _say(*words: str) -> str:
    return subprocess.run(words, check=True, stdout=subprocess.PIPE, text=True).stdout.strip()


if __name__ == "__main__":
    if sys.argv[1] == "machine":
        make_machine()
    else:
        {"build": build, "tools": install_tools}[sys.argv[1]](sys.argv[2] if len(sys.argv) > 2 else own_processor())
