"""The kernel state that an agent makes in a namespace, as ipvsadm, ipset, iptables-save and ip print it.

Invariants:
  - Two states are equal if and only if they treat packets alike and the tools print the same: without counters,
    without order where the kernel has none (sets, servers, chains), but with the order of rules.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import takewhile
from pathlib import Path

from kubeproxy_py.kernel.netlink.socket import has_duplicates
from lab.namespace import Namespace
from tests.e2e.agent_process import wait_until

State = dict[str, tuple[str, ...]]

_END = "-- end of "
_COMMANDS = {
    "virtual servers": "ipvsadm -Sn",
    "ipsets": "ipset save",
    "iptables": "iptables-save",
    "ip6tables": "ip6tables-save",
    "addresses": "ip -o address show",
}
_WAITING_FOR_LOCK = "".join(f'{name}() {{ command {name} -w "$@"; }}\n' for name in ("iptables", "ip6tables"))
_SETTINGS = ("vs/conntrack", "vs/expire_nodest_conn", "vs/expire_quiescent_template")
# Values that differ between runs: the seed of a set's hash, indexes of interfaces, remaining lifetimes of addresses.
_VOLATILE = re.compile(r" initval 0x[0-9a-f]+|^\d+: | +valid_lft.*| \[\d+:\d+\]$")


def run(namespace: Namespace, *argv: str, status: int = 0) -> str:
    """Run a command in *namespace* and return its output; fail if its exit status is not *status*."""
    with namespace.inside():  # a child inherits the namespace of the thread that starts it: no nsenter needed
        done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == status, f"{argv}: {done.returncode}: {done.stderr or done.stdout}"
    return done.stdout


def shell(namespace: Namespace, script: str) -> str:
    """Run a shell script in *namespace* and return its output; fail if one of its commands fails.

    `iptables` and `ip6tables` wait for their lock, which an agent that repairs something may have.
    """
    return run(namespace, "sh", "-ec", _WAITING_FOR_LOCK + script)


@contextmanager
def ip_monitor(namespace: Namespace, *objects: str) -> Iterator[Callable[[str], list[str]]]:
    """Run `ip monitor` for *objects* within the `with`.

    Yields a function that returns the notifications since its last call, or since the start, before the first one that
    contains a text: that of a change which the test makes last.
    """
    with namespace.inside():
        monitor = subprocess.Popen(["ip", "-o", "monitor", *objects], stdout=subprocess.PIPE, text=True)
    with monitor:
        try:
            wait_until(lambda: monitor.pid in _rtnetlink_listeners(namespace))
            assert monitor.stdout
            lines = monitor.stdout
            yield lambda last: list(takewhile(lambda line: last not in line, lines))
        finally:
            monitor.kill()


def _rtnetlink_listeners(namespace: Namespace) -> set[int]:
    """Return the ports of the sockets that get notifications of rtnetlink; a program's first one is its PID."""
    with namespace.inside():
        lines = Path("/proc/thread-self/net/netlink").read_text().splitlines()[1:]
    return {int(port) for _, protocol, port, groups, *_ in map(str.split, lines) if protocol == "0" and int(groups, 16)}


def kernel_state(namespace: Namespace, parts: Iterable[str] = tuple(_COMMANDS)) -> State:
    """Return the current settings and *parts* of the state, without link-local addresses, which are random."""
    named = tuple(parts)
    state = _state(namespace, named)
    while has_duplicates(state.get("virtual servers", ())):
        # Linux 7 moved virtual servers to another table while ipvsadm listed them: some come twice, others are missing.
        state = _state(namespace, named)
    return state


def _state(namespace: Namespace, parts: Iterable[str]) -> State:
    state: State = {"settings": _settings(namespace)}
    lines: list[str] = []
    script = "".join(f"{_COMMANDS[part]}; echo '{_END}{part}'\n" for part in parts)
    for line in shell(namespace, script).splitlines():
        if line.startswith(_END):
            part = line.removeprefix(_END)
            state[part] = tuple(_rules(lines)) if "tables" in part else tuple(sorted(lines))
            lines = []
        elif " fe80:" not in line:
            lines.append(_VOLATILE.sub("", line.rstrip()))
    return state


def _settings(namespace: Namespace) -> tuple[str, ...]:
    with namespace.inside():
        return tuple(f"{name}:{Path('/proc/sys/net/ipv4', name).read_text().strip()}" for name in _SETTINGS)


def _rules(saved: list[str]) -> list[str]:
    """Return chains and rules, each with its table, in the order within a chain.

    A table whose built-in chains are empty is left out: reading it is enough to create it.
    """
    table, lines = "", []
    for line in saved:
        if line.startswith("*"):
            table = line[1:]
        elif line.startswith("-A") or (line.startswith(":") and not line.endswith(" ACCEPT")):
            lines.append(f"{table} {line}")
    return sorted(lines, key=lambda line: line.split()[:3] if " -A " in line else [line])


def differences(one: State, other: State) -> list[str]:
    """Return each line that only one of the two has, or that is in another place; for a failing test to print."""
    lines = []
    for part in one:
        lines += [f"{part}: - {line}" for line in one[part] if line not in other[part]]
        lines += [f"{part}: + {line}" for line in other[part] if line not in one[part]]
        if one[part] != other[part] and sorted(one[part]) == sorted(other[part]):
            lines.append(f"{part}: the same lines in another order")
    return lines


def counters(namespace: Namespace) -> dict[str, int]:
    """Return the packets counted by each of our iptables rules, and the connections of each virtual and real server.

    A rule or server that is deleted and added again starts at 0.
    """
    counted: dict[str, int] = {}
    for family, command in (("IPv4", "iptables-save"), ("IPv6", "ip6tables-save")):
        for packets, rule in re.findall(r"^\[(\d+):\d+\] (-A KUBE-.*)$", run(namespace, command, "-c"), re.MULTILINE):
            counted[f"{family} {rule}"] = int(packets)
    server = ""
    listed = run(namespace, "ipvsadm", "-Ln", "--stats", "--exact").splitlines()[3:]
    while has_duplicates(tuple(line.split()[:2]) for line in listed if not line.startswith("  ->")):  # see kernel_state
        listed = run(namespace, "ipvsadm", "-Ln", "--stats", "--exact").splitlines()[3:]
    for line in listed:
        kind, address, connections, *_ = line.split()
        server = f"{kind} {address}" if kind != "->" else server
        counted[server if kind != "->" else f"{server} -> {address}"] = int(connections)
    return counted
