"""The table of metrics: equal to kube-proxy's where it has them, and what the documentation says."""

import pytest

from kubeproxy_py.metrics.definitions import METRICS, OURS, UPSTREAM
from kubeproxy_py.metrics.exposition import encode
from kubeproxy_py.metrics.registry import MetricsRegistry
from tests.metrics import metrics_page
from tests.metrics.recorded import Shape, exposed, recorded


@pytest.mark.parametrize("name", recorded())
def test_a_metric_of_kube_proxy_has_its_type_labels_and_buckets(name: str) -> None:
    metric = METRICS[name]
    assert Shape(metric.type, tuple(sorted(metric.labels)), metric.bounds) == recorded()[name]


def test_every_metric_of_kube_proxys_ipvs_mode_is_there() -> None:
    # Those that the recording lacks, since nothing had happened that they count.
    others = {
        "kubeproxy_network_programming_duration_seconds",
        "kubeproxy_sync_proxy_rules_iptables_restore_failures_total",
        "kubeproxy_proxy_healthz_total",
        "kubeproxy_proxy_livez_total",
        "kubernetes_healthcheck",
        "kubernetes_healthchecks_total",
    }
    assert {metric.name for metric in UPSTREAM} == recorded().keys() | others


def test_network_programming_has_kube_proxys_buckets() -> None:
    bounds = [float(bound) for bound in METRICS["kubeproxy_network_programming_duration_seconds"].bounds]
    assert bounds == [0.25, 0.5, *range(1, 60), *range(60, 120, 5), *range(120, 301, 30)]


def test_ours_are_known_by_their_prefix() -> None:
    assert [metric.name for metric in OURS if not metric.name.startswith("kubeproxy_ipvs_")] == []


def test_the_page_of_the_documentation_is_printed_from_the_table() -> None:
    assert metrics_page.PAGE.read_text(encoding="utf-8") == metrics_page.page(), "run: make metrics-page"


@pytest.mark.parametrize("metric", METRICS.values(), ids=METRICS)
def test_what_is_told_is_exposed_with_its_name_type_labels_and_buckets(metric) -> None:  # type: ignore[no-untyped-def]
    numbers = MetricsRegistry()
    labels = tuple(f"some {label}" for label in metric.labels)
    if metric.type == "histogram":
        numbers.observe(metric.name, 3.0, *labels)
    else:
        numbers.add(metric.name, *labels, count=3)
    body, content_type = encode(numbers.families, "")
    assert content_type.startswith("text/plain; version=0.0.4")
    shape = Shape(metric.type, tuple(sorted(metric.labels)), metric.bounds)
    assert exposed(body.decode()) == {metric.name: shape}


def test_openmetrics_is_spoken_to_who_asks_for_it() -> None:
    numbers = MetricsRegistry()
    numbers.add("kubeproxy_proxy_livez_total", "200")
    body, content_type = encode(numbers.families, "application/openmetrics-text;version=1.0.0,text/plain;q=0.5")
    assert content_type.startswith("application/openmetrics-text; version=1.0.0")
    assert body.endswith(b'kubeproxy_proxy_livez_total{code="200"} 1.0\n# EOF\n')


def test_a_histogram_counts_a_value_at_a_bound_under_it_as_prometheus_does() -> None:
    numbers = MetricsRegistry()
    for value in (0.001, 0.0011, 99.0):
        numbers.observe("kubeproxy_sync_proxy_rules_duration_seconds", value, "IPv4")
    text = encode(numbers.families, "")[0].decode()
    name = 'kubeproxy_sync_proxy_rules_duration_seconds_bucket{ip_family="IPv4",le='
    counts = [float(line.split()[1]) for line in text.splitlines() if line.startswith(name)]
    assert counts == [1.0, *[2.0] * 14, 3.0]
