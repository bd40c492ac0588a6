"""look: the kernel state of this namespace, as the usual tools print it.

Law: it only reads.  Sysctls are compared with a snapshot: one is told if it changed since, or if the recording speaks
of it (its value may have been there already on a kernel with other defaults).
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from tests.conformance.canon import SYSCTLS, lines_of

_ROOT, _NET = "/proc/sys", "net"
_LONGEST_VALUE_BYTES = 64 << 10  # ip_local_reserved_ports
# Each file of a recording and the command that prints it.
_COMMANDS = {
    "ipvsadm-save.txt": ("ipvsadm", "-Sn"),
    "ipset-save.txt": ("ipset", "save"),
    "iptables-save.txt": ("iptables-save",),
    "ip6tables-save.txt": ("ip6tables-save",),
    "timeouts.txt": ("ipvsadm", "-Ln", "--timeout"),
}
_ADDRESSES = "addresses.txt"
# The kernel writes these itself when ip_forward is set.  Source: net/ipv4/devinet.c, inet_forward_change.
_FOLLOW_FROM_FORWARDING = re.compile(r"net/ipv4/conf/([^/]+/forwarding|all/accept_redirects)")
# A count; and a second name for net/netfilter/nf_conntrack_max.  Source: net/netfilter/nf_conntrack_standalone.c.
_LEFT_OUT = {"net/netfilter/nf_conntrack_count", "net/nf_conntrack_max"}

Sysctls = Mapping[str, str]


def look(files: Iterable[str], before: Sysctls, mentioned: Iterable[str] = ()) -> dict[str, list[str]]:
    """Canonical lines of the state now, for each of *files*; *mentioned* are the recording's lines of sysctls.

    Raises OSError with what the tool said if one fails.
    """
    return {file: lines_of(file, _text(file, before, mentioned)) for file in files}


def snapshot_sysctls() -> dict[str, str]:
    """Every setting of the network that can be read, by its path below /proc/sys."""
    return {name: value for name in _names(_NET) if (value := _value(name)) is not None}


def _text(file: str, before: Sysctls, mentioned: Iterable[str]) -> str:
    if file == SYSCTLS:
        return "\n".join(_told_sysctls(before, {line.partition(" = ")[0] for line in mentioned}))
    if file == _ADDRESSES:
        return _addresses()
    return _print(*_COMMANDS[file])


def _told_sysctls(before: Sysctls, mentioned: set[str]) -> Iterator[str]:
    now = snapshot_sysctls()
    for name, value in now.items():
        changed = name in before and before[name] != value and not _FOLLOW_FROM_FORWARDING.fullmatch(name)
        if changed or name in mentioned:
            yield f"{name} = {value}"


def _names(folder: str) -> Iterator[str]:
    """Settings below *folder*.  By plain calls: there are 1,400, and with pathlib a snapshot takes 3 s in the lab."""
    with os.scandir(f"{_ROOT}/{folder}") as entries:
        for entry in entries:
            name = f"{folder}/{entry.name}"
            if entry.is_dir():
                yield from _names(name)
            elif name not in _LEFT_OUT:
                yield name


def _value(name: str) -> str | None:
    try:
        descriptor = os.open(f"{_ROOT}/{name}", os.O_RDONLY)
    except OSError:
        return None  # write-only, or of a link that has just gone
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
    ended = subprocess.run(argv, capture_output=True, text=True, check=False)
    if ended.returncode:
        raise OSError(f"{' '.join(argv)} ended with status {ended.returncode}: {ended.stderr.strip()}")
    return ended.stdout
