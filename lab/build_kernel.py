"""Build user-mode-linux kernels from Debian's own kernel sources, for `make lab-kernels`.

The source packages come from other suites than this machine's (debian.py).  A kernel is in the cache complete or not at
all.

One kernel takes 8 to 25 minutes on two CPUs, 2 GB of disk meanwhile and 30 MB afterwards.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from lab import kernels
from lab.debian import Apt, do, do_logged, locked
from lab.install import install_packages
from lab.job import LabError

NEWEST = kernels.NEWEST
# Version -> the Debian suite that has its source package.  "newest" is the highest version in sid.
SUITES: Mapping[str, str] = {NEWEST: "sid", "6.12": "trixie", "6.1": "bookworm", "5.10": "bullseye"}
TOOLS = ("gcc", "libc6-dev", "make", "flex", "bison", "bc", "xz-utils", "kmod")

_PACKAGE = re.compile(r"^linux-source-(\d+\.\d+)\b", re.MULTILINE)
_NF_TABLES = "nf_tables.ko"


@dataclass(frozen=True)
class _Source:
    package: str
    version: str  # of the package, as 7.2.13-1


def build(wanted: Iterable[str]) -> list[str]:
    """Build each kernel of *wanted* (a version of SUITES) that is not in the cache; return the names of those built.

    Raises:
        LabError: A version is unknown, or a program failed.
    """
    versions = list(wanted)
    if unknown := [version for version in versions if version not in SUITES]:
        raise LabError(f"no Debian suite is known for {', '.join(unknown)}", f"use one of {', '.join(SUITES)}")
    install_packages(TOOLS)
    cache = kernels.cache()
    cache.mkdir(parents=True, exist_ok=True)
    with locked(cache):
        return [name for version in versions for name in _build_missing(cache, version)]


def _build_missing(cache: Path, wanted: str) -> list[str]:
    apt = Apt(cache / "apt", SUITES[wanted])
    source = _find(apt, wanted)
    series = source.package.removeprefix("linux-source-")
    # A later revision of the same version is not worth a build.
    if built := [kernel.name for kernel in kernels.built_kernels(cache) if kernel.name.startswith(f"{series}.")]:
        print(f"lab: Linux {built[0]} is built already")
        return []
    name = kernels.folder_name(source.version)
    print(f"lab: building Linux {name}; this takes 8 to 25 minutes", flush=True)
    work = cache / "work"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir()
    try:
        tree = _unpack(apt.download(f"{source.package}={source.version}", work), work)
        _compile(tree)
        _install(tree, work / "kernel")
        shutil.rmtree(cache / name, ignore_errors=True)
        (work / "kernel").rename(cache / name)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return [name]


def _find(apt: Apt, wanted: str) -> _Source:
    """Return the source package of *wanted* in the suite of *apt*; of "newest", that of the highest version.

    Raises:
        LabError: The suite cannot be reached, or has no such package.
    """
    apt.update()
    listed = apt.query("search", "--names-only", "^linux-source-[0-9]")
    found = [version for version in _PACKAGE.findall(listed) if wanted in (NEWEST, version)]
    if not found:
        raise LabError(f"no source package of Linux {wanted} in {SUITES[wanted]}", "choose another version")
    package = f"linux-source-{max(found, key=_as_numbers)}"
    [version, *_] = re.findall(r"^Version: (\S+)", apt.query("show", package), re.MULTILINE)
    return _Source(package, version)


def _unpack(package: Path, work: Path) -> Path:
    """Unpack the archive within the package; return the source tree."""
    with subprocess.Popen(["dpkg-deb", "--fsys-tarfile", str(package)], stdout=subprocess.PIPE) as files:
        do(["tar", "-x", "--wildcards", "./usr/src/linux-source-*.tar.xz"], work, stdin=files.stdout)
    package.unlink()
    [archive] = work.glob("usr/src/*.tar.xz")
    do(["tar", "-xf", str(archive)], work)
    archive.unlink()
    [tree] = work.glob("linux-source-*")
    return tree


def _compile(tree: Path) -> None:
    shutil.copy(kernels.CONFIGURATION, tree / ".config")
    for words in (["olddefconfig"], [f"-j{len(os.sched_getaffinity(0))}", "linux", "modules"]):
        do_logged(["make", "ARCH=um", *words], tree, tree.with_name("log"))


def _install(tree: Path, target: Path) -> None:
    """Fill *target* as kernels.py describes it."""
    target.mkdir()
    shutil.copy(tree / "linux", target / "linux")
    base = tree.with_name("base")
    do(["make", "ARCH=um", f"INSTALL_MOD_PATH={base}", "INSTALL_MOD_STRIP=1", "modules_install"], tree)
    [modules] = (base / "lib/modules").iterdir()
    for link in ("build", "source"):
        (modules / link).unlink(missing_ok=True)
    _depmod(base)
    shutil.copytree(base / "lib/modules", target / "modules")
    for path in _needing_nf_tables(modules):
        path.unlink()
    _depmod(base)
    shutil.copytree(base / "lib/modules", target / "legacy")


def _depmod(base: Path) -> None:
    [modules] = (base / "lib/modules").iterdir()
    do(["/sbin/depmod", "--basedir", str(base), modules.name])


def _needing_nf_tables(modules: Path) -> list[Path]:
    """Return the files of nf_tables and of every module that depends on it.  Source: modules.dep(5)."""
    lines = (modules / "modules.dep").read_text().splitlines()
    names = {line.split(":")[0] for line in lines if _NF_TABLES in line}
    return [modules / name for name in sorted(names)]


def _as_numbers(version: str) -> list[int]:
    return [int(number) for number in version.split(".")]
