"""Traffic per second of Services and real servers, from two samples of the kernel's counters.

Invariants:
- A counter that went back belongs to an object that was created again: it counted from 0.
- What appeared between the samples has no rates: since when it counts is not known.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import TypeVar

import msgspec
from msgspec import Struct

from kubeproxy_py.diagnose.document import (
    VERSION,
    Counters,
    Rates,
    RealServerTraffic,
    State,
    TopRealServer,
    TopService,
    TrafficDocument,
)
from kubeproxy_py.model.rows import RealServer, RealServerCounters, Traffic, VirtualServer
from kubeproxy_py.net import join_host_port

_FIELDS = Traffic.__struct_fields__


class ServicePortName(Struct, frozen=True, gc=False):
    """A Service port."""

    namespace: str
    name: str
    port_name: str


class Names(Struct, frozen=True, gc=False):
    """What objects of the kernel are called in Kubernetes."""

    servers: Mapping[VirtualServer, ServicePortName] = {}
    pods: Mapping[RealServer, tuple[str, str]] = {}  # pod and node


class Sample(Struct, frozen=True, gc=False):
    """The kernel's counters at one moment."""

    at_s: float
    servers: Mapping[VirtualServer, Traffic] = {}
    real_servers: Mapping[RealServer, RealServerCounters] = {}


def names_of(state: State) -> Names:
    """Return the names in *state*, which lists real servers."""
    servers: dict[VirtualServer, ServicePortName] = {}
    pods: dict[RealServer, tuple[str, str]] = {}
    for service in state.services:
        for one in service.virtual_servers:
            if not service.name or one.status == "refused":  # another Service is served there
                continue
            key = VirtualServer(one.address, one.port, one.protocol)  # type: ignore[arg-type]
            servers[key] = ServicePortName(service.namespace, service.name, one.port_name)
            for real in one.real_servers or ():
                pods[RealServer(key, real.address, real.port)] = real.pod, real.node
    return Names(servers, pods)


def rates_between(before: Traffic | None, after: Traffic, seconds: float) -> Rates | None:
    """Return what was counted per second from *before* to *after*; None if there is nothing to compare with."""
    if before is None or seconds <= 0:
        return None
    old, new = ([getattr(one, name) for name in _FIELDS] for one in (before, after))
    if any(now < then for now, then in zip(new, old, strict=True)):
        old = [0] * len(old)  # created again
    return Rates(*((now - then) / seconds for now, then in zip(new, old, strict=True)))


def sum_of(rates: Iterable[Rates | None]) -> Rates | None:
    """Return the sum of those *rates* that are known; None if none is."""
    known = [one for one in rates if one]
    return Rates(*(sum(getattr(one, name) for one in known) for name in _FIELDS)) if known else None


def services_between(before: Sample, after: Sample, names: Names) -> list[TopService]:
    """Return each Service port that has a virtual server in *after*, with its rates since *before*."""
    grouped: dict[ServicePortName | VirtualServer, list[VirtualServer]] = {}
    for server in after.servers:
        grouped.setdefault(names.servers.get(server, server), []).append(server)
    behind: dict[VirtualServer, list[RealServer]] = {}
    for real in after.real_servers:
        behind.setdefault(real.virtual_server, []).append(real)
    return [_service(name, servers, behind, (before, after), names) for name, servers in grouped.items()]


def _service(
    name: ServicePortName | VirtualServer,
    servers: list[VirtualServer],
    behind: Mapping[VirtualServer, list[RealServer]],
    samples: tuple[Sample, Sample],
    names: Names,
) -> TopService:
    before, after = samples
    seconds = after.at_s - before.at_s
    rates = sum_of(rates_between(before.servers.get(one), after.servers[one], seconds) for one in servers)
    by_endpoint: dict[tuple[str, int], list[RealServer]] = {}
    for server in servers:
        for key in behind.get(server, ()):
            by_endpoint.setdefault((key.address, key.port), []).append(key)
    reals = tuple(_real_server(keys, samples, names) for keys in by_endpoint.values())
    draining = sum(real.status == "draining" for real in reals)
    return TopService(
        *((name.namespace, name.name, name.port_name) if isinstance(name, ServicePortName) else ("", "", "")),
        protocol=servers[0].protocol,
        addresses=tuple(join_host_port(one.address, one.port) for one in servers),
        rates=rates,
        active=sum(real.active for real in reals),
        inactive=sum(real.inactive for real in reals),
        serving=len(reals) - draining,
        draining=draining,
        real_servers=reals,
    )


def _real_server(keys: list[RealServer], samples: tuple[Sample, Sample], names: Names) -> TopRealServer:
    before, after = samples
    seconds = after.at_s - before.at_s
    counters = [after.real_servers[key] for key in keys]
    earlier = [before.real_servers.get(key) for key in keys]
    pod, node = next((names.pods[key] for key in keys if key in names.pods), ("", ""))
    return TopRealServer(
        keys[0].address,
        keys[0].port,
        "serving" if any(one.weight for one in counters) else "draining",
        sum_of(
            rates_between(old.traffic if old else None, new.traffic, seconds)
            for old, new in zip(earlier, counters, strict=True)
        ),
        sum(one.connections.active for one in counters),
        sum(one.connections.inactive for one in counters),
        pod,
        node,
    )


def traffic_document(counters: Mapping[RealServer, RealServerCounters] | None, now_s: float) -> TrafficDocument:
    """Return *counters*, read at *now_s*, as a document; None: the kernel cannot be read."""
    reals = None
    if counters is not None:
        reals = tuple(
            RealServerTraffic(
                str(key.virtual_server),
                key.address,
                key.port,
                one.weight,
                one.connections.active,
                one.connections.inactive,
                Counters(*(getattr(one.traffic, name) for name in _FIELDS)),
            )
            for key, one in counters.items()
        )
    return TrafficDocument(VERSION, "Traffic", now_s, reals)


# Order and filter

_Row = TopService | TopRealServer
_RowT = TypeVar("_RowT", TopService, TopRealServer)


def title_of(service: TopService) -> str:
    """Return the Service port as text; the first address if no Service is known."""
    if not service.name:
        return f"{service.addresses[0]}/{service.protocol}"
    return f"{service.namespace}/{service.name}" + (f":{service.port_name}" if service.port_name else "")


def _name(row: _Row) -> str:
    return title_of(row) if isinstance(row, TopService) else f"{row.pod} {row.address}"


def _rate(*fields: str) -> Callable[[_Row], float]:
    return lambda row: sum(getattr(row.rates, field) for field in fields) if row.rates else 0.0


def _draining(row: _Row) -> float:
    return row.draining if isinstance(row, TopService) else row.status == "draining"


SORTS: Mapping[str, Callable[[_Row], float]] = {
    "connections": _rate("connections"),
    "packets": _rate("received_packets", "sent_packets"),
    "bytes": _rate("received_bytes", "sent_bytes"),
    "active": lambda row: row.active,
    "inactive": lambda row: row.inactive,
    "draining": _draining,
    "name": lambda _row: 0.0,
}
"""By what Services and real servers can be sorted: the largest first, equal ones by name."""


def arranged(
    services: Iterable[TopService], sort: str = "connections", wanted: str = "", *, reverse: bool = False
) -> list[TopService]:
    """Return the *services* that match *wanted*, and the real servers of each, in order of *sort*, one of SORTS."""
    words = wanted.lower().split()
    found = [service for service in services if _matches(service, words)] if words else list(services)
    found = _ordered(found, sort, reverse=reverse)
    return [
        msgspec.structs.replace(one, real_servers=tuple(_ordered(one.real_servers, sort, reverse=reverse)))
        for one in found
    ]


def _ordered(rows: Iterable[_RowT], sort: str, *, reverse: bool) -> list[_RowT]:
    by_name = sorted(rows, key=_name, reverse=reverse)
    return sorted(by_name, key=SORTS[sort], reverse=not reverse)  # stable, so equal ones stay by name


def _matches(service: TopService, words: list[str]) -> bool:
    """Return whether each of *words* is in a name or an address of *service* or of one of its real servers."""
    reals = (f"{real.address}:{real.port} {real.pod} {real.node}" for real in service.real_servers)
    text = " ".join((title_of(service), service.protocol, *service.addresses, *reals)).lower()
    return all(word in text for word in words)
