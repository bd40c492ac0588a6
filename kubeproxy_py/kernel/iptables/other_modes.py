"""What kube-proxy's other modes left on a node: chains and jumps of iptables mode, tables of nftables mode.

Law: finding changes nothing and costs one process a family; removing takes what kube-proxy alone makes, by its names,
and never what shares a name with kubelet (KUBE-FIREWALL, KUBE-KUBELET-CANARY, KUBE-IPTABLES-HINT, KUBE-MARK-DROP).

Chains go in two moves, for the modes refer to each other: our chains may hold rules of iptables mode, and chains of
iptables mode jump to our KUBE-MARK-MASQ.  So first all are cut off (stray jumps removed, their chains emptied), then
ours may go, then theirs.

A stray jump is a rule of a built-in chain that goes to a chain of kube-proxy and is none of ours, as iptables mode's
``-m conntrack --ctstate NEW ... -j KUBE-PROXY-FIREWALL``: while it stands, the chain can't be deleted.

Source: cleanupLeftovers in kube-proxy's proxy/iptables and proxy/nftables (1.24-1.36).
"""

import re
from collections.abc import Iterable, Iterator, Sequence

from msgspec import Struct

from kubeproxy_py.kernel.errors import KernelError
from kubeproxy_py.kernel.host.command import run
from kubeproxy_py.kernel.iptables import nf_tables
from kubeproxy_py.kernel.iptables.backend import IptablesCommands
from kubeproxy_py.model import kube_names as tables
from kubeproxy_py.model.services import FAMILIES, Family

NFTABLES_TABLE = "kube-proxy"

_CHAINS: dict[str, frozenset[str]] = {
    "nat": frozenset(("KUBE-NODEPORTS", "KUBE-PROXY-CANARY")),
    "filter": frozenset(("KUBE-SERVICES", "KUBE-EXTERNAL-SERVICES", "KUBE-NODEPORTS", "KUBE-PROXY-CANARY")),
    "mangle": frozenset(("KUBE-PROXY-CANARY",)),
}
_EACH_SERVICE = re.compile(r"KUBE-(?:SVC|SVL|FW|EXT|SEP|XLB)-[A-Z0-9]{16}$")  # in nat; XLB until 1.23
_OURS = frozenset(tables.CHAINS)
_OUR_JUMPS = frozenset(
    (table, source, f'-m comment --comment "{comment}" -j {target}') for table, source, target, comment in tables.JUMPS
)
_TARGET = re.compile(r" -[jg] (KUBE-\S+)$")
_TIMEOUT_S = 30.0
_LOCK_WAIT_S = "5"
_NFPROTO: dict[Family, int] = {"IPv4": 2, "IPv6": 10}


class NftTable(Struct, frozen=True, gc=False):
    """What is left in one table: chains, and stray jumps as (built-in chain, rule as ``iptables-save`` prints it)."""

    name: str
    chains: tuple[str, ...] = ()
    jumps: tuple[tuple[str, str], ...] = ()


class StaleRules(Struct, frozen=True, gc=False):
    """What is left in iptables by family, and the families that have the table of nftables mode."""

    iptables: dict[Family, tuple[NftTable, ...]]
    nftables: tuple[Family, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.iptables or self.nftables)

    def __str__(self) -> str:
        """``12 chains and 5 rules of iptables mode (IPv4), the table of nftables mode (IPv4, IPv6)``."""
        parts = [
            f"{sum(len(table.chains) for table in found)} chains and "
            f"{sum(len(table.jumps) for table in found)} rules of iptables mode ({family})"
            for family, found in self.iptables.items()
        ]
        if self.nftables:
            parts.append(f"the table of nftables mode ({', '.join(self.nftables)})")
        return ", ".join(parts)


def find_leftovers(programs: Iterable[IptablesCommands]) -> StaleRules:
    """What other modes left, by the iptables that the node uses and by nf_tables.  Raises KernelError."""
    found = {each.family: left_in(_saved(each)) for each in programs}
    return StaleRules(
        {family: left for family, left in found.items() if left},
        tuple(family for family in FAMILIES if nf_tables.has_table(family, NFTABLES_TABLE)),
    )


def left_in(saved: bytes) -> tuple[NftTable, ...]:
    """The leftovers in what ``iptables-save`` printed of one family; tables without any are left out."""
    found: list[NftTable] = []
    for section in re.split(rb"^\*", saved, flags=re.MULTILINE)[1:]:
        name, *lines = section.decode("utf-8", "surrogateescape").splitlines()
        if name in _CHAINS:
            chains = tuple(line[1:].split()[0] for line in lines if line.startswith(":KUBE-"))
            left = NftTable(
                name, tuple(filter(lambda chain: _is_left(name, chain), chains)), tuple(_stray(name, lines))
            )
            found += [left] if left.chains or left.jumps else []
    return tuple(found)


def cut_off_text(left: Sequence[NftTable]) -> bytes:
    """Input of ``iptables-restore --noflush``: stray jumps go, chains are emptied."""
    return _restore_text(
        (table, [*(f":{chain} - [0:0]" for chain in table.chains), *(f"-D {at} {rule}" for at, rule in table.jumps)])
        for table in left
    )


def removal_text(left: Sequence[NftTable]) -> bytes:
    """Input of ``iptables-restore --noflush``: the emptied chains go."""
    return _restore_text((table, [f"-X {chain}" for chain in table.chains]) for table in left)


def cut_off(programs: Iterable[IptablesCommands], leftovers: StaleRules) -> Iterator[KernelError]:
    """Have no packet come to what is left, and what is left refer to nothing; what could not be done."""
    yield from _restore_each(programs, {f: cut_off_text(left) for f, left in leftovers.iptables.items()})


def remove(programs: Iterable[IptablesCommands], leftovers: StaleRules) -> Iterator[KernelError]:
    """Remove what was cut off, and nftables mode's tables; what could not be done."""
    yield from _restore_each(programs, {f: removal_text(left) for f, left in leftovers.iptables.items()})
    for family in leftovers.nftables:
        if (error := _remove_nftables(family)) is not None:
            yield error


def _is_left(table: str, chain: str) -> bool:
    return chain in _CHAINS[table] or (table == "nat" and bool(_EACH_SERVICE.match(chain)))


def _stray(table: str, lines: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Rules of built-in chains that go to a chain of kube-proxy and are none of our jumps."""
    for line in lines:
        if not line.startswith("-A ") or line.startswith("-A KUBE-"):
            continue
        source, _, rule = line.removeprefix("-A ").partition(" ")
        target = _TARGET.search(line)
        if target is None or (table, source, rule) in _OUR_JUMPS:
            continue
        if _is_left(table, target[1]) or (table, target[1]) in _OURS:
            yield source, rule


def _restore_text(tables_lines: Iterable[tuple[NftTable, list[str]]]) -> bytes:
    text = "".join(
        f"*{table.name}\n" + "".join(f"{line}\n" for line in lines) + "COMMIT\n"
        for table, lines in tables_lines
        if lines
    )
    return text.encode("utf-8", "surrogateescape")


def _restore_each(programs: Iterable[IptablesCommands], texts: dict[Family, bytes]) -> Iterator[KernelError]:
    for each in programs:
        if text := texts.get(each.family):
            try:
                result = run([*each.restore, "--noflush", "-w", _LOCK_WAIT_S], stdin=text, timeout_s=_TIMEOUT_S)
            except KernelError as error:
                yield error
                continue
            if result.exit_code:
                yield KernelError(f"{each.family}, leftovers of iptables mode: {result.complaint}")


def _saved(programs: IptablesCommands) -> bytes:
    result = run(programs.save, timeout_s=_TIMEOUT_S)
    if result.exit_code:
        raise KernelError(f"{' '.join(programs.save)}: {result.complaint}")
    return result.stdout


def _remove_nftables(family: Family) -> KernelError | None:
    # Imported here: 0.6 s and 21 MiB, which cleaning up may cost and the agent may not.
    from pyroute2.netlink.exceptions import NetlinkError
    from pyroute2.nftables.main import NFTables

    try:
        with NFTables(nfgen_family=_NFPROTO[family]) as netlink:
            netlink.table("del", name=NFTABLES_TABLE)
    except (NetlinkError, OSError) as error:
        return KernelError(
            f"{family}, table {NFTABLES_TABLE} of nftables mode: {error}", errno=getattr(error, "code", 0)
        )
    return None
