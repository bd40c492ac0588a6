"""System calls that Python 3.11 has no function for: mount, unshare, setns, reboot, prctl, and setting `lo` up.

Each function raises OSError with the kernel's errno if the call fails.  Constants are from the kernel's uapi headers.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import socket
import struct

MS_NOSUID, MS_NODEV, MS_BIND, MS_MOVE, MS_REC, MS_PRIVATE = 0x2, 0x4, 0x1000, 0x2000, 0x4000, 0x40000
CLONE_NEWNS, CLONE_NEWUTS, CLONE_NEWIPC, CLONE_NEWPID, CLONE_NEWNET = (
    0x20000,
    0x4000000,
    0x8000000,
    0x20000000,
    0x40000000,
)
MNT_DETACH = 2
_PR_SET_PDEATHSIG = 1
_POWER_OFF = 0x4321FEDC
_SIOCGIFFLAGS, _SIOCSIFFLAGS, _IFF_UP = 0x8913, 0x8914, 0x1

_libc = ctypes.CDLL(None, use_errno=True)


def _check(result: int, what: str) -> None:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), what)


def mount(source: str, target: str, kind: str = "", flags: int = 0, options: str = "") -> None:
    """Mount *source* on *target*; *kind* is the file system type, empty for a bind, move or change of propagation."""
    result = _libc.mount(
        source.encode(), target.encode(), kind.encode() or None, ctypes.c_ulong(flags), options.encode() or None
    )
    _check(result, target)


def unmount(target: str) -> None:
    """Unmount *target* lazily (MNT_DETACH), so that it may be in use."""
    _check(_libc.umount2(target.encode(), MNT_DETACH), target)


def unshare(flags: int) -> None:
    """Move the calling thread into new namespaces, those of *flags*."""
    _check(_libc.unshare(flags), "unshare")


def setns(descriptor: int, flags: int) -> None:
    """Move the calling thread, and no other, into the namespace of *descriptor*."""
    _check(_libc.setns(descriptor, flags), "setns")


def power_off() -> None:
    """Power the machine off at once, without syncing file systems or stopping processes."""
    _check(_libc.reboot(_POWER_OFF), "reboot")


def die_with_parent(signal_number: int) -> None:
    """Have the kernel send *signal_number* to this process when the thread that started it ends."""
    _check(_libc.prctl(_PR_SET_PDEATHSIG, signal_number, 0, 0, 0), "prctl")


def raise_loopback() -> None:
    """Set `lo` up in this network namespace.

    With `lo` down there is no local route table, and IPVS rejects each real server with EINVAL.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        request = struct.pack("16sH14x", b"lo", 0)
        flags = struct.unpack("16sH14x", fcntl.ioctl(sock, _SIOCGIFFLAGS, request))[1]
        fcntl.ioctl(sock, _SIOCSIFFLAGS, struct.pack("16sH14x", b"lo", flags | _IFF_UP))
