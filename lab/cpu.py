"""Reserve one CPU of this host for one lab kernel.

A user-mode-linux kernel and the programs in it are processes of the host that alternate at each system call.  If they
run on two CPUs, each switch wakes up the other CPU, which is slow on a virtual machine: a system call took 107 us on
a machine with two CPUs, and 22 us with all of them on one CPU; starting a program took 52 and 15 ms.

Invariants:
  - A lab kernel begins on a CPU that no more of them use than any other: three on one of two CPUs would wait for each
    other while the second is idle.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import product

_PLACES = 16  # for lab kernels on one CPU; one more gets any CPU


@contextmanager
def reserve_cpu(prefix: str = "kernel-lab-cpu") -> Iterator[int]:
    """Yield a CPU that the fewest other lab kernels use, and count as one on it within the `with`.

    Args:
        prefix: What the names of reserved places begin with; tests have one of their own.
    """
    usable = sorted(os.sched_getaffinity(0))
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as place:
        free = (cpu for number, cpu in product(range(_PLACES), usable) if _take(place, f"{prefix}-{cpu}-{number}"))
        yield next(free, usable[os.getpid() % len(usable)])


def _take(place: socket.socket, name: str) -> bool:
    """Try to take *name* until *place* is closed or this process ends; return whether that succeeded.

    It is a name in the abstract namespace of sockets (unix(7)): it leaves no file behind.
    """
    try:
        place.bind(f"\0{name}")
    except OSError:
        return False
    return True
