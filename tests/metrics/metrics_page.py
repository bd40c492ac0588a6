"""Generates docs/metrics.md from the metric definitions; `make metrics-page` writes it."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from kubeproxy_py.metrics.definitions import OURS, UPSTREAM, Metric

PAGE = Path(__file__).resolve().parents[2] / "docs/metrics.md"

_HEAD = """# Metrics

Generated from `kubeproxy_py/metrics/definitions.py` by `make metrics-page`. The metrics server listens at
`metricsBindAddress` (default 127.0.0.1:10249) and serves the Prometheus text format or OpenMetrics:

| path | response |
|---|---|
| `/metrics` | all metrics below except those of `/metrics/slis` |
| `/metrics/slis` | `kubernetes_healthcheck`, `kubernetes_healthchecks_total`; `/healthz` requests update them |
| `/healthz`, `/healthz/ping` | `ok`; `/healthz?verbose` lists the checks |
| `/proxyMode` | `ipvs` |
| `/configz` | the configuration in use, as JSON |
| `/statusz` | version, start time and uptime, for humans |

`ip_family` is `IPv4` or `IPv6`. Bounds are the upper bounds of a histogram's buckets, without `+Inf`.
"""
_UPSTREAM = """
## kube-proxy's metrics

These have the names, types, labels, buckets and help texts of kube-proxy 1.36 in IPVS mode, so its dashboards and
alerts continue to work. Some differ in meaning:

- One sync serves both families, so its duration is recorded for both. A requested sync that turns out to need no change
  updates `kubeproxy_sync_proxy_rules_last_timestamp_seconds` too.
- `kubeproxy_network_programming_duration_seconds` is the time from the change of a pod or Service (the annotation
  `endpoints.kubernetes.io/last-change-trigger-time` of the EndpointSlice) until the kernel of this node was updated.
- `kubeproxy_sync_proxy_rules_no_local_endpoints_total` counts Services that have endpoints, but none on this node.
- `kubeproxy_sync_proxy_rules_iptables_restore_failures_total` counts syncs in which iptables chains or jumps could not
  be written.
- `process_network_*` count the IP traffic of the complete network namespace.
- `rest_client_rate_limiter_duration_seconds`: there is no rate limiter. It is the time that a request waited because
  earlier ones had failed.
- `rest_client_requests_total` has the code `<error>` for requests without a response, and
  `rest_client_response_size_bytes` does not count watches.
- `rest_client_transport_cert_rotation_gc_calls_total` is always 0.
- `kubernetes_feature_enabled` has the feature gates that the configuration names, and `KubeProxyIPVS`.
- `kubernetes_build_info` is not served; `kubeproxy_ipvs_build_info` is. Alerts on clusters with mixed Kubernetes
  versions would mistake this agent's version for one.
- `go_*` are not served.
"""
_OURS = """
## Own metrics

`kind` is the kind of kernel object: `Sysctl`, `Link`, `Ipset`, `Chain`, `Jump`, `IpsetEntry`, `VirtualServer`,
`RealServer`, `Address`.

Traffic is counted by the kernel and read with one dump at each scrape. The first 1,000 Service ports by name
(`--traffic-series`; 0 disables traffic metrics) have series of their own. All others are summed into one series with
empty labels, without active and inactive connections. With more than 20,000 Service ports (`--traffic-services-max`)
nothing is read. The counters start at 0 when a virtual server is created, for example when a Service is deleted and
created again.
"""


def page() -> str:
    """Return the text of the page."""
    return "".join((_HEAD, _UPSTREAM, _table(UPSTREAM), _OURS, _table(OURS)))


def _table(metrics: Iterable[Metric]) -> str:
    return "\n| name | type | labels | help |\n|---|---|---|---|\n" + "".join(map(_row, metrics))


def _row(metric: Metric) -> str:
    labels = ", ".join(f"`{label}`" for label in metric.labels)
    bounds = f"<br>Bounds: {' '.join(metric.bounds)}" if metric.bounds else ""
    return f"| `{metric.name}` | {metric.type} | {labels} | {metric.help}{bounds} |\n"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
