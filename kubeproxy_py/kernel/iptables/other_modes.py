"""Find and delete what kube-proxy's other modes left on a node: rules of iptables mode, tables of nftables mode.

Invariants:
- Finding changes nothing and starts one process per family.
- Deleting is limited to what only kube-proxy creates, by name.  What kubelet also uses stays (KUBE-FIREWALL,
  KUBE-KUBELET-CANARY, KUBE-IPTABLES-HINT, KUBE-MARK-DROP).

Chains are deleted in two phases, because the modes refer to each other: our chains may contain rules of iptables
mode, and chains of iptables mode jump to our KUBE-MARK-MASQ.  First everything is detached (dangling jumps deleted,
their chains emptied).  Then our chains can be deleted, then theirs.

A dangling jump is a rule of a built-in chain that jumps to a chain of kube-proxy and is not one of ours, as iptables
mode's ``-m conntrack --ctstate NEW ... -j KUBE-PROXY-FIREWALL``: while it exists, the chain cannot be deleted.

Source: cleanupLeftovers in kube-proxy's proxy/iptables and proxy/nftables (1.24-1.36).
"""

import re
from collections.abc import Iterable, Iterator, Sequence

from msgspec import Struct

from kubeproxy_py.kernel.errors import KernelError
from kubeproxy_py.kernel.host.command import run
from kubeproxy_py.kernel.iptables import nf_tables
from kubeproxy_py.kernel.iptables.backend import IptablesCommands
from kubeproxy_py.model.kube_names import (
    CHAINS,
    JUMPS,
    NFTABLES_MODE_TABLE,
    OTHER_MODE_CHAINS,
    OTHER_MODE_SERVICE_CHAIN,
    PREFIX,
)
from kubeproxy_py.net import FAMILIES, Family

_OUR_CHAINS = frozenset(CHAINS)
_OUR_JUMPS = frozenset(
    (table, source, f'-m comment --comment "{comment}" -j {target}') for table, source, target, comment in JUMPS
)
_TARGET = re.compile(rf" -[jg] ({PREFIX}\S+)$")


class StaleTable(Struct, frozen=True, gc=False):
    """What iptables mode left in one table."""

    name: str
    chains: tuple[str, ...] = ()
    jumps: tuple[tuple[str, str], ...] = ()  # dangling: (built-in chain, rule as ``iptables-save`` prints it)


class StaleRules(Struct, frozen=True, gc=False):
    """What the other modes left; false if they left nothing."""

    iptables: dict[Family, tuple[StaleTable, ...]]  # of iptables mode; families without any are left out
    nftables: tuple[Family, ...] = ()  # families that have the table of nftables mode

    def __bool__(self) -> bool:
        return bool(self.iptables or self.nftables)

    def __str__(self) -> str:
        """``12 chains and 5 rules of iptables mode (IPv4), the table of nftables mode (IPv4, IPv6)``."""
        parts = [
            f"{sum(len(table.chains) for table in tables)} chains and "
            f"{sum(len(table.jumps) for table in tables)} rules of iptables mode ({family})"
            for family, tables in self.iptables.items()
        ]
        if self.nftables:
            parts.append(f"the table of nftables mode ({', '.join(self.nftables)})")
        return ", ".join(parts)


def find_stale_rules(commands: Iterable[IptablesCommands]) -> StaleRules:
    """Return what other modes left, in the iptables backend that the node uses and in nf_tables.

    The agent calls this at start, too, so nf_tables is asked without pyroute2.

    Raises:
        KernelError: iptables-save failed.
    """
    by_family = {family_commands.family: stale_rules_in(_save(family_commands)) for family_commands in commands}
    return StaleRules(
        {family: tables for family, tables in by_family.items() if tables},
        tuple(family for family in FAMILIES if nf_tables.has_table(family, NFTABLES_MODE_TABLE)),
    )


def stale_rules_in(saved: bytes) -> tuple[StaleTable, ...]:
    """Return what iptables mode left, from ``iptables-save`` output of one family; tables without any are left out."""
    tables: list[StaleTable] = []
    for section in re.split(rb"^\*", saved, flags=re.MULTILINE)[1:]:
        name, *lines = section.decode("utf-8", "surrogateescape").splitlines()
        if name in OTHER_MODE_CHAINS:
            chains = (line[1:].split()[0] for line in lines if line.startswith(f":{PREFIX}"))
            table = StaleTable(
                name,
                tuple(chain for chain in chains if _is_of_iptables_mode(name, chain)),
                tuple(_dangling_jumps(name, lines)),
            )
            if table.chains or table.jumps:
                tables.append(table)
    return tuple(tables)


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


def detach(commands: Iterable[IptablesCommands], stale: StaleRules) -> Iterator[KernelError]:
    """Detach the chains of iptables mode: no packet reaches them, and they refer to no chain.  Yield the errors."""
    yield from _restore_each(commands, {family: detach_text(tables) for family, tables in stale.iptables.items()})


def delete(commands: Iterable[IptablesCommands], stale: StaleRules) -> Iterator[KernelError]:
    """Delete the detached chains and the tables of nftables mode.  Yield the errors."""
    yield from _restore_each(commands, {family: deletion_text(tables) for family, tables in stale.iptables.items()})
    if stale.nftables:
        # Imported here, because it imports pyroute2: 0.6 s and 21 MiB, which `cleanup` may spend and the agent may not.
        from kubeproxy_py.kernel.iptables.nftables_mode import delete_table

        for family in stale.nftables:
            yield from delete_table(family)


def _is_of_iptables_mode(table: str, chain: str) -> bool:
    return chain in OTHER_MODE_CHAINS[table] or (table == "nat" and bool(OTHER_MODE_SERVICE_CHAIN.match(chain)))


def _dangling_jumps(table: str, lines: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Yield the rules of built-in chains that jump to a chain of kube-proxy and are not one of our jumps."""
    for line in lines:
        if not line.startswith("-A ") or line.startswith(f"-A {PREFIX}"):
            continue
        source, _, rule = line.removeprefix("-A ").partition(" ")
        target = _TARGET.search(line)
        if target is None or (table, source, rule) in _OUR_JUMPS:
            continue
        if _is_of_iptables_mode(table, target[1]) or (table, target[1]) in _OUR_CHAINS:
            yield source, rule


def _restore_text(tables_lines: Iterable[tuple[StaleTable, list[str]]]) -> bytes:
    text = "".join(
        f"*{table.name}\n" + "".join(f"{line}\n" for line in lines) + "COMMIT\n"
        for table, lines in tables_lines
        if lines
    )
    return text.encode("utf-8", "surrogateescape")


def _restore_each(commands: Iterable[IptablesCommands], texts: dict[Family, bytes]) -> Iterator[KernelError]:
    for family_commands in commands:
        if text := texts.get(family_commands.family):
            try:
                result = run(family_commands.restore_argv(), stdin=text)
            except KernelError as error:
                yield error
                continue
            if result.exit_code:
                yield KernelError(f"{family_commands.family}, stale rules of iptables mode: {result.error_text}")


def _save(commands: IptablesCommands) -> bytes:
    result = run(commands.save)
    if result.exit_code:
        raise KernelError(f"{' '.join(commands.save)}: {result.error_text}")
    return result.stdout
