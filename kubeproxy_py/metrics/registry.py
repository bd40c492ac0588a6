"""Numbers: counts, gauges and histograms by metric and labels, told by any thread and read whole by one.

Law: only what table.py knows can be told.  A lock is held for one number, or for copying some hundred; never while
anything is asked or printed.  This is why prometheus_client's own metric objects are not used: they would have to be
there from the start, which costs 30 ms and 8 MiB whether anybody ever scrapes or not.
"""

from bisect import bisect_left
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from threading import RLock

from msgspec import Struct

from kubeproxy_py.metrics.definitions import METRICS, Metric

Labels = tuple[str, ...]


class Histogram(Struct, frozen=True, gc=False):
    """How many values fell at or under each bound (and over the last), and their sum."""

    counts: tuple[int, ...]
    sum: float = 0.0


Value = float | Histogram


class MetricFamily(Struct, frozen=True, gc=False):
    """One metric with its values; their labels are in the metric's order."""

    metric: Metric
    samples: tuple[tuple[Labels, Value], ...]


class MetricsRegistry:
    """What was counted since the start."""

    def __init__(self) -> None:
        self._lock = RLock()
        self._values: dict[str, dict[Labels, float]] = {}
        self._histograms: dict[str, dict[Labels, list[float]]] = {}  # counts, and the sum at the end
        self._bounds = {name: [float(text) for text in metric.bounds] for name, metric in METRICS.items()}

    def together(self) -> AbstractContextManager[object]:
        """What is told within is read as one, and takes the lock but once: 20 us each in user-mode-linux."""
        return self._lock

    def add(self, name: str, *labels: str, count: float = 1) -> None:
        """*count* more."""
        with self._lock:
            values = self._values.setdefault(name, {})
            values[labels] = values.get(labels, 0) + count

    def put(self, name: str, value: float, *labels: str) -> None:
        """The value is *value* now."""
        with self._lock:
            self._values.setdefault(name, {})[labels] = value

    def observe(self, name: str, value: float, *labels: str) -> None:
        """*value* occurred once."""
        with self._lock:
            counts = self._counts(name, labels)
            counts[bisect_left(self._bounds[name], value)] += 1
            counts[-1] += value

    def expect(self, name: str, *labels: str) -> None:
        """Values will be observed, so that the histogram is there before the first."""
        with self._lock:
            self._counts(name, labels)

    def _counts(self, name: str, labels: Labels) -> list[float]:
        histograms = self._histograms.setdefault(name, {})
        if labels not in histograms:
            histograms[labels] = [0.0] * (len(self._bounds[name]) + 2)
        return histograms[labels]

    def families(self) -> Iterator[MetricFamily]:
        """All of it, as it is now."""
        with self._lock:
            values = {name: tuple(each.items()) for name, each in self._values.items()}
            histograms = {
                name: tuple((labels, tuple(counts)) for labels, counts in each.items())
                for name, each in self._histograms.items()
            }
        for name, samples in values.items():
            yield MetricFamily(METRICS[name], samples)
        for name, counted in histograms.items():
            yield MetricFamily(METRICS[name], tuple((labels, _histogram(counts)) for labels, counts in counted))


def _histogram(counts: tuple[float, ...]) -> Histogram:
    return Histogram(tuple(int(count) for count in counts[:-1]), counts[-1])


def family(name: str, samples: Iterable[tuple[Labels, Value]]) -> MetricFamily:
    """Values that are gathered at the scrape."""
    return MetricFamily(METRICS[name], tuple(samples))
