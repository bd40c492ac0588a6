"""What the sources tell a Tally, and what becomes of it as numbers; and when a change of endpoints was made."""

from __future__ import annotations

import pytest

from kubeproxy_py.metrics.registry import Histogram, MetricsRegistry
from kubeproxy_py.metrics.rest_client import RestClientMetrics
from kubeproxy_py.model.events import SliceUpserted
from kubeproxy_py.sources.decode.objects import decode
from kubeproxy_py.sources.object_cache import ObjectCache
from tests.builders import endpoint_slice

TRIGGER = "endpoints.kubernetes.io/last-change-trigger-time"


def slice_triggered(text: object) -> float:
    """When the change was made that a slice with this annotation tells of."""
    body = {
        "metadata": {
            "name": "web-1",
            "namespace": "shop",
            "labels": {"kubernetes.io/service-name": "web"},
            "annotations": {TRIGGER: text},
        },
        "addressType": "IPv4",
    }
    found = decode("EndpointSlice", body)
    assert not found.problems
    return found.triggered_s


@pytest.mark.parametrize(
    ("text", "at_s"),
    [
        ("2025-01-01T10:00:00Z", 1735725600.0),
        ("2025-01-01T10:00:00.25Z", 1735725600.25),
        ("2025-01-01T10:00:00.123456789Z", 1735725600.123456),
        ("2025-01-01T12:00:00+02:00", 1735725600.0),
        ("yesterday", 0.0),
        ("", 0.0),
        (None, 0.0),
    ],
)
def test_a_slice_tells_when_the_change_was_made_and_is_used_if_it_does_not(text: object, at_s: float) -> None:
    assert slice_triggered(text) == pytest.approx(at_s, abs=1e-5)


def test_a_slice_of_which_only_the_time_changed_is_no_news() -> None:
    told, part = ObjectCache(), endpoint_slice()
    identity = ("EndpointSlice", part.name)
    assert told.tell(identity, (part,), 5.0) == [SliceUpserted(part, 5.0)]  # type: ignore[arg-type]
    assert told.tell(identity, (part,), 6.0) == []  # type: ignore[arg-type]


class Bench:
    """SourceNumbers at a time that the test sets."""

    def __init__(self) -> None:
        self.now_s = 50.0
        self.numbers = MetricsRegistry()
        self.sources = RestClientMetrics(self.numbers, lambda: self.now_s)

    def samples(self, name: str) -> dict[tuple[str, ...], object]:
        families = (*self.numbers.families(), *self.sources.families())
        return {labels: value for each in families if each.metric.name == name for labels, value in each.samples}


def test_requests_are_counted_by_code_and_timed_by_method() -> None:
    bench = Bench()
    for code in ("200", "200", "<error>"):
        bench.sources.requested("api:6443", "GET", code, 0.3, 0)
    codes = bench.samples("rest_client_requests_total")
    assert codes == {("200", "GET", "api:6443"): 2, ("<error>", "GET", "api:6443"): 1}
    timed = bench.samples("rest_client_request_duration_seconds")[("GET", "api:6443")]
    assert isinstance(timed, Histogram)
    assert sum(timed.counts) == 3
    assert timed.sum == pytest.approx(0.9)


def test_the_first_watch_is_no_restart() -> None:
    bench = Bench()
    for watch in (False, True, True, True):
        bench.sources.began("slices", watch=watch)
    assert bench.samples("kubeproxy_ipvs_watch_restarts_total") == {("endpointslices",): 2}
    assert bench.samples("kubeproxy_ipvs_lists_total") == {("endpointslices",): 1}


def test_a_watch_is_silent_since_its_last_word() -> None:
    bench = Bench()
    assert bench.samples("kubeproxy_ipvs_watch_silence_seconds") == {}
    bench.sources.heard("node")
    bench.now_s += 7
    assert bench.samples("kubeproxy_ipvs_watch_silence_seconds") == {("nodes",): 7.0}
