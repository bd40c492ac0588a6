"""FailoverWatch: which endpoints are checked now, and which of them fail, given the results.

Invariants:
- Only endpoints of Services that were used here lately are checked, and those that fail, until they return.
- An endpoint that answers clients is not connected to, once it is known that connects reach it.
- What one Service asks for applies to an endpoint that another one has, too; the stricter rule counts.
- A Service that is not watched any more has no failures.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping

from msgspec import Struct

from kubeproxy_py.failover.client_answers import ERRORS_LATE_S, Reading, Seen, client_results
from kubeproxy_py.failover.connect_schedule import ConnectSchedule
from kubeproxy_py.failover.due_queue import DueQueue
from kubeproxy_py.failover.endpoint_health import NEW, REACHABLE, Health, Result, Rule, after, fail, given_up, inherited
from kubeproxy_py.model.conditions import EndpointFailures, Failure, can_set_aside
from kubeproxy_py.model.flows import Destination
from kubeproxy_py.model.rows import (
    RealServer,
    RealServerSpec,
    Rows,
    Spec,
    Traffic,
    VirtualServer,
    VirtualServerSpec,
    is_tcp,
)
from kubeproxy_py.model.services import EndpointSlice, Service, ServiceName

USED_S = 180.0
"""How long after its last new connection a Service counts as used."""

RETRY_S = 0.5
"""The pause before a connect that failed is tried again, until the endpoint fails."""

INHERITED = "set aside before the agent was restarted"

_NODE_RULE = Rule(only_nodes=True)
_NODE_THRESHOLD = 3  # connects in a row to endpoints of one node that got no answer
_NEIGHBOURS = 2  # other endpoints of a node that are checked at once when one is silent
_REMEMBERED_MAX = 10_000  # endpoints that are not checked, of which it is known that they were reached
_LOCAL = ""  # the node of endpoints that are on this node, or on an unknown one


def rule_of(service: Service, *, watch_nodes: bool) -> Rule | None:
    """Return how the endpoints of *service* are checked; None: they are not."""
    settings = service.settings
    if settings.health_check == "tcp":
        return Rule(settings.health_check_interval_s, settings.health_check_threshold)
    is_declined = any(one.setting == "health-check" for one in settings.written)
    return _NODE_RULE if watch_nodes and not is_declined else None


class Watched(Struct, frozen=True, gc=False):
    """A Service whose endpoints are checked."""

    rule: Rule
    servers: tuple[VirtualServer, ...]  # TCP only
    nodes: Mapping[Destination, str]  # of its endpoints by TCP; "" for those of this node
    failures: Mapping[Destination, Failure] = {}  # that it has without being watched yet
    one_way: tuple[VirtualServer, ...] = ()  # TCP, too, whose answers do not come by here: only their use counts

    @property
    def used(self) -> tuple[VirtualServer, ...]:
        """The virtual servers whose connections show that it is used."""
        return self.servers + self.one_way


def watched(
    rule: Rule,
    parts: Iterable[Rows],
    slices: Iterable[EndpointSlice],
    own_node: str,
    failures: Mapping[Destination, Failure],
) -> Watched:
    """Return the Service that wants the rows *parts* and has *slices* as a watched one."""
    parts = list(parts)
    specs = {key: spec for part in parts for key, spec in part.items() if isinstance(key, VirtualServer)}
    node_of = {one.address: one.node for part in slices for one in part.endpoints}
    servers: dict[VirtualServer, None] = {}
    one_way: dict[VirtualServer, None] = {}
    nodes: dict[Destination, str] = {}
    rows = [(key, spec) for part in parts for key, spec in part.items() if isinstance(key, RealServer)]
    handed_on = {key.virtual_server for key, spec in rows if _is_node(spec)}
    for key, _ in rows:
        server = key.virtual_server
        spec = specs.get(server)
        if not is_tcp(server, spec) or not _can_set_aside(spec):
            continue
        if server in handed_on:
            one_way[server] = None
        else:
            servers[server] = None
            node = node_of.get(key.address, "")
            if node != own_node or not rule.only_nodes:
                nodes[key.address, key.port] = _LOCAL if node == own_node else node
    return Watched(rule, tuple(servers), nodes, failures, tuple(one_way))


def _can_set_aside(spec: Spec) -> bool:
    """Return whether a virtual server with *spec* gives the connections of a real server of weight 0 to others."""
    return not isinstance(spec, VirtualServerSpec) or can_set_aside(spec.scheduler, spec.flags)


def _is_node(spec: Spec) -> bool:
    """Return whether a real server with *spec* is a node that packets are handed on to, not an endpoint."""
    return isinstance(spec, RealServerSpec) and spec.forwarding != "masquerade"


class FailoverWatch:
    """The watched Services and the health of their endpoints; used by one thread.

    All times are seconds of the caller's clock.  *random* returns a number from 0 to 1.
    """

    def __init__(self, random: Callable[[], float]) -> None:
        self.schedule = ConnectSchedule(random)
        self._services: dict[ServiceName, Watched] = {}
        self._owner: dict[VirtualServer, ServiceName] = {}
        self._connections: dict[VirtualServer, int] = {}  # as they were counted last
        self._used_s: dict[ServiceName, float] = {}
        self._active: frozenset[ServiceName] = frozenset()
        self._rules: dict[Destination, Rule] = {}  # of the endpoints that are checked
        self._users: dict[Destination, list[ServiceName]] = {}  # of these
        self._node: dict[Destination, str] = {}
        self._on_node: dict[str, list[Destination]] = {}
        self._health: dict[Destination, Health] = {}
        self._temporary = DueQueue()  # when to give up that an endpoint fails, where that is known
        self._silent: dict[str, list[Destination]] = {}  # connects in a row to each node that got no answer
        self._readings: list[tuple[float, Reading]] = []  # of the last ERRORS_LATE_S, and one before; the last is last
        self._is_outdated = False  # what is checked follows from other Services than it did
        self._changed: set[ServiceName] = set()
        self._published: dict[ServiceName, Mapping[Destination, Failure]] = {}

    @property
    def is_watching(self) -> bool:
        """Whether any Service is watched, or what was published is to be taken back."""
        return bool(self._services or self._published)

    @property
    def has_changes(self) -> bool:
        """Whether ``pop_changes`` may have something to return."""
        return bool(self._changed)

    def replace(self, name: ServiceName, service: Watched | None, now_s: float) -> None:
        """Watch *service* as *name*, as it is from now on; None: do not watch it any more."""
        before = self._services.pop(name, None)
        for server in before.used if before else ():
            if self._owner.get(server) == name:
                del self._owner[server]
        if service:
            self._services[name] = service
            self._owner |= dict.fromkeys(service.used, name)
            if not before and service.failures:
                self._inherit(name, service.failures, now_s)
        else:
            self._used_s.pop(name, None)
        if before or service:
            self._is_outdated = True
            self._changed.add(name)

    def _inherit(self, name: ServiceName, failures: Mapping[Destination, Failure], now_s: float) -> None:
        self._published[name] = failures
        for place, failure in failures.items():
            if not self._health.get(place, NEW).failure:
                self._set_health(place, inherited(failure.reason, now_s))

    # Which Services are used

    def record_usage(self, traffic: Mapping[VirtualServer, Traffic], now_s: float) -> None:
        """Record the counters of all virtual servers."""
        before = self._connections
        self._connections = {server: counters.connections for server, counters in traffic.items()}
        for server, connections in self._connections.items():
            if connections > before.get(server, 0) and (name := self._owner.get(server)):
                self._used_s[name] = now_s
        self._used_s = {name: at_s for name, at_s in self._used_s.items() if now_s - at_s < USED_S}
        failing = {name for name, failures in self._published.items() if failures}
        active = frozenset((*self._used_s, *failing)) & self._services.keys()
        if active != self._active or self._is_outdated:
            self._active = active
            self._rebuild(now_s)

    def _rebuild(self, now_s: float) -> None:
        """Decide which endpoints are checked, and how often."""
        self._is_outdated = False
        self._rules, self._users, self._node, self._on_node = {}, {}, {}, {}
        for name in sorted(self._active):
            service = self._services[name]
            for place, node in service.nodes.items():
                known = self._rules.get(place)
                self._rules[place] = _stricter(known, service.rule) if known else service.rule
                self._users.setdefault(place, []).append(name)
                self._node[place] = node
        for place, node in self._node.items():
            self._on_node.setdefault(node, []).append(place)
        self._health = self._kept_health()
        self._silent = {node: places for node, places in self._silent.items() if node in self._on_node}
        counts = Counter(self._node[place] for place, rule in self._rules.items() if rule.only_nodes)
        counts[_LOCAL] = 1  # those of unknown nodes have none in common
        intervals = {
            place: rule.interval_s * (counts[self._node[place]] if rule.only_nodes else 1)
            for place, rule in self._rules.items()
        }
        self.schedule.replace(intervals, now_s)

    def _kept_health(self) -> dict[Destination, Health]:
        """Return the health of the endpoints that are checked, and that others were reached once, of the last ones."""
        others = [place for place, one in self._health.items() if place not in self._rules and one.is_reachable]
        kept = dict.fromkeys(others[-_REMEMBERED_MAX:], REACHABLE)
        return kept | {place: one for place, one in self._health.items() if place in self._rules}

    # What clients get

    def servers_to_read(self) -> list[VirtualServer]:
        """Return the virtual servers whose real servers' counters are to be read."""
        known = (self._services[name] for name in sorted(self._active) if name in self._services)
        return [server for service in known for server in service.servers]

    def record_reading(self, reading: Reading, now_s: float) -> None:
        """Record the counters of the real servers of ``servers_to_read``."""
        results = self._results_of(reading, now_s)
        for place, seen in results.items():
            rule, result = self._rules.get(place), seen.result
            if rule is None:
                continue
            # Each connection of a client without an answer is a failed one, but a connect of our own is to confirm it.
            count = max(1, min(seen.connections, rule.threshold - 1)) if result is Result.DESERTED else 1
            for _ in range(count):
                health = self._record(place, result, rule, now_s)
            if result is Result.DESERTED and not health.failure:
                self.schedule.hasten(place, now_s)
            elif result is Result.SERVES or (result is Result.REFUSES and rule.only_nodes):
                self._silent.pop(self._node[place], None)
                if health.is_reachable and not health.failures:
                    self.schedule.postpone_idle(place, now_s)

    def _results_of(self, reading: Reading, now_s: float) -> dict[Destination, Seen]:
        """Return what clients got since the last reading, and remember *reading*."""
        readings = self._readings
        results = client_results(readings[0][1], readings[-1][1], reading) if readings else {}
        later = [at_s for at_s, _ in readings[1:] if now_s - at_s < ERRORS_LATE_S]
        self._readings = [*readings[-1 - len(later) :], (now_s, reading)]
        return results

    # Connects

    def record_connect(self, place: Destination, result: Result | None, now_s: float) -> None:
        """Record the *result* of a connect to *place*; None: it could not be tried."""
        rule = self._rules.get(place)
        if rule is None:
            return
        if result is None:
            self.schedule.postpone(place, now_s)
            return
        before = self._health.get(place, NEW)
        health = self._record(place, result, rule, now_s)
        if health.failure and not health.successes:
            self.schedule.postpone(place, now_s, rule.interval_s)
        elif health.failure or health.failures:
            self.schedule.retry(place, now_s + RETRY_S)
        else:
            self.schedule.postpone(place, now_s)
        if before.failure and not health.failure:
            self._hasten_failing(self._node[place], now_s)
        if before.is_reachable:
            self._record_of_node(place, result, now_s)

    def _hasten_failing(self, node: str, now_s: float) -> None:
        """Check the other failing endpoints of *node*, one of which has returned."""
        for one in self._on_node[node]:
            if self._health.get(one, NEW).failure:
                self.schedule.hasten(one, now_s)

    def _record_of_node(self, place: Destination, result: Result, now_s: float) -> None:
        """Count silent connects to the node of *place*; if they are enough, all its endpoints fail."""
        node = self._node[place]
        if node == _LOCAL:
            return
        if result is not Result.SILENT:
            self._silent.pop(node, None)
            return
        silent = [*self._silent.get(node, ()), place]
        self._silent[node] = silent
        others = [one for one in self._on_node[node] if one != place and self._is_reachable(one)]
        if len(silent) < _NODE_THRESHOLD or len(set(silent)) < min(2, 1 + len(others)):
            for one in others[:_NEIGHBOURS]:
                self.schedule.hasten(one, now_s)
            return
        reason = f"node {node} does not answer: {len(silent)} TCP connects to its endpoints got no answer"
        for one in self._on_node[node]:
            if self._is_reachable(one):
                self._set_health(one, fail(self._health[one], reason, now_s))
                self.schedule.postpone_idle(one, now_s, self._rules[one].interval_s)
        self._silent[node] = silent[-_NODE_THRESHOLD:]

    def _is_reachable(self, place: Destination) -> bool:
        return self._health.get(place, NEW).is_reachable

    # Results

    def pop_changes(self, now_s: float) -> list[EndpointFailures]:
        """Return the failures of each Service of which they have changed since the last call."""
        while self._temporary.next_s() <= now_s:
            place = self._temporary.pop()
            if place in self._health:
                self._set_health(place, given_up(self._health[place], now_s))
        names, self._changed = self._changed, set()
        events: list[EndpointFailures] = []
        for name in sorted(names):
            failures = self._failures_of(name)
            if failures != self._published.get(name, {}):
                events.append(EndpointFailures(name, failures))
            if failures:
                self._published[name] = failures
            else:
                self._published.pop(name, None)
        return events

    def due_s(self, now_s: float) -> float:
        """Return when the next connect is due, or a failure is to be given up."""
        return min(self.schedule.due_s(now_s), self._temporary.next_s())

    def _failures_of(self, name: ServiceName) -> dict[Destination, Failure]:
        service = self._services.get(name)
        if not service:
            return {}
        failures = ((place, self._health[place].failure) for place in service.nodes if place in self._health)
        return {place: failure for place, failure in failures if failure}

    def _record(self, place: Destination, result: Result, rule: Rule, now_s: float) -> Health:
        health = after(self._health.get(place, NEW), result, rule, now_s)
        self._set_health(place, health)
        return health

    def _set_health(self, place: Destination, health: Health) -> None:
        before = self._health.get(place, NEW)
        self._health[place] = health
        if health.give_up_s is None:
            self._temporary.discard(place)
        else:
            self._temporary.add(place, health.give_up_s)
        if before.failure != health.failure:
            self._changed.update(self._users.get(place, ()))


def _stricter(one: Rule, other: Rule) -> Rule:
    return Rule(
        min(one.interval_s, other.interval_s),
        min(one.threshold, other.threshold),
        one.only_nodes and other.only_nodes,
    )
