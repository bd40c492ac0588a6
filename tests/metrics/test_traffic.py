"""TrafficMetrics: to which Service port the kernel's counters belong, and how many series there can be."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from kubeproxy_py.metrics.traffic import ServicePortIndex, TrafficLimits, TrafficMetrics
from kubeproxy_py.model.health import ServiceState
from kubeproxy_py.model.rows import Connections, RealServer, Traffic, VirtualServer, mark_server
from kubeproxy_py.model.services import Service
from tests.builders import port, service

WEB = service(
    cluster_ips=("10.96.0.10", "fd00:96::10"),
    ports=(port(80, label="http", node_port=30080), port(53, "UDP", "dns")),
    external_ips=("203.0.113.1",),
    load_balancer_ips=("203.0.113.2",),
)
HTTP, DNS = ("shop", "web", "http", "TCP"), ("shop", "web", "dns", "UDP")
CONNECTIONS = "kubeproxy_ipvs_service_connections_total"


@pytest.mark.parametrize(
    ("address", "number", "protocol", "labels"),
    [
        ("10.96.0.10", 80, "TCP", HTTP),
        ("fd00:96::10", 80, "TCP", HTTP),
        ("203.0.113.1", 80, "TCP", HTTP),
        ("203.0.113.2", 53, "UDP", DNS),
        ("192.168.3.10", 30080, "TCP", HTTP),
        ("192.168.3.10", 30080, "UDP", None),
        ("192.168.3.10", 80, "TCP", None),
        ("10.96.0.10", 80, "UDP", None),
    ],
)
def test_virtual_server_has_the_labels_of_its_service_port(
    address: str, number: int, protocol: str, labels: tuple[str, ...] | None
) -> None:
    assert ServicePortIndex([WEB]).labels_of(VirtualServer(address, number, protocol)) == labels  # type: ignore[arg-type]


def test_address_of_two_services_is_counted_for_the_first_by_name() -> None:
    rivals = [service("b", external_ips=("203.0.113.1",)), service("a", external_ips=("203.0.113.1",))]
    for order in (rivals, rivals[::-1]):
        assert ServicePortIndex(order).labels_of(VirtualServer("203.0.113.1", 80, "TCP")) == ("shop", "a", "", "TCP")


def test_address_of_two_services_is_counted_for_the_one_that_has_it() -> None:
    dns = service("z", ("10.96.0.53",), created_s=2.0)
    malicious = service("a", ("10.96.0.66",), external_ips=("10.96.0.53", "203.0.113.1"), created_s=1.0)
    younger = service("b", ("10.96.0.67",), external_ips=("203.0.113.1",), created_s=3.0)
    index = ServicePortIndex([malicious, younger, dns])
    assert index.labels_of(VirtualServer("10.96.0.53", 80, "TCP")) == ("shop", "z", "", "TCP")
    assert index.labels_of(VirtualServer("203.0.113.1", 80, "TCP")) == ("shop", "a", "", "TCP")


class FakeKernel:
    """A reader whose counters the test sets."""

    def __init__(self, traffic: dict[VirtualServer, Traffic]) -> None:
        self.counters = traffic
        self.requested: list[VirtualServer] = []

    def traffic(self) -> dict[VirtualServer, Traffic]:
        return self.counters

    def connections(self, virtual_servers: Iterable[VirtualServer]) -> dict[RealServer, Connections]:
        self.requested = list(virtual_servers)
        return {
            RealServer(server, f"10.244.1.{n}", 8080): Connections(n, 10) for server in self.requested for n in (1, 2)
        }


def many(count: int) -> list[Service]:
    return [service(f"s{number}", (f"10.96.1.{number}",)) for number in range(count)]


def collect(
    kernel: FakeKernel, services: list[Service], limits: TrafficLimits
) -> dict[str, dict[tuple[str, ...], object]]:
    metrics = TrafficMetrics(lambda: kernel, limits)
    metrics.update_services(ServiceState(service.name, service) for service in services)
    return {family.metric.name: dict(family.samples) for family in metrics.collect()}


def kernel_of(services: list[Service]) -> FakeKernel:
    """Return a kernel in which the first service has 1 connection, the second 2, and so on."""
    return FakeKernel(
        {VirtualServer(s.cluster_ips[0], 80, "TCP"): Traffic(n, 10 * n, 0, 0, 7) for n, s in enumerate(services, 1)}
    )


def test_what_a_virtual_server_by_mark_forwards_counts_for_its_service_port() -> None:
    by_mark, other = mark_server("IPv4", 0x2001), mark_server("IPv4", 7)
    kernel = FakeKernel({VirtualServer("10.96.0.10", 80, "TCP"): Traffic(1), by_mark: Traffic(2), other: Traffic(4)})
    metrics = TrafficMetrics(lambda: kernel, TrafficLimits())
    metrics.update_services([ServiceState(WEB.name, WEB, marks=((by_mark, HTTP[2], "TCP"),))])
    families = {family.metric.name: dict(family.samples) for family in metrics.collect()}
    assert families["kubeproxy_ipvs_service_connections_total"] == {HTTP: 3}
    metrics.update_services([ServiceState(WEB.name, WEB)])
    families = {family.metric.name: dict(family.samples) for family in metrics.collect()}
    assert families["kubeproxy_ipvs_service_connections_total"] == {HTTP: 1}


def test_addresses_of_a_service_port_are_summed() -> None:
    kernel = FakeKernel({VirtualServer(ip, 80, "TCP"): Traffic(1, 2, 3, 4, 5) for ip in ("10.96.0.10", "203.0.113.1")})
    families = collect(kernel, [WEB], TrafficLimits())
    names = ("connections", "received_packets", "sent_packets", "received_bytes", "sent_bytes")
    assert [families[f"kubeproxy_ipvs_service_{name}_total"] for name in names] == [{HTTP: 2 * n} for n in range(1, 6)]
    assert families["kubeproxy_ipvs_service_active_connections"] == {HTTP: 6}
    assert families["kubeproxy_ipvs_service_inactive_connections"] == {HTTP: 40}


def test_ports_beyond_the_limit_are_summed_and_their_connections_are_not_read() -> None:
    services = many(5)
    kernel = kernel_of(services)
    families = collect(kernel, services, TrafficLimits(series=2))
    first, second = ("shop", "s0", "", "TCP"), ("shop", "s1", "", "TCP")
    assert families[CONNECTIONS] == {first: 1, second: 2, ("", "", "", ""): 3 + 4 + 5}
    assert [server.address for server in kernel.requested] == ["10.96.1.0", "10.96.1.1"]
    assert families["kubeproxy_ipvs_service_series"] == {(): 2}


@pytest.mark.parametrize("limits", [TrafficLimits(series=0), TrafficLimits(servers_max=4)])
def test_kernel_is_not_read_if_traffic_is_off_or_there_are_too_many_services(limits: TrafficLimits) -> None:
    def unexpected() -> FakeKernel:
        raise AssertionError("the kernel was read")

    metrics = TrafficMetrics(unexpected, limits)
    metrics.update_services(ServiceState(service.name, service) for service in many(5))
    assert list(metrics.collect()) == []


def test_deleted_service_is_not_counted() -> None:
    services = many(2)
    metrics = TrafficMetrics(lambda: kernel_of(services), TrafficLimits())
    metrics.update_services(ServiceState(service.name, service) for service in services)
    metrics.update_services([ServiceState(services[0].name)])
    families = {family.metric.name: dict(family.samples) for family in metrics.collect()}
    assert families[CONNECTIONS] == {("shop", "s1", "", "TCP"): 2}
