"""Gather the facts that the checks of this host look at (checks/).

Invariants:
- Nothing is changed, and no kernel module is loaded by asking.
- A part that cannot be read is left out, so the others are still checked.

While no rule changes no process is started; otherwise ``iptables-save`` runs once per family.
"""

import logging
import re
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import TypeVar

from msgspec import Struct

from kubeproxy_py.kernel.address.adapter import AddressAdapter
from kubeproxy_py.kernel.address.bridges import Bridge, bridges_with_ports
from kubeproxy_py.kernel.errors import KernelError
from kubeproxy_py.kernel.host.command import run
from kubeproxy_py.kernel.iptables.backend import IptablesCommands
from kubeproxy_py.kernel.iptables.fingerprint import TableFingerprint, table_fingerprint
from kubeproxy_py.kernel.kernel_facts import read_kernel_facts
from kubeproxy_py.logging_setup import level, values
from kubeproxy_py.model.host_facts import ChainFacts, Chains, ConntrackFacts, HostFacts, Part
from kubeproxy_py.model.node import HostAddress
from kubeproxy_py.model.rows import Table
from kubeproxy_py.net import Family

_TABLES: dict[str, Table] = {"nat": "nat", "filter": "filter"}
_BRIDGE_SYSCTLS: dict[Family, str] = {
    "IPv4": "proc/sys/net/bridge/bridge-nf-call-iptables",
    "IPv6": "proc/sys/net/bridge/bridge-nf-call-ip6tables",
}
_DROP_COLUMNS = ("drop", "early_drop")  # of /proc/net/stat/nf_conntrack
_Result = TypeVar("_Result")

log = logging.getLogger(__name__)


class HostFactsReader:
    """Reads the facts of this host and network namespace.

    Args:
        commands: The iptables programs of each family that is used.
        root: Folder that contains the proc to read.
    """

    def __init__(self, commands: Iterable[IptablesCommands], *, root: Path = Path("/")) -> None:
        self._commands = tuple(commands)
        self._root = root
        self._saved: dict[Family, _SavedTables] = {}

    def read(self) -> HostFacts:
        """Return the facts of now; never raises."""
        unread: dict[Part, str] = {}
        tables: dict[tuple[Family, Table], Chains] = {}
        for commands in self._commands:
            missing: dict[Table, Chains] = {}
            found = _part("iptables", partial(self._tables, commands), missing, unread)
            tables |= {(commands.family, table): chains for table, chains in found.items()}
        conntrack = read_conntrack(self._root)
        legacy = any(commands.backend == "legacy" for commands in self._commands)
        bridges: tuple[Bridge, ...] = _part("bridges", bridges_with_ports, (), unread)
        sysctls = {commands.family: self._root / _BRIDGE_SYSCTLS[commands.family] for commands in self._commands}
        return HostFacts(
            tables=tables,
            bridges=tuple(bridge.name for bridge in bridges),
            bridge_netfilter={family: _read(path) == "1" for family, path in sysctls.items()},
            conntrack=conntrack,
            addresses=_part("addresses", _host_addresses, (), unread),
            kernel=read_kernel_facts(conntrack, legacy=legacy, root=self._root),
            hairpin_off={bridge.name: bridge.hairpin_off for bridge in bridges if bridge.hairpin_off},
            unread=unread,
        )

    def _tables(self, commands: IptablesCommands) -> dict[Table, Chains]:
        """Return the tables of one family; iptables-save runs only if one of them has changed.  Raises KernelError."""
        fingerprints = tuple(table_fingerprint(commands.backend, commands.family, table) for table in _TABLES.values())
        known = self._saved.get(commands.family)
        if known and None not in fingerprints and known.fingerprints == fingerprints:
            return known.tables
        tables = dict(parse_saved(_save(commands)))
        # The fingerprints may be older than the tables, which the next read then notices.
        self._saved[commands.family] = _SavedTables(fingerprints, tables)
        return tables


class _SavedTables(Struct, frozen=True):
    fingerprints: tuple[TableFingerprint | None, ...]
    tables: dict[Table, Chains]


def parse_saved(saved: bytes) -> Iterator[tuple[Table, Chains]]:
    """Yield the tables nat and filter of ``iptables-save`` output of one family."""
    for section in re.split(rb"^\*", saved, flags=re.MULTILINE)[1:]:
        name, *lines = section.decode("utf-8", "surrogateescape").split("\n")
        if table := _TABLES.get(name.strip()):
            yield table, _chains(lines)


def _chains(lines: Iterable[str]) -> Chains:
    policies: dict[str, str] = {}
    rules: dict[str, list[str]] = {}
    for line in lines:
        if line.startswith(":"):
            name, _, policy = line[1:].partition(" ")
            policies[name] = policy.partition(" ")[0]
        elif line.startswith("-A "):
            name, _, rule = line.removeprefix("-A ").partition(" ")
            rules.setdefault(name, []).append(rule)
    return {name: ChainFacts(tuple(rules.get(name, ())), policy) for name, policy in policies.items()}


def read_conntrack(root: Path = Path("/")) -> ConntrackFacts | None:
    """Return how full the table of tracked connections is; None without connection tracking."""
    count = _read(root / "proc/sys/net/netfilter/nf_conntrack_count")
    maximum = _read(root / "proc/sys/net/netfilter/nf_conntrack_max")
    try:
        return ConntrackFacts(int(count), int(maximum), _drops(_read(root / "proc/net/stat/nf_conntrack")))
    except ValueError:
        return None


def _drops(statistics: str) -> int:
    """Return the sum of the columns about drops: a header line, then one line for each CPU, in hexadecimal.

    Raises ValueError.
    """
    header, *rows = [line.split() for line in statistics.splitlines()] or [[]]
    columns = [header.index(name) for name in _DROP_COLUMNS if name in header]
    return sum(int(row[column], 16) for row in rows for column in columns if column < len(row))


def _save(commands: IptablesCommands) -> bytes:
    result = run(commands.save)
    if result.exit_code:
        raise KernelError(f"{' '.join(commands.save)}: {result.error_text}")
    return result.stdout


def _host_addresses() -> tuple[HostAddress, ...]:
    adapter = AddressAdapter()
    try:
        return adapter.host_addresses()
    finally:
        adapter.close()


def _part(name: Part, read: Callable[[], _Result], missing: _Result, unread: dict[Part, str]) -> _Result:
    """Return what *read* returns, or *missing* if that fails, which *unread* gets told."""
    try:
        return read()
    except KernelError as error:
        log.log(level(2), "Failed to gather facts for the checks of this host", extra=values(part=name, err=error))
        unread[name] = str(error)
        return missing


def _read(path: Path) -> str:
    try:
        return path.read_text(errors="replace").strip()
    except OSError:
        return ""
