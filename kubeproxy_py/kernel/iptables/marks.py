"""Marks of the iptables tables: legacy by getsockopt(2), nft by netlink.

Invariants:
- The mark of a legacy table up to WHOLE_BYTES changes with any of its rules; that of a larger one, in which other
  programs have thousands, with the size of all rules together, which is that of any rule added or deleted.
- The mark of a table of nft changes with any of its chains and rules.  They are listed again after each commit of any
  program to any table, which the kernel counts; so nearly always one message is enough for all tables.
- No socket is opened to read a mark again.
"""

from collections.abc import Iterable, Sequence

from kubeproxy_py.kernel import Mark, MarkReader, Scope, table_scope
from kubeproxy_py.kernel.errors import KernelError
from kubeproxy_py.kernel.host.sockopt import SocketOptions
from kubeproxy_py.kernel.iptables import nf_tables
from kubeproxy_py.kernel.iptables.backend import IptablesCommands
from kubeproxy_py.kernel.iptables.fingerprint import (
    LAYOUTS,
    EntryLayout,
    entries_size,
    read_counted_entries,
    zero_counters,
)
from kubeproxy_py.kernel.iptables.text import TABLES
from kubeproxy_py.kernel.netlink.socket import NETLINK_NETFILTER, Socket
from kubeproxy_py.model.rows import Table
from kubeproxy_py.net import Family

WHOLE_BYTES = 1 << 20
"""Up to this size all rules of a table are read, some 4,000; our own are 60 in both tables of a family."""


class TableMarkReader:
    """Reads the marks of *tables* of each family in *commands*, in the network namespace of the first use."""

    def __init__(self, commands: Iterable[IptablesCommands], tables: Sequence[Table] = TABLES) -> None:
        self._tables = tables
        self._backends = {family_commands.family: family_commands.backend for family_commands in commands}
        self._options: dict[Family, SocketOptions] = {}
        self._sizes: dict[Scope, int] = {}  # of legacy tables, in bytes, when they were read last
        self._hashes: dict[Scope, tuple[bytes, int]] = {}  # of their entries, each with the entries that have it
        self._netlink: Socket | None = None
        self._commits: int | None = None  # to nft tables, when the marks below were read
        self._nft_marks: dict[str, Mark] = {}

    def mark_readers(self) -> list[MarkReader]:
        """Return the readers."""
        readers = {"legacy": self._read_legacy, "nft": self._read_nft}
        return [MarkReader(f"{name} tables", readers[name]) for name in dict.fromkeys(self._backends.values())]

    def close(self) -> None:
        """Close the sockets; a later use opens others."""
        for options in self._options.values():
            options.close()
        self._options.clear()
        if self._netlink:
            self._netlink.close()
            self._netlink = None

    def _read_legacy(self) -> dict[str, Mark]:
        """Return the marks of the legacy tables, without those that cannot be read now.  Raises KernelError."""
        marks: dict[str, Mark] = {}
        for family in self._families("legacy"):
            options, layout = self._options_of(family), LAYOUTS[family]
            for table in self._tables:
                scope = table_scope(family, table)
                if (value := self._legacy_value(options, layout, scope, table.encode())) is not None:
                    marks[str(scope)] = Mark(scope, value)
        return marks

    def _legacy_value(self, options: SocketOptions, layout: EntryLayout, scope: Scope, table: bytes) -> int | None:
        """Return the value of the mark of *table*, which is *scope*; None if it cannot be read now."""
        size = self._sizes.get(scope, WHOLE_BYTES + 1)
        try:
            if size <= WHOLE_BYTES and (value := self._entries_hash(options, layout, scope, table, size)) is not None:
                return value
            size = self._sizes[scope] = entries_size(options, table)
            value = self._entries_hash(options, layout, scope, table, size) if size <= WHOLE_BYTES else None
        except OSError:  # ENOPROTOOPT, ENOENT: there is no table of this family yet
            return None
        return size if value is None else value

    def _entries_hash(
        self, options: SocketOptions, layout: EntryLayout, scope: Scope, table: bytes, size: int
    ) -> int | None:
        """Return a hash of the entries of *table*; None if they have another *size* by now.  Raises OSError."""
        try:
            counted = read_counted_entries(options, table, size)
        except BlockingIOError:  # EAGAIN
            return None
        known, value = self._hashes.get(scope, (b"", 0))
        if counted != known:
            entries = bytearray(counted)
            if not zero_counters(entries, layout):
                return None
            value = hash(bytes(entries))
            self._hashes[scope] = counted, value
        return value

    def _options_of(self, family: Family) -> SocketOptions:
        """Return the options of the tables of *family*.  Raises KernelError."""
        if family not in self._options:
            try:
                self._options[family] = SocketOptions(LAYOUTS[family].domain, LAYOUTS[family].level)
            except (OSError, ImportError) as error:
                raise KernelError(f"getsockopt: {error}", errno=getattr(error, "errno", 0) or 0) from error
        return self._options[family]

    def _read_nft(self) -> dict[str, Mark]:
        """Return the marks of the tables of nft; none if the kernel does not count commits.  Raises KernelError."""
        netlink = self._netlink = self._netlink or Socket(NETLINK_NETFILTER)
        commits = nf_tables.read_generation(netlink)
        if commits is None:
            return {}
        if commits != self._commits:
            scopes = {
                table_scope(family, table): (family, table)
                for family in self._families("nft")
                for table in self._tables
            }
            self._nft_marks = {
                str(scope): Mark(scope, nf_tables.read_table_hash(netlink, *place)) for scope, place in scopes.items()
            }
            self._commits = commits
        return self._nft_marks

    def _families(self, backend: str) -> list[Family]:
        return [family for family, family_backend in self._backends.items() if family_backend == backend]
