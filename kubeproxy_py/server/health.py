"""/healthz, /livez and the health-check node ports: whether this node, and each Service on it, is to be sent traffic.

Law: byte for byte kube-proxy's.  Health is judged when it is asked for, from what the loop said last; so a loop that
hangs is found out, as long as anything was asked of it.

Source: kubernetes pkg/proxy/healthcheck, proxy_health.go and service_health.go, as of 1.36.
"""

import json
import time
from collections.abc import Callable, Iterable
from threading import Lock

from msgspec import Struct
from msgspec.structs import replace

from kubeproxy_py.model.health import HealthPort
from kubeproxy_py.model.services import Family, ServiceName
from kubeproxy_py.server.http_text import NOT_FOUND, Request, Response
from kubeproxy_py.server.timestamps import ZERO_TIME, rfc3339

PATIENCE_PERIODS = 2  # a sync that was asked for may take so many sync periods

_JSON = (("Content-Type", "application/json"), ("X-Content-Type-Options", "nosniff"))


class HealthState(Struct, frozen=True, gc=False):
    """What the loop said last: for each family when it was last brought up to date, and since when it is not.

    ``updated_ns`` counts from 1970; ``asked_s`` and ``stuck_s`` are of time.monotonic, None and missing: nothing is.
    """

    sync_period_s: float = 30.0
    updated_ns: dict[Family, int] = {}  # a family is in it from its loop's start on
    asked_s: float | None = None
    stuck_s: dict[Family, float] = {}
    node_eligible: bool = False

    def is_healthy(self, family: Family, now_s: float) -> bool:
        """Nothing was asked for that is not done after so long a time."""
        since_s = min((s for s in (self.asked_s, self.stuck_s.get(family)) if s is not None), default=now_s)
        return now_s - since_s < PATIENCE_PERIODS * self.sync_period_s


class Health:
    """Holds the Pulse, and answers from it; may be used from any thread."""

    def __init__(
        self,
        count: Callable[[str, int], None] = lambda _path, _status: None,
        clock: Callable[[], float] = time.monotonic,
        wall_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        """*count* is told the path and status of each answer about this node."""
        self.pulse = HealthState()
        self._lock = Lock()  # of changing it; who reads it has one whole Pulse without
        self._count = count
        self._clock = clock
        self._wall_ns = wall_ns

    def change(self, **fields: object) -> None:
        """Know better."""
        with self._lock:
            self.pulse = replace(self.pulse, **fields)

    def answer(self, request: Request) -> Response:
        """/healthz and /livez."""
        name = request.path.removeprefix("/")
        if name not in ("healthz", "livez"):
            return NOT_FOUND
        response = self._about_node(with_node=name == "healthz")
        self._count(name, response.status)
        return response

    def _about_node(self, *, with_node: bool) -> Response:
        pulse, now_s, now_ns = self.pulse, self._clock(), self._wall_ns()
        families = {family: pulse.is_healthy(family, now_s) for family in sorted(pulse.updated_ns)}
        healthy = all(families.values())
        good = healthy and (pulse.node_eligible or not with_node)
        updated_ns = now_ns if good else max(pulse.updated_ns.values(), default=None)
        body = {
            "lastUpdated": ZERO_TIME if updated_ns is None else rfc3339(updated_ns),
            "currentTime": rfc3339(now_ns),
            **({"nodeEligible": pulse.node_eligible} if with_node else {}),
            "healthy": healthy,
            **({"status": _status(pulse, families)} if families else {}),
        }
        return Response(200 if good else 503, json.dumps(body, separators=(",", ":")).encode(), _JSON)

    def answer_for(self, name: ServiceName, port: HealthPort) -> Response:
        """The health-check node *port* of the Service *name*; whatever is asked there."""
        now_s = self._clock()
        healthy = all(self.pulse.is_healthy(family, now_s) for family in self.pulse.updated_ns)
        count = port.local_endpoints
        body = {
            "service": {"namespace": name.namespace, "name": name.name},
            "localEndpoints": count,
            "serviceProxyHealthy": healthy,
        }
        headers = (*_JSON, ("X-Load-Balancing-Endpoint-Weight", str(count)))
        return Response(200 if count and healthy else 503, json.dumps(body, indent="\t").encode(), headers)


def _status(pulse: HealthState, families: dict[Family, bool]) -> dict[str, object]:
    return {
        family: {"lastUpdated": rfc3339(pulse.updated_ns[family]), "healthy": healthy}
        for family, healthy in families.items()
    }


def stuck_since(before: dict[Family, float], stuck: Iterable[Family], now_s: float) -> dict[Family, float]:
    """Since when each of the *stuck* families is, given what was known *before*."""
    return {family: before.get(family, now_s) for family in stuck}
