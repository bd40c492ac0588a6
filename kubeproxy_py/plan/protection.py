"""The chains and jumps without which no address of their family may be bound, or none with source ranges."""

from collections.abc import Mapping
from typing import Literal

from kubeproxy_py.model import kube_names
from kubeproxy_py.model.rows import Chain, Jump, Table

Group = Literal["masquerading", "access filter", "firewall"]
"""Chains and jumps that protect together."""

_GROUPS: Mapping[tuple[Table, str], Group] = {
    **{("nat", name): "masquerading" for table, name in kube_names.CHAINS if table == "nat"},
    ("filter", kube_names.ACCESS_FILTER_CHAIN): "access filter",
    ("filter", kube_names.SOURCE_RANGES_CHAIN): "firewall",
    ("filter", kube_names.PROXY_FIREWALL_CHAIN): "firewall",
    ("filter", kube_names.OUT_FILTER_CHAIN): "firewall",
}
"""By chain; a jump belongs to the group of its target.  The other chains only accept what others may drop."""


def protecting_group(key: Chain | Jump) -> Group | None:
    """Return the group with which *key* protects addresses; None if it does not."""
    return _GROUPS.get((key.table, key.name if isinstance(key, Chain) else key.target))
