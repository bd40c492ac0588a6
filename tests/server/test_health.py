"""Health: the responses of kube-proxy 1.36 byte for byte, and when a node counts as healthy."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator

import pytest
from msgspec.structs import replace

from kubeproxy_py.model.health import HealthCheckNodePort
from kubeproxy_py.net import Family
from kubeproxy_py.server.health import Health, HealthState
from kubeproxy_py.server.health_updates import stuck_since
from kubeproxy_py.server.http_messages import Request, Response
from tests.builders import name

NOW_NS = 1_735_725_600_123_456_789  # 2025-01-01T10:00:00.123456789Z
SYNCED_NS = 1_735_725_599_500_000_000
JSON = ("Content-Type", "application/json")
NOSNIFF = ("X-Content-Type-Options", "nosniff")


@pytest.fixture(autouse=True)
def _in_utc() -> Iterator[None]:
    before = os.environ.get("TZ")
    set_zone("UTC")
    yield
    set_zone(before)


def set_zone(zone: str | None) -> None:
    if zone is None:
        os.environ.pop("TZ", None)
    else:
        os.environ["TZ"] = zone
    time.tzset()


HEALTHY = HealthState(
    updated_ns={"IPv4": SYNCED_NS, "IPv6": SYNCED_NS},
    node_eligible=True,
    unprotected=frozenset(),
    complete=frozenset({"IPv4", "IPv6"}),
)


class Harness:
    """Health at a time that the test sets."""

    def __init__(self, state: HealthState = HEALTHY) -> None:
        self.now_s = 1000.0
        self.answers: list[tuple[str, int]] = []
        self.health = Health(lambda *answer: self.answers.append(answer), lambda: self.now_s, lambda: NOW_NS)
        self.health.update(lambda _state: state)

    def get(self, path: str) -> Response:
        return self.health.answer(Request("GET", path))

    def statuses(self) -> tuple[int, int]:
        """Return the statuses of /healthz and /livez."""
        return self.get("/healthz").status, self.get("/livez").status


def test_healthz_of_a_healthy_node() -> None:
    answer = Harness().get("/healthz")
    assert answer.body == (
        b'{"lastUpdated":"2025-01-01T10:00:00.123456789Z","currentTime":"2025-01-01T10:00:00.123456789Z",'
        b'"nodeEligible":true,"healthy":true,"status":{"IPv4":{"lastUpdated":"2025-01-01T09:59:59.5Z","healthy":true},'
        b'"IPv6":{"lastUpdated":"2025-01-01T09:59:59.5Z","healthy":true}}}'
    )
    assert (answer.status, answer.headers) == (200, (JSON, NOSNIFF))


def test_livez_does_not_depend_on_node_eligibility() -> None:
    harness = Harness(replace(HEALTHY, node_eligible=False))
    answer = harness.get("/livez")
    assert answer.body.startswith(
        b'{"lastUpdated":"2025-01-01T10:00:00.123456789Z","currentTime":"2025-01-01T10:00:00.123456789Z","healthy":true'
    )
    assert harness.statuses() == (503, 200)


def test_503_states_when_the_newest_family_was_up_to_date() -> None:
    answer = Harness(HealthState(updated_ns={"IPv4": SYNCED_NS, "IPv6": SYNCED_NS + 10**9})).get("/healthz")
    assert answer.body.startswith(b'{"lastUpdated":"2025-01-01T10:00:00.5Z","currentTime"')


def test_healthz_before_the_start_has_no_status_and_zero_time() -> None:
    assert Harness(HealthState()).get("/healthz").body == (
        b'{"lastUpdated":"0001-01-01T00:00:00Z","currentTime":"2025-01-01T10:00:00.123456789Z",'
        b'"nodeEligible":false,"healthy":true}'
    )


def test_times_are_in_local_time() -> None:
    set_zone("IST-5:30")
    assert b'"currentTime":"2025-01-01T15:30:00.123456789+05:30"' in Harness().get("/livez").body


@pytest.mark.parametrize("waited_s", [0, 59.9, 60, 1e6])
def test_pending_work_is_unhealthy_after_two_sync_periods(waited_s: float) -> None:
    harness = Harness(replace(HEALTHY, sync_period_s=30.0, pending_since_s=1000.0))
    harness.now_s += waited_s
    assert harness.statuses() == ((200, 200) if waited_s < 60 else (503, 503))


def test_idle_node_stays_healthy() -> None:
    harness = Harness()
    harness.now_s += 1e9
    assert harness.statuses() == (200, 200)


def test_one_stuck_family_makes_the_node_unhealthy_but_a_restart_would_not_help() -> None:
    harness = Harness(replace(HEALTHY, stuck_since_s={"IPv6": 900.0}))
    body = harness.get("/healthz").body
    assert b'"healthy":false,"status":{"IPv4":{"lastUpdated":"2025-01-01T09:59:59.5Z","healthy":true}' in body
    assert body.endswith(b'"healthy":false}}}')
    assert harness.statuses() == (503, 200)
    assert harness.get("/readyz").status == 503


@pytest.mark.parametrize(("unprotected", "status"), [((), 200), (("IPv6",), 503), (("IPv4", "IPv6"), 503)])
def test_a_node_is_ready_while_every_family_has_what_protects_its_addresses(
    unprotected: tuple[Family, ...], status: int
) -> None:
    harness = Harness(replace(HEALTHY, unprotected=frozenset(unprotected), node_eligible=False))
    assert harness.get("/readyz").status == status
    assert harness.get("/livez").status == 200


def test_a_node_is_not_ready_before_every_family_was_complete_once() -> None:
    harness = Harness(replace(HEALTHY, complete=frozenset({"IPv4"})))
    assert (harness.get("/readyz").status, *harness.statuses()) == (503, 200, 200)


def test_a_family_that_is_not_served_needs_no_protection() -> None:
    state = replace(HEALTHY, updated_ns={"IPv4": SYNCED_NS}, unprotected=frozenset({"IPv6"}))
    assert Harness(state).get("/readyz").status == 200


def test_stuck_family_keeps_its_first_time() -> None:
    assert stuck_since({"IPv4": 5.0}, {"IPv4", "IPv6"}, 9.0) == {"IPv4": 5.0, "IPv6": 9.0}
    assert stuck_since({"IPv4": 5.0}, (), 9.0) == {}


@pytest.mark.parametrize("path", ["/", "/healthz/", "/Healthz", "/metrics", "/livez/x"])
def test_unknown_path_is_answered_like_go(path: str) -> None:
    answer = Harness().get(path)
    assert (answer.status, answer.body) == (404, b"404 page not found\n")


def test_answers_are_reported_by_path_and_status() -> None:
    harness = Harness(replace(HEALTHY, node_eligible=False))
    for path in ("/healthz", "/livez", "/x"):
        harness.get(path)
    assert harness.answers == [("healthz", 503), ("livez", 200)]


def port(local_endpoints: int) -> HealthCheckNodePort:
    return HealthCheckNodePort("IPv4", 30100, ("0.0.0.0",), local_endpoints)


def test_service_with_local_endpoints() -> None:
    answer = Harness(replace(HEALTHY, node_eligible=False)).health.answer_for(name("ns/svc"), port(2))
    assert answer.body == (
        b'{\n\t"service": {\n\t\t"namespace": "ns",\n\t\t"name": "svc"\n\t},\n\t"localEndpoints": 2,\n'
        b'\t"serviceProxyHealthy": true\n}'
    )
    assert answer.headers == (JSON, NOSNIFF, ("X-Load-Balancing-Endpoint-Weight", "2"))
    assert answer.status == 200, "the node's eligibility does not count"


def test_service_without_local_endpoints_is_unavailable() -> None:
    answer = Harness().health.answer_for(name("ns/svc"), port(0))
    assert (answer.status, answer.headers[-1][1]) == (503, "0")


def test_service_is_unavailable_while_the_proxy_is_unhealthy() -> None:
    harness = Harness(replace(HEALTHY, pending_since_s=0.0))
    answer = harness.health.answer_for(name("ns/svc"), port(2))
    assert (answer.status, answer.headers[-1][1]) == (503, "2")
    assert b'"localEndpoints": 2,\n\t"serviceProxyHealthy": false' in answer.body
