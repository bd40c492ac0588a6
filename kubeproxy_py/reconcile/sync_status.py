"""Standing: how the kernel stands to what is desired, in numbers; and what the health server is told of the sync.

Law: immutable, and made by the agent's thread at the cost of what is pending, so that other threads read whole values
without a lock.  Health is kube-proxy's: a sync that was asked for and is not done within twice the period is a fault;
having nothing to do is none, and neither is one row that the kernel refuses.
"""

from collections.abc import Iterable, Mapping

from msgspec import Struct

from kubeproxy_py.model import kube_names as tables
from kubeproxy_py.model.rows import Chain, Ipset, Jump, Key, Link
from kubeproxy_py.model.services import FAMILIES, Family

KIND_NAMES: tuple[str, ...] = (
    *("Sysctl", "Link", "Ipset", "Chain", "Jump", "IpsetEntry", "VirtualServer", "RealServer", "Address"),
)
"""Every kind of row, in the order of building."""

_FAMILY_OF_SET = {kind.name_in(family): family for family in FAMILIES for kind in tables.SET_KINDS}


class SyncStatus(Struct, frozen=True, gc=False):
    """Rows by the name of their kind; a kind that is missing has none."""

    desired: Mapping[str, int] = {}
    pending: Mapping[str, int] = {}  # not yet as desired, those that failed among them
    failed: Mapping[str, int] = {}
    drift_found: Mapping[str, int] = {}  # since the start
    drift_repaired: Mapping[str, int] = {}
    draining: int = 0  # real servers
    compares: int = 0  # full ones, since the start
    stuck: frozenset[Family] = frozenset()  # families whose sync counts as failed (see stuck_families)
    is_waiting: bool = True  # for the first lists of its feeds
    has_work: bool = False  # a sync was asked for, and is not done yet


def stuck_families(failed: Iterable[Key]) -> frozenset[Family]:
    """The families in which a row *failed* whose failing ends kube-proxy's sync: device, sets, chains, jumps.

    Those of any other kind are logged there, and the sync counts as done.
    """
    found: set[Family] = set()
    for key in failed:
        if isinstance(key, Link):
            found.update(FAMILIES)
        elif isinstance(key, Chain | Jump):
            found.add(key.family)
        elif isinstance(key, Ipset):
            found.update((_FAMILY_OF_SET[key.name],) if key.name in _FAMILY_OF_SET else FAMILIES)
    return frozenset(found)


def by_kind(keys: Iterable[Key]) -> dict[str, int]:
    """How many *keys* there are of each kind, by its name."""
    counts: dict[str, int] = {}
    for key in keys:
        name = type(key).__name__
        counts[name] = counts.get(name, 0) + 1
    return counts
