"""Marks of the iptables tables: legacy by getsockopt(2), nft by the number of the last commit.

Invariants:
- The mark of a legacy table up to WHOLE_BYTES changes with any of its rules; that of a larger one, in which other
  programs have thousands, with the size of all rules together, which is that of any rule added or deleted.
- The mark of the tables of nft is one number for all tables of this network namespace: it changes with each commit,
  whoever made it.
- No socket is opened to read a mark again.
"""

from collections.abc import Iterable

from kubeproxy_py.kernel import Mark, MarkReader, Scope, table_scope
from kubeproxy_py.kernel.errors import KernelError
from kubeproxy_py.kernel.host.sockopt import SocketOptions
from kubeproxy_py.kernel.iptables import nf_tables
from kubeproxy_py.kernel.iptables.backend import IptablesCommands
from kubeproxy_py.kernel.iptables.fingerprint import LAYOUTS, EntryLayout, entries_size, read_entries
from kubeproxy_py.kernel.iptables.text import TABLES
from kubeproxy_py.kernel.netlink.socket import NETLINK_NETFILTER, Socket
from kubeproxy_py.net import Family

WHOLE_BYTES = 64 << 10
"""Up to this size all rules of a table are read, some 300; our own are 60 in both tables of a family."""


class TableMarkReader:
    """Reads the marks of the tables of each family in *commands*, in the network namespace of the first use."""

    def __init__(self, commands: Iterable[IptablesCommands]) -> None:
        self._backends = {family_commands.family: family_commands.backend for family_commands in commands}
        self._options: dict[Family, SocketOptions] = {}
        self._sizes: dict[Scope, int] = {}  # of legacy tables, in bytes, when they were read last
        self._netlink: Socket | None = None

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
            for table in TABLES:
                scope = table_scope(family, table)
                if (value := self._legacy_value(options, layout, scope, table.encode())) is not None:
                    marks[str(scope)] = Mark(scope, value)
        return marks

    def _legacy_value(self, options: SocketOptions, layout: EntryLayout, scope: Scope, table: bytes) -> int | None:
        """Return the value of the mark of *table*, which is *scope*; None if it cannot be read now."""
        size = self._sizes.get(scope, WHOLE_BYTES + 1)
        try:
            if size <= WHOLE_BYTES and (entries := _entries(options, layout, table, size)):
                return hash(entries)
            size = self._sizes[scope] = entries_size(options, table)
            entries = _entries(options, layout, table, size) if size <= WHOLE_BYTES else None
        except OSError:  # ENOPROTOOPT, ENOENT: there is no table of this family yet
            return None
        return hash(entries) if entries else size

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
        self._netlink = self._netlink or Socket(NETLINK_NETFILTER)
        generation = nf_tables.read_generation(self._netlink)
        if generation is None:
            return {}
        scopes = [table_scope(family, table) for family in self._families("nft") for table in TABLES]
        return {str(scope): Mark(scope, generation) for scope in scopes}

    def _families(self, backend: str) -> list[Family]:
        return [family for family, family_backend in self._backends.items() if family_backend == backend]


def _entries(options: SocketOptions, layout: EntryLayout, table: bytes, size: int) -> bytes | None:
    """Return the entries of the legacy *table*; None if they have another *size* by now.  Raises OSError."""
    try:
        return read_entries(options, layout, table, size)
    except BlockingIOError:  # EAGAIN
        return None
