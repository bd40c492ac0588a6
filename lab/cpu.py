"""Reserve one CPU of this host for one lab kernel.

A user-mode-linux kernel and the programs in it are processes of the host that alternate at each system call.  If they
run on two CPUs, each switch wakes up the other CPU, which is slow on a virtual machine: a system call took 107 us on
a machine with two CPUs, and 22 us with all of them on one CPU; starting a program took 52 and 15 ms.

Invariants:
  - Two lab kernels share a CPU only if no other is free.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager


@contextmanager
def reserve_cpu() -> Iterator[int]:
    """Yield a CPU that no other lab kernel uses within the `with`; any CPU if all are in use."""
    usable = sorted(os.sched_getaffinity(0))
    with ExitStack() as stack:
        yield next((cpu for cpu in usable if _reserve(cpu, stack)), usable[os.getpid() % len(usable)])


def _reserve(cpu: int, stack: ExitStack) -> bool:
    """Try to reserve *cpu* until *stack* is closed or this process ends; return whether that succeeded.

    The lock is a name in the abstract namespace of sockets (unix(7)): it leaves no file behind.
    """
    name = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM))
    try:
        name.bind(f"\0kernel-lab-cpu-{cpu}")
    except OSError:
        return False
    return True
