#!/opt/kubeproxy-py/bin/python
"""kube-proxy: what the image runs: the agent, with the rights that the container was given.

Law: a process that is not root holds after this what it was permitted, and hands that on to the programs it starts
(iptables, ipset).  The interpreter's file capabilities bring the permission, and no more than that: were they effective
at once, the kernel would refuse to start it wherever the container has not all of them, be it only to say its version.

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


def take_what_is_permitted() -> None:
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
        take_what_is_permitted()
    sys.exit(cli.main())
