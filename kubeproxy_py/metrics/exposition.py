"""Encode metric families as the text that Prometheus scrapes, with prometheus_client.

Invariants:
  - Only this module imports prometheus_client, at the first scrape: it costs 30 ms and 8.8 MiB, which an agent that
    is never scraped does not pay.
"""

import time
from collections.abc import Callable, Iterable, Iterator
from itertools import accumulate
from typing import Any

from kubeproxy_py.metrics.registry import Histogram, MetricFamily

Collect = Callable[[], Iterable[MetricFamily]]
"""Returns the current families of one source of metrics, read when called."""

_GIL_YIELD_S = 1e-4


def encode(collect: Collect, accept: str) -> tuple[bytes, str]:
    """Encode the families that *collect* returns.

    Args:
        collect: Called once.
        accept: The request's Accept header, which selects the Prometheus text format or OpenMetrics.

    Returns:
        The body and its content type.
    """
    from prometheus_client import CollectorRegistry
    from prometheus_client.exposition import choose_encoder

    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Collector(collect))
    encoder, content_type = choose_encoder(accept)
    return encoder(registry), content_type


class _Collector:
    """A collector in the sense of prometheus_client."""

    def __init__(self, collect: Collect) -> None:
        self._collect = collect

    def describe(self) -> list[Any]:
        return []  # called by register(); without it the registry would collect once to learn the names

    def collect(self) -> Iterator[Any]:
        for family in sorted(self._collect(), key=lambda family: family.metric.name):
            yield _prometheus_metric(family)
            # Release the interpreter lock; otherwise the sync would wait 5 ms each time it needs it.
            time.sleep(_GIL_YIELD_S)


def _prometheus_metric(family: MetricFamily) -> Any:
    from prometheus_client.core import Metric

    definition = family.metric
    # prometheus_client appends _total to the name of a counter by itself.
    name = definition.name.removesuffix("_total") if definition.type == "counter" else definition.name
    metric = Metric(name, definition.help, definition.type)
    for label_values, value in family.samples:
        labels = dict(zip(definition.labels, label_values, strict=True))
        if isinstance(value, Histogram):
            for bound, count in zip((*definition.bounds, "+Inf"), accumulate(value.counts), strict=True):
                metric.add_sample(f"{name}_bucket", {**labels, "le": bound}, count)
            metric.add_sample(f"{name}_sum", labels, value.sum)
            metric.add_sample(f"{name}_count", labels, sum(value.counts))
        else:
            metric.add_sample(definition.name, labels, value)
    return metric
