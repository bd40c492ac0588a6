"""Metric definitions: equal to kube-proxy's where it has them, documented, and exposed as defined."""

import pytest

from kubeproxy_py.metrics.definitions import METRICS, OURS, UPSTREAM, Metric
from kubeproxy_py.metrics.exposition import encode
from kubeproxy_py.metrics.registry import MetricsRegistry
from tests.metrics import metrics_page
from tests.metrics.recorded import Shape, exposed, recorded


@pytest.mark.parametrize("name", recorded())
def test_kube_proxy_metric_has_the_recorded_type_labels_and_buckets(name: str) -> None:
    metric = METRICS[name]
    assert Shape(metric.type, tuple(sorted(metric.labels)), metric.bounds) == recorded()[name]


def test_every_metric_of_kube_proxy_in_ipvs_mode_is_defined() -> None:
    # Not in the recording, because kube-proxy had not counted anything for them.
    unrecorded = {
        "kubeproxy_network_programming_duration_seconds",
        "kubeproxy_sync_proxy_rules_iptables_restore_failures_total",
        "kubeproxy_proxy_healthz_total",
        "kubeproxy_proxy_livez_total",
        "kubernetes_healthcheck",
        "kubernetes_healthchecks_total",
    }
    assert {metric.name for metric in UPSTREAM} == recorded().keys() | unrecorded


def test_network_programming_has_the_buckets_of_kube_proxy() -> None:
    bounds = [float(bound) for bound in METRICS["kubeproxy_network_programming_duration_seconds"].bounds]
    assert bounds == [0.25, 0.5, *range(1, 60), *range(60, 120, 5), *range(120, 301, 30)]


def test_own_metrics_have_the_prefix() -> None:
    assert [metric.name for metric in OURS if not metric.name.startswith("kubeproxy_ipvs_")] == []


def test_documentation_page_is_generated_from_the_definitions() -> None:
    assert metrics_page.PAGE.read_text(encoding="utf-8") == metrics_page.page(), "run: make metrics-page"


@pytest.mark.parametrize("metric", METRICS.values(), ids=METRICS)
def test_metric_is_exposed_with_its_name_type_labels_and_buckets(metric: Metric) -> None:
    registry = MetricsRegistry()
    labels = tuple(f"some {label}" for label in metric.labels)
    if metric.type == "histogram":
        registry.observe(metric.name, 3.0, *labels)
    else:
        registry.inc(metric.name, *labels, amount=3)
    body, content_type = encode(registry.collect, "")
    assert content_type.startswith("text/plain; version=0.0.4")
    shape = Shape(metric.type, tuple(sorted(metric.labels)), metric.bounds)
    assert exposed(body.decode()) == {metric.name: shape}


def test_openmetrics_is_served_on_request() -> None:
    registry = MetricsRegistry()
    registry.inc("kubeproxy_proxy_livez_total", "200")
    body, content_type = encode(registry.collect, "application/openmetrics-text;version=1.0.0,text/plain;q=0.5")
    assert content_type.startswith("application/openmetrics-text; version=1.0.0")
    assert body.endswith(b'kubeproxy_proxy_livez_total{code="200"} 1.0\n# EOF\n')


def test_histogram_counts_a_value_equal_to_a_bound_in_its_bucket() -> None:
    registry = MetricsRegistry()
    for value in (0.001, 0.0011, 99.0):
        registry.observe("kubeproxy_sync_proxy_rules_duration_seconds", value, "IPv4")
    text = encode(registry.collect, "")[0].decode()
    name = 'kubeproxy_sync_proxy_rules_duration_seconds_bucket{ip_family="IPv4",le='
    counts = [float(line.split()[1]) for line in text.splitlines() if line.startswith(name)]
    assert counts == [1.0, *[2.0] * 14, 3.0]
