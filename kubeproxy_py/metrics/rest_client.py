"""RestClientMetrics: record requests to the API server, lists and watches."""

import time
from collections.abc import Callable, Iterator

from kubeproxy_py.metrics.registry import MetricFamily, MetricsRegistry, metric_family
from kubeproxy_py.model.events import Feed
from kubeproxy_py.sources import FEEDS
from kubeproxy_py.sources.client_metrics import ClientMetrics

_RESOURCES: dict[Feed, str] = {
    "services": "services",
    "slices": "endpointslices",
    "node": "nodes",
    "peers": "peers",
}


class RestClientMetrics(ClientMetrics):
    """Records the requests in *registry*; every method may be called from any thread."""

    def __init__(self, registry: MetricsRegistry, clock: Callable[[], float] = time.monotonic) -> None:
        self._registry = registry
        self._clock = clock
        self._last_heard_s: dict[Feed, float] = {}  # by the clock
        self._watched: set[Feed] = set()  # feeds of which a watch was started
        registry.inc("rest_client_transport_cert_rotation_gc_calls_total", amount=0)
        registry.set("rest_client_exec_plugin_ttl_seconds", float("inf"))
        registry.set("rest_client_transport_cache_entries", 0)
        registry.declare("rest_client_exec_plugin_certificate_rotation_age")
        registry.set("kubeproxy_ipvs_serving_saved_objects", 0)
        registry.inc("kubeproxy_ipvs_saved_objects_failures_total", amount=0)
        for feed in FEEDS:  # from 0, so that an alert sees the first one
            registry.inc("kubeproxy_ipvs_doubted_lists_total", _RESOURCES[feed], amount=0)

    def request_finished(self, host: str, method: str, code: str, took_s: float, sent_bytes: int) -> None:
        """Record a request and its status *code*; ``<error>`` if it got no response."""
        with self._registry.batch():
            self._registry.inc("rest_client_requests_total", code, method, host)
            self._registry.observe("rest_client_request_duration_seconds", took_s, method, host)
            self._registry.observe("rest_client_request_size_bytes", sent_bytes, method, host)

    def response_read(self, host: str, method: str, size_bytes: int) -> None:
        """Record the size of a complete response body."""
        self._registry.observe("rest_client_response_size_bytes", size_bytes, method, host)

    def request_delayed(self, host: str, method: str, wait_s: float) -> None:
        """Record that a request was delayed by *wait_s* because earlier ones failed."""
        self._registry.observe("rest_client_rate_limiter_duration_seconds", wait_s, method, host)

    def pool_created(self) -> None:
        """Record that a connection pool was created; it replaces the previous one."""
        self._registry.set("rest_client_transport_cache_entries", 1)
        self._registry.inc("rest_client_transport_create_calls_total", "miss")

    def objects_decoded(self, took_s: float) -> None:
        """Record that decoding one object, or one page of a list, took *took_s*."""
        self._registry.observe("kubeproxy_ipvs_sync_phase_duration_seconds", took_s, "decode")

    def list_started(self, feed: Feed) -> None:
        """Record the request of the first page of a list."""
        self._registry.inc("kubeproxy_ipvs_lists_total", _RESOURCES[feed])

    def watch_started(self, feed: Feed) -> None:
        """Record the request of a watch; the first one is not a restart."""
        self._registry.inc("kubeproxy_ipvs_watch_restarts_total", _RESOURCES[feed], amount=feed in self._watched)
        self._watched.add(feed)

    def data_received(self, feed: Feed) -> None:
        """Record that the API server sent something for *feed*."""
        self._last_heard_s[feed] = self._clock()

    def list_doubted(self, feed: Feed) -> None:
        """Record that a list is not accepted before a second one confirms it."""
        self._registry.inc("kubeproxy_ipvs_doubted_lists_total", _RESOURCES[feed])

    def serving_saved_objects(self, *, serving: bool) -> None:
        """Record whether saved objects are served, because the server has not answered since the start."""
        self._registry.set("kubeproxy_ipvs_serving_saved_objects", int(serving))

    def objects_saved(self, at_s: float) -> None:
        """Record when the objects were saved."""
        self._registry.set("kubeproxy_ipvs_saved_objects_timestamp_seconds", at_s)

    def saved_objects_failed(self) -> None:
        """Record that objects could not be saved, or that saved ones cannot be used."""
        self._registry.inc("kubeproxy_ipvs_saved_objects_failures_total")

    def collect(self) -> Iterator[MetricFamily]:
        """Yield how long ago the API server last answered for each watch."""
        now_s = self._clock()
        silences = [((_RESOURCES[feed],), now_s - heard_s) for feed, heard_s in sorted(self._last_heard_s.items())]
        yield metric_family("kubeproxy_ipvs_watch_silence_seconds", silences)
