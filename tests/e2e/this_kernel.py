"""The kernel on which the tests run: its version, and its kind of iptables."""

from __future__ import annotations

import os
from pathlib import Path

from kubeproxy_py.kernel.host_probe import parse_version
from kubeproxy_py.kernel.iptables import nf_tables

VERSION = parse_version(os.uname().release)
IPTABLES = os.environ.get("LAB_IPTABLES") or "legacy"
"""What `iptables` is in the lab: "legacy", or "nft" on a kernel that has both."""

_LEGACY_TABLES = Path("/proc/net/ip_tables_names")


def has_iptables_rules() -> bool:
    """Return whether this network namespace has the table nat of IPv4."""
    if IPTABLES == "nft":
        return nf_tables.has_table("IPv4", "nat")
    return _LEGACY_TABLES.exists() and bool(_LEGACY_TABLES.read_text())
