"""docs/metrics.md, printed from the table of metrics; `make metrics-page` writes it."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from kubeproxy_py.metrics.definitions import OURS, UPSTREAM, Metric

PAGE = Path(__file__).resolve().parents[2] / "docs/metrics.md"

_HEAD = """# Metrics

Printed from `kubeproxy_py/metrics/definitions.py` by `make metrics-page`. They are served at `metricsBindAddress`
(127.0.0.1:10249), as text or OpenMetrics:

| path | answer |
|---|---|
| `/metrics` | all metrics below, but those of `/metrics/slis` |
| `/metrics/slis` | `kubernetes_healthcheck`, `kubernetes_healthchecks_total`, counted when `/healthz` is asked |
| `/healthz`, `/healthz/ping` | `ok`; `/healthz?verbose` lists the checks |
| `/proxyMode` | `ipvs` |
| `/configz` | the configuration in use, as JSON |
| `/statusz` | since when this process runs, for people |

`ip_family` is `IPv4` or `IPv6`. Bounds are those of a histogram's buckets, without `+Inf`.
"""
_UPSTREAM = """
## kube-proxy's

Same names, types, labels and buckets as kube-proxy 1.36 in IPVS mode, so its dashboards and alerts go on working. What
stands behind some of them is not quite the same:

- One sync serves both families, so both get its duration. A time at which nothing had to be done counts as a sync.
- `rest_client_rate_limiter_duration_seconds`: we have no rate limiter; it is the time for which a request waited
  because earlier ones had failed.
- `kubernetes_feature_enabled` has the gates that the configuration names, and `KubeProxyIPVS`.
- `kubernetes_build_info` is left out, `kubeproxy_ipvs_build_info` is there instead: an alert on clusters of mixed
  versions would take our version for one of Kubernetes.
- `go_*` are left out.
"""
_OURS = """
## Our own

`kind` is a kind of kernel object: `Sysctl`, `Link`, `Ipset`, `Chain`, `Jump`, `IpsetEntry`, `VirtualServer`,
`RealServer`, `Address`.

Traffic is what the kernel counted, read by one dump at each scrape. The first 1,000 service ports by name
(`--traffic-series`; 0 turns traffic off) have series of their own; all others are one sum whose labels are empty,
without active and inactive connections. With more than 20,000 service ports (`--traffic-services-max`) nothing is read.
The counters begin at 0 when a virtual server is made, as when a Service is deleted and comes again.
"""


def page() -> str:
    """All of the page."""
    return "".join((_HEAD, _UPSTREAM, _table(UPSTREAM), _OURS, _table(OURS)))


def _table(metrics: Iterable[Metric]) -> str:
    return "\n| name | type | labels | meaning |\n|---|---|---|---|\n" + "".join(map(_line, metrics))


def _line(metric: Metric) -> str:
    labels = ", ".join(f"`{label}`" for label in metric.labels)
    bounds = f"<br>Bounds: {' '.join(metric.bounds)}" if metric.bounds else ""
    return f"| `{metric.name}` | {metric.type} | {labels} | {metric.help}{bounds} |\n"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
