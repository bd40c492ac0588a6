"""Let this machine load modules by /sbin/modprobe, as any node does.

The lab has its modules in another directory, and a wrapper that the kernel calls.  But iptables calls the program that
/proc/sys/kernel/modprobe names, and in a container that path must exist in the image.  So the wrapper is mounted over
the host's program, at the usual path.
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
    """Mount the wrapper within the `with`; *folder* gets the wrapper, and a copy of the program that it covers."""
    covered = Path(USUAL).resolve()
    program = shutil.copy(covered, folder / "modprobe")  # kmod acts by the name under which it is called
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
