"""choose: the way to a kernel with IPVS that this machine allows.

The environment's LAB names one (uml, host, qemu); else the first of the table that has no obstacle.  Inside the lab
the kernel at hand is it, so that a command run there may use the lab as well.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from lab import host, qemu, uml
from lab.job import Job, LabError


class Run(Protocol):
    """Runs a job and returns its status."""

    def __call__(self, job: Job, *, timeout_s: float, memory: str) -> int: ...


@dataclass(frozen=True)
class Way:
    """One way: its name, what stands against it here (None: nothing), and how to run a job."""

    name: str
    obstacle: Callable[[], LabError | None]
    run: Run


WAYS = (
    Way("uml", uml.obstacle, uml.run),  # first: the same kernel for everyone, and all of its sysctls can be written
    Way("host", host.obstacle, host.run),
    Way("qemu", qemu.obstacle, qemu.run),  # last, because it is slow; but it has nf_tables as well
)


def choose(env: Mapping[str, str] = os.environ) -> Way:
    """The way to use.

    Raises LabError with every way's obstacle if none is open, or with that of the one which LAB asks for.
    """
    asked = "host" if env.get("LAB_INSIDE") else env.get("LAB", "")
    ways = [way for way in WAYS if asked in ("", way.name)]
    if not ways:
        raise LabError(f"LAB={asked} is not a way to a kernel", f"one of {', '.join(way.name for way in WAYS)}")
    obstacles = {}
    for way in ways:
        found = way.obstacle()
        if found is None:
            return way
        obstacles[way.name] = found
    reasons = "; ".join(f"{name}: {found.reason}" for name, found in obstacles.items())
    raise LabError(f"no way to a kernel with IPVS: {reasons}", next(iter(obstacles.values())).hint)
