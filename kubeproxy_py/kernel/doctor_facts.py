"""Gather the facts that only ``doctor`` looks at (checks/), once.

Invariants:
- No setting, rule, set or server is changed.  Modules are loaded as the agent would load them at its start.
- A part that cannot be read is left out with the reason, so the others are still checked.
"""

import platform
import re
from collections.abc import Callable, Iterable, Sequence
from errno import ENOENT
from importlib import metadata
from pathlib import Path
from socket import if_nameindex
from typing import TypeVar

from msgspec import Struct

from kubeproxy_py.kernel import VIRTUAL_SERVERS, Kernel
from kubeproxy_py.kernel.address.adapter import AddressAdapter
from kubeproxy_py.kernel.errors import KernelError
from kubeproxy_py.kernel.host.command import run
from kubeproxy_py.kernel.host.processes import is_in_our_network, processes
from kubeproxy_py.kernel.host.reserved_ports import local_port_range, reserved_ports
from kubeproxy_py.kernel.host.rights import read_rights
from kubeproxy_py.kernel.host.sysctl import is_writable, read_sysctl
from kubeproxy_py.kernel.host_probe import ProbeResult, parse_version
from kubeproxy_py.kernel.ipset.headers import missing_types, set_names
from kubeproxy_py.kernel.iptables.backend import kubelet_backends
from kubeproxy_py.kernel.iptables.other_modes import find_stale_rules
from kubeproxy_py.kernel.ipvs.adapter import IpvsAdapter
from kubeproxy_py.model.host_facts import DoctorFacts, IpvsTimeouts, Lack, Outdated, Part
from kubeproxy_py.model.rows import Rows

_DISTRIBUTION = "kubeproxy-py"
_REQUIREMENT = re.compile(r"([A-Za-z0-9._-]+)\s*>=\s*([\d.]+)[^;]*$")  # without those of an extra
_KERNEL_THREADS = "kthreadd"  # the process 2 of the host's PID namespace
_CONTAINER_HINT = "run doctor on the host, or in a pod with hostPID"
_INTERPRETER = re.compile(r"(?:python|perl|ruby|sh|bash)[\d.]*$")

_Result = TypeVar("_Result")


class ReadRows(Struct, frozen=True, gc=False):
    """The rows of kube-ipvs0, sets and virtual servers, and why parts could not be read."""

    rows: Rows
    unread: dict[Part, str]


def read_rows(kernel: Kernel) -> ReadRows:
    """Return the rows of kube-ipvs0, sets and virtual servers of *kernel*; never raises."""
    rows: Rows = {}
    unread: dict[Part, str] = {}
    for scope in kernel.scopes():
        if scope.kind not in ("ipset", "link") and scope != VIRTUAL_SERVERS:
            continue
        part: Part = "virtual servers" if scope == VIRTUAL_SERVERS else "sets" if scope.kind == "ipset" else "addresses"
        try:
            rows |= kernel.read(scope)
        except KernelError as error:
            if not (scope == VIRTUAL_SERVERS and error.errno == ENOENT):  # no IPVS, which is found by itself
                unread.setdefault(part, str(error))
    return ReadRows(rows, unread)


def read_doctor_facts(
    probed: ProbeResult,
    kernel: Kernel,
    sysctls: Iterable[str],
    programs: Sequence[str],
    *,
    root: Path = Path("/"),
) -> DoctorFacts:
    """Return the facts of now but those that follow from sets and virtual servers; never raises.

    Args:
        probed: What this host supports.
        kernel: The kernel of this network namespace.
        sysctls: The paths of the sysctls to read.
        programs: The programs to look for.
        root: Folder that contains the proc to read.
    """
    reader = _Reader()
    values = {path: value for path in sysctls if (value := read_sysctl(path, root=root)) is not None}
    return DoctorFacts(
        rights=reader.read("rights", lambda: read_rights(root), None),
        lacks=_lacks(probed, reader),
        versions=_versions(probed),
        outdated=reader.read("versions", outdated_libraries, ()),
        sysctls=values,
        read_only=frozenset(path for path in values if not is_writable(path, root=root)),
        rp_filter=_rp_filters(root),
        interfaces_of_routes=reader.read("routes", lambda: frozenset(kernel.gateways().values()), frozenset()),
        interfaces=tuple(name for _, name in if_nameindex()),
        device_mtu=reader.read("addresses", _device_mtu, None),
        set_names=reader.read("sets", set_names, ()),
        backend=probed.backend if probed.commands else "",
        kubelet_backends=reader.read("iptables", lambda: kubelet_backends(root=root), ()),
        stale_rules=reader.read("iptables", lambda: _stale_rules(probed), ""),
        programs=reader.read("processes", lambda: find_programs(programs, root / "proc"), ()),
        local_ports=local_port_range(root),
        reserved_ports=frozenset(reserved_ports(root) or ()),
        timeouts=reader.read("IPVS timeouts", _timeouts, None),
        unread=reader.unread,
    )


class _Reader:
    """Reads parts, and remembers why one could not be read."""

    def __init__(self) -> None:
        self.unread: dict[Part, str] = {}

    def read(self, part: Part, read: Callable[[], _Result], missing: _Result) -> _Result:
        try:
            return read()
        except (KernelError, OSError, metadata.PackageNotFoundError) as error:
            self.unread.setdefault(part, str(error))
            return missing


def _lacks(probed: ProbeResult, reader: _Reader) -> tuple[Lack, ...]:
    """Return what the kernel lacks, as far as the rights of this process do not say it."""
    lacks = [Lack(found.message, found.hint, found.fatal) for found in probed.problems if not found.of_process]
    no_types: tuple[Lack, ...] = ()
    return (*lacks, *reader.read("kernel", lambda: tuple(missing_types(probed.host.families)), no_types))


# Process, versions, programs


def _versions(probed: ProbeResult) -> dict[str, str]:
    iptables = ".".join(map(str, probed.iptables_version)) if probed.commands else "not usable"
    versions = {
        "Linux": probed.kernel_release or "unknown",
        f"iptables ({probed.backend})": iptables,
        "ipset": _version_of("ipset"),
        "Python": platform.python_version(),
    }
    for name, _ in _requirements():
        versions[name] = _installed(name) or "not installed"
    return versions


def _version_of(program: str) -> str:
    try:
        version = parse_version(run([program, "--version"]).stdout.decode("utf-8", "replace"))
    except KernelError:
        return "not installed"
    return ".".join(map(str, version))


def outdated_libraries() -> tuple[Outdated, ...]:
    """Return the libraries that are older than this agent needs.  Raises PackageNotFoundError."""
    metadata.version(_DISTRIBUTION)
    return tuple(
        Outdated(name, version, f">={needed}")
        for name, needed in _requirements()
        if (version := _installed(name)) and parse_version(version) < parse_version(_two_parts(needed))
    )


def _requirements() -> list[tuple[str, str]]:
    """Return name and lowest version of the libraries that the agent needs; none if it is not installed."""
    try:
        lines = metadata.requires(_DISTRIBUTION) or []
    except metadata.PackageNotFoundError:
        return []
    return [(match[1], match[2]) for line in lines if (match := _REQUIREMENT.match(line))]


def _installed(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return ""


def _two_parts(version: str) -> str:
    return version if "." in version else f"{version}.0"


def find_programs(names: Sequence[str], proc: Path = Path("/proc")) -> tuple[tuple[str, int], ...]:
    """Return (program, pid) of the processes of this network namespace that run one of *names*.

    Raises KernelError if the processes of this host are not visible.
    """
    found = tuple(
        (program, pid)
        for pid, words in processes(proc)
        if (program := _program_of(words)) in names and is_in_our_network(pid, proc)
    )
    if not found and _name_of_second(proc) != _KERNEL_THREADS:
        raise KernelError("only the processes of this container are visible", hint=_CONTAINER_HINT)
    return found


def _program_of(words: Sequence[str]) -> str:
    """Return the program of a command line: of an interpreter, its script."""
    names = [word.rpartition("/")[2] for word in words]
    if names and _INTERPRETER.match(names[0]):
        names = [name for name, word in zip(names[1:], words[1:], strict=True) if not word.startswith("-")]
    return names[0] if names else ""


def _name_of_second(proc: Path) -> str:
    try:
        return (proc / "2/comm").read_text().strip()
    except OSError:
        return ""


# Kernel


def _rp_filters(root: Path) -> dict[str, int]:
    """Return rp_filter of each interface, as it is in force: the larger of its own and that of all."""
    values: dict[str, int] = {}
    for file in (root / "proc/sys/net/ipv4/conf").glob("*/rp_filter"):
        try:
            values[file.parent.name] = int(file.read_text())
        except (OSError, ValueError):
            continue
    of_all = values.pop("all", 0)
    return {name: max(value, of_all) for name, value in values.items() if name != "default"}


def _stale_rules(probed: ProbeResult) -> str:
    """Return what other modes left, in words; "" if nothing.  Raises KernelError."""
    stale = find_stale_rules(probed.commands)
    return str(stale) if stale else ""


def _device_mtu() -> int | None:
    adapter = AddressAdapter()
    try:
        return adapter.device_mtu()
    finally:
        adapter.close()


def _timeouts() -> IpvsTimeouts:
    adapter = IpvsAdapter()
    try:
        timeouts = adapter.timeouts()
    finally:
        adapter.close()
    return IpvsTimeouts(timeouts.tcp_s, timeouts.tcp_fin_s, timeouts.udp_s)
