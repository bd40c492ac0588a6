"""kernel_state: all that an agent makes in a namespace, as the tools that people use print it.

Law: two states are equal if, and only if, packets and people can't tell them apart: no counters, no order where the
kernel has none (sets, servers, chains among each other), but rules in the order in which they stand.
"""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

from lab.namespace import Namespace

State = dict[str, tuple[str, ...]]

_ENDS = "-- end of "
_LOOKS = {
    "virtual servers": "ipvsadm -Sn",
    "ipsets": "ipset save",
    "iptables": "iptables-save",
    "ip6tables": "ip6tables-save",
    "addresses": "ip -o address show",
}
_SCRIPT = "".join(f"{command}; echo '{_ENDS}{look}'\n" for look, command in _LOOKS.items())
_SETTINGS = ("vs/conntrack", "vs/expire_nodest_conn", "vs/expire_quiescent_template")
# What differs by chance: where a set's hash begins, the numbers of interfaces, how long an address is still valid.
_CHANCE = re.compile(r" initval 0x[0-9a-f]+|^\d+: | +valid_lft.*| \[\d+:\d+\]$")


def run(namespace: Namespace, *argv: str) -> str:
    """What a command prints in *namespace*.  Fails if its exit status is not 0."""
    with namespace.inside():  # a child belongs to the namespace of the thread that starts it: no nsenter needed
        done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{argv}: {done.stderr or done.stdout}"
    return done.stdout


def shell(namespace: Namespace, script: str) -> str:
    """What a script prints there; each of its commands must succeed."""
    return run(namespace, "sh", "-ec", script)


def kernel_state(namespace: Namespace) -> State:
    """The state now; link-local addresses, which are random, left out."""
    state: State = {"settings": _settings(namespace)}
    lines: list[str] = []
    for line in shell(namespace, _SCRIPT).splitlines():
        if line.startswith(_ENDS):
            look = line.removeprefix(_ENDS)
            state[look] = tuple(_rules(lines)) if "tables" in look else tuple(sorted(lines))
            lines = []
        elif " fe80:" not in line:
            lines.append(_CHANCE.sub("", line.rstrip()))
    return state


def _settings(namespace: Namespace) -> tuple[str, ...]:
    with namespace.inside():
        return tuple(f"{name}:{Path('/proc/sys/net/ipv4', name).read_text().strip()}" for name in _SETTINGS)


def _rules(saved: list[str]) -> list[str]:
    """Chains and rules, each with its table; the order is that within a chain.

    A table that was only looked at, with its own chains empty, counts for nothing.
    """
    table, found = "", []
    for line in saved:
        if line.startswith("*"):
            table = line[1:]
        elif line.startswith("-A") or (line.startswith(":") and not line.endswith(" ACCEPT")):
            found.append(f"{table} {line}")
    return sorted(found, key=lambda line: line.split()[:3] if " -A " in line else [line])


def differences(one: State, other: State) -> list[str]:
    """Each line that only one of the two has, or that stands elsewhere; for a failing test to print."""
    found = []
    for look in one:
        found += [f"{look}: - {line}" for line in one[look] if line not in other[look]]
        found += [f"{look}: + {line}" for line in other[look] if line not in one[look]]
        if one[look] != other[look] and sorted(one[look]) == sorted(other[look]):
            found.append(f"{look}: the same lines in another order")
    return found


def counters(namespace: Namespace) -> dict[str, int]:
    """Packets counted so far by each of our iptables rules, and connections by each virtual and real server.

    A rule or a server that is written anew begins again at 0.
    """
    counted: dict[str, int] = {}
    for family, command in (("IPv4", "iptables-save"), ("IPv6", "ip6tables-save")):
        for packets, rule in re.findall(r"^\[(\d+):\d+\] (-A KUBE-.*)$", run(namespace, command, "-c"), re.MULTILINE):
            counted[f"{family} {rule}"] = int(packets)
    server = ""
    for line in run(namespace, "ipvsadm", "-Ln", "--stats", "--exact").splitlines()[3:]:
        kind, address, connections, *_ = line.split()
        server = f"{kind} {address}" if kind != "->" else server
        counted[server if kind != "->" else f"{server} -> {address}"] = int(connections)
    return counted
