"""cpu: one CPU of this host for one lab kernel.

A user-mode-linux kernel and the programs in it are processes of the host that take turns at each system call.  Where
they are on two CPUs each turn wakes up the other one, which is dear on a virtual machine: a system call took 107 us on
one with two CPUs, and 22 us there once all were kept on one; a program 52 and 15 ms.  Law: two kernels never share a
CPU while another is free; there is no harm where all are taken.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager


@contextmanager
def own_cpu() -> Iterator[int]:
    """A CPU that this process may use and that no other lab kernel has until the end; if all are taken, some CPU."""
    usable = sorted(os.sched_getaffinity(0))
    with ExitStack() as stack:
        yield next((cpu for cpu in usable if _taken(cpu, stack)), usable[os.getpid() % len(usable)])


def _taken(cpu: int, stack: ExitStack) -> bool:
    """Whether *cpu* is ours now, until *stack* or this process ends.

    By a name in the abstract namespace of sockets (unix(7)): it leaves no file, and no other process can have it.
    """
    name = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM))
    try:
        name.bind(f"\0kernel-lab-cpu-{cpu}")
    except OSError:
        return False
    return True
