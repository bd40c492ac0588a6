"""node: this namespace as node A of the recordings, and what a case puts into it before the agent starts.

Law: every case starts from a kernel without a trace of the one before, on the network that the recordings were made in.
"""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lab.network import Cluster
from lab.pristine import reset_host_state
from tests.conformance.case import Case

_PREPARE_TIMEOUT_S = 60.0
_LINKS = Path("/sys/class/net")


@contextmanager
def pristine_node() -> Iterator[None]:
    """Node A on a kernel as freshly booted; what a case leaves is removed."""
    _forget()
    links = set(_links())
    try:
        with Cluster(node_a="initial"):
            yield
    finally:
        _forget()
        _delete_links_but(links)


@contextmanager
def clean_kernel() -> Iterator[None]:
    """Within pristine_node: the kernel without what a case leaves.  Tables of iptables that were used stay, empty."""
    links = set(_links())
    try:
        yield
    finally:
        reset_host_state()
        _delete_links_but(links)


def prepare(case: Case) -> list[str]:
    """Run what *case* asks for before the start; a note if it failed."""
    if not case.prepare:
        return []
    with tempfile.TemporaryFile() as output:  # no pipe: what it leaves in the background would keep that open
        ended = subprocess.run(
            case.prepare, cwd=case.folder, stdout=output, stderr=output, timeout=_PREPARE_TIMEOUT_S, check=False
        )
        output.seek(0)
        text = output.read().decode(errors="replace").strip()
    return [f"what comes before the start ended with status {ended.returncode}: {text}"] if ended.returncode else []


def _links() -> Iterator[str]:
    return (path.name for path in _LINKS.iterdir())


def _delete_links_but(links: set[str]) -> None:
    for link in set(_links()) - links:
        subprocess.run(["ip", "link", "del", link], check=False, capture_output=True)


def _forget() -> None:
    """Reset the kernel, and unload the modules of iptables' tables: a table that was once used stays to be printed."""
    reset_host_state()
    loaded = [line.split()[0] for line in Path("/proc/modules").read_text().splitlines()]
    tables = [name for name in loaded if name.startswith(("iptable_", "ip6table_"))]
    if tables:
        subprocess.run(["rmmod", *tables], check=True, capture_output=True)
