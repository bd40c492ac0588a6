"""Which iptables this node uses, legacy or nft, and by which programs.

Law: rules are written where the node's other users of iptables write theirs.  Kubelet leaves a chain as a hint of
its choice; whoever finds it takes the same flavour, nf_tables before legacy (the convention of iptables-wrappers).
Where there is no hint: nft if it is installed and the kernel can do it, else legacy.

The kernel is asked first and programs are run last: on most nodes no process is started here.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from msgspec import Struct

from kubeproxy_py.kernel.errors import KernelError
from kubeproxy_py.kernel.host.command import find, run
from kubeproxy_py.kernel.iptables import nf_tables
from kubeproxy_py.model.services import FAMILIES, Family

Flavour = Literal["legacy", "nft"]

_FLAVOURS: tuple[Flavour, ...] = ("nft", "legacy")
_HINT_TABLE = "mangle"
_HINT_CHAINS = ("KUBE-IPTABLES-HINT", "KUBE-KUBELET-CANARY")
_TOOL: dict[Family, str] = {"IPv4": "iptables", "IPv6": "ip6tables"}
_LEGACY_TABLES: dict[Family, str] = {"IPv4": "proc/net/ip_tables_names", "IPv6": "proc/net/ip6_tables_names"}


class IptablesCommands(Struct, frozen=True):
    """The words with which the command lines of one family begin."""

    flavour: Flavour
    family: Family
    save: tuple[str, ...]
    restore: tuple[str, ...]
    version: tuple[str, ...]


def programs(flavour: Flavour, family: Family) -> IptablesCommands | None:
    """How *flavour* is called here, or None if it is not installed."""
    tool = _TOOL[family]
    for prefix, name in _spellings(flavour, tool):
        if find((*prefix, f"{name}-restore")[0]):
            save, restore = (*prefix, f"{name}-save"), (*prefix, f"{name}-restore")
            return IptablesCommands(flavour, family, save, restore, (*prefix, name, "--version"))
    return None


def choose_flavour(asked: Literal["auto", "legacy", "nft"] = "auto", *, root: Path = Path("/")) -> Flavour:
    """The flavour of this node; *asked* if it is not ``auto``.

    Raises KernelError if the flavour, or any, is not installed.
    """
    installed: list[Flavour] = [flavour for flavour in _FLAVOURS if programs(flavour, "IPv4")]
    if asked != "auto" and asked not in installed:
        raise KernelError(f"iptables of flavour {asked} is not installed", hint=f"is iptables-{asked}-restore in PATH?")
    if not installed:
        raise KernelError("iptables is not installed", hint="apt-get install iptables")
    if asked != "auto":
        return asked
    if len(installed) == 1:
        return installed[0]
    return _hinted(root) or ("nft" if any(map(nf_tables.works, FAMILIES)) else "legacy")


def _hinted(root: Path) -> Flavour | None:
    """The flavour in which kubelet left its hint."""
    if any(nf_tables.has_chain(family, _HINT_TABLE, chain) for family in FAMILIES for chain in _HINT_CHAINS):
        return "nft"
    return "legacy" if any(_legacy_hint(family, root) for family in FAMILIES) else None


def _legacy_hint(family: Family, root: Path) -> bool:
    """Whether the legacy mangle table holds a hint.

    The table is not looked at unless it exists, for looking would make it.
    """
    try:
        tables = (root / _LEGACY_TABLES[family]).read_text().split()
    except OSError:
        return False
    legacy = programs("legacy", family)
    if legacy is None or _HINT_TABLE not in tables:
        return False
    saved = run([*legacy.save, "-t", _HINT_TABLE]).stdout
    return any(f"\n:{chain} ".encode() in saved for chain in _HINT_CHAINS)


def _spellings(flavour: Flavour, tool: str) -> Iterator[tuple[tuple[str, ...], str]]:
    """(words before, name) under which *flavour* may be installed, as distributions name it."""
    yield (), f"{tool}-{flavour}"
    yield (f"xtables-{flavour}-multi",), tool
    if find(f"{tool}-restore") and _plain_flavour(tool) == flavour:
        yield (), tool


def _plain_flavour(tool: str) -> Flavour:
    """What the plain name means; before 1.8 it said nothing and was legacy."""
    return "nft" if b"(nf_tables)" in run([tool, "--version"]).stdout else "legacy"
