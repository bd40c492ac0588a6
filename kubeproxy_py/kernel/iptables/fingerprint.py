"""Fingerprint of an iptables table: a value that changes whenever a rule of the table changes.

Invariants:
- Two equal fingerprints of a table mean that ``iptables-save`` prints the same, except for counters.
- Where a fingerprint cannot be had there is None, and the caller runs iptables-save.

A fingerprint costs two system calls (legacy) or two listings (nft), 0.03 to 0.3 ms; iptables-save is a process of 3 to
6 ms, on the lab kernel 40 to 48 ms.  The full compare reads four tables every 30 s: on the lab kernel iptables-save
would add 0.6 % of CPU to an idle agent, whose limit is 0.5 % (docs/performance.md, "Kernel scaling limits").

nft: nf_tables lists the chains and rules of a table; the counters are left out and the rest is hashed.  It counts its
commits, but with one number for all tables of the network namespace, which says little where other programs commit
often.

legacy: IPT_SO_GET_ENTRIES copies the table out of kernel memory, packet and byte counters included.  The counters are
zeroed here and the rest is hashed.  The answer (64-bit kernels, host byte order):

    ipt_get_entries   0  name, 32 bytes, NUL-padded
                     32  size of all entries in bytes, u32, then 4 bytes of padding
                     40  entries, one after the other, each with its matches and its target:

    ipt_entry         0  ipt_ip, the addresses, interfaces and protocol to match, 84 bytes
                     84  nfcache u32; 88 target_offset u16
                     90  next_offset u16: the size of this entry with its matches and target
                     92  comefrom u32
                     96  packet counter u64, byte counter u64
                    112  matches, target

    ip6t_entry: the same after an ip6t_ip6 of 136 bytes: next_offset is at 142, the counters at 152 (8-byte aligned),
    the matches begin at 168.

A user-defined chain begins with an entry whose ERROR target contains the chain's name.

Source: include/uapi/linux/netfilter_ipv4/ip_tables.h, netfilter_ipv6/ip6_tables.h: IPT_SO_GET_INFO,
IPT_SO_GET_ENTRIES, which need CAP_NET_ADMIN.
"""

import socket
from contextlib import closing
from struct import Struct as Layout

from msgspec import Struct

from kubeproxy_py.kernel.host.sockopt import SocketOptions
from kubeproxy_py.kernel.iptables import nf_tables
from kubeproxy_py.kernel.iptables.backend import Backend
from kubeproxy_py.model.kube_names import PREFIX
from kubeproxy_py.model.rows import Table
from kubeproxy_py.net import Family

_IPT_SO_GET_INFO, _IPT_SO_GET_ENTRIES = 64, 65  # the same numbers for IPv6
_GETINFO = Layout("=32s I 5I 5I I I")  # name, hooks, first entry of each, underflow of each, number of entries, bytes
_GETINFO_NUMBERS = 13  # fields after the name
_GET_ENTRIES = Layout("@32s I 0Q")  # name, bytes of the entries that follow
_NEXT_OFFSET = Layout("=H")
_ZERO_COUNTERS = bytes(16)
_SIZE_MAX_BYTES = 256 << 20
_KUBE_PREFIX = PREFIX.encode()


class EntryLayout(Struct, frozen=True, gc=False):
    """How to request the entries of one family, and the offsets within an entry on 64-bit kernels."""

    domain: int  # AF_*
    level: int  # of getsockopt
    next_offset: int
    counters: int

    @property
    def size(self) -> int:
        """The size of the fixed part of an entry in bytes."""
        return self.counters + len(_ZERO_COUNTERS)


LAYOUTS: dict[Family, EntryLayout] = {
    "IPv4": EntryLayout(socket.AF_INET, socket.SOL_IP, 90, 96),
    "IPv6": EntryLayout(socket.AF_INET6, socket.IPPROTO_IPV6, 142, 152),
}


class TableFingerprint(Struct, frozen=True, gc=False):
    """The state of one table; ``has_kube_chains`` is False only if it cannot contain a chain or jump of ours."""

    value: int
    has_kube_chains: bool = True


def table_fingerprint(backend: Backend, family: Family, table: Table) -> TableFingerprint | None:
    """Return the current fingerprint of *table*, or None if the kernel does not give one.

    Like iptables-save this creates a legacy table that does not exist yet.
    """
    if backend == "nft":
        content = nf_tables.table_hash(family, table)
        return None if content is None else TableFingerprint(content)
    layout, name = LAYOUTS[family], table.encode()
    try:
        with closing(SocketOptions(layout.domain, layout.level)) as options:
            size = entries_size(options, name)
            entries = read_entries(options, layout, name, size) if size <= _SIZE_MAX_BYTES else None
    # EAGAIN: the table changed between the two calls; ENOENT: no such table; EPERM: no CAP_NET_ADMIN.
    except (OSError, ImportError):
        return None
    return None if entries is None else TableFingerprint(hash(entries), _KUBE_PREFIX in entries)


def entries_size(options: SocketOptions, name: bytes) -> int:
    """Return the size in bytes of the entries of the legacy table *name*.  Raises OSError."""
    info = bytearray(_GETINFO.pack(name, *(0,) * _GETINFO_NUMBERS))
    options.get(_IPT_SO_GET_INFO, info)
    return int(_GETINFO.unpack(info)[-1])


def read_entries(options: SocketOptions, layout: EntryLayout, name: bytes, size: int) -> bytes | None:
    """Return the *size* bytes of entries of the legacy table *name*, with zeroed counters; None if not in *layout*.

    Raises:
        OSError: EAGAIN: the entries have another size by now.
    """
    entries = bytearray(read_counted_entries(options, name, size))
    return bytes(entries) if zero_counters(entries, layout) else None


def read_counted_entries(options: SocketOptions, name: bytes, size: int) -> bytes:
    """Return the *size* bytes of entries of the legacy table *name*, with their counters.

    Raises:
        OSError: EAGAIN: the entries have another size by now.
    """
    answer = bytearray(_GET_ENTRIES.pack(name, size) + bytes(size))
    options.get(_IPT_SO_GET_ENTRIES, answer)
    return bytes(memoryview(answer)[_GET_ENTRIES.size :])


def zero_counters(entries: bytearray, layout: EntryLayout) -> bool:
    """Set the counters of all *entries* to 0, in place.

    Returns:
        False if the entries do not have this layout, as on a 32-bit kernel.
    """
    offset = 0
    while offset + layout.size <= len(entries):
        entries[offset + layout.counters : offset + layout.size] = _ZERO_COUNTERS
        entry_size = int(_NEXT_OFFSET.unpack_from(entries, offset + layout.next_offset)[0])
        if entry_size < layout.size:
            return False
        offset += entry_size
    return offset == len(entries)
