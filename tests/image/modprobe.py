"""modprobe: within the `with`, this machine loads modules by /sbin/modprobe, as any node does.

The lab has its modules elsewhere, and a wrapper of its own for the kernel to call.  But iptables calls what
/proc/sys/kernel/modprobe names, and in a container that path must be one of the image.  So the wrapper is laid over
the host's own program, under the usual name.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lab import linux
from lab.pristine import LAB

USUAL = "/sbin/modprobe"
_CALLED_BY_KERNEL = Path("/proc/sys/kernel/modprobe")


@contextmanager
def usual_modprobe(folder: Path) -> Iterator[None]:
    """*folder* is for the wrapper, and for the program that it covers."""
    covered = Path(USUAL).resolve()
    program = shutil.copy(covered, folder / "modprobe")  # kmod goes by the name that it is called by
    wrapper = folder / "wrapper"
    wrapper.write_text(f'#!/bin/sh\nexec {program} -d {LAB} "$@"\n')
    wrapper.chmod(0o755)
    before = _CALLED_BY_KERNEL.read_text()
    linux.mount(str(wrapper), str(covered), flags=linux.MS_BIND)
    _CALLED_BY_KERNEL.write_text(USUAL)
    try:
        yield
    finally:
        _CALLED_BY_KERNEL.write_text(before)
        linux.unmount(str(covered))
