"""NodeServers: the health and the metrics server of this node, and the observer that feeds them.

Invariants:
  - A server that cannot listen is retried, and the node is served meanwhile, unless ``bindAddressHardFail`` is set.
"""

import logging
import resource
from collections.abc import Callable, Iterator
from contextlib import suppress

from msgspec import Struct

from kubeproxy_py.config.load import LoadedConfig
from kubeproxy_py.config.write import as_document
from kubeproxy_py.events.kube_events import (
    KubeEvent,
    Publish,
    health_check_port_failed,
    health_server_failed,
    metrics_server_failed,
)
from kubeproxy_py.logging_setup import values
from kubeproxy_py.metrics.conntrack import collect_conntrack_metrics
from kubeproxy_py.metrics.exposition import Collect
from kubeproxy_py.metrics.process import collect_process_metrics, collect_thread_and_log_metrics
from kubeproxy_py.metrics.registry import MetricFamily, MetricsRegistry, metric_family
from kubeproxy_py.metrics.rest_client import RestClientMetrics
from kubeproxy_py.metrics.sync import SyncMetrics
from kubeproxy_py.metrics.traffic import TrafficLimits, TrafficMetrics, TrafficReader
from kubeproxy_py.model.services import ServiceName
from kubeproxy_py.net import Family, SocketAddress
from kubeproxy_py.server.health import Health
from kubeproxy_py.server.health_check_node_ports import HealthCheckNodePorts
from kubeproxy_py.server.health_updates import HealthUpdates
from kubeproxy_py.server.http import Handler, HttpServer
from kubeproxy_py.server.listeners import RETRY_S, Listening, RetryingListeners
from kubeproxy_py.server.metrics_pages import MetricsPages
from kubeproxy_py.server.observer import ServerObserver

_LOCAL = frozenset(("127.0.0.1", "0.0.0.0", "::"))  # listening there includes 127.0.0.1

log = logging.getLogger(__name__)


class ServeError(Exception):
    """A server cannot listen, and bindAddressHardFail demands that it does."""


class Collectors(Struct, frozen=True, gc=False):
    """Where metrics come from."""

    registry: MetricsRegistry
    client: RestClientMetrics  # records into the registry
    make_traffic_reader: Callable[[], TrafficReader]  # called in the thread that scrapes


class NodeServers:
    """The servers of the node called *node*, which serves *families*.

    *config* returns the configuration in use, and *publish* publishes a Kubernetes Event.
    """

    def __init__(
        self,
        node: str,
        families: tuple[Family, ...],
        config: Callable[[], LoadedConfig],
        collectors: Collectors,
        publish: Publish,
    ) -> None:
        self._node = node
        self._config = config
        self._publish = publish
        _raise_file_limit()
        registry = collectors.registry
        health = Health(lambda path, status: registry.inc(f"kubeproxy_proxy_{path}_total", str(status)))
        health_server, metrics_server = HttpServer("health"), HttpServer("metrics")
        sync = SyncMetrics(registry, families)
        settings = config().agent
        limits = TrafficLimits(settings.traffic_series, settings.traffic_services_max)
        traffic = TrafficMetrics(collectors.make_traffic_reader, limits)
        collect: tuple[Collect, ...] = (
            collect_process_metrics,
            collect_thread_and_log_metrics,
            collect_conntrack_metrics,
            sync.collect,
            collectors.client.collect,
            self._collect_feature_gates,
            traffic.collect,
        )
        self._pages = pages = MetricsPages(registry, collect, lambda: as_document(config().config))
        self._health_updates = HealthUpdates(
            health,
            families,
            lambda: config().config.ipvs.sync_period_s,
            needs_node=not settings.manifests,
        )
        self._health_server = _NodeServer("health", health_server, health.answer, health_server_failed)
        self._metrics_server = _NodeServer("metrics", metrics_server, pages.answer, metrics_server_failed)
        ports = HealthCheckNodePorts(health_server, health, self._publish_bind_failure)
        self.observer = ServerObserver(self._health_updates, sync, traffic, ports)

    def serve_documents(self, answer: Handler, tidy_up: Callable[[], None]) -> None:
        """Answer requests below /debug/ of the metrics server by *answer*, if profiling is enabled; before the start.

        *tidy_up* is called now and then in any case.
        """
        self._metrics_server.server.call_periodically(tidy_up)
        if self._config().config.enable_profiling:
            self._pages.serve_documents(answer)

    def start(self) -> None:
        """Listen and serve until the process ends.

        Raises:
            ServeError: A server cannot listen, and the configuration sets bindAddressHardFail.
        """
        self._health_updates.start()
        config = self._config().config
        if config.healthz_bind_address:
            self._listen(self._health_server, config.healthz_bind_address)
        self._listen(self._metrics_server, config.metrics_bind_address)
        self._health_server.server.start()  # without an address too: it serves the health-check node ports
        self._metrics_server.server.start()

    def answers_locally(self, port: int) -> bool:
        """Return whether one of these servers answers at *port* of 127.0.0.1; may be called in any thread."""
        return any(server.answers_locally(port) for server in (self._health_server, self._metrics_server))

    def _listen(self, server: "_NodeServer", address: SocketAddress) -> None:
        error = server.listen(address)
        if not error:
            return
        if self._config().config.bind_address_hard_fail:
            self._publish(server.failed_event(self._node, error))
            raise ServeError(
                f"Failed to start the {server.name} server at {address}: {error}; "
                "exiting because bindAddressHardFail is set"
            )
        details = values(server=server.name, address=address, err=error, retry_s=RETRY_S)
        log.error("Failed to start a server, retrying", extra=details)

    def _collect_feature_gates(self) -> Iterator[MetricFamily]:
        """Yield the feature gates that the configuration names, and the one that this agent implements."""
        gates = {"KubeProxyIPVS": True, **self._config().config.feature_gates}
        yield metric_family(
            "kubernetes_feature_enabled", [((name, ""), enabled) for name, enabled in sorted(gates.items())]
        )

    def _publish_bind_failure(self, service: ServiceName, port: int, error: str) -> None:
        self._publish(health_check_port_failed(service, port, self._node, error))


class _NodeServer:
    """A server with one address, which is retried if it cannot be bound."""

    def __init__(
        self, name: str, server: HttpServer, handler: Handler, failed_event: Callable[[str, object], KubeEvent]
    ) -> None:
        self.name = name
        self.server = server
        self.failed_event = failed_event
        self._handler = handler
        self._address: SocketAddress | None = None
        self._listeners: RetryingListeners[SocketAddress] = RetryingListeners(server, self._log_recovery)

    def listen(self, address: SocketAddress) -> str:
        """Listen at *address*; return the error if it cannot be bound, otherwise ""."""
        self._address = address
        return self._listeners.open(
            address, Listening(address.address, address.port, self._handler, both_families=True)
        )

    def answers_locally(self, port: int) -> bool:
        """Return whether this server answers at *port* of 127.0.0.1; may be called in any thread."""
        address = self._address
        return bool(
            address and address.port == port and address.address in _LOCAL and self._listeners.is_listening(address)
        )

    def _log_recovery(self, address: SocketAddress) -> None:
        log.info("Started the %s server after a retry", self.name, extra=values(address=address))


def _raise_file_limit() -> None:
    """Raise the limit of open files to the maximum, as Go does at start: clients must not use up the sync's files."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        with suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
