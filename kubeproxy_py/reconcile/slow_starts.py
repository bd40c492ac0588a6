"""SlowStarts: has the weights of new endpoints grow, and takes over what an earlier process had begun.

Invariants:
- It works by events for the compiler, so desired rows have the weights of the moment: what compares or explains rows
  needs to know nothing of it.
- A new endpoint never has its whole weight before: its step is known before the sync that adds it is planned.
- Steps of all Services are made together, at most every PAUSE_S; without such Services it costs nothing.
"""

from collections.abc import Iterable
from typing import TypeGuard

from kubeproxy_py.compile.compiler import Compiler
from kubeproxy_py.compile.settings import slow_start_in_force_s
from kubeproxy_py.failover.slow_start import SlowStart, steps_in_kernel
from kubeproxy_py.failover.watch import INHERITED, rule_of
from kubeproxy_py.model.conditions import EndpointFailures, EndpointSteps, Failure
from kubeproxy_py.model.flows import Destination
from kubeproxy_py.model.rows import Key, RealServer, RealServerSpec, Rows, Spec, VirtualServer
from kubeproxy_py.model.services import ServiceName
from kubeproxy_py.model.time import NEVER

PAUSE_S = 0.5
"""The shortest time between two steps, of whichever Services."""


class SlowStarts:
    """The Services of *compiler* whose new endpoints start slowly; all times are seconds of the caller's clock.

    *watch_nodes* says whether the endpoints of all Services are checked.
    """

    def __init__(self, compiler: Compiler, *, watch_nodes: bool = False) -> None:
        self.due_s = NEVER
        self._compiler = compiler
        self._watch_nodes = watch_nodes
        self._starts: dict[ServiceName, SlowStart] = {}
        self._readopted: dict[ServiceName, None] = {}  # at the next update

    def adopt(self, kernel_rows: Rows, now_s: float) -> list[Key]:
        """Have weights go on where *kernel_rows* have them; return the keys whose desired spec changed.

        Desired rows were just compiled.  Of Services whose endpoints are checked, those of weight 0 stay set aside.
        """
        changed = self._adopt_failures(kernel_rows, now_s)
        for name in self._compiler.pop_slowly_starting():
            known = _steps_of(self._compiler.desired.rows_of(name), kernel_rows)
            self._starts[name] = SlowStart(self._duration_s(name), known, now_s)
            self._starts[name].update(self._serving(name), now_s)
        return changed + self._publish(list(self._starts), now_s)

    def readopt(self, names: Iterable[ServiceName]) -> None:
        """Have the next update take over from the kernel how far the endpoints of *names* are.

        For Services whose whole weights were not known when kernel rows were adopted (WeightHold).
        """
        for name in names:
            if name in self._starts:
                self._compiler.handle_event(EndpointSteps(name))  # desired rows have whole weights then
                self._readopted[name] = None

    def update(self, now_s: float, rows: Rows) -> list[Key]:
        """Have the endpoints start that are new since the last call; return the keys whose desired spec changed.

        Desired rows were just compiled; *rows* are those of the kernel.
        """
        again, self._readopted = [name for name in self._readopted if self._duration_s(name)], {}
        names = list(dict.fromkeys((*self._compiler.pop_slowly_starting(), *again)))
        if not names:
            return []
        for name in again:
            known = _steps_of(self._compiler.desired.rows_of(name), rows)
            self._starts[name] = SlowStart(self._duration_s(name), known, now_s)
        for name in names:
            duration_s = self._duration_s(name)
            if not duration_s:
                self._end(name)
                continue
            start = self._starts.get(name)
            if start is None:
                start = self._starts[name] = SlowStart(duration_s)
            start.duration_s = duration_s
            start.update(self._serving(name), now_s)
        return self._publish([name for name in names if name in self._starts], now_s)

    def run(self, now_s: float) -> None:
        """Make the steps that are due; the next sync applies them."""
        for name in [name for name in self._starts if not self._duration_s(name)]:
            self._end(name)
        self._send(self._starts, now_s)
        self.due_s = max(now_s + PAUSE_S, self._next_s(now_s))

    def _end(self, name: ServiceName) -> None:
        """Have no endpoint of the Service *name* start slowly any more."""
        self._starts.pop(name, None)
        self._compiler.handle_event(EndpointSteps(name))

    def _publish(self, names: Iterable[ServiceName], now_s: float) -> list[Key]:
        self._send(names, now_s)
        self.due_s = max(min(self.due_s, now_s + PAUSE_S), self._next_s(now_s))
        if not self._compiler.has_work():
            return []
        changed = self._compiler.compile()
        self._compiler.pop_slowly_starting()  # compiled for their steps only
        return changed

    def _send(self, names: Iterable[ServiceName], now_s: float) -> None:
        for name in names:
            self._compiler.handle_event(EndpointSteps(name, self._starts[name].steps(now_s)))

    def _next_s(self, now_s: float) -> float:
        return min((start.next_s(now_s) for start in self._starts.values()), default=NEVER)

    def _duration_s(self, name: ServiceName) -> float:
        """Return how long new endpoints of the Service *name* start slowly; 0: not at all, also if that is ignored."""
        service = self._compiler.cluster.services.get(name)
        return slow_start_in_force_s(service, self._compiler.context) if service else 0.0

    def _serving(self, name: ServiceName) -> set[Destination]:
        """Return the endpoints of the Service *name* that get connections at any of its frontends."""
        rows = self._compiler.desired.rows_of(name).items()
        return {
            (key.address, key.port)
            for key, spec in rows
            if isinstance(key, RealServer) and _is_endpoint(spec) and spec.weight
        }

    def _adopt_failures(self, kernel_rows: Rows, now_s: float) -> list[Key]:
        services = self._compiler.cluster.services.values()
        if not self._watch_nodes and all(service.settings.health_check == "none" for service in services):
            return []  # nearly always
        desired, inherited = self._compiler.desired.rows, dict[ServiceName, dict[Destination, Failure]]()
        for key, spec in kernel_rows.items():
            if _is_endpoint(spec) and not spec.weight and isinstance(key, RealServer) and key in desired:
                name = self._compiler.holder_of(key.virtual_server)
                if name and self._is_checked(name):
                    inherited.setdefault(name, {})[key.address, key.port] = Failure(now_s, INHERITED)
        for name, failures in inherited.items():
            self._compiler.handle_event(EndpointFailures(name, failures))
        return self._compiler.compile() if inherited else []

    def _is_checked(self, name: ServiceName) -> bool:
        """Return whether the endpoints of the Service *name* are checked, and nothing is known of them yet."""
        if self._compiler.cluster.conditions_of(name).failures:
            return False
        service = self._compiler.cluster.services.get(name)
        return service is not None and rule_of(service, watch_nodes=self._watch_nodes) is not None


def _is_endpoint(spec: Spec) -> TypeGuard[RealServerSpec]:
    """Return whether *spec* is that of an endpoint, and not of a node that packets are handed on to."""
    return isinstance(spec, RealServerSpec) and spec.forwarding == "masquerade"


def _steps_of(desired: Rows, kernel_rows: Rows) -> dict[Destination, int]:
    """Return the steps of the endpoints of a Service that wants the rows *desired*."""
    wholes: dict[VirtualServer, dict[Destination, int]] = {}
    weights: dict[VirtualServer, dict[Destination, int]] = {}
    for key, spec in desired.items():
        if isinstance(key, RealServer) and _is_endpoint(spec):
            wholes.setdefault(key.virtual_server, {})[key.address, key.port] = spec.weight
            found = kernel_rows.get(key)
            if isinstance(found, RealServerSpec):
                weights.setdefault(key.virtual_server, {})[key.address, key.port] = found.weight
    steps: dict[Destination, int] = {}
    for server, of_server in weights.items():
        for place, step in steps_in_kernel(of_server, wholes[server]).items():
            steps[place] = min(step, steps.get(place, step))
    return steps
