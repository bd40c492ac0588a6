"""The lock of iptables, held by another program."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

XTABLES_LOCK = Path("/run/xtables.lock")


@contextmanager
def rules_locked() -> Iterator[None]:
    """Lock iptables: no rule can be written within the `with`."""
    with XTABLES_LOCK.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
