"""HealthCheckNodePorts: only ports that changed are opened or closed, and a port in use is reported once."""

from __future__ import annotations

import socket
from collections.abc import Callable

from kubeproxy_py.model.health import HealthCheckNodePort, ServiceState
from kubeproxy_py.server.health import Health
from kubeproxy_py.server.health_check_node_ports import HealthCheckNodePorts
from kubeproxy_py.server.http import Handler, HttpServer
from kubeproxy_py.server.http_messages import Request
from tests.builders import name


class FakeServer(HttpServer):
    """Records the ports that are opened and closed; ports in *in_use* cannot be opened."""

    def __init__(self) -> None:
        super().__init__("test")
        self.calls: list[tuple[str, int]] = []
        self.handlers: dict[int, Handler] = {}
        self.in_use: set[int] = set()
        self._ports: dict[socket.socket, int] = {}

    def call_soon_threadsafe(self, call: Callable[[], None]) -> None:
        call()

    def listen(self, address: str, port: int, handler: Handler, *, both_families: bool = False) -> socket.socket:
        if port in self.in_use:
            raise OSError(98, "Address already in use")
        self.calls.append(("open", port))
        self.handlers[port] = handler
        listener = socket.socket()
        self._ports[listener] = port
        return listener

    def close(self, listener: socket.socket) -> None:
        self.calls.append(("close", self._ports.pop(listener)))
        listener.close()


class Harness:
    """Node ports of a fake server."""

    def __init__(self) -> None:
        self.server = FakeServer()
        self.failures: list[tuple[str, int, str]] = []
        self.ports = HealthCheckNodePorts(
            self.server, Health(), lambda service, port, error: self.failures.append((str(service), port, error))
        )

    def update(self, service: str, *ports: tuple[int, int]) -> list[tuple[str, int]]:
        """Set the ports of *service*, each with its number of local endpoints; return what was opened and closed."""
        self.server.calls.clear()
        node_ports = tuple(HealthCheckNodePort("IPv4", port, ("0.0.0.0",), count) for port, count in ports)
        self.ports.update([ServiceState(name(service), None, node_ports)])
        return list(self.server.calls)

    def local_endpoints(self, port: int) -> bytes:
        return self.server.handlers[port](Request("GET", "/")).body


def test_port_stays_open_while_its_endpoints_change() -> None:
    harness = Harness()
    assert harness.update("shop/web", (30100, 1)) == [("open", 30100)]
    assert b'"localEndpoints": 1' in harness.local_endpoints(30100)
    assert harness.update("shop/web", (30100, 2)) == []
    assert b'"localEndpoints": 2' in harness.local_endpoints(30100)


def test_changed_port_is_closed_before_the_new_one_is_opened() -> None:
    harness = Harness()
    harness.update("shop/web", (30100, 1))
    assert harness.update("shop/web", (30101, 1)) == [("close", 30100), ("open", 30101)]


def test_ports_of_other_services_are_not_touched() -> None:
    harness = Harness()
    harness.update("shop/web", (30100, 1))
    assert harness.update("shop/api", (30101, 1)) == [("open", 30101)]
    assert harness.update("shop/api") == [("close", 30101)]
    assert harness.update("shop/api") == []


def test_port_in_use_is_reported_once_for_its_service() -> None:
    harness = Harness()
    harness.server.in_use.add(30100)
    harness.update("shop/web", (30100, 1))
    harness.update("shop/web", (30100, 2))
    assert harness.failures == [("shop/web", 30100, "Address already in use")]


def test_port_in_use_is_reported_again_after_it_was_not_wanted() -> None:
    harness = Harness()
    harness.server.in_use.add(30100)
    for ports in ((30100, 1),), (), ((30100, 1),):
        harness.update("shop/web", *ports)
    assert len(harness.failures) == 2
