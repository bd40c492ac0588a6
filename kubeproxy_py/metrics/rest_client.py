"""SourceNumbers: what is asked of the API server and what it says, as numbers (a Tally of sources/).

Law: told by any thread; what a watch last said is a moment, and becomes a silence when it is asked for.
"""

import time
from collections.abc import Callable, Iterator

from kubeproxy_py.metrics.registry import MetricFamily, MetricsRegistry, family
from kubeproxy_py.model.events import Feed

_RESOURCES: dict[Feed, str] = {"services": "services", "slices": "endpointslices", "node": "nodes"}


class RestClientMetrics:
    """Keeps the law of kubeproxy_py.sources.client_metrics.Tally."""

    def __init__(self, numbers: MetricsRegistry, clock: Callable[[], float] = time.monotonic) -> None:
        self._numbers = numbers
        self._clock = clock
        self._heard_s: dict[Feed, float] = {}
        self._watches: set[Feed] = set()
        self._pools = 0
        numbers.add("rest_client_transport_cert_rotation_gc_calls_total", count=0)
        numbers.put("rest_client_exec_plugin_ttl_seconds", float("inf"))
        numbers.put("rest_client_transport_cache_entries", 0)
        numbers.expect("rest_client_exec_plugin_certificate_rotation_age")

    def requested(self, host: str, method: str, code: str, took_s: float, sent_bytes: int) -> None:
        """A request was answered."""
        with self._numbers.together():
            self._numbers.add("rest_client_requests_total", code, method, host)
            self._numbers.observe("rest_client_request_duration_seconds", took_s, method, host)
            self._numbers.observe("rest_client_request_size_bytes", sent_bytes, method, host)

    def received(self, host: str, method: str, size_bytes: int) -> None:
        """A whole body was read."""
        self._numbers.observe("rest_client_response_size_bytes", size_bytes, method, host)

    def held_back(self, host: str, method: str, wait_s: float) -> None:
        """A request was made later than it could have been."""
        self._numbers.observe("rest_client_rate_limiter_duration_seconds", wait_s, method, host)

    def connected(self) -> None:
        """A pool of connections was made; it takes the place of the one before."""
        self._numbers.put("rest_client_transport_cache_entries", 1)
        self._numbers.add("rest_client_transport_create_calls_total", "miss")

    def decoded(self, took_s: float) -> None:
        """An object, or a page of them, was decoded."""
        self._numbers.observe("kubeproxy_ipvs_sync_phase_duration_seconds", took_s, "decode")

    def began(self, feed: Feed, *, watch: bool) -> None:
        """A list or a watch begins."""
        if not watch:
            self._numbers.add("kubeproxy_ipvs_lists_total", _RESOURCES[feed])
            return
        self._numbers.add("kubeproxy_ipvs_watch_restarts_total", _RESOURCES[feed], count=feed in self._watches)
        self._watches.add(feed)

    def heard(self, feed: Feed) -> None:
        """The server said something."""
        self._heard_s[feed] = self._clock()

    def families(self) -> Iterator[MetricFamily]:
        """For how long each watch is silent by now."""
        now_s = self._clock()
        silences = [((_RESOURCES[feed],), now_s - heard_s) for feed, heard_s in sorted(self._heard_s.items())]
        yield family("kubeproxy_ipvs_watch_silence_seconds", silences)
