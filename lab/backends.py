"""Choose a backend of the lab: user-mode-linux, the host's own kernel in namespaces, or qemu.

The environment variable LAB names one (uml, host, qemu); otherwise the first available backend of BACKENDS is used.
Inside the lab the backend is "host", so that a command running there can use the lab too.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from lab import host, qemu, uml
from lab.job import Job, LabError


class RunJob(Protocol):
    """A function that runs a job and returns its exit status."""

    def __call__(self, job: Job, *, timeout_s: float, memory: str) -> int:
        """Run *job*; see `lab.run`."""
        ...


@dataclass(frozen=True)
class Backend:
    """One backend: its name, why it is unavailable here (None: it is available), its kernel, and how it runs a job."""

    name: str
    unavailable: Callable[[], LabError | None]
    describe: Callable[[], str]
    run: RunJob


BACKENDS = (
    Backend(
        "uml", uml.unavailable, uml.describe, uml.run
    ),  # first: the same kernel for everyone, and all of its sysctls can be written
    Backend("host", host.unavailable, host.describe, host.run),
    Backend("qemu", qemu.unavailable, qemu.describe, qemu.run),  # last: it is slow, but Debian's own kernel
)


def choose_backend(env: Mapping[str, str] = os.environ) -> Backend:
    """Return the backend to use.

    Raises:
        LabError: No backend is available (with the reason of each), or the one that LAB names is not.
    """
    name = "host" if env.get("LAB_INSIDE") else env.get("LAB", "")
    candidates = [backend for backend in BACKENDS if name in ("", backend.name)]
    if not candidates:
        known = ", ".join(backend.name for backend in BACKENDS)
        raise LabError(f"LAB={name} is not a backend of the lab", f"use one of {known}")
    errors = {}
    for backend in candidates:
        error = backend.unavailable()
        if error is None:
            return backend
        errors[backend.name] = error
    reasons = "; ".join(f"{name}: {error.reason}" for name, error in errors.items())
    raise LabError(f"no kernel with IPVS is available: {reasons}", next(iter(errors.values())).hint)
