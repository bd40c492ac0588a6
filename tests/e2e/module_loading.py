"""Hosts that load no kernel module, or lack a library of iptables, for as long as a block runs."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

MODPROBE = Path("/proc/sys/kernel/modprobe")


@contextmanager
def restored(*paths: Path) -> Iterator[None]:
    """Restore the content of *paths* when the block ends."""
    before = {path: path.read_text() for path in paths}
    try:
        yield
    finally:
        for path, value in before.items():
            path.write_text(value)


@contextmanager
def without_module_loading() -> Iterator[None]:
    with restored(MODPROBE):
        MODPROBE.write_text("/bin/false")
        yield


@contextmanager
def without_iptables_extension(name: str) -> Iterator[None]:
    """Hide the library of iptables for the match *name*."""
    (library,) = Path("/usr/lib").glob(f"*/xtables/libxt_{name}.so")
    subprocess.run(["mount", "--bind", "/dev/null", library], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", library], check=True)
