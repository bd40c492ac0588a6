"""Read a file that may be anything: nothing blocks on it, and nothing but data on a disk or in memory is read."""

import os
from contextlib import suppress
from pathlib import Path
from stat import S_ISREG

_KERNEL_FOLDERS = ("/proc", "/sys", "/sys/fs/cgroup", "/sys/kernel/debug", "/sys/kernel/tracing")


def read_bounded(path: Path, limit_bytes: int) -> bytes:
    """Return the file's bytes.  Raises OSError if it cannot be read, is too large, or is no regular file of data.

    A FIFO or a terminal would block, opening a device may act on it, and the kernel's own files do both: reading
    /proc/kmsg waits for messages and takes them from others.
    """
    _require_data(os.stat(path))  # noqa: PTH116 - follows links, as a ConfigMap needs; before open, which may act
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    with open(descriptor, "rb") as file:  # noqa: PTH123 - a descriptor
        status = os.fstat(descriptor)
        _require_data(status)  # another file may have come in between
        # A buffer of the file's size: a read of up to 256 MiB allocates that much, which costs a fault a page.
        size = min(status.st_size, limit_bytes)
        body = file.read(size + 1)
        if len(body) > size:  # it grew, or its file system does not report its size
            body += file.read(limit_bytes + 1 - len(body))
    if len(body) > limit_bytes:
        raise OSError(f"it is larger than {limit_bytes >> 20} MiB")
    return body


def _require_data(status: os.stat_result) -> None:
    """Raise OSError if the file is no regular one, or belongs to a file system of the kernel."""
    if not S_ISREG(status.st_mode):
        raise OSError("it is not a regular file")
    if status.st_dev in _kernel_devices():
        raise OSError("it is a file of the kernel's, in /proc or /sys")


def _kernel_devices() -> set[int]:
    """Return the devices of the kernel's file systems; without a mount, their folders are on the root's."""
    devices: set[int] = set()
    for folder in _KERNEL_FOLDERS:
        with suppress(OSError):
            devices.add(Path(folder).stat().st_dev)
    return devices - {Path("/").stat().st_dev}
