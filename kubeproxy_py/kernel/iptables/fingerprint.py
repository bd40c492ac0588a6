"""The mark of an iptables table: a value that is another one as soon as any rule of the table is.

Law: where two marks of a table are equal, so is what ``iptables-save`` prints of it, but for counters; where a mark
can't be had there is none, and iptables itself is to be asked.  A mark costs two system calls or one message, where
iptables-save is a process: 2 to 5 ms, 80 ms in user-mode-linux.

nf_tables counts its commits itself (one number for all tables of the network namespace).  Of a legacy table the kernel
gives the rules as they lie in its memory; their counters are struck out.

Layout of those: entries one behind the other, each an ipt_entry or ip6t_entry with its matches and target; the offset
of the next one and two counters of 64 bits stand at fixed places.  Source: include/uapi/linux/netfilter_ipv4/
ip_tables.h, netfilter_ipv6/ip6_tables.h: IPT_SO_GET_INFO, IPT_SO_GET_ENTRIES, which take CAP_NET_ADMIN.
"""

import socket
from contextlib import closing
from struct import Struct as Layout

from msgspec import Struct

from kubeproxy_py.kernel.host.sockopt import SocketOptions
from kubeproxy_py.kernel.iptables import nf_tables
from kubeproxy_py.kernel.iptables.backend import Flavour
from kubeproxy_py.model.rows import Table
from kubeproxy_py.model.services import Family

_GET_INFO, _GET_ENTRIES = 64, 65
_INFO = Layout("=32s I 5I 5I I I")  # name, hooks, where each begins, where each ends, how many entries, their bytes
_GET = Layout("@32s I 0Q")  # name, bytes of the entries that follow
_NEXT = Layout("=H")
_COUNTERS = bytes(16)
_SIZE_MAX = 256 << 20
_CHAIN_OF_OURS = b"KUBE-"  # the name of a chain stands in the entry with which it begins


class EntryLayout(Struct, frozen=True, gc=False):
    """How to ask for the entries of one family, and where in an entry what stands (64-bit kernels)."""

    domain: int
    level: int
    next_offset: int
    counters: int

    @property
    def size(self) -> int:
        return self.counters + len(_COUNTERS)


LAYOUTS: dict[Family, EntryLayout] = {
    "IPv4": EntryLayout(socket.AF_INET, socket.SOL_IP, 90, 96),
    "IPv6": EntryLayout(socket.AF_INET6, socket.IPPROTO_IPV6, 142, 152),
}


class TableFingerprint(Struct, frozen=True, gc=False):
    """``holds_ours`` is False only if no chain of ours, and so no jump to one, can be in the table."""

    value: int
    holds_ours: bool = True


def table_mark(flavour: Flavour, family: Family, table: Table) -> TableFingerprint | None:
    """The mark of *table* now; None if there is none to be had.  Asking makes a legacy table, as iptables-save does."""
    if flavour == "nft":
        generation = nf_tables.generation()
        return None if generation is None else TableFingerprint(generation)
    entries = _entries(LAYOUTS[family], table.encode())
    return None if entries is None else TableFingerprint(hash(entries), _CHAIN_OF_OURS in entries)


def _entries(family: EntryLayout, name: bytes) -> bytes | None:
    """The rules of the legacy table *name* without their counters."""
    try:
        with closing(SocketOptions(family.domain, family.level)) as options:
            info = bytearray(_INFO.pack(name, *(0,) * 13))
            options.ask(_GET_INFO, info)
            *_, size = _INFO.unpack(info)
            if size > _SIZE_MAX:
                return None
            answer = bytearray(_GET.pack(name, size) + bytes(size))
            options.ask(_GET_ENTRIES, answer)
    except (OSError, ImportError):  # EAGAIN: it changed between the two; ENOENT, EPERM: not for us to see
        return None
    entries = answer[_GET.size :]
    return bytes(entries) if strike_counters(entries, family) else None


def strike_counters(entries: bytearray, family: EntryLayout) -> bool:
    """Set the counters of all *entries* to 0; False if they are not laid out as we think (a kernel of 32 bits)."""
    offset = 0
    while offset + family.size <= len(entries):
        entries[offset + family.counters : offset + family.size] = _COUNTERS
        step = int(_NEXT.unpack_from(entries, offset + family.next_offset)[0])
        if step < family.size:
            return False
        offset += step
    return offset == len(entries)
