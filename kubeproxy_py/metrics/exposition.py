"""exposition: families of numbers -> the text that Prometheus scrapes, by prometheus_client.

Law: the only module that knows prometheus_client, and it is imported at the first scrape.
"""

import time
from collections.abc import Callable, Iterable, Iterator
from itertools import accumulate
from typing import Any

from kubeproxy_py.metrics.registry import Histogram, MetricFamily

_BREATH_S = 1e-4


def encode(families: Callable[[], Iterable[MetricFamily]], accept: str) -> tuple[bytes, str]:
    """The text of *families* in the format that the header *accept* asks for, and its content type."""
    from prometheus_client import CollectorRegistry
    from prometheus_client.exposition import choose_encoder

    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Collector(families))
    encoder, content_type = choose_encoder(accept)
    return encoder(registry), content_type


class _Collector:
    def __init__(self, families: Callable[[], Iterable[MetricFamily]]) -> None:
        self._families = families

    def describe(self) -> list[Any]:
        return []  # asked for when registered; nothing is to be gathered then

    def collect(self) -> Iterator[Any]:
        for family in sorted(self._families(), key=lambda family: family.metric.name):
            yield _metric(family)
            time.sleep(_BREATH_S)  # else the sync would wait 5 ms for each turn at the interpreter


def _metric(family: MetricFamily) -> Any:
    from prometheus_client.core import Metric

    declared = family.metric
    name = declared.name.removesuffix("_total") if declared.type == "counter" else declared.name
    made = Metric(name, declared.help, declared.type)
    for labels, value in family.samples:
        named = dict(zip(declared.labels, labels, strict=True))
        if isinstance(value, Histogram):
            for bound, count in zip((*declared.bounds, "+Inf"), accumulate(value.counts), strict=True):
                made.add_sample(f"{name}_bucket", {**named, "le": bound}, count)
            made.add_sample(f"{name}_sum", named, value.sum)
            made.add_sample(f"{name}_count", named, sum(value.counts))
        else:
            made.add_sample(declared.name, named, value)
    return made
