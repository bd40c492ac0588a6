"""probe: what this host can do, found out once at start and told with hints.

Law: all that is missing is told at once, each with what to do about it; and only what the agent needs before its
first plan is asked, for a process costs 5 ms (50 ms in user-mode-linux).  On a node that is in order two are run, an
``iptables-save`` for each family, which tell its version and that it works.

A family is usable if its iptables works and, for IPv6, the kernel has it switched on (as kube-proxy 1.34 and later).
"""

import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from socket import AF_INET, IPPROTO_RAW, SOCK_RAW, socket
from typing import Literal

from msgspec import Struct

from kubeproxy_py.kernel.errors import KernelError
from kubeproxy_py.kernel.host.command import run
from kubeproxy_py.kernel.iptables import nf_tables
from kubeproxy_py.kernel.iptables.backend import Flavour, IptablesCommands, choose_flavour, programs
from kubeproxy_py.kernel.netlink.attributes import u8
from kubeproxy_py.kernel.netlink.socket import NETLINK_NETFILTER, Socket, message
from kubeproxy_py.model.rows import IPVS_DEVICE
from kubeproxy_py.model.services import FAMILIES, Family

Version = tuple[int, int, int]

_RANDOM_FULLY_SINCE: Version = (1, 6, 2)
_CONN_REUSE_MODE_SINCE: Version = (4, 1, 0)
_IPSET_PROTOCOL = 6 << 8 | 1  # NFNL_SUBSYS_IPSET, IPSET_CMD_PROTOCOL
_IPSET_PROTOCOL_MIN = 6


class HostProblem(Struct, frozen=True):
    """One thing that is missing; *fatal* if no Service can be served without it."""

    message: str
    hint: str
    fatal: bool = False

    def __str__(self) -> str:
        return f"{self.message} ({self.hint})"


class HostFacts(Struct, frozen=True):
    """What this host can do."""

    kernel_release: str
    kernel_version: Version
    cpus: int
    flavour: Flavour
    iptables_version: Version
    programs: tuple[IptablesCommands, ...]  # one for each usable family
    ipset_by_tool: bool  # netlink can't speak to ip_set here
    problems: tuple[HostProblem, ...] = ()
    match_ipvs: bool = True  # rules may match on IPVS

    @property
    def families(self) -> tuple[Family, ...]:
        """The families that can be served."""
        return tuple(each.family for each in self.programs)

    @property
    def random_fully(self) -> bool:
        """Whether this iptables knows ``MASQUERADE --random-fully``."""
        return self.iptables_version >= _RANDOM_FULLY_SINCE

    def require(self) -> None:
        """Raises KernelError with everything that is fatal, if anything is."""
        fatal = [str(problem) for problem in self.problems if problem.fatal]
        if fatal:
            raise KernelError("; ".join(fatal))


def probe(asked: Literal["auto", "legacy", "nft"] = "auto", *, root: Path = Path("/")) -> HostFacts:
    """Find out what this host can do; *asked* is the operator's word on the flavour of iptables.

    Never fails: what is missing stands in ``problems``.  *root* is where /proc and /sys are looked for.
    """
    release = _read(root / "proc/sys/kernel/osrelease")
    problems = [*_version_doubts(release), *_modules_missing(root), *_rights_missing()]
    flavour: Flavour = "legacy"
    usable: list[tuple[IptablesCommands, Version]] = []
    try:
        flavour = choose_flavour(asked, root=root)
        usable = [found for family in FAMILIES if (found := _usable(flavour, family, root, problems))]
    except KernelError as error:
        problems.append(_problem(error))
    if not usable:
        problems.append(HostProblem("no address family is usable", "iptables must work: see above", fatal=True))
    match_ipvs = can_match_ipvs(each.family for each, _ in usable)
    if not match_ipvs:
        problems.append(_NO_MATCH_IPVS)
    return HostFacts(
        kernel_release=release,
        kernel_version=parse_version(release),
        cpus=count_cpus(root),
        flavour=flavour,
        iptables_version=usable[0][1] if usable else (0, 0, 0),
        programs=tuple(each for each, _ in usable),
        ipset_by_tool=not _ipset_speaks_netlink(),
        problems=tuple(problems),
        match_ipvs=match_ipvs,
    )


def parse_version(text: str) -> Version:
    """The first ``x.y`` or ``x.y.z`` in *text*; whatever else a distribution adds is passed over.  (0, 0, 0): none."""
    found = re.search(r"(\d+)\.(\d+)(?:\.(\d+))?", text)
    return (int(found[1]), int(found[2]), int(found[3] or 0)) if found else (0, 0, 0)


def count_cpus(root: Path = Path("/")) -> int:
    """Logical CPUs that are online, as kube-proxy counts them for nf_conntrack_max.

    It takes those of all NUMA nodes in /sys, else those in /sys that are in no node, else those that the process may
    use (cadvisor, machine.GetTopology).  Without /sys a container with a CPU mask counts fewer.
    """
    system = root / "sys/devices/system"
    for pattern in ("node/node[0-9]*/cpu[0-9]*", "cpu/cpu[0-9]*"):
        online = sum(1 for cpu in system.glob(pattern) if _is_online(cpu))
        if online:
            return online
    return len(os.sched_getaffinity(0))


def _rights_missing() -> Iterator[HostProblem]:
    """What iptables takes besides NET_ADMIN: it finds the number of a set by a raw socket (its libxt_set.h).

    Without it every rule that speaks of a set is missing, which is worse than not to start.
    """
    try:
        socket(AF_INET, SOCK_RAW, IPPROTO_RAW).close()
    except PermissionError:
        words = "the capability NET_RAW is missing, by which iptables finds sets"
        yield HostProblem(words, "give NET_RAW beside NET_ADMIN", fatal=True)


_NO_MATCH_IPVS = HostProblem(
    "the kernel has no match for IPVS, so processes of this node can't be kept from load balancer addresses whose "
    "loadBalancerSourceRanges leave the node out; all others are",
    "modprobe xt_ipvs, then start again",
)


def can_match_ipvs(families: Iterable[Family]) -> bool:
    """Whether rules may match on IPVS (module xt_ipvs).

    kube-proxy never asks; one such rule then fails every restore, and with it all other rules.  True too where it
    can't be found out, as without the module nft_compat: then the chain with the rule fails, and it alone.
    """
    return all(nf_tables.has_match(family, "ipvs") for family in families)


def _is_online(cpu: Path) -> bool:
    """A CPU that is offline has no topology, or says 0."""
    return (cpu / "topology/core_id").exists() and _read(cpu / "online") != "0"


def _usable(
    flavour: Flavour, family: Family, root: Path, problems: list[HostProblem]
) -> tuple[IptablesCommands, Version] | None:
    """The programs of *family* and their version if it can be served; else one more problem."""
    try:
        return _check_family(flavour, family, root)
    except KernelError as error:
        problems.append(
            HostProblem(f"{family} is not usable: {_without_hint(error)}", error.hint or "this family is left out")
        )
        return None


def _check_family(flavour: Flavour, family: Family, root: Path) -> tuple[IptablesCommands, Version]:
    """Raises KernelError if *family* can't be served."""
    if family == "IPv6" and not _ipv6_is_on(root):
        raise KernelError("the kernel has IPv6 switched off", hint="sysctl -w net.ipv6.conf.all.disable_ipv6=0")
    words = programs(flavour, family)
    if words is None:
        raise KernelError(f"no iptables of flavour {flavour} for {family}", hint="apt-get install iptables")
    result = run([*words.save, "-t", "nat"])
    if result.exit_code:
        raise KernelError(f"{' '.join(words.save)}: {result.complaint}", hint="are its modules loaded, are we root?")
    if flavour == "nft" and not nf_tables.works(family):
        raise KernelError("the kernel has no nf_tables for it", hint="use --iptables-flavour=legacy")
    # iptables-nft-save of 1.8.2 and earlier prints nothing where there is no table yet, others a remark before this.
    header = re.search(rb"tables\S*-save v\S+", result.stdout)
    return words, parse_version((header[0] if header else run(words.version).stdout).decode("ascii", "replace"))


def _ipv6_is_on(root: Path) -> bool:
    return (root / "proc/net/if_inet6").exists() and _read(root / "proc/sys/net/ipv6/conf/all/disable_ipv6") != "1"


def _version_doubts(release: str) -> Iterator[HostProblem]:
    """As kube-proxy has it: without a version nobody knows which settings are right; before 4.1 one is missing."""
    version = parse_version(release)
    if version == (0, 0, 0):
        yield HostProblem("/proc/sys/kernel/osrelease tells no kernel version", "is /proc mounted?", fatal=True)
    elif version < _CONN_REUSE_MODE_SINCE:
        hint = "clients that use a source port again may meet a delay of a second"
        yield HostProblem(f"Linux {release} has no net/ipv4/vs/conn_reuse_mode, which came with 4.1", hint)


def _modules_missing(root: Path) -> Iterator[HostProblem]:
    """What of the kernel is not there and can't be loaded."""
    if not (root / "proc/net/ip_vs").exists() and not _loads("ip_vs", root / "proc/net/ip_vs"):
        yield HostProblem(
            "the kernel has no IPVS", "modprobe ip_vs; install your distribution's kernel modules", fatal=True
        )
    device = root / f"sys/class/net/{IPVS_DEVICE}"
    dummy = root / "sys/module/dummy"
    if not device.exists() and not dummy.exists() and not _loads("dummy", dummy):
        yield HostProblem("the kernel may have no dummy network devices", "modprobe dummy")


def _loads(module: str, proof: Path) -> bool:
    """Whether *module* can be loaded; *proof* exists then."""
    try:
        run(["modprobe", module])
    except KernelError:
        return False
    return proof.exists()


def _ipset_speaks_netlink() -> bool:
    """Whether ip_set answers in a protocol that we speak; 6 is that of Linux 3.x to this day's least."""
    try:
        netlink = Socket(NETLINK_NETFILTER)
    except KernelError:
        return False
    try:
        netlink.ask(message(_IPSET_PROTOCOL, 0, bytes(4) + u8(1, _IPSET_PROTOCOL_MIN)))
    except KernelError:
        return False
    finally:
        netlink.close()
    return True


def _problem(error: KernelError) -> HostProblem:
    return HostProblem(_without_hint(error), error.hint, fatal=True)


def _without_hint(error: KernelError) -> str:
    """What *error* says; its hint is told once, beside it."""
    return str(error).removesuffix(f" ({error.hint})")


def _read(path: Path) -> str:
    """The text of a small file without white space around it; "" if it can't be read."""
    try:
        return path.read_text().strip()
    except OSError:
        return ""
