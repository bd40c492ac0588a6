"""RivalWatch: look for another service proxy on this node, and report it.

Invariants:
- It never delays a sync: it looks in a thread of its own, after the first sync and when rows drift again and again.
- A disputed row is reported once in DISPUTE_PERIOD_S, and several rows together.
- What stays is reported once; what was found is looked for again each RECHECK_S, until it has gone.
"""

import threading
from collections.abc import Callable, Iterable
from time import monotonic, sleep

from kubeproxy_py import threads
from kubeproxy_py.checks.rivals import (
    ANOTHER_PROXY,
    QUESTIONS,
    REPEATED_DRIFT,
    Facts,
    ProxyProcess,
    find_rivals,
    service_proxy,
)
from kubeproxy_py.commands.finding_reporter import FindingReporter
from kubeproxy_py.events.kube_events import Publish
from kubeproxy_py.kernel.host.processes import get_local, is_in_our_network, netlink_users, processes
from kubeproxy_py.metrics.registry import MetricsRegistry
from kubeproxy_py.model.rows import Key

RECHECK_S = 60.0
DISPUTE_PERIOD_S = 600.0  # between two messages about the same disputed row
DISPUTE_PAUSE_S = 10.0  # between two messages about disputed rows
_REPORTED_MAX = 10_000  # rows
_GAUGE = "kubeproxy_ipvs_other_service_proxies"


class RivalWatch:
    """Looks for rivals of the agent of the node called *node*.

    Args:
        node: The name of the node, which Kubernetes Events are about.
        publish: Publishes a Kubernetes Event, which also logs it.
        registry: Records the number of rivals.
        is_ours: Returns whether it is this process that answers at a port of 127.0.0.1.
        clock: Returns seconds that only increase.
    """

    def __init__(
        self,
        node: str,
        publish: Publish,
        registry: MetricsRegistry,
        is_ours: Callable[[int], bool],
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self._reporter = FindingReporter(node, publish)
        self._registry = registry
        self._is_ours = is_ours
        self._clock = clock
        self._lock = threading.Lock()  # held while somebody looks
        self._dispute_due_s = -float("inf")
        self._reported_s: dict[Key, float] = {}  # when each disputed row was reported
        registry.set(_GAUGE, 0)

    def watch(self) -> None:
        """Look for rivals until there is none; in a thread."""
        while self.look():
            sleep(RECHECK_S)

    def on_disputed(self, keys: Iterable[Key]) -> None:
        """Report rows that drifted again and again, and who may be the cause; in the loop's thread, does not wait."""
        now_s = self._clock()
        self._reported_s = {key: at_s for key, at_s in self._reported_s.items() if now_s < at_s + DISPUTE_PERIOD_S}
        new = [key for key in keys if key not in self._reported_s]
        if not new or now_s < self._dispute_due_s:
            return
        self._dispute_due_s = now_s + DISPUTE_PAUSE_S
        self._reported_s |= dict.fromkeys(new[: _REPORTED_MAX - len(self._reported_s)], now_s)
        disputed = tuple(f"{type(key).__name__} {key}" for key in new)
        threads.start_task("look for other proxies", lambda: self._look_once(disputed))

    def look(self, disputed: tuple[str, ...] = ()) -> bool:
        """Look once, report what is new, and return whether there is another service proxy."""
        with self._lock:
            findings = find_rivals(observe(self._is_ours, disputed))
            rivals = [finding for finding in findings if finding.reason == ANOTHER_PROXY]
            self._reporter.replace(rivals)
            for finding in findings:
                if finding.reason == REPEATED_DRIFT:
                    self._reporter.report_once(finding)
            self._registry.set(_GAUGE, len(rivals))
            return bool(rivals)

    def _look_once(self, disputed: tuple[str, ...]) -> None:
        watched = self._reporter.has_findings
        if self.look(disputed) and not watched:
            self.watch()


def observe(is_ours: Callable[[int], bool], disputed: tuple[str, ...] = ()) -> Facts:
    """Return what can be seen of service proxies on this node.

    Args:
        is_ours: Returns whether it is this agent that answers at a port of 127.0.0.1.
        disputed: Rows that drifted again and again; then the programs that could have done it are looked for.
    """
    found = tuple(
        ProxyProcess(pid, program)
        for pid, words in processes()
        if (program := service_proxy(words)) and is_in_our_network(pid)
    )
    answers = ((port, get_local(port, path)) for port, path in QUESTIONS.items() if not is_ours(port))
    users = tuple(ProxyProcess(pid, program) for pid, program in (netlink_users() if disputed else ()))
    return Facts(found, tuple((port, answer) for port, answer in answers if answer), disputed, users)
