"""Traffic by service port: what the kernel counted of virtual servers, under the names that people know.

Law: the number of series is bounded.  Service ports get series of their own in order of their names, up to a cap; all
others are one sum, whose labels are empty.  Nothing is read where there are more virtual servers than somebody
configured.  Virtual servers that no Service wants are left out.

Counters are the kernel's: they begin at 0 when a virtual server is made, and go with it.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from threading import Lock
from typing import Protocol

from msgspec import Struct

from kubeproxy_py.metrics.registry import Labels, MetricFamily, family
from kubeproxy_py.model.health import ServiceState
from kubeproxy_py.model.rows import Connections, RealServer, Traffic, VirtualServer
from kubeproxy_py.model.services import Protocol as Transport
from kubeproxy_py.model.services import Service, ServiceName

_PREFIX = "kubeproxy_ipvs_service_"
_COUNTERS = tuple(f"{_PREFIX}{name}_total" for name in Traffic.__struct_fields__)
_REST: Labels = ("", "", "", "")


class TrafficReader(Protocol):
    """The kernel, by a socket of the caller's own; each raises an exception if it can't be asked."""

    def traffic(self) -> dict[VirtualServer, Traffic]: ...

    def connections(self, virtual_servers: Iterable[VirtualServer]) -> dict[RealServer, Connections]: ...


class TrafficLimits(Struct, frozen=True, gc=False):
    """``series``: service ports that get series of their own, 0: nothing is read; ``servers_max``: above so many
    service ports neither.
    """

    series: int = 1000
    servers_max: int = 20_000


class TrafficMetrics:
    """``take`` is for the loop's thread, ``families`` for the one that scrapes."""

    def __init__(self, reader: Callable[[], TrafficReader], limits: TrafficLimits) -> None:
        self._make_reader = reader
        self._reader: TrafficReader | None = None
        self._limits = limits
        self._lock = Lock()  # of _services
        self._services: dict[ServiceName, Service] = {}

    def take(self, states: Iterable[ServiceState]) -> None:
        """Know the Services that were compiled; the values are shared with the compiler."""
        if not self._limits.series:
            return
        with self._lock:
            for state in states:
                if state.service:
                    self._services[state.name] = state.service
                else:
                    self._services.pop(state.name, None)

    def families(self) -> Iterator[MetricFamily]:
        """What the kernel counted, read now.  Raises what the reader raises."""
        with self._lock:
            services = list(self._services.values())
        count = sum(len(service.ports) for service in services)
        if not count or count > self._limits.servers_max:
            return
        if self._reader is None:
            self._reader = self._make_reader()
        names = ServicePortIndex(services)
        named = _named(self._reader.traffic(), names)
        own = sorted(named)[: self._limits.series]
        yield family(f"{_PREFIX}series", [((), len(own))])
        yield from _counters(named, own)
        yield from _gauges(self._reader, named, own)


class ServicePortIndex:
    """Virtual server -> (namespace, service, port, protocol)."""

    def __init__(self, services: Iterable[Service]) -> None:
        self._by_place: dict[tuple[str, int, Transport], Labels] = {}
        self._by_node_port: dict[tuple[int, Transport], Labels] = {}
        for service in sorted(services, key=lambda service: service.name, reverse=True):  # the first name has it
            self._note(service)

    def _note(self, service: Service) -> None:
        addresses = (*service.cluster_ips, *service.external_ips, *service.load_balancer_ips)
        for port in service.ports:
            labels = (service.name.namespace, service.name.name, port.name, port.protocol)
            for address in addresses:
                self._by_place[address, port.port, port.protocol] = labels
            if port.node_port:
                self._by_node_port[port.node_port, port.protocol] = labels

    def of(self, server: VirtualServer) -> Labels | None:
        """None: no Service wants it."""
        place = (server.address, server.port, server.protocol)
        return self._by_place.get(place) or self._by_node_port.get((server.port, server.protocol))


_Carried = dict[Labels, list[tuple[VirtualServer, Traffic]]]


def _named(traffic: Mapping[VirtualServer, Traffic], names: ServicePortIndex) -> _Carried:
    found: _Carried = {}
    for server, carried in traffic.items():
        if labels := names.of(server):
            found.setdefault(labels, []).append((server, carried))
    return found


def _counters(named: _Carried, own: list[Labels]) -> Iterator[MetricFamily]:
    sums = {labels: _sum(carried for _, carried in named[labels]) for labels in own}
    rest = named.keys() - sums.keys()
    if rest:
        sums[_REST] = _sum(carried for labels in rest for _, carried in named[labels])
    for index, name in enumerate(_COUNTERS):
        yield family(name, [(labels, counts[index]) for labels, counts in sums.items()])


def _sum(parts: Iterable[Traffic]) -> tuple[int, ...]:
    sums = [0] * len(_COUNTERS)
    for part in parts:
        for index, name in enumerate(Traffic.__struct_fields__):
            sums[index] += getattr(part, name)
    return tuple(sums)


def _gauges(reader: TrafficReader, named: _Carried, own: list[Labels]) -> Iterator[MetricFamily]:
    """Connections are counted by real server, and asked for by virtual server: only for those with series."""
    whose = {server: labels for labels in own for server, _ in named[labels]}
    active, inactive = dict.fromkeys(own, 0), dict.fromkeys(own, 0)
    for key, count in reader.connections(list(whose)).items():
        labels = whose[key.virtual_server]
        active[labels] += count.active
        inactive[labels] += count.inactive
    yield family(f"{_PREFIX}active_connections", active.items())
    yield family(f"{_PREFIX}inactive_connections", inactive.items())
