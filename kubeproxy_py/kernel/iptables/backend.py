"""Detect the iptables backend of this node, legacy or nft, and the commands that use it.

Invariants:
- Rules are written where the node's other users of iptables write theirs.  Kubelet leaves a chain as a hint of its
  backend; that backend is used, nf_tables being checked before legacy (the convention of iptables-wrappers).  Without a
  hint: nft if it is installed and the kernel supports it, else legacy.
- The kernel is asked first and programs are run last, so that on most nodes no process is started here.

``--iptables-flavour`` configures the backend.  It is unrelated to ``--iptables-backend``, which selects how legacy
rules are written (iptables-restore or libiptc).
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from msgspec import Struct

from kubeproxy_py.kernel.errors import KernelError
from kubeproxy_py.kernel.host.command import find_program, run
from kubeproxy_py.kernel.iptables import nf_tables
from kubeproxy_py.model.kube_names import KUBELET_HINT_CHAINS, KUBELET_HINT_TABLE
from kubeproxy_py.net import FAMILIES, Family

Backend = Literal["legacy", "nft"]

LOCK_WAIT_S = 5
"""How long to wait for iptables' own lock, /run/xtables.lock.  Source: kube-proxy passes ``-w 5``."""

BACKENDS: tuple[Backend, ...] = ("nft", "legacy")
_PROGRAMS: dict[Family, str] = {"IPv4": "iptables", "IPv6": "ip6tables"}
_LEGACY_TABLES: dict[Family, str] = {"IPv4": "proc/net/ip_tables_names", "IPv6": "proc/net/ip6_tables_names"}


class IptablesCommands(Struct, frozen=True):
    """The command lines of one family, without their options."""

    backend: Backend
    family: Family
    save: tuple[str, ...]
    restore: tuple[str, ...]
    version: tuple[str, ...]  # ends with --version

    @property
    def program(self) -> tuple[str, ...]:
        """The command that lists and checks single chains and rules."""
        return self.version[:-1]

    def restore_argv(self) -> list[str]:
        """Return the command that applies restore text from stdin and does not change any other chain."""
        return [*self.restore, "--noflush", "-w", str(LOCK_WAIT_S)]


def find_commands(backend: Backend, family: Family) -> IptablesCommands | None:
    """Return the commands of *backend* for *family*, or None if they are not installed."""
    program = _PROGRAMS[family]
    for prefix, name in _candidate_names(backend, program):
        if find_program((*prefix, f"{name}-restore")[0]):
            save, restore = (*prefix, f"{name}-save"), (*prefix, f"{name}-restore")
            return IptablesCommands(backend, family, save, restore, (*prefix, name, "--version"))
    return None


def detect_backend(configured: Literal["auto", "legacy", "nft"] = "auto", *, root: Path = Path("/")) -> Backend:
    """Return *configured* or, if it is ``auto``, the backend that this node uses.

    Raises:
        KernelError: The configured backend, or any, is not installed.
    """
    installed: list[Backend] = [backend for backend in BACKENDS if find_commands(backend, "IPv4")]
    if configured != "auto" and configured not in installed:
        raise KernelError(
            f"the iptables backend {configured} is not installed",
            hint=f"install iptables-{configured}-restore in PATH, or use --iptables-flavour=auto",
        )
    if not installed:
        raise KernelError("iptables is not installed", hint="apt-get install iptables")
    if configured != "auto":
        return configured
    if len(installed) == 1:
        return installed[0]
    return _kubelet_hint(root) or ("nft" if any(map(nf_tables.works, FAMILIES)) else "legacy")


def legacy_tables(family: Family, *, root: Path = Path("/")) -> list[str]:
    """Return the names of the legacy tables of *family* that exist; none if they cannot be read."""
    try:
        return (root / _LEGACY_TABLES[family]).read_text(errors="replace").split()
    except OSError:
        return []


def kubelet_backends(*, root: Path = Path("/")) -> tuple[Backend, ...]:
    """Return every backend in which kubelet left a hint chain.  Raises KernelError."""
    found: list[tuple[Backend, bool]] = [
        ("nft", _has_nft_hint()),
        ("legacy", any(_has_legacy_hint(family, root) for family in FAMILIES)),
    ]
    return tuple(backend for backend, is_there in found if is_there)


def _kubelet_hint(root: Path) -> Backend | None:
    """Return the backend in which kubelet left its hint chain, if any."""
    if _has_nft_hint():
        return "nft"
    return "legacy" if any(_has_legacy_hint(family, root) for family in FAMILIES) else None


def _has_nft_hint() -> bool:
    chains = [(family, chain) for family in FAMILIES for chain in KUBELET_HINT_CHAINS]
    return any(nf_tables.has_chain(family, KUBELET_HINT_TABLE, chain) for family, chain in chains)


def _has_legacy_hint(family: Family, root: Path) -> bool:
    """Return whether the legacy mangle table contains a hint chain.

    The table is read only if it exists, because reading creates it.
    """
    commands = find_commands("legacy", family)
    if commands is None or KUBELET_HINT_TABLE not in legacy_tables(family, root=root):
        return False
    saved = run([*commands.save, "-t", KUBELET_HINT_TABLE]).stdout
    return any(f"\n:{chain} ".encode() in saved for chain in KUBELET_HINT_CHAINS)


def _candidate_names(backend: Backend, program: str) -> Iterator[tuple[tuple[str, ...], str]]:
    """Yield the (prefix words, name) under which distributions install *program* of *backend*."""
    yield (), f"{program}-{backend}"
    yield (f"xtables-{backend}-multi",), program
    if find_program(f"{program}-restore") and _plain_backend(program) == backend:
        yield (), program


def _plain_backend(program: str) -> Backend:
    """Return the backend of the plain program name; versions before 1.8 do not print one and are legacy."""
    return "nft" if b"(nf_tables)" in run([program, "--version"]).stdout else "legacy"
