"""Backend "qemu": Debian's kernel in an emulated PC, with the host's files as its root (9p).

The only backend that has both IPVS and nf_tables on any machine, and the slowest: emulated code runs at about a
fifteenth of native speed.  The kernel package is unpacked below build/, not installed.  Its initramfs loads the
modules that 9p needs, mounts the root and the job's folder, and starts guest.py.  The folder has its own mount without
a cache, so that what is written there can be read outside at once; the root's cache is flushed before power-off.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from lab.initramfs import Content, archive
from lab.job import REPOSITORY, Job, LabError
from lab.kernel_process import run_kernel, start_kernel

PACKAGES = ("qemu-system-x86", "busybox-static")
TREE = REPOSITORY / "build/qemu"  # content of the kernel package: boot/ and lib/modules/
_KERNEL_PACKAGE = "linux-image-amd64"
_QEMU, _BUSYBOX = Path("/usr/bin/qemu-system-x86_64"), Path("/bin/busybox")
_MODULES = ("virtio_pci", "9pnet_virtio", "9p")
_9P = "trans=virtio,version=9p2000.L,msize=262144"


def unavailable() -> LabError | None:
    """Return the reason why this machine cannot run it, or None."""
    missing = [str(path) for path in (_QEMU, _BUSYBOX) if not path.exists()]
    if _release() is None:
        missing.append(f"the kernel of {_KERNEL_PACKAGE} in {TREE}")
    if missing:
        return LabError(f"not installed: {', '.join(missing)}", "run LAB=qemu python3 -m lab install")
    return None


def run(job: Job, *, timeout_s: float, memory: str) -> int:
    """Boot, run *job* and power off; return the status as `lab.run` does."""
    return run_kernel(job.booting(TREE / "lib/modules"), lambda folder: _boot(folder, memory), timeout_s=timeout_s)


def describe() -> str:
    """Return the kernel's name for people."""
    return f"Linux {_release()}, Debian's, in qemu"


def unpack_kernel() -> tuple[str, ...]:
    """Download the kernel package and unpack it into TREE, unless it is there; return the names of new packages.

    Raises:
        LabError: apt has no such package, or failed.
    """
    if _release() is not None:
        return ()
    depends = subprocess.run(["apt-cache", "depends", _KERNEL_PACKAGE], capture_output=True, text=True, check=False)
    names = [line.split()[-1] for line in depends.stdout.splitlines() if "Depends: linux-image-" in line]
    if not names:
        raise LabError(f"package {_KERNEL_PACKAGE} not found", "run apt-get update")
    partial = TREE.with_name("qemu-partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    _do(["apt-get", "-q", "download", names[0]], partial)
    [package] = partial.glob("*.deb")
    _do(["dpkg", "-x", str(package), str(partial)], partial)
    package.unlink()
    release = next(partial.glob("lib/modules/*")).name
    _do(["/sbin/depmod", "--basedir", str(partial), release], partial)
    shutil.rmtree(TREE, ignore_errors=True)
    partial.rename(TREE)  # complete or absent
    return (names[0],)


def _release() -> str | None:
    """Return the release of the kernel in TREE; None if there is none."""
    kernels = sorted(TREE.glob("boot/vmlinuz-*"))
    return kernels[-1].name.removeprefix("vmlinuz-") if kernels else None


def _boot(folder: Path, memory: str) -> subprocess.Popen[bytes]:
    release = _release()
    initramfs = folder / "initramfs"
    initramfs.write_bytes(archive(dict(_files(f"{release}", folder))))
    words = [
        str(_QEMU),
        *("-machine", "q35,accel=tcg", "-cpu", "max", "-m", memory, "-smp", "1"),
        *("-nodefaults", "-no-user-config", "-display", "none", "-serial", "stdio", "-no-reboot"),
        *("-kernel", str(TREE / f"boot/vmlinuz-{release}"), "-initrd", str(initramfs)),
        *("-append", "console=ttyS0 quiet panic=-1"),
        *_share("root", "/"),
        *_share("job", str(folder)),
    ]
    return start_kernel(words, folder, {"PATH": os.environ.get("PATH", "")})


def _share(tag: str, path: str) -> Iterator[str]:
    """Yield the arguments that share the host's *path* as the 9p device *tag*."""
    yield from ("-fsdev", f"local,id={tag},path={path.replace(',', ',,')},security_model=none,multidevs=remap")
    yield from ("-device", f"virtio-9p-pci,fsdev={tag},mount_tag={tag}")


def _files(release: str, folder: Path) -> Iterator[tuple[str, Content]]:
    """Yield path and content of each file of the initramfs."""
    for path in ("bin", "dev", "modules", "root"):
        yield path, None
    yield "bin/busybox", _BUSYBOX.read_bytes()
    yield "bin/sh", _BUSYBOX.read_bytes()
    modules = TREE / "lib/modules" / release
    names = _with_dependencies(modules)
    for name in names:
        yield f"modules/{Path(name).name}", (modules / name).read_bytes()
    yield "init", _init([Path(name).name for name in names], folder).encode()


def _with_dependencies(modules: Path) -> list[str]:
    """Return the files of _MODULES, each after its dependencies.  Source: modules.dep(5)."""
    lines = (modules / "modules.dep").read_text().splitlines()
    dependencies = {name: listed.split() for name, _, listed in (line.partition(":") for line in lines)}
    ordered: dict[str, None] = {}

    def add(name: str) -> None:
        for dependency in dependencies[name]:
            add(dependency)
        ordered.setdefault(name)

    for module in _MODULES:
        add(next(name for name in dependencies if name.endswith(f"/{module}.ko")))
    return list(ordered)


def _init(modules: list[str], folder: Path) -> str:
    """Return the init script, which loads *modules*, mounts the root and executes guest.py."""
    guest = [sys.executable, "-IS", str(Path(__file__).with_name("guest.py")), str(folder), "qemu"]
    if any(character.isspace() for word in guest for character in word):
        raise LabError(f"a path contains a space: {guest}", "move the checkout or set TMPDIR")
    return "\n".join(
        (
            "#!/bin/sh",
            *(f"busybox insmod /modules/{name}" for name in modules),
            f"busybox mount -t 9p -o {_9P},cache=loose root /root",
            f"busybox mount -t 9p -o {_9P},cache=none job /root{folder}",
            "busybox mount -t devtmpfs dev /root/dev",
            f"exec busybox switch_root -c /dev/console /root {' '.join(guest)}",
            "",
        )
    )


def _do(words: list[str], folder: Path) -> None:
    if subprocess.run(words, cwd=folder, check=False).returncode:
        raise LabError(f"{' '.join(words)} failed", "see its messages above")
