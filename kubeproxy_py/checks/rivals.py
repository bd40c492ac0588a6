"""Rivals: other programs that program Services on this node, recognized by facts about it.

Two service proxies undo each other's changes, or answer the same packets differently.  kube-proxy in any mode, or
another agent, is known by its process, by what answers at kube-proxy's ports, and by rows that it changes again as
often as they are repaired.
"""

from collections.abc import Iterable, Sequence

from msgspec import Struct

from kubeproxy_py.model.finding import Finding

ANOTHER_PROXY, REPEATED_DRIFT = "AnotherServiceProxy", "RepeatedDrift"
"""The reasons of findings."""

METRICS_PORT, HEALTH_PORT = 10249, 10256
QUESTIONS: dict[int, str] = {METRICS_PORT: "/proxyMode", HEALTH_PORT: "/healthz"}
"""What to ask at the ports at which kube-proxy, and only a service proxy, answers by default."""

_MODES = ("iptables", "ipvs", "nftables", "userspace", "kernelspace")
_HEALTH_FIELD = '"lastUpdated"'
_PROGRAMS = frozenset(("kube-proxy", "kube-router"))
_OUR_SCRIPTS = frozenset(("kubeproxy-py", "kube-proxy"))  # the image has the agent under kube-proxy's name, too
_OUR_MODULE = ("-m", "kubeproxy_py")
_ROWS_NAMED, _USERS_NAMED = 3, 5
_KNOWN_WRITERS = frozenset(
    ("kube-proxy", "kube-router", "keepalived", "cilium-agent", "calico-node", "ipvsadm", "ldirectord", "firewalld")
)
_ONE_PROXY = "two service proxies undo each other's changes or answer the same packets differently"
_HINT = "stop one of the two; docs/migrate.md describes how"


class ProxyProcess(Struct, frozen=True, gc=False):
    """A process that is a service proxy."""

    pid: int
    program: str


class Facts(Struct, frozen=True, gc=False):
    """What was observed on this node."""

    processes: tuple[ProxyProcess, ...] = ()  # in our network namespace, without ourselves
    answers: tuple[tuple[int, str], ...] = ()  # (port, answer) of QUESTIONS, from others than ourselves
    disputed: tuple[str, ...] = ()  # rows that were changed again each time after they were repaired
    netlink_users: tuple[ProxyProcess, ...] = ()  # programs that could have changed them


def service_proxy(words: Sequence[str]) -> str:
    """Return the service proxy that the command line *words* runs, or "" if it runs none."""
    if not words:
        return ""
    program = words[0].rpartition("/")[2]
    if program in _PROGRAMS:
        return "" if "--run-service-proxy=false" in words else program
    if program == "hyperkube" and words[1:2] in (["proxy"], ["kube-proxy"]):
        return "kube-proxy"
    return "kubeproxy-py" if program.startswith("python") and _runs_our_agent(words[1:]) else ""


def _runs_our_agent(arguments: Sequence[str]) -> bool:
    """Return whether the Python interpreter with *arguments* runs this agent, not one of its other commands."""
    if tuple(arguments[:2]) == _OUR_MODULE:
        rest = arguments[2:]
    elif arguments and arguments[0].rpartition("/")[2] in _OUR_SCRIPTS:
        rest = arguments[1:]
    else:
        return False
    command = rest[0] if rest and not rest[0].startswith("-") else "run"
    return command == "run" and not {"--init-only", "--cleanup"}.intersection(rest)


def find_rivals(facts: Facts) -> tuple[Finding, ...]:
    """Return a finding for each other service proxy, and one for the rows that somebody contests."""
    processes = [
        Finding(ANOTHER_PROXY, f"{process.program} (pid {process.pid})", _ONE_PROXY, _HINT)
        for process in facts.processes
    ]
    named = processes or [finding for port, answer in facts.answers if (finding := _finding_at(port, answer))]
    return (*named, *_dispute(facts, [finding.subject for finding in named]))


def _finding_at(port: int, answer: str) -> Finding | None:
    """Return the finding that *answer* at *port* is; None if no service proxy answers so."""
    if port == METRICS_PORT and answer.strip() in _MODES:
        subject = f"a kube-proxy in {answer.strip()} mode, which answers at port {port}"
    elif port == HEALTH_PORT and _HEALTH_FIELD in answer:
        subject = f"a service proxy, which answers health checks at port {port}"
    else:
        return None
    return Finding(ANOTHER_PROXY, subject, _ONE_PROXY, _HINT)


def _dispute(facts: Facts, proxies: Iterable[str]) -> list[Finding]:
    rows = facts.disputed
    if not rows:
        return []
    others = len(rows) - _ROWS_NAMED
    subject = ", ".join(rows[:_ROWS_NAMED]) + (f" and {others} more" if others > 0 else "")
    who = " and ".join(proxies) or "another program"
    message = f"{who} changes them again each time after they were repaired; packets may be lost in between"
    if able := ", ".join(f"{user.program} (pid {user.pid})" for user in _likely_first(facts.netlink_users)):
        message += f"; programs that have netlink sockets to do so: {able}"
    hint = "stop the other proxy, or what flushes rules; list addresses of other IPVS users in ipvs.excludeCIDRs"
    return [Finding(REPEATED_DRIFT, subject, message, hint)]


def _likely_first(users: Iterable[ProxyProcess]) -> list[ProxyProcess]:
    """Return up to _USERS_NAMED of *users*, first those that are known to program IPVS, sets or rules."""
    return sorted(users, key=lambda user: user.program not in _KNOWN_WRITERS)[:_USERS_NAMED]
