"""kernel_state: all that an agent makes in a namespace, as the tools that people use print it.

Law: two states are equal if, and only if, packets and people can't tell them apart: no counters, no order where the
kernel has none (sets, servers, chains among each other), but rules in the order in which they stand.
"""

from __future__ import annotations

import re
import subprocess

from tests.lab.namespace import Namespace

State = dict[str, tuple[str, ...]]

# initval is where a set's hash begins, anew each time it is made.
_LOOKS = {
    "virtual servers": "ipvsadm -Sn",
    "ipsets": r"ipset save | sed 's/ initval 0x[0-9a-f]*//'",
    "iptables nat": "iptables-save -t nat",
    "iptables filter": "iptables-save -t filter",
    "ip6tables nat": "ip6tables-save -t nat",
    "ip6tables filter": "ip6tables-save -t filter",
    "addresses": "ip -o address show | sed 's/valid_lft.*//'",
    "settings": "cd /proc/sys/net/ipv4; grep . vs/conntrack vs/expire_nodest_conn vs/expire_quiescent_template",
}
_ENDS = "-- end of "


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
    """The state now."""
    script = "".join(f"{command}; echo '{_ENDS}{look}'\n" for look, command in _LOOKS.items())
    state: State = {}
    lines: list[str] = []
    for line in shell(namespace, script).splitlines():
        if line.startswith(_ENDS):
            state[line.removeprefix(_ENDS)] = _canonical(lines)
            lines = []
        elif not line.startswith("#"):
            lines.append(re.sub(r" \[\d+:\d+\]$", "", line.rstrip()))
    return state


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


def _canonical(lines: list[str]) -> tuple[str, ...]:
    """Sorted; but rules (-A CHAIN ...) by their chain alone, so that those of one chain keep their order."""
    is_rules = any(line.startswith("*") for line in lines)
    return tuple(sorted(lines, key=lambda line: line.split()[:2] if is_rules else [line]))
