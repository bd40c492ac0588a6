"""EndpointWatch: checks endpoints in a thread of its own, by TCP connects and by what clients get of them.

What it decides is in ``failover/``; here are the socket, the counters, the clock and the thread.

Invariants:
- The loop hands over what it compiled, which costs nothing for Services that are not watched, and gets an event when
  the failures of a Service have changed, at most every TURN_S.
- Without a watched Service there is no thread.
- Reading counters takes at most READ_SHARE of a core: with many virtual servers they are read less often.
"""

import logging
from collections.abc import Callable, Collection
from functools import partial
from random import random
from threading import Lock
from time import monotonic

from kubeproxy_py import threads
from kubeproxy_py.compile.compiler import Compiler
from kubeproxy_py.failover.endpoint_health import Result
from kubeproxy_py.failover.watch import FailoverWatch, Watched, rule_of, watched
from kubeproxy_py.kernel.errors import KernelError
from kubeproxy_py.kernel.host.cpu_time import cpu_s
from kubeproxy_py.kernel.host.tcp_connects import Answer, TcpConnects
from kubeproxy_py.kernel.ipvs.adapter import IpvsAdapter
from kubeproxy_py.logging_setup import values
from kubeproxy_py.metrics.registry import MetricsRegistry
from kubeproxy_py.model.conditions import EndpointFailures
from kubeproxy_py.model.services import ServiceName
from kubeproxy_py.model.time import NEVER
from kubeproxy_py.reconcile.containment import contained
from kubeproxy_py.reconcile.cpu_budget import CpuBudget

TIMEOUT_S = 1.0
"""How long a connect may take; a SYN that is lost is sent again after a second."""

TURN_S = 0.1
USAGE_PERIOD_S = 2.0  # between two readings of which virtual servers were used
READ_PERIOD_S = 1.0  # between two readings of what clients get of each endpoint
READ_SHARE = 0.02
_BURST_S = 0.1
_LONGEST_WAIT_S = 60.0

_CONNECTS = "kubeproxy_ipvs_endpoint_checks_total"
_RESULTS: dict[Answer, Result | None] = {
    "answered": Result.ANSWERED,
    "refused": Result.REFUSED,
    "silent": Result.SILENT,
    "untried": None,
}

log = logging.getLogger(__name__)


class EndpointWatch:
    """Watches the endpoints of the Services of *compiler*.

    Args:
        compiler: What it compiled is watched; used in the loop's thread only.
        registry: Gets the number of connects.
        watch_nodes: Watch the endpoints of all Services.
    """

    def __init__(
        self,
        compiler: Compiler,
        registry: MetricsRegistry,
        *,
        watch_nodes: bool,
    ) -> None:
        self._compiler = compiler
        self._registry = registry
        self._watch_nodes = watch_nodes
        self._lock = Lock()  # protects _new
        self._new: dict[ServiceName, Callable[[], Watched] | None] = {}  # not taken over by the thread yet
        self._known: set[ServiceName] = set()  # used in the loop's thread only
        self._connects: TcpConnects | None = None  # None: there is no thread
        self._emit: Callable[[EndpointFailures], None] | None = None

    def start(self, emit: Callable[[EndpointFailures], None]) -> None:
        """Call *emit* with each event for the loop, from the thread that begins with the first watched Service."""
        self._emit = emit

    def update(self, names: Collection[ServiceName]) -> None:
        """Watch the Services *names* as they were compiled last; in the loop's thread."""
        changed: dict[ServiceName, Callable[[], Watched] | None] = {}
        for name in names:
            service = self._compiler.cluster.services.get(name)
            rule = rule_of(service, watch_nodes=self._watch_nodes) if service else None
            if rule:
                parts = self._compiler.desired.parts_of(name)
                slices = self._compiler.cluster.slices_of(name)
                failures = self._compiler.cluster.conditions_of(name).failures
                node = self._compiler.context.node_name
                changed[name] = partial(watched, rule, parts, slices, node, failures)
                self._known.add(name)
            elif name in self._known:
                changed[name] = None
                self._known.discard(name)
        if changed and self._emit:
            with self._lock:
                self._new |= changed
            self._wake(self._emit)

    def _wake(self, emit: Callable[[EndpointFailures], None]) -> None:
        if self._connects is None:
            self._connects = TcpConnects()
            for answer in _RESULTS:
                self._registry.inc(_CONNECTS, answer, amount=0)
            turns = WatchTurns(self._connects, self._registry)
            threads.start("endpoint-watch", lambda: self._run(turns, emit))
        self._connects.wake()

    def _pop_new(self) -> dict[ServiceName, Callable[[], Watched] | None]:
        with self._lock:
            new, self._new = self._new, {}
        return new

    def _run(self, turns: "WatchTurns", emit: Callable[[EndpointFailures], None]) -> None:
        """Watch; after a bug it is called again, and goes on with what is known."""
        while True:
            for name, make in self._pop_new().items():
                turns.watch.replace(name, make() if make else None, monotonic())
            for event in turns.run():
                emit(event)


class WatchTurns:
    """One turn after the other: read counters, connect, take answers."""

    def __init__(self, connects: TcpConnects, registry: MetricsRegistry, ipvs: IpvsAdapter | None = None) -> None:
        self.watch = FailoverWatch(random)
        self._connects = connects
        self._registry = registry
        self._ipvs = ipvs or IpvsAdapter(marks=True)  # with exact policies, pods of this node use those
        self._budget = CpuBudget(READ_SHARE, _BURST_S)
        self._usage_due_s = self._read_due_s = self._publish_due_s = 0.0

    def run(self) -> list[EndpointFailures]:
        """Do what is due, wait for what comes next, and return what has changed."""
        now_s = monotonic()
        if self.watch.is_watching:
            contained("counters of IPVS", self._read_due, now_s)
            self._connect_due(now_s)
        wait_s = max(TURN_S, self._due_s(now_s) - monotonic())
        for place, answer in self._connects.results(min(wait_s, _LONGEST_WAIT_S)):
            self._record(place, answer)
        now_s = monotonic()
        if now_s < self._publish_due_s:
            return []
        self._publish_due_s = now_s + TURN_S
        return self.watch.pop_changes(now_s)

    def _due_s(self, now_s: float) -> float:
        if not self.watch.is_watching:
            return self._publish_due_s if self.watch.has_changes else NEVER
        counters_s = max(self._budget.due_s, min(self._usage_due_s, self._read_due_s))
        changes_s = self._publish_due_s if self.watch.has_changes else NEVER
        return min(self.watch.due_s(now_s), counters_s, changes_s)

    def _read_due(self, now_s: float) -> None:
        if now_s < self._budget.due_s:
            return
        began_s = cpu_s()
        try:
            if now_s >= self._usage_due_s:
                self.watch.record_usage(self._ipvs.traffic(), now_s)
                self._usage_due_s = now_s + USAGE_PERIOD_S
            if now_s >= self._read_due_s:
                servers = self.watch.servers_to_read()
                self.watch.record_reading(self._ipvs.real_server_counters(servers) if servers else {}, monotonic())
                self._read_due_s = now_s + READ_PERIOD_S
        except KernelError as error:
            log.debug("Failed to read the counters of IPVS", extra=values(err=str(error)))
            self._usage_due_s = self._read_due_s = now_s + USAGE_PERIOD_S
        self._budget.spend(cpu_s() - began_s, monotonic())

    def _connect_due(self, now_s: float) -> None:
        for place in self.watch.schedule.pop_due(now_s):
            if place in self._connects:
                continue
            if answer := self._connects.begin(place, TIMEOUT_S):
                self._record(place, answer)

    def _record(self, place: tuple[str, int], answer: Answer) -> None:
        self._registry.inc(_CONNECTS, answer)
        self.watch.record_connect(place, _RESULTS[answer], monotonic())
