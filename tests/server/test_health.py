"""Health: byte for byte what kube-proxy 1.36 says, and when it says so."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator

import pytest

from kubeproxy_py.model.health import HealthPort
from kubeproxy_py.server.health import Health, stuck_since
from kubeproxy_py.server.http_text import Request, Response
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


class Bench:
    """Health at a time that the test sets."""

    def __init__(self, **fields: object) -> None:
        self.now_s = 1000.0
        self.counted: list[tuple[str, int]] = []
        self.health = Health(lambda *counted: self.counted.append(counted), lambda: self.now_s, lambda: NOW_NS)
        both = {"IPv4": SYNCED_NS, "IPv6": SYNCED_NS}
        self.health.change(**{"updated_ns": both, "node_eligible": True, **fields})

    def get(self, path: str) -> Response:
        return self.health.answer(Request("GET", path))

    def codes(self) -> tuple[int, int]:
        """Of /healthz and /livez."""
        return self.get("/healthz").status, self.get("/livez").status


def test_a_healthy_node_in_full() -> None:
    answer = Bench().get("/healthz")
    assert answer.body == (
        b'{"lastUpdated":"2025-01-01T10:00:00.123456789Z","currentTime":"2025-01-01T10:00:00.123456789Z",'
        b'"nodeEligible":true,"healthy":true,"status":{"IPv4":{"lastUpdated":"2025-01-01T09:59:59.5Z","healthy":true},'
        b'"IPv6":{"lastUpdated":"2025-01-01T09:59:59.5Z","healthy":true}}}'
    )
    assert (answer.status, answer.headers) == (200, (JSON, NOSNIFF))


def test_livez_says_nothing_of_the_node() -> None:
    bench = Bench(node_eligible=False)
    answer = bench.get("/livez")
    assert answer.body.startswith(
        b'{"lastUpdated":"2025-01-01T10:00:00.123456789Z","currentTime":"2025-01-01T10:00:00.123456789Z","healthy":true'
    )
    assert bench.codes() == (503, 200)


def test_a_503_says_when_the_newest_family_was_up_to_date() -> None:
    answer = Bench(node_eligible=False, updated_ns={"IPv4": SYNCED_NS, "IPv6": SYNCED_NS + 10**9}).get("/healthz")
    assert answer.body.startswith(b'{"lastUpdated":"2025-01-01T10:00:00.5Z","currentTime"')


def test_before_any_loop_there_is_no_status_and_no_time() -> None:
    assert Bench(updated_ns={}, node_eligible=False).get("/healthz").body == (
        b'{"lastUpdated":"0001-01-01T00:00:00Z","currentTime":"2025-01-01T10:00:00.123456789Z",'
        b'"nodeEligible":false,"healthy":true}'
    )


def test_times_have_the_offset_of_this_host() -> None:
    set_zone("IST-5:30")
    assert b'"currentTime":"2025-01-01T15:30:00.123456789+05:30"' in Bench().get("/livez").body


@pytest.mark.parametrize("waited_s", [0, 59.9, 60, 1e6])
def test_what_was_asked_for_may_wait_for_less_than_two_periods(waited_s: float) -> None:
    bench = Bench(sync_period_s=30.0, asked_s=1000.0)
    bench.now_s += waited_s
    assert bench.codes() == ((200, 200) if waited_s < 60 else (503, 503))


def test_having_nothing_to_do_is_healthy_for_ever() -> None:
    bench = Bench()
    bench.now_s += 1e9
    assert bench.codes() == (200, 200)


def test_one_family_that_is_stuck_is_told_apart_and_makes_the_whole_unhealthy() -> None:
    bench = Bench(stuck_s={"IPv6": 900.0})
    body = bench.get("/livez").body
    assert b'"healthy":false,"status":{"IPv4":{"lastUpdated":"2025-01-01T09:59:59.5Z","healthy":true}' in body
    assert body.endswith(b'"healthy":false}}}')
    assert bench.codes() == (503, 503)


def test_a_family_is_stuck_since_it_first_was() -> None:
    assert stuck_since({"IPv4": 5.0}, {"IPv4", "IPv6"}, 9.0) == {"IPv4": 5.0, "IPv6": 9.0}
    assert stuck_since({"IPv4": 5.0}, (), 9.0) == {}


@pytest.mark.parametrize("path", ["/", "/healthz/", "/Healthz", "/metrics", "/livez/x"])
def test_other_paths_are_not_found_in_gos_words(path: str) -> None:
    answer = Bench().get(path)
    assert (answer.status, answer.body) == (404, b"404 page not found\n")


def test_answers_are_counted_by_path_and_status() -> None:
    bench = Bench(node_eligible=False)
    for path in ("/healthz", "/livez", "/x"):
        bench.get(path)
    assert bench.counted == [("healthz", 503), ("livez", 200)]


def port(local_endpoints: int) -> HealthPort:
    return HealthPort("IPv4", 30100, ("0.0.0.0",), local_endpoints)


def test_a_service_with_local_endpoints_in_full() -> None:
    answer = Bench(node_eligible=False).health.answer_for(name("ns/svc"), port(2))
    assert answer.body == (
        b'{\n\t"service": {\n\t\t"namespace": "ns",\n\t\t"name": "svc"\n\t},\n\t"localEndpoints": 2,\n'
        b'\t"serviceProxyHealthy": true\n}'
    )
    assert answer.headers == (JSON, NOSNIFF, ("X-Load-Balancing-Endpoint-Weight", "2"))
    assert answer.status == 200, "the node's eligibility does not count"


def test_a_service_without_local_endpoints_is_unavailable() -> None:
    answer = Bench().health.answer_for(name("ns/svc"), port(0))
    assert (answer.status, answer.headers[-1][1]) == (503, "0")


def test_a_service_of_an_unhealthy_proxy_is_unavailable_with_its_count() -> None:
    bench = Bench(asked_s=0.0)
    answer = bench.health.answer_for(name("ns/svc"), port(2))
    assert (answer.status, answer.headers[-1][1]) == (503, "2")
    assert b'"localEndpoints": 2,\n\t"serviceProxyHealthy": false' in answer.body
