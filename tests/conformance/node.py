"""This namespace as node A of the recordings, and what a case puts into it before the agent starts.

Every case starts from a kernel in which nothing of the previous case remains, in the network in which the recordings
were made.
"""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lab.network import Cluster
from lab.pristine import reset_host_state, unload_modules
from tests.conformance.case import Case

_PREPARE_TIMEOUT_S = 60.0
_LINKS = Path("/sys/class/net")
_CONNTRACK_BUCKETS = Path("/proc/sys/net/netfilter/nf_conntrack_buckets")
# As on the kernel of the recordings: with fewer than a quarter of nf_conntrack_max, kube-proxy and the agent set it.
_RECORDED_BUCKETS = 65536


@contextmanager
def pristine_node() -> Iterator[None]:
    """Node A on a kernel as after boot; what a case leaves is removed."""
    _reset()
    links = set(_links())
    try:
        with Cluster(node_a="initial"):
            yield
    finally:
        _reset()
        _delete_links_except(links)


@contextmanager
def clean_kernel() -> Iterator[None]:
    """Within pristine_node: remove what a case leaves.  iptables tables that were used remain, empty."""
    links = set(_links())
    try:
        yield
    finally:
        reset_host_state()
        _delete_links_except(links)


def prepare(case: Case) -> list[str]:
    """Run the preparation of *case*; a note if it failed."""
    _have_recorded_buckets()
    if not case.prepare:
        return []
    with tempfile.TemporaryFile() as output:  # not a pipe, which background processes would leave open
        result = subprocess.run(
            case.prepare, cwd=case.folder, stdout=output, stderr=output, timeout=_PREPARE_TIMEOUT_S, check=False
        )
        output.seek(0)
        text = output.read().decode(errors="replace").strip()
    return [f"preparation exited with status {result.returncode}: {text}"] if result.returncode else []


def _have_recorded_buckets() -> None:
    """Raise the number of conntrack buckets, which older kernels (5.10) choose smaller on a machine of this size."""
    if _CONNTRACK_BUCKETS.exists() and int(_CONNTRACK_BUCKETS.read_text()) < _RECORDED_BUCKETS:
        _CONNTRACK_BUCKETS.write_text(str(_RECORDED_BUCKETS))


def _links() -> Iterator[str]:
    return (path.name for path in _LINKS.iterdir())


def _delete_links_except(links: set[str]) -> None:
    for link in set(_links()) - links:
        subprocess.run(["ip", "link", "del", link], check=False, capture_output=True)


def _reset() -> None:
    """Reset the kernel, and unload the modules of iptables tables: a table that was used once is still printed."""
    reset_host_state()
    unload_modules(*_table_modules())


def _table_modules() -> list[str]:
    loaded = (line.split()[0] for line in Path("/proc/modules").read_text().splitlines())
    return [name for name in loaded if name.startswith(("iptable_", "ip6table_"))]
