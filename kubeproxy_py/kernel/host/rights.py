"""What this process may do: its user, and the capabilities that it lacks."""

import os
from pathlib import Path

from kubeproxy_py.model.host_facts import Rights

CAPABILITIES = {"NET_ADMIN": 12, "NET_RAW": 13}
"""The capabilities that the agent needs, with their numbers (linux/capability.h)."""


def read_rights(root: Path = Path("/")) -> Rights:
    """Return what this process may do.  Raises OSError."""
    lines = (root / "proc/self/status").read_text().splitlines()
    effective = next((int(line.split()[1], 16) for line in lines if line.startswith("CapEff:")), 0)
    missing = tuple(name for name, number in CAPABILITIES.items() if not effective >> number & 1)
    return Rights(os.geteuid(), missing)
