"""Health: answer /healthz, /livez, /readyz and the health-check node ports.

Clients learn whether to send traffic to this node, or to the endpoints of a Service on it; a supervisor learns whether
to restart the process (/livez), and a rollout whether to go on (/readyz).

Invariants:
  - The responses are kube-proxy's byte for byte, and /readyz, which it does not have, is in the same form.
  - /livez fails only if the loop hangs: a restart fixes nothing else.  /readyz fails as long as a family lacks what
    protects its addresses, which nobody would see otherwise, and until a device, set, chain or jump that failed in the
    first sync exists.
  - Health is judged at each request from the last state that the loop published, so a loop that hangs while work is
    pending is detected.

Source: kubernetes pkg/proxy/healthcheck, proxy_health.go and service_health.go, as of 1.36.
"""

import json
import time
from collections.abc import Callable, Mapping
from threading import Lock

from msgspec import Struct

from kubeproxy_py.model.health import HealthCheckNodePort
from kubeproxy_py.model.services import ServiceName
from kubeproxy_py.net import FAMILIES, Family
from kubeproxy_py.server.http_messages import NOT_FOUND, Request, Response

PATIENCE_PERIODS = 2  # a requested sync may take this many sync periods
ZERO_TIME = "0001-01-01T00:00:00Z"  # Go's zero time.Time

_JSON = (("Content-Type", "application/json"), ("X-Content-Type-Options", "nosniff"))


class HealthState(Struct, frozen=True, gc=False):
    """What the loop published last."""

    sync_period_s: float = 30.0
    updated_ns: dict[Family, int] = {}  # when each served family was last up to date, since 1970
    pending_since_s: float | None = None  # when the oldest unfinished work was requested, of time.monotonic
    stuck_since_s: dict[Family, float] = {}  # when the sync of a family began to fail, of time.monotonic
    node_eligible: bool = False  # the Node exists (or there is no API server that could have one), and stays
    unprotected: frozenset[Family] = frozenset(FAMILIES)  # families that lack a chain or jump that protects addresses
    complete: frozenset[Family] = frozenset()  # families that had every device, set, chain and jump after a sync, once

    def is_healthy(self, family: Family, now_s: float) -> bool:
        """Return whether nothing of *family* has been pending or failing for too long."""
        return self.is_alive(family, now_s) and self._is_recent(self.stuck_since_s.get(family), now_s)

    def is_alive(self, _family: Family, now_s: float) -> bool:
        """Return whether no work has been pending for too long; it is that of every family."""
        return self._is_recent(self.pending_since_s, now_s)

    def is_ready(self, family: Family, now_s: float) -> bool:
        """Return whether addresses of *family* can be served, and are up to date."""
        return self.is_healthy(family, now_s) and family not in self.unprotected and family in self.complete

    def _is_recent(self, since_s: float | None, now_s: float) -> bool:
        return since_s is None or now_s - since_s < PATIENCE_PERIODS * self.sync_period_s


_CHECKS: Mapping[str, Callable[[HealthState, Family, float], bool]] = {
    "healthz": HealthState.is_healthy,
    "livez": HealthState.is_alive,
    "readyz": HealthState.is_ready,
}
"""What each path asks of every family."""


class Health:
    """Answers health checks from the current state; may be used from any thread."""

    def __init__(
        self,
        on_answer: Callable[[str, int], None] = lambda _path, _status: None,
        clock: Callable[[], float] = time.monotonic,
        wall_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        """Call *on_answer* with the path and the status of each answer about this node."""
        self.state = HealthState()  # replaced as a value, so that reading it needs no lock
        self._lock = Lock()  # of changes, each of which depends on the state before
        self._on_answer = on_answer
        self._clock = clock
        self._wall_ns = wall_ns

    def update(self, change: Callable[[HealthState], HealthState]) -> None:
        """Replace the state by what *change* returns for it."""
        with self._lock:
            self.state = change(self.state)

    def answer(self, request: Request) -> Response:
        """Answer /healthz, /livez and /readyz."""
        name = request.path.removeprefix("/")
        if name not in _CHECKS:
            return NOT_FOUND
        response = self._answer_for_node(_CHECKS[name], with_eligibility=name == "healthz")
        if name != "readyz":  # kube-proxy counts the others
            self._on_answer(name, response.status)
        return response

    def _answer_for_node(
        self, check: Callable[[HealthState, Family, float], bool], *, with_eligibility: bool
    ) -> Response:
        state, now_s, now_ns = self.state, self._clock(), self._wall_ns()
        families = {family: check(state, family, now_s) for family in sorted(state.updated_ns)}
        healthy = all(families.values())
        ok = healthy and (state.node_eligible or not with_eligibility)
        updated_ns = now_ns if ok else max(state.updated_ns.values(), default=None)
        body = {
            "lastUpdated": ZERO_TIME if updated_ns is None else rfc3339(updated_ns),
            "currentTime": rfc3339(now_ns),
            **({"nodeEligible": state.node_eligible} if with_eligibility else {}),
            "healthy": healthy,
            **({"status": _family_status(state, families)} if families else {}),
        }
        return Response(200 if ok else 503, json.dumps(body, separators=(",", ":")).encode(), _JSON)

    def answer_for(self, name: ServiceName, port: HealthCheckNodePort) -> Response:
        """Answer any request to the health-check node *port* of the Service *name*."""
        state, now_s = self.state, self._clock()
        healthy = all(state.is_healthy(family, now_s) for family in state.updated_ns)
        count = port.local_endpoints
        body = {
            "service": {"namespace": name.namespace, "name": name.name},
            "localEndpoints": count,
            "serviceProxyHealthy": healthy,
        }
        headers = (*_JSON, ("X-Load-Balancing-Endpoint-Weight", str(count)))
        return Response(200 if count and healthy else 503, json.dumps(body, indent="\t").encode(), headers)


def _family_status(state: HealthState, families: dict[Family, bool]) -> dict[str, object]:
    return {
        family: {"lastUpdated": rfc3339(state.updated_ns[family]), "healthy": healthy}
        for family, healthy in families.items()
    }


def rfc3339(at_ns: int) -> str:
    """Return *at_ns* (nanoseconds since 1970) in local time as Go's time.RFC3339Nano, without trailing zeros.

    It is integer arithmetic: a float would lose the last digits.
    """
    seconds, fraction = divmod(at_ns, 10**9)
    local = time.localtime(seconds)
    digits = f".{fraction:09}".rstrip("0").rstrip(".")
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', local)}{digits}{_utc_offset(local.tm_gmtoff)}"


def _utc_offset(offset_s: int) -> str:
    if not offset_s:
        return "Z"
    hours, minutes = divmod(abs(offset_s) // 60, 60)
    return f"{'-' if offset_s < 0 else '+'}{hours:02}:{minutes:02}"
