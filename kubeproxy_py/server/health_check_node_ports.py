"""HealthPorts: the listening sockets of the health-check node ports, kept as the Services ask.

Law: only what changed is opened or closed, so a probe meets no gap while something else changes.  A port that can't
be had is told once for each Service, and tried again until it can or is wanted no more.
"""

import socket
import time
from collections.abc import Callable, Iterable

from kubeproxy_py.model.health import HealthPort, ServiceState
from kubeproxy_py.model.services import FAMILIES, IP, Family, ServiceName
from kubeproxy_py.server.health import Health
from kubeproxy_py.server.http import HttpServer
from kubeproxy_py.server.http_text import Request, Response

RETRY_S = 5.0  # as kube-proxy's own health server; its node ports wait for the next sync

OnBindFailure = Callable[[ServiceName, int, str], None]
Place = tuple[ServiceName, Family, IP, int]


class HealthCheckNodePorts:
    """For the thread of *server* alone, save ``take``."""

    def __init__(self, server: HttpServer, health: Health, on_bind_failure: OnBindFailure) -> None:
        self._server = server
        self._health = health
        self._on_bind_failure = on_bind_failure
        self._told: dict[ServiceName, tuple[HealthPort, ...]] = {}  # of Services that have some
        self._ports: dict[tuple[ServiceName, Family], HealthPort] = {}
        self._open: dict[Place, socket.socket] = {}
        self._failed: set[Place] = set()
        self._retry_s = 0.0

    def take(self, states: Iterable[ServiceState]) -> None:
        """Have the ports as *states* say; to be called from one thread.  The server's is woken up only for news."""
        all_ports = ((state.name, state.health_ports) for state in states)
        wanted = [(name, ports) for name, ports in all_ports if ports != self._told.get(name, ())]
        if not wanted:
            return
        for name, ports in wanted:
            if ports:
                self._told[name] = ports
            else:
                del self._told[name]
        self._server.do(lambda: self._set(wanted))

    def tick(self) -> None:
        """Try again what failed, if it is time."""
        if self._failed and time.monotonic() >= self._retry_s:
            self._retry_s = time.monotonic() + RETRY_S
            for place in sorted(self._failed):
                self._listen(place)

    def _set(self, wanted: list[tuple[ServiceName, tuple[HealthPort, ...]]]) -> None:
        names = {name for name, ports in wanted if ports or any((name, family) in self._ports for family in FAMILIES)}
        if not names:
            return
        self._ports = {key: port for key, port in self._ports.items() if key[0] not in names}
        self._ports |= {(name, port.family): port for name, ports in wanted for port in ports}
        self._follow(names)

    def _follow(self, names: set[ServiceName]) -> None:
        """Close what the Services *names* want no more, then open what they want: one may take over another's port."""
        places = {
            (name, family, address, port.port)
            for (name, family), port in self._ports.items()
            if name in names
            for address in port.addresses
        }
        for place in [place for place in self._open if place[0] in names and place not in places]:
            self._server.close(self._open.pop(place))
        self._failed = {place for place in self._failed if place[0] not in names or place in places}
        for place in sorted(places - self._open.keys() - self._failed):
            self._listen(place)

    def _listen(self, place: Place) -> None:
        name, family, address, port = place

        def answer(_request: Request) -> Response:
            return self._health.answer_for(name, self._ports[name, family])

        try:
            self._open[place] = self._server.listen(address, port, answer)
        except OSError as error:
            if place not in self._failed:
                self._failed.add(place)
                self._retry_s = time.monotonic() + RETRY_S
                self._on_bind_failure(name, port, error.strerror or str(error))
        else:
            self._failed.discard(place)
