"""Read one table as ``iptables-save`` prints it: in one read, or chain by chain where iptables cannot print all of it.

A rule of another program may be one that this iptables cannot represent: ``nft`` added it to a table of iptables-nft,
or it uses a match whose extension is not installed here.  Then ``iptables-save`` prints none of the table, or not all.
Listing each other chain (``-S CHAIN``) still works, and in the chain that contains such a rule our jumps can still be
checked (``-C``) and inserted (measured with iptables 1.8.9, both backends).
"""

import re
import shlex
from collections.abc import Container, Iterator
from errno import EINVAL, ENOENT

from kubeproxy_py.kernel.errors import KernelError
from kubeproxy_py.kernel.host.command import run
from kubeproxy_py.kernel.iptables import nf_tables
from kubeproxy_py.kernel.iptables.backend import IptablesCommands
from kubeproxy_py.kernel.iptables.errors import errno_and_hint, reason
from kubeproxy_py.model import kube_names
from kubeproxy_py.model.rows import Table
from kubeproxy_py.net import Family

# Printed by iptables-nft-save, with exit code 0.
_SKIPPED_TABLE = re.compile(rb"# (Table `(?:mangle|nat|filter)' is incompatible)")
_NO_SUCH_CHAIN = "No chain/target/match by that name"
_NO_SUCH_RULE = 1  # exit code of ``-C``
_NFT_FAMILIES: dict[Family, str] = {"IPv4": "ip", "IPv6": "ip6"}


class UnprintableTableError(KernelError):
    """iptables-save ended without having printed the complete table, which is not empty."""


def save_table(commands: IptablesCommands, table: Table) -> bytes:
    """Return the output of iptables-save for *table*.

    Raises:
        UnprintableTableError: It printed an error, or a remark instead of the table.
        KernelError: It could not be run, or did not end.
    """
    result = run([*commands.save, "-t", table])
    if result.exit_code:
        errno, hint = errno_and_hint(result.error_text, commands.family, EINVAL)
        hint = hint or "check that the table can be listed by hand"
        raise UnprintableTableError(f"{' '.join(commands.save)}: {reason(result)}", errno=errno, hint=hint)
    if skipped := _SKIPPED_TABLE.search(result.stdout):
        listing = f"nft -a list table {_NFT_FAMILIES[commands.family]} {table}"
        hint = f"nft added rules that iptables cannot represent: find them by `{listing}`, move them to another table"
        raise UnprintableTableError(skipped[1].decode(), errno=EINVAL, hint=hint)
    return result.stdout


def save_all_tables(commands: IptablesCommands) -> bytes:
    """Return the output of iptables-save for every table, those of other programs included.

    Raises:
        KernelError: It could not be run, or the tables of ours cannot be listed.
    """
    result = run([*commands.save])
    if not result.exit_code:
        return result.stdout
    return b"".join(save_table(commands, table) for table in ("nat", "filter"))


def read_by_chain(commands: IptablesCommands, table: Table) -> bytes:
    """Return our chains, and the built-in chains that our jumps are in, as ``iptables-save -t TABLE`` would.

    A built-in chain that cannot be listed has our jumps only; what else is in it, and where, is not known.

    Raises:
        KernelError: One of our chains cannot be listed, or our jumps cannot be checked.
    """
    chains = [name for chain_table, name in kube_names.OWN_CHAINS if chain_table == table]
    sources = dict.fromkeys(source for jump_table, source, _, _ in kube_names.OWN_JUMPS if jump_table == table)
    ours = {name: rules for name in chains if (rules := _rules(commands, table, name)) is not None}
    lines = [f":{name} - [0:0]" for name in ours]
    for rules in ours.values():
        lines += rules
    for source in sources:
        try:
            lines += _rules(commands, table, source) or ()
        except KernelError:
            lines += _checked_jumps(commands, table, source, ours)
    return "\n".join((f"*{table}", *lines, "COMMIT\n")).encode("utf-8", "surrogateescape")


def _rules(commands: IptablesCommands, table: Table, chain: str) -> list[str] | None:
    """Return the rules of *chain*, as iptables-save prints them; None if it does not exist.  Raises KernelError."""
    # iptables-nft says of a chain that does not exist that it is incompatible.
    if commands.backend == "nft" and nf_tables.chain_errno(commands.family, table, chain) == ENOENT:
        return None
    result = run([*commands.program, "-t", table, "-S", chain])
    if result.exit_code:
        if _NO_SUCH_CHAIN in result.error_text:
            return None
        raise KernelError(f"{commands.family} {table} {chain}: {reason(result)}", errno=EINVAL)
    printed = result.stdout.decode("utf-8", "surrogateescape").split("\n")
    return [line for line in printed if line.startswith("-A ")]


def _checked_jumps(commands: IptablesCommands, table: Table, source: str, targets: Container[str]) -> Iterator[str]:
    """Yield those of our jumps to the chains *targets*, which exist, that *source* contains.  Raises KernelError."""
    for jump, rule in kube_names.jumps(commands.family, policies=True).items():
        if (jump.table, jump.source) == (table, source) and jump.target in targets:
            check = run([*commands.program, "-t", table, "-C", source, *shlex.split(rule)])
            if check.exit_code not in (0, _NO_SUCH_RULE):
                raise KernelError(f"{commands.family} {table} {source}: {reason(check)}", errno=EINVAL)
            if not check.exit_code:
                yield f"-A {source} {rule}"
