"""The page with forged documents: an agent whose answers a test makes."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from http.client import HTTPConnection
from typing import Any
from urllib.parse import parse_qsl

import msgspec

from kubeproxy_py.diagnose.document import (
    VERSION,
    AgentState,
    Counters,
    Document,
    DrainState,
    RealServerState,
    RealServerTraffic,
    RowState,
    ServiceState,
    State,
    Totals,
    TrafficDocument,
    VirtualServerState,
)
from kubeproxy_py.server.http import HttpServer
from kubeproxy_py.server.http_messages import Request, Response
from kubeproxy_py.server.ui import UiPages

_JSON = (("Content-Type", "application/json"), ("X-Content-Type-Options", "nosniff"), ("Cache-Control", "no-store"))
TIME = "2026-03-01T12:00:00.000Z"

Answer = Callable[[str, dict[str, str]], Document | dict[str, Any] | Response]
"""Returns the document of a path and parameters."""


class Served:
    """The page on a port of 127.0.0.1, with the documents that *answer* returns; until the process ends."""

    def __init__(self, answer: Answer) -> None:
        self.answer = answer
        self.asked: list[str] = []
        self._server = HttpServer("ui-test")
        listener = self._server.listen("127.0.0.1", 0, UiPages(self._documents).answer)
        self.port: int = listener.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}/ui"
        self._listener = listener
        self._server.start()

    def close(self) -> None:
        self._server.call_soon_threadsafe(lambda: self._server.close(self._listener))

    def get(
        self, path: str, host: str = "localhost", method: str = "GET", **headers: str
    ) -> tuple[int, dict[str, str], str]:
        """Return status, headers and body of a request."""
        connection = HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            connection.putrequest(method, path, skip_host=True)
            for name, value in {"Host": host, **headers}.items():
                connection.putheader(name.replace("_", "-"), value)
            connection.endheaders()
            response = connection.getresponse()
            return (
                response.status,
                {key.lower(): value for key, value in response.headers.items()},
                response.read().decode(),
            )
        finally:
            connection.close()

    def _documents(self, request: Request) -> Response:
        self.asked.append(request.path)
        found = self.answer(request.path, dict(parse_qsl(request.query)))
        return found if isinstance(found, Response) else Response(200, msgspec.json.encode(found), _JSON)


def error(status: int, text: str, *nearest: str) -> Response:
    return Response(status, msgspec.json.encode({"error": text, "nearest": nearest}), _JSON)


class Agent:
    """Answers as an agent with *services* does."""

    def __init__(self, *services: ServiceState, **more: Any) -> None:
        self.services = services
        self.more = more
        self.explanations: dict[str, Any] = {}
        self.traces: dict[str, Any] = {}

    def __call__(self, path: str, parameters: dict[str, str]) -> Document | dict[str, Any] | Response:
        match path:
            case "/v1/status":
                return self._state(parameters)
            case "/v1/traffic":
                return self._traffic(parameters["service"])
            case "/v1/explain":
                return self.explanations.get(parameters.get("target", "")) or error(404, "no Service x", "shop/web")
            case "/v1/trace":
                return self.traces.get(parameters.get("to", "")) or error(400, "from: unknown sender")
        return error(404, "404 page not found")

    def _state(self, parameters: dict[str, str]) -> State:
        name = parameters.get("service")
        found = tuple(one for one in self.services if not name or f"{one.namespace}/{one.name}" == name)
        if parameters["realServers"] == "false":
            found = tuple(map(_without_real_servers, found))
        return msgspec.structs.replace(state_of(found), **self.more)

    def _traffic(self, name: str) -> TrafficDocument:
        now_s = time.monotonic()
        reals = []
        for service in self.services:
            for server in service.virtual_servers if f"{service.namespace}/{service.name}" == name else ():
                for index, real in enumerate(server.real_servers or ()):
                    total = (
                        (20 * now_s + 50 * math.sin(now_s / 3 + index)) * (index + 1) if real.status == "serving" else 7
                    )
                    counters = Counters(*(int(total * factor) for factor in (1, 6, 5, 900, 12_000)))
                    where = f"{server.address}:{server.port}/{server.protocol}"
                    reals.append(RealServerTraffic(where, real.address, real.port, 1, 3, 4, counters))
        return TrafficDocument(VERSION, "Traffic", now_s, tuple(reals))


def _without_real_servers(service: ServiceState) -> ServiceState:
    servers = tuple(msgspec.structs.replace(one, real_servers=None) for one in service.virtual_servers)
    return msgspec.structs.replace(service, virtual_servers=servers)


def state_of(services: tuple[ServiceState, ...]) -> State:
    agent = AgentState(
        "1.4.0",
        "node-a",
        "zone-1",
        started_at="2026-03-01T08:15:00.000Z",
        source="API server https://10.0.0.1:6443",
        last_sync="2026-03-01T11:59:48.000Z",
        last_full_compare="2026-03-01T11:59:30.000Z",
        full_compares=449,
        partial_compares=7,
        drift_found={"VirtualServer": 2, "Chain": 1},
        drift_repaired={"VirtualServer": 2, "Chain": 1},
        iptables="nft",
        config={"ipvs.scheduler": "rr", "ipvs.strictARP": "True", "clusterCIDR": "10.244.0.0/16"},
    )
    servers = [server for one in services for server in one.virtual_servers]
    reals = sum(server.serving + server.draining for server in servers)
    totals = Totals(len(services), len(servers), reals, sum(server.draining for server in servers), 9 * len(servers))
    return State(VERSION, "State", TIME, agent, totals, (), (), services)


def web(**changes: Any) -> ServiceState:
    """Return a Service that is well, with a real server that drains."""
    reals = (
        RealServerState(
            "10.244.2.9",
            8080,
            "draining",
            0,
            "web-5d9f7-x2x8q",
            "node-b",
            "zone-2",
            "2026-03-01T11:58:10.000Z",
            active=2,
        ),
        RealServerState(
            "10.244.1.5", 8080, "serving", 1, "web-7c6b9-abcde", "node-a", "zone-1", active=12, inactive=40
        ),
        RealServerState("10.244.2.7", 8080, "serving", 1, "web-7c6b9-fghij", "node-b", "zone-2", active=9, inactive=31),
    )
    common: dict[str, Any] = {"port_name": "http", "scheduler": "rr", "policy": "Cluster", "serving": 2, "draining": 1}
    servers = (
        VirtualServerState("10.96.0.10", 80, "TCP", "ClusterIP", "serving", **common, real_servers=reals),
        VirtualServerState(
            "203.0.113.7",
            80,
            "TCP",
            "LoadBalancer",
            "serving",
            **common,
            source_ranges=("198.51.100.0/24",),
            real_servers=reals[1:],
        ),
    )
    return msgspec.structs.replace(ServiceState("shop", "web", "LoadBalancer", servers), **changes)


def unserved(name: str, host: int, reason: str) -> ServiceState:
    server = VirtualServerState(
        f"10.96.0.{host}",
        80,
        "TCP",
        "ClusterIP",
        "unserved",
        "http",
        "rr",
        policy="Cluster",
        reason=reason,
        real_servers=(),
    )
    return ServiceState("shop", name, "ClusterIP", (server,))


def failing() -> ServiceState:
    real = RealServerState("10.244.3.4", 5432, "failing", pod="db-0", node="node-c", error="ENOMEM, retried in 8 s")
    server = VirtualServerState(
        *("10.96.0.20", 5432, "TCP", "ClusterIP", "failing", "sql", "rr"),
        policy="Cluster",
        reason="real servers that failed: 1",
        failing=1,
        real_servers=(real,),
    )
    return ServiceState("shop", "db", "ClusterIP", (server,))


def demo_agent() -> Agent:
    """Return an agent with some of each, for tests and for the pictures of the docs."""
    services = (
        failing(),
        unserved("api", 11, '1 endpoint, no port "http" in its slices (they have: web)'),
        unserved("cart", 12, "2 endpoints, 0 ready"),
        web(),
        *(plain(number) for number in range(40)),
    )
    drains = (
        DrainState("shop", "web", "10.96.0.10:80/TCP", "10.244.2.9:8080", "2026-03-01T11:58:10.000Z"),
        DrainState(
            "", "", "10.96.0.99:80/TCP", "10.244.2.9:81", "2026-03-01T11:58:10.000Z", "2026-03-01T12:03:10.000Z"
        ),
    )
    row = RowState(
        *("RealServer", "10.96.0.20:5432/TCP -> 10.244.3.4:5432", "failing", "weight 1"),
        in_kernel=False,
        error="ENOMEM",
        failures=3,
        retry_at="2026-03-01T12:00:08.000Z",
    )
    return Agent(*services, drains=drains, unsettled=(row,))


def plain(number: int, reals: int = 3) -> ServiceState:
    """Return a Service that is well, one of many."""
    name = f"service-{number:05}"
    host = f"10.{100 + number // 62_500}.{number // 250 % 250}.{number % 250 + 1}"
    listed = tuple(
        RealServerState(f"10.244.{number % 250}.{index + 1}", 8080, "serving", 1, f"{name}-{index}", "node-b", "zone-2")
        for index in range(reals)
    )
    server = VirtualServerState(
        host, 80, "TCP", "ClusterIP", "serving", "http", "rr", policy="Cluster", serving=reals, real_servers=listed
    )
    return ServiceState(f"team-{number % 20:02}", name, "ClusterIP", (server,))
