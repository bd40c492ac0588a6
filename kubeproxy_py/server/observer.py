"""Serving: the health and metrics servers, told by the loop what it does.

Law: it connects and decides nothing.  What the loop's thread says is turned into immutable values at once; the servers'
threads read those.  A server that can't listen tries again, and the node is served all the same, unless
``bindAddressHardFail`` says that it is better not to run then.
"""

import logging
import resource
import time
from collections.abc import Callable, Iterator
from contextlib import suppress

from msgspec import Struct

from kubeproxy_py.config.load import LoadedConfig
from kubeproxy_py.config.write import as_document
from kubeproxy_py.events.kube_events import (
    KubeEvent,
    Tell,
    health_check_port_failed,
    health_server_failed,
    metrics_server_failed,
)
from kubeproxy_py.metrics.process import process_families
from kubeproxy_py.metrics.registry import MetricFamily as FamilyOfNumbers
from kubeproxy_py.metrics.registry import MetricsRegistry
from kubeproxy_py.metrics.registry import family as family_of_numbers
from kubeproxy_py.metrics.rest_client import RestClientMetrics
from kubeproxy_py.metrics.sync import SyncMetrics
from kubeproxy_py.metrics.traffic import TrafficLimits, TrafficMetrics, TrafficReader
from kubeproxy_py.model.events import Event, NodeDeleted, NodeUpserted
from kubeproxy_py.model.services import Family, ServiceName
from kubeproxy_py.net import SocketAddress
from kubeproxy_py.reconcile.report import SyncReport
from kubeproxy_py.reconcile.sync_status import SyncStatus
from kubeproxy_py.server.health import Health, stuck_since
from kubeproxy_py.server.health_check_node_ports import RETRY_S, HealthCheckNodePorts
from kubeproxy_py.server.http import Handler, HttpServer
from kubeproxy_py.server.metrics_pages import MetricsPages

log = logging.getLogger(__name__)


class ServeError(Exception):
    """A server can't listen, and is not to be done without."""


class _Place(Struct, frozen=True, gc=False):
    """Where a server listens for what is about the whole node, and what is told where it can't."""

    name: str
    server: HttpServer
    address: SocketAddress
    handler: Handler
    failed: Callable[[str, object], KubeEvent]


class ServerObserver:
    """An Observer of the loop.  *node* is this node's name, *families* are those that this host serves.

    *reader* makes a reader of the kernel's counts, for the thread that scrapes.
    """

    def __init__(
        self, loaded: LoadedConfig, node: str, families: tuple[Family, ...], reader: Callable[[], TrafficReader]
    ) -> None:
        self.current: Callable[[], LoadedConfig] = lambda: loaded  # the configuration in use
        self._node = node
        self._families = families
        self._tell: Tell = lambda _notice: None
        self._numbers = MetricsRegistry()
        self._sync = SyncMetrics(self._numbers, families)
        self._sources = RestClientMetrics(self._numbers)
        limits = TrafficLimits(loaded.own.traffic_series, loaded.own.traffic_services_max)
        self._traffic = TrafficMetrics(reader, limits)
        self._health = Health(self._count_answer)
        self._compares = 0
        self._synced = False  # within this turn
        self._asked = False  # and not done by the end of the last turn
        self._missing: dict[str, tuple[_Place, float]] = {}  # places that could not be had, and when to try again
        _raise_file_limit()
        self._health_server = HttpServer("health", self._tick_health)
        self._metrics_server = HttpServer("metrics", lambda: self._try_again("metrics"))
        self._ports = HealthCheckNodePorts(self._health_server, self._health, self._port_failed)

    @property
    def client_metrics(self) -> RestClientMetrics:
        """Who counts what the sources do."""
        return self._sources

    def start(self, tell: Tell) -> None:
        """Serve from now on; *tell* hears what people must know.

        Raises ServeError if a server can't listen, and the configuration says that this is fatal.
        """
        self._tell = tell
        now_ns = time.time_ns()
        self._health.change(updated_ns=dict.fromkeys(self._families, now_ns), sync_period_s=self._sync_period_s())
        config = self.current().config
        for place in self._places():
            error = self._listen(place)
            if error and config.bind_address_hard_fail:
                tell(place.failed(self._node, error))
                raise ServeError(f"the {place.name} server can't listen at {place.address}: {error}")
        for server in (self._health_server, self._metrics_server):
            server.start()

    def _places(self) -> Iterator[_Place]:
        config = self.current().config
        if at := config.healthz_bind_address:
            yield _Place("health", self._health_server, at, self._health.answer, health_server_failed)
        gather = (process_families, self._sync.families, self._sources.families, self._gates, self._traffic.families)
        pages = MetricsPages(self._numbers, gather, lambda: as_document(self.current().config))
        at = config.metrics_bind_address
        yield _Place("metrics", self._metrics_server, at, pages.answer, metrics_server_failed)

    def _gates(self) -> Iterator[FamilyOfNumbers]:
        """The feature gates that the configuration names, and the one that this agent knows."""
        gates = {"KubeProxyIPVS": True, **self.current().config.feature_gates}
        yield family_of_numbers("kubernetes_feature_enabled", [((name, ""), on) for name, on in sorted(gates.items())])

    # What the loop says (see loop.Observer)

    def on_pending_since(self, since_s: float | None) -> None:
        """Something waits since then, or nothing does."""
        self._health.change(asked_s=since_s)
        if since_s is not None:
            self._asked = True
            self._sync.asked()

    def on_event(self, event: Event) -> None:
        """The agent knows *event*."""
        self._sync.took(event)
        match event:
            case NodeUpserted(node=node):
                self._health.change(node_eligible=not node.being_deleted)
            case NodeDeleted():
                self._health.change(node_eligible=False)

    def on_report(self, report: SyncReport) -> None:
        """The agent did something."""
        self._sync.did(report)
        if report.states:
            self._traffic.take(report.states)
            self._ports.take(report.states)
        self._synced = self._synced or (report.flows is None and report.why != "drained")

    def on_cycle_end(self, standing: SyncStatus) -> None:
        """A turn is over: what was synced or compared within it is up to date, but for families that are stuck."""
        self._sync.stands(standing)
        pulse = self._health.pulse
        stuck_s = stuck_since(pulse.stuck_s, standing.stuck, time.monotonic()) if standing.stuck else {}
        answered = self._asked and not standing.has_work  # be it that there was nothing to do
        if self._synced or answered or standing.compares != self._compares:
            good = tuple(family for family in self._families if family not in standing.stuck)
            self._sync.synced(good)
            now_ns = time.time_ns()
            self._health.change(
                updated_ns={**pulse.updated_ns, **dict.fromkeys(good, now_ns)},
                stuck_s=stuck_s,
                sync_period_s=self._sync_period_s(),
            )
        elif stuck_s != pulse.stuck_s:
            self._health.change(stuck_s=stuck_s)
        if answered:
            self._asked = False
        self._synced, self._compares = False, standing.compares

    def _sync_period_s(self) -> float:
        return self.current().config.ipvs.sync_period_s

    # Listening, in the servers' threads

    def _listen(self, place: _Place) -> str:
        """Listen; what is wrong if that can't be, which is tried again."""
        address = place.address
        try:
            place.server.listen(address.address, address.port, place.handler, both_families=True)
        except OSError as error:
            if place.name not in self._missing:
                log.error(f"the {place.name} server can't listen at {address}, tried again: {error.strerror}")
            self._missing[place.name] = (place, time.monotonic() + RETRY_S)
            return error.strerror or str(error)
        if self._missing.pop(place.name, None):
            log.info(f"the {place.name} server listens at {address} now")
        return ""

    def _try_again(self, name: str) -> None:
        missing = self._missing.get(name)
        if missing and time.monotonic() >= missing[1]:
            self._listen(missing[0])

    def _tick_health(self) -> None:
        self._try_again("health")
        self._ports.tick()

    def _port_failed(self, service: ServiceName, port: int, error: str) -> None:
        self._tell(health_check_port_failed(service, port, self._node, error))

    def _count_answer(self, path: str, status: int) -> None:
        self._numbers.add(f"kubeproxy_proxy_{path}_total", str(status))


def _raise_file_limit() -> None:
    """As many open files as we may have, as Go does at start: clients must not take those that the sync needs."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        with suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
