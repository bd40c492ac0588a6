"""TrafficMetrics: connections, packets and bytes of each Service port, as IPVS counted them.

Invariants:
  - The number of series is bounded: the first Service ports by name have their own, up to a limit, and all others are
    summed into one series with empty labels.
  - Nothing is read from the kernel above a configured number of Service ports.
  - Virtual servers that belong to no Service are omitted.

The counters are the kernel's: they start at 0 when a virtual server is created and end when it is deleted.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from operator import attrgetter
from threading import Lock
from typing import Protocol

from msgspec import Struct

from kubeproxy_py.metrics.registry import Labels, MetricFamily, metric_family
from kubeproxy_py.model.health import ServiceState
from kubeproxy_py.model.rows import Connections, RealServer, Traffic, VirtualServer
from kubeproxy_py.model.services import Service, ServiceName
from kubeproxy_py.net import IP
from kubeproxy_py.net import Protocol as Transport

_PREFIX = "kubeproxy_ipvs_service_"
_COUNTERS = tuple(f"{_PREFIX}{name}_total" for name in Traffic.__struct_fields__)
_KINDS: tuple[Callable[[Service], tuple[IP, ...]], ...] = (
    attrgetter("external_ips"),
    attrgetter("load_balancer_ips"),
    attrgetter("cluster_ips"),
)
"""The addresses of a Service by kind, those with the best claim last."""

_OTHERS: Labels = ("", "", "", "")
"""The labels of the sum of all Service ports without a series of their own."""


class TrafficReader(Protocol):
    """Reads counters from the kernel over a socket of its own; every method raises if the kernel cannot be read."""

    def traffic(self) -> dict[VirtualServer, Traffic]:
        """Return the counters of every virtual server."""

    def connections(self, virtual_servers: Iterable[VirtualServer]) -> dict[RealServer, Connections]:
        """Return the connections of every real server of *virtual_servers*."""


class TrafficLimits(Struct, frozen=True, gc=False):
    """Limits of what is read from the kernel."""

    series: int = 1000  # Service ports with series of their own; 0: nothing is read
    servers_max: int = 20_000  # above this number of Service ports nothing is read


class TrafficMetrics:
    """Collects traffic by Service port; `update_services` is called by the loop's thread, `collect` by a scrape's."""

    def __init__(self, make_reader: Callable[[], TrafficReader], limits: TrafficLimits) -> None:
        self._make_reader = make_reader  # called by the first scrape, so that its thread owns the socket
        self._reader: TrafficReader | None = None
        self._limits = limits
        self._lock = Lock()  # protects _services
        self._services: dict[ServiceName, Service] = {}  # the values are shared with the compiler
        self._marks: dict[ServiceName, dict[VirtualServer, Labels]] = {}  # virtual servers by firewall mark

    def update_services(self, states: Iterable[ServiceState]) -> None:
        """Store the Services that were compiled, and forget those that were deleted."""
        if not self._limits.series:
            return
        with self._lock:
            for state in states:
                if state.service:
                    self._services[state.name] = state.service
                else:
                    self._services.pop(state.name, None)
                if state.marks:
                    name = (state.name.namespace, state.name.name)
                    self._marks[state.name] = {
                        server: (*name, port, protocol) for server, port, protocol in state.marks
                    }
                else:
                    self._marks.pop(state.name, None)

    def collect(self) -> Iterator[MetricFamily]:
        """Read the counters from the kernel and yield them.  Raises the reader's errors."""
        with self._lock:
            services = list(self._services.values())
            by_mark = {server: labels for marks in self._marks.values() for server, labels in marks.items()}
        port_count = sum(len(service.ports) for service in services)
        if not port_count or port_count > self._limits.servers_max:
            return
        if self._reader is None:
            self._reader = self._make_reader()
        traffic = _by_service_port(self._reader.traffic(), ServicePortIndex(services, by_mark))
        with_series = sorted(traffic)[: self._limits.series]
        yield metric_family(f"{_PREFIX}series", [((), len(with_series))])
        yield from _counters(traffic, with_series)
        yield from _connection_gauges(self._reader, traffic, with_series)


class ServicePortIndex:
    """Maps a virtual server to the labels (namespace, service, port, protocol) of its Service port."""

    def __init__(self, services: Iterable[Service], by_mark: Mapping[VirtualServer, Labels] | None = None) -> None:
        self._by_mark = by_mark or {}
        self._by_address: dict[tuple[str, int, Transport], Labels] = {}
        self._by_node_port: dict[tuple[int, Transport], Labels] = {}
        # The worst claim first, so that the best remains (compile/claims.py).
        by_age = sorted(services, key=lambda service: (service.created_s, service.name), reverse=True)
        for addresses_of in _KINDS:
            for service in by_age:
                self._add(service, addresses_of(service))

    def _add(self, service: Service, addresses: tuple[IP, ...]) -> None:
        for port in service.ports:
            labels = (service.name.namespace, service.name.name, port.name, port.protocol)
            for address in addresses:
                self._by_address[address, port.port, port.protocol] = labels
            if port.node_port:
                self._by_node_port[port.node_port, port.protocol] = labels

    def labels_of(self, server: VirtualServer) -> Labels | None:
        """Return the labels of *server*; None if it belongs to no Service."""
        if server.mark:
            return self._by_mark.get(server)
        key = (server.address, server.port, server.protocol)
        return self._by_address.get(key) or self._by_node_port.get((server.port, server.protocol))


_TrafficByPort = dict[Labels, list[tuple[VirtualServer, Traffic]]]


def _by_service_port(traffic: Mapping[VirtualServer, Traffic], index: ServicePortIndex) -> _TrafficByPort:
    by_port: _TrafficByPort = {}
    for server, counters in traffic.items():
        if labels := index.labels_of(server):
            by_port.setdefault(labels, []).append((server, counters))
    return by_port


def _counters(traffic: _TrafficByPort, with_series: list[Labels]) -> Iterator[MetricFamily]:
    sums = {labels: _sum(counters for _, counters in traffic[labels]) for labels in with_series}
    others = traffic.keys() - sums.keys()
    if others:
        sums[_OTHERS] = _sum(counters for labels in others for _, counters in traffic[labels])
    for index, name in enumerate(_COUNTERS):
        yield metric_family(name, [(labels, totals[index]) for labels, totals in sums.items()])


def _sum(all_counters: Iterable[Traffic]) -> tuple[int, ...]:
    totals = [0] * len(_COUNTERS)
    for counters in all_counters:
        for index, name in enumerate(Traffic.__struct_fields__):
            totals[index] += getattr(counters, name)
    return tuple(totals)


def _connection_gauges(
    reader: TrafficReader, traffic: _TrafficByPort, with_series: list[Labels]
) -> Iterator[MetricFamily]:
    """Yield active and inactive connections of the Service ports *with_series*.

    The kernel counts connections by real server, which takes one request per virtual server: others are not read.
    """
    labels_by_server = {server: labels for labels in with_series for server, _ in traffic[labels]}
    active, inactive = dict.fromkeys(with_series, 0), dict.fromkeys(with_series, 0)
    for real_server, connections in reader.connections(list(labels_by_server)).items():
        labels = labels_by_server[real_server.virtual_server]
        active[labels] += connections.active
        inactive[labels] += connections.inactive
    yield metric_family(f"{_PREFIX}active_connections", active.items())
    yield metric_family(f"{_PREFIX}inactive_connections", inactive.items())
