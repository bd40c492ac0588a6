"""The faults of a soak: how each is injected, what it may break, and how long recovery may take.

Invariants:
  - A function that injects returns, once the fault is complete (an outage: over), the check of recovery.
  - Nothing but the lab's kernel is changed.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

from lab.client import QueryError, query
from lab.network import BY_NAME
from tests.e2e.agent_process import AgentProcess, command_line, wait_until
from tests.e2e.iptables_lock import rules_locked
from tests.soak.node import Check, Node
from tests.soak.plan import Choice
from tests.soak.services import CLUSTER_IP, NODE_IP, NODE_PORT, SECOND_NODE_IP, VIP

NOTIFIED_S, COMPARED_S, RESTARTED_S, WATCHED_S, MUTE_S = 10.0, 45.0, 20.0, 30.0, 90.0
OUTAGE_S = 4.0

IPVS, SETS, RULES, ADDRESSES = ("virtual servers",), ("ipsets",), ("iptables", "ip6tables"), ("addresses",)
_FLUSH_SETS = "for set in $(ipset list -name | grep ^KUBE-); do ipset flush $set; done"
_DELETE_JUMPS = """
for tables in iptables ip6tables; do for table in nat filter; do
  $tables -w -t $table -S | grep -v '^-A KUBE-' | grep -e '-j KUBE-' | sed 's/^-A/-D/' | while read -r rule; do
    eval $tables -w -t $table "$rule"
  done
done; done
"""


class Fault(NamedTuple):
    """One fault.

    how: the command, or the outage, for docs/reliability.md.  may_reset: the fault itself ends established
    connections, and the reason.  within_s: how long recovery may take on a machine that has nothing else to do.
    drift: kernel state is changed that the agent repairs.  kind, rare, pairs: as in plan.Choice.
    """

    name: str
    how: str
    inject: Callable[[Node], Check]
    within_s: float
    may_reset: str = ""
    drift: bool = False
    rare: bool = False
    pairs: bool = False
    kind: str = "rows"


def _drift(
    name: str,
    script: str,
    parts: tuple[str, ...],
    *,
    how: str = "",
    may_reset: str = "",
    within_s: float = COMPARED_S,
    pairs: bool = True,
    kind: str = "rows",
) -> Fault:
    """Return the fault that a shell script deletes or changes rows in *parts* of kernel state."""

    def inject(node: Node) -> Check:
        node.shell(script)
        return node.has_rows(*parts)

    return Fault(name, how or f"`{script}`", inject, within_s, may_reset, drift=True, pairs=pairs, kind=kind)


def _unbind(name: str, script: str) -> Fault:
    """Return the fault that Service addresses are no longer the node's, which the kernel reports at once."""
    return _drift(name, script, ADDRESSES, may_reset=_MOVED, within_s=NOTIFIED_S, kind="addresses")


def _setting(name: str, path: str) -> Fault:
    """Return the fault that a sysctl that the agent sets to 1 is set to 0."""

    def inject(node: Node) -> Check:
        node.shell(f"echo 0 > /proc/sys/{path}")
        return lambda: [] if _read(node, path) == "1" else [f"{path} is 0"]

    return Fault(name, f"`sysctl -w {path.replace('/', '.')}=0`", inject, COMPARED_S, drift=True, pairs=True)


def _read(node: Node, path: str) -> str:
    with node.cluster.node_a.inside():
        return Path("/proc/sys", path).read_text().strip()


# Rows -----------------------------------------------------------------------------------------------------------------


def _delete_rules(node: Node) -> Check:
    """Delete all rules while one of another table needs connection tracking, so that the kernel goes on with it."""
    node.shell(f"iptables -w -t mangle -A {_TRACKING}; {_NO_RULES}")
    check = node.has_rows(*RULES)

    def checked() -> list[str]:
        missing = check()
        if not missing:
            node.shell(f"iptables -w -t mangle -D {_TRACKING}")
        return missing

    return checked


def _flush_conntrack(node: Node) -> Check:
    node.shell("conntrack -F")
    return list  # nothing has to be repaired


def _add_foreign_rows(node: Node) -> Check:
    address = node.next_foreign_address()
    node.shell(
        f"ipvsadm -A -t {address}:99 -s rr; ipset add KUBE-CLUSTER-IP {address},tcp:99; "
        f"ip address add {address}/32 dev kube-ipvs0"
    )
    return node.lacks(address, *IPVS, *SETS, *ADDRESSES)


# Addresses of the node ------------------------------------------------------------------------------------------------


def _add_node_address(node: Node) -> Check:
    """Add an address to the node, wait until the NodePort answers there, and delete it: the others are unharmed."""
    node.shell(f"ip address add {SECOND_NODE_IP}/24 dev eth1")
    try:
        wait_until(lambda: _answers(node, SECOND_NODE_IP), timeout_s=WATCHED_S)
    finally:
        node.shell(f"ip address del {SECOND_NODE_IP}/24 dev eth1")
    return node.has_rows(*IPVS, *SETS, *ADDRESSES)


def _answers(node: Node, address: str) -> bool:
    try:
        query(node.cluster["outside"], "tcp", address, NODE_PORT)
    except QueryError:
        return False
    return True


# The API server -------------------------------------------------------------------------------------------------------


def _cut_connections(node: Node) -> Check:
    node.api.close_connections()
    return node.follows_changes()


def _answer_500(node: Node) -> Check:
    node.api.respond_next(500, times=1000, kind="Status", reason="InternalError", code=500)
    node.api.close_connections()
    time.sleep(OUTAGE_S)
    node.api.faults.next_responses.clear()
    return node.follows_changes()


def _compact(node: Node) -> Check:
    """Answer the watches that are opened again with 410, because history was compacted past their version."""
    node.api.faults.delay_s = 0.3  # so that the change precedes the new watches
    node.api.close_connections()
    check = node.follows_changes()
    node.api.store.compact()
    node.api.close_connections()
    node.api.faults.delay_s = 0.0
    return check


def _be_silent(node: Node) -> Check:
    node.api.faults.dead = True
    time.sleep(OUTAGE_S)
    node.api.faults.dead = False
    return node.follows_changes()


def _mute_watches(node: Node) -> Check:
    node.api.freeze_watches()
    return node.follows_changes()


def _stop_api(node: Node) -> Check:
    node.api.stop()
    time.sleep(OUTAGE_S)
    node.start_api()
    return node.follows_changes()


# The agent ------------------------------------------------------------------------------------------------------------


def _kill(node: Node) -> Check:
    node.end_agent(signal.SIGKILL)
    node.start_agent()
    return node.follows_changes()


def _terminate(node: Node) -> Check:
    node.end_agent(signal.SIGTERM)
    node.start_agent()
    return node.follows_changes()


def _freeze(node: Node) -> Check:
    os.kill(node.agent.pid, signal.SIGSTOP)
    time.sleep(OUTAGE_S)
    os.kill(node.agent.pid, signal.SIGCONT)
    return node.follows_changes()


def _start_second_agent(node: Node) -> Check:
    """Start a second agent, which must give up; it waits 30 s for the first one to end.

    It has no Services, so it would delete all of them.
    """
    with TemporaryDirectory() as folder, AgentProcess(node.cluster.node_a, Path(folder)) as second:
        wait_until(lambda: not second.is_running(), lambda: "the second agent was not refused", timeout_s=90.0)
        assert any("another agent runs" in line for line in second.lines()), second.lines()[-3:]
    return node.follows_changes()


def _clean_up(node: Node) -> Check:
    """Run `kubeproxy-py cleanup`, which must be refused while the agent runs."""
    argv = node.cluster.node_a.wrap(command_line(Path("/nowhere"), "cleanup"))
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == 1 and "an agent runs" in done.stderr, (done.returncode, done.stderr)
    return node.has_rows(*IPVS, *SETS, *RULES, *ADDRESSES)


# The host -------------------------------------------------------------------------------------------------------------


def _lock_rules(node: Node) -> Check:
    with rules_locked():
        time.sleep(OUTAGE_S)
    return node.follows_changes()


def _jump_clock(node: Node) -> Check:
    """Set the clock forward for a moment; less than the certificates of the API server are valid."""
    jump_s = 1800.0
    time.clock_settime(time.CLOCK_REALTIME, time.time() + jump_s)
    time.sleep(OUTAGE_S)
    time.clock_settime(time.CLOCK_REALTIME, time.time() - jump_s)
    return node.follows_changes()


_DELETED = "those to what is deleted, by `expire_nodest_conn=1`"
_MOVED = "a masqueraded one, if a packet of it leaves the node by another interface meanwhile"
_NO_CONNTRACK = "masqueraded ones, whose ports the kernel forgets"
_POD = BY_NAME["pod-a1"].ipv4
_UNTRACKED = "masqueraded ones, because the kernel stops tracking connections"
_NO_MARK = "iptables -w -t nat -F KUBE-POSTROUTING"
_NO_RULES = "iptables -w -t nat -F; iptables -w -F"
_TRACKING = "PREROUTING -m conntrack --ctstate INVALID"

_ALL = (
    _drift("all virtual servers deleted", "ipvsadm -C", IPVS, may_reset=_DELETED),
    _drift("a virtual server deleted", f"ipvsadm -D -t {VIP}:80", IPVS, may_reset=_DELETED),
    _drift("a real server deleted", f"ipvsadm -d -t {CLUSTER_IP}:80 -r {_POD}:8080", IPVS, may_reset=_DELETED),
    _drift("a real server's weight set to 0", f"ipvsadm -e -t {NODE_IP}:{NODE_PORT} -r {_POD}:8080 -m -w 0", IPVS),
    _drift("a scheduler changed", f"ipvsadm -E -t {CLUSTER_IP}:80 -s wlc", IPVS),
    _drift("a set entry deleted", f"ipset del KUBE-CLUSTER-IP {CLUSTER_IP},tcp:80", SETS),
    _drift("a set emptied", "ipset flush KUBE-NODE-PORT-TCP", SETS),
    _drift("all sets emptied", _FLUSH_SETS, SETS, how="`ipset flush` for each of our sets"),
    _drift("a chain emptied", _NO_MARK, RULES),
    _drift("all rules deleted", _NO_RULES, RULES, may_reset=_UNTRACKED),
    Fault(
        "all rules of two tables deleted",
        f"`{_NO_RULES}`; a rule in `mangle` matches `conntrack`",
        _delete_rules,
        COMPARED_S,
        drift=True,
    ),
    _drift(
        "all rules and chains deleted",
        "iptables -w -t nat -F; iptables -w -t nat -X; iptables -w -F; iptables -w -X",
        RULES,
        may_reset=_UNTRACKED,
    ),
    _drift("all jumps deleted", _DELETE_JUMPS, RULES, how="`iptables -D`, `ip6tables -D` for each jump to our chains"),
    _unbind("an address deleted", f"ip address del {CLUSTER_IP}/32 dev kube-ipvs0"),
    _unbind("all addresses deleted", "ip address flush dev kube-ipvs0"),
    _unbind("the device deleted", "ip link del kube-ipvs0"),
    # Without pairs: an agent that starts while the device has another name takes its addresses for the node's own.
    _drift("the device renamed", "ip link set kube-ipvs0 name other0", ADDRESSES, pairs=False, kind="addresses"),
    _setting("forwarding switched off", "net/ipv4/ip_forward"),
    _setting("conntrack of IPVS switched off", "net/ipv4/vs/conntrack"),
    Fault(
        "a virtual server, entry and address added",
        "`ipvsadm -A`, `ipset add`, `ip address add`",
        _add_foreign_rows,
        COMPARED_S,
        drift=True,
        pairs=True,
    ),
    Fault("conntrack flushed", "`conntrack -F`", _flush_conntrack, NOTIFIED_S, _NO_CONNTRACK, pairs=True),
    Fault(
        "an address of the node added and deleted",
        f"`ip address add {SECOND_NODE_IP}/24 dev eth1`",
        _add_node_address,
        NOTIFIED_S,
        kind="addresses",
    ),
    Fault("agent killed", "`kill -9`, and another start", _kill, RESTARTED_S, pairs=True, kind="agent"),
    Fault("agent stopped", "`kill -TERM`, and another start", _terminate, RESTARTED_S, pairs=True, kind="agent"),
    Fault("agent frozen", f"`kill -STOP` for {OUTAGE_S:g} s", _freeze, RESTARTED_S, kind="agent"),
    Fault(
        "second agent",
        "a second `kubeproxy-py run`, with no Services",
        _start_second_agent,
        RESTARTED_S,
        rare=True,
        kind="second agent",
    ),
    Fault("cleanup while the agent runs", "`kubeproxy-py cleanup`", _clean_up, NOTIFIED_S, kind="agent"),
    Fault(
        "iptables locked",
        f"`/run/xtables.lock` held for {OUTAGE_S:g} s",
        _lock_rules,
        RESTARTED_S,
        pairs=True,
        kind="lock holder",
    ),
    Fault("API connections cut", "all connections closed", _cut_connections, WATCHED_S, pairs=True, kind="API server"),
    Fault("API server answers 500", f"for {OUTAGE_S:g} s", _answer_500, WATCHED_S, kind="API server"),
    Fault("API history compacted", "watches are answered with 410", _compact, WATCHED_S, kind="API server"),
    Fault("API server silent", f"no answer for {OUTAGE_S:g} s", _be_silent, WATCHED_S, kind="API server"),
    Fault("API server stopped", f"refuses connections for {OUTAGE_S:g} s", _stop_api, WATCHED_S, kind="API server"),
    Fault(
        "watches mute",
        "open watches stay open and send nothing any more",
        _mute_watches,
        MUTE_S,
        rare=True,
        kind="mute watches",
    ),
    Fault("clock set", f"half an hour forward for {OUTAGE_S:g} s", _jump_clock, RESTARTED_S, kind="clock"),
)
FAULTS = {fault.name: fault for fault in _ALL}
MAY_RESET = frozenset(fault.name for fault in _ALL if fault.may_reset)
_OWN_KERNEL_ONLY = frozenset({"clock set"})


def choices() -> list[Choice]:
    """Return the faults that can be injected here: without a kernel of the lab's own the clock is the machine's."""
    own_kernel = os.environ.get("LAB_INSIDE") in ("uml", "qemu")
    return [
        Choice(fault.name, fault.kind, fault.rare, fault.pairs)
        for fault in _ALL
        if own_kernel or fault.name not in _OWN_KERNEL_ONLY
    ]
