"""Gather the facts of this kernel that its check looks at (checks/kernel.py).

Invariants:
- Nothing is changed, and no kernel module is loaded by asking.
- Connections are counted only where there may be too many for the table, and no further than that takes: kernels before
  7.1 walk the table from its start for each page of the list.
"""

from itertools import islice
from pathlib import Path

from kubeproxy_py.kernel.host_probe import count_cpus, parse_version
from kubeproxy_py.model.host_facts import CONNECTIONS_PER_BUCKET_MAX, ConntrackFacts, KernelFacts

_SETTINGS = ("conn_reuse_mode", "run_estimation")
_TABLE_BITS = "sys/module/ip_vs/parameters/conn_tab_bits"


def read_kernel_facts(conntrack: ConntrackFacts | None, *, legacy: bool, root: Path = Path("/")) -> KernelFacts:
    """Return the facts of now; never raises.

    Args:
        conntrack: how many connections are tracked; IPVS has no more of them, templates aside.
        legacy: whether the agent's rules are in legacy tables.
        root: folder that contains the proc and sys to read.
    """
    bits = _number(root / _TABLE_BITS)
    buckets = 1 << bits if bits else 0
    enough = CONNECTIONS_PER_BUCKET_MAX * buckets + 1
    settings = {name: _number(root / "proc/sys/net/ipv4/vs" / name) for name in _SETTINGS}
    may_be_full = buckets and conntrack is not None and conntrack.count >= enough
    return KernelFacts(
        version=parse_version(_read(root / "proc/sys/kernel/osrelease")),
        cpus=count_cpus(root),
        ipvs_settings={name: value for name, value in settings.items() if value is not None},
        connection_buckets=buckets,
        connections=count_connections(root, enough) if may_be_full else 0,
        legacy=legacy,
        has_nf_tables=(root / "sys/module/nf_tables").exists(),
    )


def count_connections(root: Path, enough: int) -> int:
    """Return the number of IPVS connections of this network namespace, counted up to *enough*."""
    try:
        with (root / "proc/net/ip_vs_conn").open("rb") as lines:
            next(lines, None)  # the heading
            return sum(1 for _ in islice(lines, enough))
    except OSError:
        return 0


def _number(path: Path) -> int | None:
    try:
        return int(_read(path))
    except ValueError:
        return None


def _read(path: Path) -> str:
    """Return the stripped text of a small file; "" if it cannot be read."""
    try:
        return path.read_text().strip()
    except OSError:
        return ""
