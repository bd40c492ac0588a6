"""Read the kernel state of this namespace, as the usual tools print it.

Sysctls are compared with an earlier snapshot: one is included if it changed since, or if the recording mentions it (a
kernel with other defaults may have had its value already).
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from kubeproxy_py.kernel.netlink.socket import has_duplicates
from tests.conformance.canonical import SYSCTLS, canonical_lines

_ROOT, _NET = "/proc/sys", "net"
_LONGEST_VALUE_BYTES = 64 << 10  # ip_local_reserved_ports
_SERVERS = "ipvsadm-save.txt"
# Each file of a recording and the command that prints it.
_COMMANDS = {
    _SERVERS: ("ipvsadm", "-Sn"),
    "ipset-save.txt": ("ipset", "save"),
    "iptables-save.txt": ("iptables-save",),
    "ip6tables-save.txt": ("ip6tables-save",),
    "timeouts.txt": ("ipvsadm", "-Ln", "--timeout"),
}
_ADDRESSES = "addresses.txt"
# The kernel changes these itself when ip_forward is set.  Source: net/ipv4/devinet.c, inet_forward_change.
_FOLLOW_FROM_FORWARDING = re.compile(r"net/ipv4/conf/([^/]+/forwarding|all/accept_redirects)")
# A count; and a second name for net/netfilter/nf_conntrack_max.  Source: net/netfilter/nf_conntrack_standalone.c.
_EXCLUDED = {"net/netfilter/nf_conntrack_count", "net/nf_conntrack_max"}

Sysctls = Mapping[str, str]


def kernel_snapshot(files: Iterable[str], before: Sysctls, mentioned: Iterable[str] = ()) -> dict[str, list[str]]:
    """The canonical lines of the present state, for each of *files*; *mentioned* are the recorded lines of sysctls.

    Raises OSError with the output of the tool if one fails.
    """
    return {file: canonical_lines(file, _text(file, before, mentioned)) for file in files}


def snapshot_sysctls() -> dict[str, str]:
    """Every readable network sysctl, by its path below /proc/sys."""
    return {name: value for name in _names(_NET) if (value := _value(name)) is not None}


def _text(file: str, before: Sysctls, mentioned: Iterable[str]) -> str:
    if file == SYSCTLS:
        return "\n".join(_changed_sysctls(before, {line.partition(" = ")[0] for line in mentioned}))
    if file == _ADDRESSES:
        return _addresses()
    if file == _SERVERS:
        return _servers()
    return _print(*_COMMANDS[file])


def _servers() -> str:
    """Virtual and real servers, listed again if Linux 7 moved some to another table meanwhile.

    Then some come twice, and others are missing.
    """
    while has_duplicates(lines := _print(*_COMMANDS[_SERVERS]).splitlines()):
        pass
    return "\n".join(lines)


def _changed_sysctls(before: Sysctls, mentioned: set[str]) -> Iterator[str]:
    now = snapshot_sysctls()
    for name, value in now.items():
        changed = name in before and before[name] != value and not _FOLLOW_FROM_FORWARDING.fullmatch(name)
        if changed or name in mentioned:
            yield f"{name} = {value}"


def _names(folder: str) -> Iterator[str]:
    """The sysctls below *folder*.  There are 1,400; with pathlib instead of os a snapshot takes 3 s in the lab."""
    with os.scandir(f"{_ROOT}/{folder}") as entries:
        for entry in entries:
            name = f"{folder}/{entry.name}"
            if entry.is_dir():
                yield from _names(name)
            elif name not in _EXCLUDED:
                yield name


def _value(name: str) -> str | None:
    try:
        descriptor = os.open(f"{_ROOT}/{name}", os.O_RDONLY)
    except OSError:
        return None  # write-only, or of a link that was just deleted
    try:
        return " ".join(os.read(descriptor, _LONGEST_VALUE_BYTES).decode().split())
    except OSError:
        return None  # never set
    finally:
        os.close(descriptor)


def _addresses() -> str:
    """Family and address of each line of `ip -o addr`: `5: kube-ipvs0    inet 10.96.0.1/32 scope ...`."""
    if not Path("/sys/class/net/kube-ipvs0").exists():
        return ""
    rows = (line.split() for line in _print("ip", "-o", "addr", "show", "dev", "kube-ipvs0").splitlines())
    return "\n".join(f"{family} {address}" for _, _, family, address, *_ in rows)


def _print(*argv: str) -> str:
    result = subprocess.run(argv, capture_output=True, text=True, check=False)
    if result.returncode:
        raise OSError(f"{' '.join(argv)} exited with status {result.returncode}: {result.stderr.strip()}")
    return result.stdout
