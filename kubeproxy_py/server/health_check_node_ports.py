"""HealthCheckNodePorts: the listening sockets of the Services' health-check node ports.

Invariants:
  - Only sockets whose Service changed are opened or closed, so no health check fails because something else changed.
  - A port that cannot be bound is reported once for each Service, and retried until it can be or is no longer wanted.
"""

from collections.abc import Callable, Iterable
from functools import partial

from kubeproxy_py.model.health import HealthCheckNodePort, ServiceState
from kubeproxy_py.model.services import ServiceName
from kubeproxy_py.net import IP, Family
from kubeproxy_py.server.health import Health
from kubeproxy_py.server.http import HttpServer
from kubeproxy_py.server.http_messages import Request, Response
from kubeproxy_py.server.listeners import Listening, RetryingListeners

OnBindFailure = Callable[[ServiceName, int, str], None]
"""Called with the Service, the port and the error."""

_ListenerKey = tuple[ServiceName, Family, IP, int]


class HealthCheckNodePorts:
    """The ports are served by *server*; `update` is called in the loop's thread."""

    def __init__(self, server: HttpServer, health: Health, on_bind_failure: OnBindFailure) -> None:
        self._server = server
        self._health = health
        self._on_bind_failure = on_bind_failure
        # Of Services that have ports; belongs to the loop's thread.
        self._published: dict[ServiceName, tuple[HealthCheckNodePort, ...]] = {}
        # The fields below belong to the server's thread.
        self._ports: dict[tuple[ServiceName, Family], HealthCheckNodePort] = {}
        self._listeners: RetryingListeners[_ListenerKey] = RetryingListeners(server)

    def update(self, states: Iterable[ServiceState]) -> None:
        """Serve the ports of the Services that were compiled; the server's thread is woken only if one changed."""
        ports_by_service = ((state.name, state.health_check_node_ports) for state in states)
        changed = [(name, ports) for name, ports in ports_by_service if ports != self._published.get(name, ())]
        if not changed:
            return
        for name, ports in changed:
            if ports:
                self._published[name] = ports
            else:
                del self._published[name]
        self._server.call_soon_threadsafe(partial(self._apply, changed))

    def _apply(self, changed: list[tuple[ServiceName, tuple[HealthCheckNodePort, ...]]]) -> None:
        names = {name for name, _ in changed}
        self._ports = {key: port for key, port in self._ports.items() if key[0] not in names}
        self._ports |= {(name, port.family): port for name, ports in changed for port in ports}
        wanted = {
            (name, port.family, address, port.port)
            for name, ports in changed
            for port in ports
            for address in port.addresses
        }
        current = {key for key in self._listeners.keys if key[0] in names}
        # Close first: one Service may take over the port of another.
        for key in current - wanted:
            self._listeners.close(key)
        for key in sorted(wanted - current):
            self._open(key)

    def _open(self, key: _ListenerKey) -> None:
        name, family, address, port = key

        def answer(_request: Request) -> Response:
            return self._health.answer_for(name, self._ports[name, family])

        if error := self._listeners.open(key, Listening(address, port, answer)):
            self._on_bind_failure(name, port, error)
