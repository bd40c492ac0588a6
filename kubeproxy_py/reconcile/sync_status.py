"""SyncStatus: how the kernel compares with what is desired, in numbers, for other threads to read.

Invariants:
- A SyncStatus is immutable and computed in the agent's thread at the cost of what is pending, so other threads read
  consistent values without a lock.
- Health is kube-proxy's: a sync that was requested and is not done within twice the period is a fault; having nothing
  to do is none, and neither is a single row that the kernel rejects.
"""

from collections.abc import Container, Iterable, Mapping

from msgspec import Struct

from kubeproxy_py.model.kube_names import IPSET_DEFINITIONS, POLICY_IPSET_DEFINITIONS
from kubeproxy_py.model.rows import Chain, Ipset, Jump, Key, Link
from kubeproxy_py.net import FAMILIES, Family
from kubeproxy_py.plan.protection import protecting_group

ROW_KINDS: tuple[str, ...] = (
    *("Sysctl", "Link", "Ipset", "Chain", "Jump", "IpsetEntry", "VirtualServer", "RealServer"),
    *("PolicyEntry", "LoopbackPath", "ReturnTunnel", "Address"),
)
"""Every kind of row, in the order of building."""

_FAMILY_OF_SET = {
    definition.name_in(family): family
    for family in FAMILIES
    for definition in (*IPSET_DEFINITIONS, *POLICY_IPSET_DEFINITIONS)
}


class SyncStatus(Struct, frozen=True, gc=False):
    """Numbers of rows by the name of their kind; a kind that is missing has none."""

    desired: Mapping[str, int] = {}
    pending: Mapping[str, int] = {}  # not yet as desired, failed ones included
    failed: Mapping[str, int] = {}
    drift_found: Mapping[str, int] = {}  # since the start
    drift_repaired: Mapping[str, int] = {}
    draining: int = 0  # real servers
    compares: int = 0  # full compares since the start
    partial_compares: int = 0
    unread: int = 0  # scopes that cannot be read now
    stuck: frozenset[Family] = frozenset()  # families whose sync counts as failed, see stuck_families
    refusals: Mapping[str, int] = {}  # what is refused of Services now, by reason
    disputed: int = 0  # times that a row had drifted again and again, since the start
    uncompiled: int = 0  # objects whose last change could not be compiled
    unprotected: frozenset[Family] = frozenset()  # families that lack a chain or jump that protects addresses
    fights: Mapping[str, int] = {}  # times that a row was changed three times within a minute, since the start
    is_waiting: bool = True  # for the initial lists of its feeds
    has_work: bool = False  # a sync was requested and is not done yet


def stuck_families(failed: Iterable[Key]) -> frozenset[Family]:
    """Return the families in which a device, set, chain or jump *failed* or is under way.

    kube-proxy's sync fails, or waits, then.  It logs a failure of any other kind, and its sync counts as done.
    """
    stuck: set[Family] = set()
    for key in failed:
        if isinstance(key, Link):
            stuck.update(FAMILIES)
        elif isinstance(key, Chain | Jump):
            stuck.add(key.family)
        elif isinstance(key, Ipset):
            stuck.update((_FAMILY_OF_SET[key.name],) if key.name in _FAMILY_OF_SET else FAMILIES)
    return frozenset(stuck)


def unprotected_families(pending: Iterable[Key], actual: Container[Key]) -> frozenset[Family]:
    """Return the families in which a chain or jump that protects addresses is *pending* and does not exist."""
    families = [
        key.family
        for key in pending
        if isinstance(key, Chain | Jump) and protecting_group(key) is not None and key not in actual
    ]
    return frozenset(families)


def count_by_kind(keys: Iterable[Key]) -> dict[str, int]:
    """Return the number of *keys* of each kind, by its name."""
    counts: dict[str, int] = {}
    for key in keys:
        name = type(key).__name__
        counts[name] = counts.get(name, 0) + 1
    return counts
