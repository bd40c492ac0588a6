#!/opt/kubeproxy-py/bin/python
"""Entry point of the image: run the agent with the capabilities of the container.

For a process that is not root, all permitted capabilities become effective and are passed on to the programs that it
starts (iptables, ipset).  The interpreter's file capabilities are only permitted: if they were effective at once, the
kernel would not start it in a container that lacks one of them, not even for --version.

Sources: capabilities(7), "Transformation of capabilities during execve()"; linux/capability.h; linux/prctl.h.
"""

import ctypes
import os
import sys

from kubeproxy_py import cli

_VERSION_3 = 0x20080522
_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_RAISE = 47, 2
_Header = ctypes.c_uint32 * 2  # version, pid; 0 is this process
_Sets = ctypes.c_uint32 * 6  # effective, permitted, inheritable: bits 0 to 31; then the same for 32 to 63


def raise_permitted_capabilities() -> None:
    """Make all permitted capabilities effective, inheritable and ambient.  Raises OSError."""
    libc = ctypes.CDLL(None, use_errno=True)
    header, sets = _Header(_VERSION_3, 0), _Sets()
    _check(libc.capget(header, sets))
    _, low, _, _, high, _ = sets
    _check(libc.capset(header, _Sets(low, low, low, high, high, high)))
    permitted = high << 32 | low
    for number in range(permitted.bit_length()):
        if permitted >> number & 1:
            _check(libc.prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_RAISE, number, 0, 0))


def _check(result: int) -> None:
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


if __name__ == "__main__":
    if os.geteuid():
        raise_permitted_capabilities()
    sys.exit(cli.main())
