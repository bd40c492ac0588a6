"""Traffic: under whose name it is counted, and how many names there can be."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from kubeproxy_py.metrics.traffic import ServicePortIndex, TrafficLimits, TrafficMetrics
from kubeproxy_py.model.health import ServiceState
from kubeproxy_py.model.rows import Connections, RealServer, Traffic, VirtualServer
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
def test_a_virtual_server_is_known_by_the_service_port_that_it_stands_for(
    address: str, number: int, protocol: str, labels: tuple[str, ...] | None
) -> None:
    assert ServicePortIndex([WEB]).of(VirtualServer(address, number, protocol)) == labels  # type: ignore[arg-type]


def test_an_address_that_two_services_want_is_the_first_names() -> None:
    rivals = [service("b", external_ips=("203.0.113.1",)), service("a", external_ips=("203.0.113.1",))]
    for order in (rivals, rivals[::-1]):
        assert ServicePortIndex(order).of(VirtualServer("203.0.113.1", 80, "TCP")) == ("shop", "a", "", "TCP")


class Kernel:
    """Counts that a test gives."""

    def __init__(self, traffic: dict[VirtualServer, Traffic]) -> None:
        self.carried = traffic
        self.asked: list[VirtualServer] = []

    def traffic(self) -> dict[VirtualServer, Traffic]:
        return self.carried

    def connections(self, virtual_servers: Iterable[VirtualServer]) -> dict[RealServer, Connections]:
        self.asked = list(virtual_servers)
        return {RealServer(server, f"10.244.1.{n}", 8080): Connections(n, 10) for server in self.asked for n in (1, 2)}


def many(count: int) -> list[Service]:
    return [service(f"s{number}", (f"10.96.1.{number}",)) for number in range(count)]


def counted(kernel: Kernel, services: list[Service], limits: TrafficLimits) -> dict[str, dict[tuple[str, ...], object]]:
    numbers = TrafficMetrics(lambda: kernel, limits)
    numbers.take(ServiceState(each.name, each) for each in services)
    return {family.metric.name: dict(family.samples) for family in numbers.families()}


def kernel_of(services: list[Service]) -> Kernel:
    """Each has carried as many connections as its place in the list says, from 1 on."""
    return Kernel(
        {VirtualServer(s.cluster_ips[0], 80, "TCP"): Traffic(n, 10 * n, 0, 0, 7) for n, s in enumerate(services, 1)}
    )


def test_the_counts_of_all_addresses_of_a_service_port_are_one() -> None:
    kernel = Kernel({VirtualServer(ip, 80, "TCP"): Traffic(1, 2, 3, 4, 5) for ip in ("10.96.0.10", "203.0.113.1")})
    found = counted(kernel, [WEB], TrafficLimits())
    names = ("connections", "received_packets", "sent_packets", "received_bytes", "sent_bytes")
    assert [found[f"kubeproxy_ipvs_service_{name}_total"] for name in names] == [{HTTP: 2 * n} for n in range(1, 6)]
    assert found["kubeproxy_ipvs_service_active_connections"] == {HTTP: 6}
    assert found["kubeproxy_ipvs_service_inactive_connections"] == {HTTP: 40}


def test_beyond_the_cap_all_is_one_sum_and_only_those_within_it_are_asked_about() -> None:
    services = many(5)
    kernel = kernel_of(services)
    found = counted(kernel, services, TrafficLimits(series=2))
    first, second = ("shop", "s0", "", "TCP"), ("shop", "s1", "", "TCP")
    assert found[CONNECTIONS] == {first: 1, second: 2, ("", "", "", ""): 3 + 4 + 5}
    assert [server.address for server in kernel.asked] == ["10.96.1.0", "10.96.1.1"]
    assert found["kubeproxy_ipvs_service_series"] == {(): 2}


@pytest.mark.parametrize("limits", [TrafficLimits(series=0), TrafficLimits(servers_max=4)])
def test_the_kernel_is_not_asked_where_traffic_is_off_or_there_is_too_much(limits: TrafficLimits) -> None:
    def never() -> Kernel:
        raise AssertionError("was asked")

    numbers = TrafficMetrics(never, limits)
    numbers.take(ServiceState(each.name, each) for each in many(5))
    assert list(numbers.families()) == []


def test_a_service_that_went_is_forgotten() -> None:
    services = many(2)
    numbers = TrafficMetrics(lambda: kernel_of(services), TrafficLimits())
    numbers.take(ServiceState(each.name, each) for each in services)
    numbers.take([ServiceState(services[0].name)])
    found = {family.metric.name: dict(family.samples) for family in numbers.families()}
    assert found[CONNECTIONS] == {("shop", "s1", "", "TCP"): 2}
