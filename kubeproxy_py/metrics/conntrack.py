"""Collect how full the kernel's table of tracked connections is, during the scrape: two small files."""

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from kubeproxy_py.metrics.registry import MetricFamily, metric_family

_FILES = {"entries": "nf_conntrack_count", "limit": "nf_conntrack_max"}


def collect_conntrack_metrics(proc: Path = Path("/proc")) -> Iterator[MetricFamily]:
    """Yield entries and limit of this network namespace; none without connection tracking."""
    for name, file in _FILES.items():
        with suppress(OSError, ValueError):
            value = int((proc / "sys/net/netfilter" / file).read_text())
            yield metric_family(f"kubeproxy_ipvs_conntrack_{name}", [((), value)])
