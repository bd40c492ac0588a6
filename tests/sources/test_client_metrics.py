"""RestClientMetrics, and the trigger time of EndpointSlices."""

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
    """Decode a slice with this annotation and return its trigger time."""
    body = {
        "metadata": {
            "name": "web-1",
            "namespace": "shop",
            "labels": {"kubernetes.io/service-name": "web"},
            "annotations": {TRIGGER: text},
        },
        "addressType": "IPv4",
    }
    decoded = decode("EndpointSlice", body)
    assert not decoded.problems
    return decoded.triggered_s


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
def test_trigger_time_of_a_slice_is_decoded_and_may_be_invalid(text: object, at_s: float) -> None:
    assert slice_triggered(text) == pytest.approx(at_s, abs=1e-5)


def test_changed_trigger_time_without_another_change_emits_nothing() -> None:
    cache, slice_ = ObjectCache(), endpoint_slice()
    identity = ("EndpointSlice", slice_.name)
    assert cache.update(identity, (slice_,), 5.0) == [SliceUpserted(slice_, 5.0)]  # type: ignore[arg-type]
    assert cache.update(identity, (slice_,), 6.0) == []  # type: ignore[arg-type]


class MetricsHarness:
    """RestClientMetrics with a clock that the test sets."""

    def __init__(self) -> None:
        self.now_s = 50.0
        self.registry = MetricsRegistry()
        self.metrics = RestClientMetrics(self.registry, lambda: self.now_s)

    def samples(self, name: str) -> dict[tuple[str, ...], object]:
        families = (*self.registry.collect(), *self.metrics.collect())
        return {labels: value for family in families if family.metric.name == name for labels, value in family.samples}


def test_requests_are_counted_by_code_and_timed_by_method() -> None:
    harness = MetricsHarness()
    for code in ("200", "200", "<error>"):
        harness.metrics.request_finished("api:6443", "GET", code, 0.3, 0)
    codes = harness.samples("rest_client_requests_total")
    assert codes == {("200", "GET", "api:6443"): 2, ("<error>", "GET", "api:6443"): 1}
    timed = harness.samples("rest_client_request_duration_seconds")[("GET", "api:6443")]
    assert isinstance(timed, Histogram)
    assert sum(timed.counts) == 3
    assert timed.sum == pytest.approx(0.9)


def test_first_watch_is_not_a_restart() -> None:
    harness = MetricsHarness()
    harness.metrics.list_started("slices")
    for _ in range(3):
        harness.metrics.watch_started("slices")
    assert harness.samples("kubeproxy_ipvs_watch_restarts_total") == {("endpointslices",): 2}
    assert harness.samples("kubeproxy_ipvs_lists_total") == {("endpointslices",): 1}


def test_watch_silence_is_the_time_since_the_last_data() -> None:
    harness = MetricsHarness()
    assert harness.samples("kubeproxy_ipvs_watch_silence_seconds") == {}
    harness.metrics.data_received("node")
    harness.now_s += 7
    assert harness.samples("kubeproxy_ipvs_watch_silence_seconds") == {("nodes",): 7.0}


def test_saved_objects_are_recorded_from_the_start() -> None:
    harness = MetricsHarness()
    assert harness.samples("kubeproxy_ipvs_serving_saved_objects") == {(): 0}
    assert harness.samples("kubeproxy_ipvs_saved_objects_failures_total") == {(): 0}
    harness.metrics.serving_saved_objects(serving=True)
    harness.metrics.saved_objects_failed()
    harness.metrics.objects_saved(77.0)
    assert harness.samples("kubeproxy_ipvs_serving_saved_objects") == {(): 1}
    assert harness.samples("kubeproxy_ipvs_saved_objects_failures_total") == {(): 1}
    assert harness.samples("kubeproxy_ipvs_saved_objects_timestamp_seconds") == {(): 77.0}
