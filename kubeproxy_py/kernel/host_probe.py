"""Find out once, at start, what this host supports, and collect every problem with its remedy.

Invariants:
- ``probe`` reports all problems together and never raises; ``ProbeResult.require`` raises for the fatal ones.
- Only what is needed before the first plan is examined, because a process costs 5 ms (50 ms in user-mode-linux).  On a
  healthy node two processes are started: one ``iptables-save`` per family, which yields its version and shows that
  it works.
- An address family is usable if its iptables works and, for IPv6, IPv6 is enabled in the kernel (as in kube-proxy 1.34
  and later).
"""

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from errno import EINVAL, ENOENT, ETIMEDOUT
from pathlib import Path
from socket import AF_INET, IPPROTO_RAW, SOCK_RAW, socket
from typing import Literal

from msgspec import Struct

from kubeproxy_py.kernel.errors import KernelError
from kubeproxy_py.kernel.host.command import Result, load_module, run
from kubeproxy_py.kernel.host.outgoing import outgoing_addresses
from kubeproxy_py.kernel.host.rights import read_rights
from kubeproxy_py.kernel.ipset.constants import IPSET_ERR_PROTOCOL
from kubeproxy_py.kernel.iptables import nf_tables
from kubeproxy_py.kernel.iptables.backend import Backend, IptablesCommands, detect_backend, find_commands
from kubeproxy_py.kernel.iptables.errors import errno_and_hint
from kubeproxy_py.kernel.iptables.read import read_by_chain
from kubeproxy_py.kernel.netfilter_probe import (
    HostProblem,
    askable_extensions,
    extension_problems,
    ipset_problems,
    missing_by_family,
    probe_ipset,
)
from kubeproxy_py.model.extensions import Extension
from kubeproxy_py.model.host import HostInfo
from kubeproxy_py.model.rows import IPVS_DEVICE
from kubeproxy_py.net import FAMILIES, Family

__all__ = ["HostProblem", "ProbeResult", "Version", "count_cpus", "parse_version", "probe", "supports_random_fully"]

Version = tuple[int, int, int]

_UNKNOWN_VERSION: Version = (0, 0, 0)
_RANDOM_FULLY_SINCE: Version = (1, 6, 2)  # of iptables
_CONN_REUSE_MODE_SINCE: Version = (4, 1, 0)  # of Linux
_NAT_MODULES: dict[Family, str] = {"IPv4": "iptable_nat", "IPv6": "ip6table_nat"}
_NO_LEGACY_IPTABLES = "iptables who?"  # what iptables prints where no legacy table was ever loaded
_LIST_TIMEOUT_S = 5.0  # of iptables-save, which is waited for once the agent runs


class ProbeResult(Struct, frozen=True):
    """What this host supports: ``host`` for compiling rows, the rest for programming them."""

    host: HostInfo  # without the node's name, which the configuration decides
    kernel_release: str  # as uname -r prints it
    backend: Backend
    iptables_version: Version
    commands: tuple[IptablesCommands, ...]  # one for each usable family
    ipset_by_tool: bool  # ip_set cannot be programmed by netlink on this kernel; use the ipset program
    problems: tuple[HostProblem, ...] = ()

    def require(self) -> None:
        """Do nothing on a usable host.

        Raises:
            KernelError: At least one problem is fatal; the message lists all fatal ones.
        """
        fatal = [str(problem) for problem in self.problems if problem.fatal]
        if fatal:
            raise KernelError("; ".join(fatal))


def probe(
    backend: Literal["auto", "legacy", "nft"] = "auto", *, root: Path = Path("/"), policies: bool = False
) -> ProbeResult:
    """Find out what this host supports; never raises.

    Args:
        backend: The configured iptables backend (``--iptables-flavour``).
        root: Folder that contains the proc and sys to read.
        policies: Exact policies are on.
    """
    release = _read(root / "proc/sys/kernel/osrelease")
    no_rights = _no_rights_problem(root)
    capability_problems = [no_rights] if no_rights else list(_capability_problems())
    problems = [*_kernel_version_problems(release), *_module_problems(root), *capability_problems]
    used_backend, usable, iptables_problems = _probe_iptables(backend, root)
    problems += [] if no_rights else iptables_problems  # which follow from that
    families = tuple(commands.family for commands, _ in usable)
    version = parse_version(release)
    missing = missing_by_family(used_backend, families, askable_extensions(version, root, policies=policies))
    ipset_errno = probe_ipset()
    problems += [*extension_problems(used_backend, missing), *ipset_problems(ipset_errno)]
    iptables_version = usable[0][1] if usable else _UNKNOWN_VERSION
    return ProbeResult(
        host=HostInfo(
            kernel_version=version,
            cpus=count_cpus(root),
            families=families,
            random_fully=supports_random_fully(iptables_version),
            missing_extensions=_names_by_family(missing),
            outgoing_addresses=outgoing_addresses(),
        ),
        kernel_release=release,
        backend=used_backend,
        iptables_version=iptables_version,
        commands=tuple(commands for commands, _ in usable),
        ipset_by_tool=ipset_errno == IPSET_ERR_PROTOCOL,
        problems=tuple(problems),
    )


def _names_by_family(missing: Mapping[Family, Iterable[Extension]]) -> dict[Family, frozenset[str]]:
    """Return the names of the extensions that are *missing*; without the families that lack none."""
    names = {family: frozenset(each.name for each in extensions) for family, extensions in missing.items()}
    return {family: of_family for family, of_family in names.items() if of_family}


def parse_version(text: str) -> Version:
    """Return the first ``x.y`` or ``x.y.z`` in *text*, ignoring distribution suffixes; (0, 0, 0) if there is none."""
    match = re.search(r"(\d{1,9})\.(\d{1,9})(?:\.(\d{1,9}))?", text)
    return (int(match[1]), int(match[2]), int(match[3] or 0)) if match else _UNKNOWN_VERSION


def supports_random_fully(iptables_version: Version) -> bool:
    """Return whether this iptables supports ``MASQUERADE --random-fully``."""
    return iptables_version >= _RANDOM_FULLY_SINCE


def count_cpus(root: Path = Path("/")) -> int:
    """Return the number of online logical CPUs, counted as kube-proxy does for nf_conntrack_max.

    That is: the CPUs of all NUMA nodes in /sys; if there are none, the CPUs in /sys outside of nodes; if there are none
    either, those the process may use.  Without /sys a container with a CPU mask counts fewer.

    Source: cadvisor, machine.GetTopology.
    """
    system = root / "sys/devices/system"
    for pattern in ("node/node[0-9]*/cpu[0-9]*", "cpu/cpu[0-9]*"):
        online = sum(1 for cpu in system.glob(pattern) if _is_online(cpu))
        if online:
            return online
    return len(os.sched_getaffinity(0))


def _no_rights_problem(root: Path) -> HostProblem | None:
    """Return the problem of a process that has no right to see what it is to change; None if it has."""
    try:
        missing = read_rights(root).missing
    except OSError:
        return None  # without /proc iptables says what is wrong
    what = _MISSING_RIGHTS.get(missing)
    if what is None:
        return None
    message = f"{what}, without which this process can neither read nor change iptables, ipsets and IPVS"
    hint = "run as root (sudo), or in a container with them"
    return HostProblem(message=message, hint=hint, fatal=True, of_process=True)


_MISSING_RIGHTS = {
    ("NET_ADMIN", "NET_RAW"): "the capabilities NET_ADMIN and NET_RAW are missing",
    ("NET_ADMIN",): "the capability NET_ADMIN is missing",
}


def _capability_problems() -> Iterator[HostProblem]:
    """Yield a problem if CAP_NET_RAW is missing, which iptables needs besides CAP_NET_ADMIN.

    iptables looks up the number of a set through a raw socket (its libxt_set.h).  Without it every rule that uses a set
    would be missing, which is worse than not starting.
    """
    try:
        socket(AF_INET, SOCK_RAW, IPPROTO_RAW).close()
    except PermissionError:
        message = "the capability NET_RAW is missing, which iptables needs to look up ipsets"
        yield HostProblem(message=message, hint="grant NET_RAW in addition to NET_ADMIN", fatal=True, of_process=True)


def _is_online(cpu: Path) -> bool:
    """Return whether the CPU is online; an offline one has no topology, or its ``online`` file contains 0."""
    return (cpu / "topology/core_id").exists() and _read(cpu / "online") != "0"


def _probe_iptables(
    configured: Literal["auto", "legacy", "nft"], root: Path
) -> tuple[Backend, list[tuple[IptablesCommands, Version]], list[HostProblem]]:
    """Return the backend, the commands and version of each usable family, and the problems."""
    backend: Backend = "legacy"
    usable: list[tuple[IptablesCommands, Version]] = []
    problems: list[HostProblem] = []
    try:
        backend = detect_backend(configured, root=root)
        results = [_probe_family(backend, family, root) for family in FAMILIES]
        usable = [result for result in results if not isinstance(result, HostProblem)]
        problems = [result for result in results if isinstance(result, HostProblem)]
    except KernelError as error:
        problems.append(HostProblem(message=error.message, hint=error.hint, fatal=True))
    if not usable:
        problems.append(
            HostProblem(
                message="no address family is usable", hint="iptables must work; see the other problems", fatal=True
            )
        )
    return backend, usable, problems


def _probe_family(backend: Backend, family: Family, root: Path) -> tuple[IptablesCommands, Version] | HostProblem:
    try:
        return _check_family(backend, family, root)
    except KernelError as error:
        message = f"{family} is not usable: {error.message}"
        return HostProblem(message=message, hint=error.hint or "Services of this family are not served")


def _check_family(backend: Backend, family: Family, root: Path) -> tuple[IptablesCommands, Version]:
    """Return the commands of *family* and their version.

    Raises:
        KernelError: *family* cannot be served.
    """
    if family == "IPv6" and not _ipv6_is_enabled(root):
        hint = "sysctl -w net.ipv6.conf.all.disable_ipv6=0, then restart"
        raise KernelError("IPv6 is disabled in the kernel", hint=hint)
    commands = find_commands(backend, family)
    if commands is None:
        raise KernelError(f"iptables ({backend}) is not installed for {family}", hint="apt-get install iptables")
    result = _list_nat(commands)
    if result.exit_code and not _works_by_chain(commands):
        raise KernelError(
            f"{' '.join(commands.save)}: {result.error_text}",
            hint=_iptables_hint(commands, result),
        )
    if backend == "nft" and not nf_tables.works(family):
        raise KernelError(f"the kernel does not support nf_tables for {family}", hint="use --iptables-flavour=legacy")
    # iptables-nft-save of 1.8.2 and earlier prints nothing while no table exists, others a remark before the header.
    header = re.search(rb"tables\S*-save v\S+", result.stdout)
    version = header[0] if header else run(commands.version).stdout
    return commands, parse_version(version.decode("ascii", "replace"))


def _iptables_hint(commands: IptablesCommands, result: Result) -> str:
    """Return the remedy for an iptables-save that failed; a kernel may have been built without legacy tables."""
    errno, hint = errno_and_hint(result.error_text, commands.family, EINVAL)
    if commands.backend == "legacy" and (errno == ENOENT or _NO_LEGACY_IPTABLES in result.error_text):
        hint = f"modprobe {_NAT_MODULES[commands.family]}"
        if nf_tables.works(commands.family):
            hint += "; a kernel without this module (an option since Linux 6.17) needs --iptables-flavour=nft"
    return hint or "check that the iptables kernel modules are loaded and that this runs as root"


def _list_nat(commands: IptablesCommands) -> Result:
    """Return how iptables-save lists the nat table; nothing if it hangs, which does not show that it will not work.

    Raises KernelError.
    """
    try:
        return run([*commands.save, "-t", "nat"], timeout_s=_LIST_TIMEOUT_S)
    except KernelError as error:
        if error.errno != ETIMEDOUT:
            raise
        return Result(0, b"", b"")


def _works_by_chain(commands: IptablesCommands) -> bool:
    """Return whether chains can be listed one by one, although iptables-save cannot print the table (read.py)."""
    try:
        read_by_chain(commands, "nat")
    except KernelError:
        return False
    return True


def _ipv6_is_enabled(root: Path) -> bool:
    return (root / "proc/net/if_inet6").exists() and _read(root / "proc/sys/net/ipv6/conf/all/disable_ipv6") != "1"


def _kernel_version_problems(release: str) -> Iterator[HostProblem]:
    """Yield the same two problems as kube-proxy.

    Without a version the right sysctls are not known; before 4.1 one of them does not exist.
    """
    version = parse_version(release)
    if version == _UNKNOWN_VERSION:
        yield HostProblem(
            message="no kernel version in /proc/sys/kernel/osrelease", hint="check that /proc is mounted", fatal=True
        )
    elif version < _CONN_REUSE_MODE_SINCE:
        hint = "clients that reuse a source port may see a delay of 1 s; upgrade the kernel"
        yield HostProblem(
            message=f"Linux {release} has no sysctl net/ipv4/vs/conn_reuse_mode (added in 4.1)", hint=hint
        )


def _module_problems(root: Path) -> Iterator[HostProblem]:
    """Yield a problem for each kernel module that is missing and cannot be loaded."""
    if not (root / "proc/net/ip_vs").exists() and not _can_load("ip_vs", root / "proc/net/ip_vs"):
        yield HostProblem(
            message="the kernel does not support IPVS",
            hint="modprobe ip_vs; install your distribution's kernel modules",
            fatal=True,
        )
    device = root / f"sys/class/net/{IPVS_DEVICE}"
    dummy = root / "sys/module/dummy"
    if not device.exists() and not dummy.exists() and not _can_load("dummy", dummy):
        yield HostProblem(message="the kernel may not support dummy network devices", hint="modprobe dummy")


def _can_load(module: str, loaded: Path) -> bool:
    """Load *module* and return whether *loaded*, a file that exists with the module, exists now."""
    try:
        load_module(module)
    except KernelError:
        return False
    return loaded.exists()


def _read(path: Path) -> str:
    """Return the stripped text of a small file; "" if it cannot be read."""
    try:
        return path.read_text(errors="replace").strip()
    except OSError:
        return ""
