"""Find and delete what kube-proxy's other modes left on a node: rules of iptables mode, tables of nftables mode.

Both iptables backends are looked at, because a node whose backend has changed still passes packets through the rules of
the other one.  There, IPVS mode's chains and jumps are stale as well: this agent writes them in its own backend only.

Invariants:
- Finding changes nothing, and starts one process per family, and another one only if the other backend has tables.
- Deleting is limited to what only kube-proxy creates, by name.  What kubelet also uses stays (KUBE-FIREWALL,
  KUBE-KUBELET-CANARY, KUBE-IPTABLES-HINT, KUBE-MARK-DROP).
- A rule is stale because of where it is: in a chain of those modes, or in a built-in chain.  A rule in any other
  chain is its owner's, even if it jumps to ours: CNI plugins (portmap) and CRI-O jump to KUBE-MARK-MASQ.

Chains are deleted in two phases, because the modes refer to each other: our chains may contain rules of iptables
mode, and chains of iptables mode jump to our KUBE-MARK-MASQ.  First everything is detached (dangling jumps deleted,
their chains emptied).  Then our chains can be deleted, then theirs.

A dangling jump is a rule of a built-in chain that jumps to a chain of kube-proxy and is not one of ours, as iptables
mode's ``-m conntrack --ctstate NEW ... -j KUBE-PROXY-FIREWALL``: while it exists, the chain cannot be deleted.  No mode
jumps to KUBE-MARK-MASQ from a built-in chain, so a rule that does is not kube-proxy's.

Source: cleanupLeftovers in kube-proxy's proxy/iptables and proxy/nftables (1.24-1.36).
"""

import re
from collections.abc import Iterable, Iterator, Sequence

from msgspec import Struct

from kubeproxy_py.kernel.errors import KernelError
from kubeproxy_py.kernel.host.command import run
from kubeproxy_py.kernel.iptables import nf_tables
from kubeproxy_py.kernel.iptables.backend import BACKENDS, IptablesCommands, find_commands, legacy_tables
from kubeproxy_py.kernel.iptables.errors import lock_error, reason
from kubeproxy_py.model import kube_names
from kubeproxy_py.model.kube_names import (
    MARK_MASQ_CHAIN,
    NFTABLES_MODE_TABLE,
    OTHER_MODE_CHAINS,
    OTHER_MODE_SERVICE_CHAIN,
    OWN_CHAINS,
    PREFIX,
)
from kubeproxy_py.net import FAMILIES, Family

_OUR_CHAINS = frozenset(OWN_CHAINS)
_OUR_JUMPS = frozenset(
    (jump.table, jump.source, rule)
    for comments in (True, False)
    for jump, rule in kube_names.jumps("IPv4", comments=comments, policies=True).items()
)  # the same for IPv6
_BUILT_IN_CHAINS = frozenset(("PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"))
_TARGET = re.compile(rf" -[jg] ({PREFIX}\S+)$")


class StaleTable(Struct, frozen=True, gc=False):
    """What iptables mode left in one table; in the other backend also what IPVS mode left."""

    name: str
    chains: tuple[str, ...] = ()
    jumps: tuple[tuple[str, str], ...] = ()  # dangling: (built-in chain, rule as ``iptables-save`` prints it)


class StaleTables(Struct, frozen=True, gc=False):
    """The tables of one family and backend that contain stale rules."""

    commands: IptablesCommands
    tables: tuple[StaleTable, ...]
    is_other_backend: bool = False  # not the one in which this agent writes

    def __str__(self) -> str:
        """``12 chains and 5 rules of iptables mode (IPv4)``."""
        chains = sum(len(table.chains) for table in self.tables)
        rules = sum(len(table.jumps) for table in self.tables)
        where = f"in tables of iptables-{self.commands.backend}" if self.is_other_backend else "of iptables mode"
        return f"{chains} chains and {rules} rules {where} ({self.commands.family})"


class StaleRules(Struct, frozen=True, gc=False):
    """What the other modes left; false if they left nothing."""

    iptables: tuple[StaleTables, ...] = ()
    nftables: tuple[Family, ...] = ()  # families that have the table of nftables mode

    def __bool__(self) -> bool:
        return bool(self.iptables or self.nftables)

    def __str__(self) -> str:
        """``12 chains and 5 rules of iptables mode (IPv4), the table of nftables mode (IPv4, IPv6)``."""
        parts = [str(tables) for tables in self.iptables]
        if self.nftables:
            parts.append(f"the table of nftables mode ({', '.join(self.nftables)})")
        return ", ".join(parts)


def find_stale_rules(commands: Iterable[IptablesCommands]) -> StaleRules:
    """Return what other modes left, in both iptables backends and in nf_tables.

    The agent calls this at start, too, so nf_tables is asked without pyroute2.

    Args:
        commands: Those of the backend in which this agent writes, for each usable family.

    Raises:
        KernelError: iptables-save failed.
    """
    used = list(commands)
    found = [StaleTables(each, stale_rules_in(_save(each))) for each in used]
    found += [
        StaleTables(other, stale_rules_in(_save(other), is_other_backend=True), is_other_backend=True)
        for each in used
        if (other := _other_backend(each))
    ]
    return StaleRules(
        tuple(tables for tables in found if tables.tables),
        tuple(family for family in FAMILIES if nf_tables.has_table(family, NFTABLES_MODE_TABLE)),
    )


def stale_rules_in(saved: bytes, *, is_other_backend: bool = False) -> tuple[StaleTable, ...]:
    """Return what iptables mode left, from ``iptables-save`` output of one family; tables without any are left out.

    In the other backend IPVS mode's chains and jumps are stale too, except KUBE-MARK-MASQ while others jump to it.
    """
    tables: list[StaleTable] = []
    kept = {MARK_MASQ_CHAIN} if chain_users(saved, MARK_MASQ_CHAIN) else set()
    for name, lines in _sections(saved):
        if name in OTHER_MODE_CHAINS:
            chains = tuple(
                chain
                for chain in (line[1:].split()[0] for line in lines if line.startswith(f":{PREFIX}"))
                if _is_of_iptables_mode(name, chain)
                or (is_other_backend and (name, chain) in _OUR_CHAINS and chain not in kept)
            )
            table = StaleTable(name, chains, tuple(_dangling_jumps(name, lines, ours_too=is_other_backend)))
            if table.chains or table.jumps:
                tables.append(table)
    return tuple(tables)


def find_mark_users(commands: Iterable[IptablesCommands]) -> dict[Family, tuple[str, ...]]:
    """Return the chains of other programs that jump to KUBE-MARK-MASQ, by family; families without any are left out.

    Raises KernelError.
    """
    users = {each.family: chain_users(_save(each, "nat"), MARK_MASQ_CHAIN) for each in commands}
    return {family: chains for family, chains in users.items() if chains}


def chain_users(saved: bytes, target: str) -> tuple[str, ...]:
    """Return the chains of the nat table, neither ours nor of iptables mode, that jump to *target*."""
    ending = (f" -j {target}", f" -g {target}")
    sources = (
        line.split(" ", 2)[1]
        for name, lines in _sections(saved)
        if name == "nat"
        for line in lines
        if line.startswith("-A ") and line.endswith(ending)
    )
    return tuple(
        dict.fromkeys(
            source
            for source in sources
            if ("nat", source) not in _OUR_CHAINS and not _is_of_iptables_mode("nat", source)
        )
    )


def detach_text(tables: Sequence[StaleTable]) -> bytes:
    """Return the input of ``iptables-restore --noflush`` that deletes dangling jumps and empties chains."""
    return _restore_text(
        (
            table,
            [*(f":{chain} - [0:0]" for chain in table.chains), *(f"-D {chain} {rule}" for chain, rule in table.jumps)],
        )
        for table in tables
    )


def deletion_text(tables: Sequence[StaleTable]) -> bytes:
    """Return the input of ``iptables-restore --noflush`` that deletes the emptied chains."""
    return _restore_text((table, [f"-X {chain}" for chain in table.chains]) for table in tables)


def detach(stale: StaleRules) -> Iterator[KernelError]:
    """Detach the stale chains: no packet reaches them, and they refer to no chain and no set.  Yield the errors."""
    for found in stale.iptables:
        yield from _restore(found.commands, detach_text(found.tables))


def delete(stale: StaleRules) -> Iterator[KernelError]:
    """Delete the detached chains and the tables of nftables mode.  Yield the errors."""
    for found in stale.iptables:
        yield from _restore(found.commands, deletion_text(found.tables))
    if stale.nftables:
        # Imported here, because it imports pyroute2: 0.6 s and 21 MiB, which `cleanup` may spend and the agent may not.
        from kubeproxy_py.kernel.iptables.nftables_mode import delete_table

        for family in stale.nftables:
            yield from delete_table(family)


def _is_of_iptables_mode(table: str, chain: str) -> bool:
    return chain in OTHER_MODE_CHAINS[table] or (table == "nat" and bool(OTHER_MODE_SERVICE_CHAIN.match(chain)))


def _dangling_jumps(table: str, lines: Iterable[str], *, ours_too: bool) -> Iterator[tuple[str, str]]:
    """Yield the rules of built-in chains that jump to a chain of kube-proxy and are not one of our jumps."""
    for line in lines:
        kind, _, tail = line.partition(" ")
        source, _, rule = tail.partition(" ")
        target = _TARGET.search(line)
        if kind != "-A" or source not in _BUILT_IN_CHAINS or target is None or target[1] == MARK_MASQ_CHAIN:
            continue
        if (table, source, rule) in _OUR_JUMPS and not ours_too:
            continue
        if _is_of_iptables_mode(table, target[1]) or (table, target[1]) in _OUR_CHAINS:
            yield source, rule


def _sections(saved: bytes) -> Iterator[tuple[str, list[str]]]:
    """Yield the name and the lines of each table in saved text."""
    for section in re.split(rb"^\*", saved, flags=re.MULTILINE)[1:]:
        name, *lines = section.decode("utf-8", "surrogateescape").split("\n")
        yield name, lines


def _other_backend(commands: IptablesCommands) -> IptablesCommands | None:
    """Return the commands of the other backend for the same family, if it has tables; None if it does not.

    Legacy tables are only read if they exist, because reading creates them.
    """
    (backend,) = (backend for backend in BACKENDS if backend != commands.backend)
    family = commands.family
    if backend == "legacy":
        exists = bool(OTHER_MODE_CHAINS.keys() & set(legacy_tables(family)))
    else:
        exists = any(nf_tables.has_table(family, table) for table in OTHER_MODE_CHAINS)
    return find_commands(backend, family) if exists else None


def _restore_text(tables_lines: Iterable[tuple[StaleTable, list[str]]]) -> bytes:
    text = "".join(
        f"*{table.name}\n" + "".join(f"{line}\n" for line in lines) + "COMMIT\n"
        for table, lines in tables_lines
        if lines
    )
    return text.encode("utf-8", "surrogateescape")


def _restore(commands: IptablesCommands, text: bytes) -> Iterator[KernelError]:
    """Restore *text*; yield the error if that fails."""
    if not text:
        return
    where = f"{commands.family}, stale rules in tables of iptables-{commands.backend}"
    try:
        result = run(commands.restore_argv(), stdin=text)
    except KernelError as error:
        yield error
        return
    if result.exit_code:
        yield lock_error(result.error_text) or KernelError(f"{where}: {reason(result)}")


def _save(commands: IptablesCommands, table: str = "") -> bytes:
    """Return all tables as iptables-save prints them, or only *table*; legacy ones that exist.  Raises KernelError."""
    argv = [*commands.save, "-t", table] if table else list(commands.save)
    result = run(argv)
    if result.exit_code:
        raise KernelError(f"{' '.join(argv)}: {reason(result)}")
    return result.stdout
