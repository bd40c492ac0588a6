"""The firewall marks of exact policies: one number for each Service port, and a flag that all of them have.

A mark is the whole mark of a packet: IPVS finds a virtual server by mark only if all 32 bits are equal.  So the bits of
``policyMarkMask`` are those in which a mark may differ from zero; the highest is the flag, the others are the number.
"""

from collections.abc import Collection

from msgspec import Struct

from kubeproxy_py.model import kube_names
from kubeproxy_py.model.rows import Ipset, IpsetEntry, Key, MarkSpec, PolicyEntry, Rows, VirtualServer, mark_server
from kubeproxy_py.net import FAMILIES, Family, family_of

MARK_USERS: tuple[tuple[str, str, int], ...] = (
    # (program, prefix of the names of its interfaces, the bits of marks that it uses by default)
    ("Cilium", "cilium_", 0xFFFF0F00),
    ("Calico", "cali", 0xFFFF0000),
    ("Calico", "vxlan.calico", 0xFFFF0000),
    # Ambient mode of 1.18 to 1.20; later ones, and sidecars, mark packets in the network namespaces of pods only.
    ("Istio", "istioin", 0xFFF),
)
"""Programs that mark packets of the host, too."""

_KUBE_MARK_DROP = 0x8000  # kubelet's --iptables-drop-bit, until Kubernetes 1.27
_BITS_MIN = 2  # the flag, and one bit of the number


class MarkRange(Struct, frozen=True, gc=False):
    """The marks whose bits are in *mask*, which is a run of bits."""

    mask: int = 0x3FFF

    @property
    def flag(self) -> int:
        """The bit that every mark has."""
        return 1 << self.mask.bit_length() - 1

    @property
    def capacity(self) -> int:
        """The number of marks."""
        return (self.mask >> self._shift) - (self.flag >> self._shift)

    def mark(self, number: int) -> int:
        """Return the mark with *number*, from 1 to the capacity."""
        return self.flag | number << self._shift

    def __contains__(self, mark: int) -> bool:
        return mark & ~self.mask == 0 and bool(mark & self.flag) and mark != self.flag

    @property
    def _shift(self) -> int:
        return (self.mask & -self.mask).bit_length() - 1


def mask_problem(mask: int, masquerade_bit: int) -> str:
    """Return why *mask* cannot be that of exact policies, beside the mark that requests masquerading; "": it can."""
    run = mask // (mask & -mask) if mask else 0
    if run & (run + 1) or run.bit_length() < _BITS_MIN or mask.bit_length() > 32:  # noqa: PLR2004 - bits of a mark
        return f"{mask:#x} is not a run of {_BITS_MIN} to 32 bits"
    if mask & 1 << masquerade_bit:
        return f"{mask:#x} contains {1 << masquerade_bit:#x}, the mark of iptables.masqueradeBit"
    if mask & _KUBE_MARK_DROP:
        return f"{mask:#x} contains {_KUBE_MARK_DROP:#x}, with which kubelet marks packets to be dropped"
    return ""


def free_mask(used: int, masquerade_bit: int) -> int:
    """Return the longest run of bits, at most as many as by default, beside *used* and Kubernetes' own; 0: none."""
    taken = used | 1 << masquerade_bit | _KUBE_MARK_DROP
    lengths = range(MarkRange().mask.bit_length(), _BITS_MIN - 1, -1)
    runs = ((1 << bits) - 1 << shift for bits in lengths for shift in range(33 - bits))
    return next((run for run in runs if not run & taken), 0)


def marks_by_entry(rows: Rows) -> dict[IpsetEntry, int]:
    """Return the mark of each entry of the sets among *rows* that has one."""
    return {key: spec.mark for key, spec in rows.items() if isinstance(key, PolicyEntry) and isinstance(spec, MarkSpec)}


def servers_by_entry(rows: Rows) -> dict[IpsetEntry, VirtualServer]:
    """Return the virtual server by mark to which each entry of the sets among *rows* leads."""
    marks = marks_by_entry(rows)
    return {entry: mark_server(kube_names.family_of_set(entry.set), mark) for entry, mark in marks.items()}


def foreign_mark_servers(rows: Rows, known: Collection[Key], mark_range: MarkRange | None) -> frozenset[VirtualServer]:
    """Return the virtual servers by firewall mark among *rows* that another program created.

    Ours are those whose mark is in *mark_range*, or in our set: while the set exists, which is created before and
    deleted after them.

    Args:
        rows: Of the kernel.
        known: The sets of the kernel with their entries, and other rows.
        mark_range: That of the configuration; None: the default.
    """
    by_mark = [key for key in rows if isinstance(key, VirtualServer) and key.mark]
    if not by_mark:
        return frozenset()
    ranges = {family: mark_range or MarkRange() for family in FAMILIES if _has_set(family, known)}
    foreign = {key for key in by_mark if key.mark not in ranges.get(family_of(key.address), ())}
    if foreign and isinstance(known, dict):
        foreign = foreign.difference(servers_by_entry(known).values())
    return frozenset(foreign)


def _has_set(family: Family, rows: Collection[Key]) -> bool:
    return Ipset(kube_names.POLICY_MARKS.name_in(family)) in rows
