"""Every metric that is served: name, type, labels, buckets, meaning.  docs/metrics.md is printed from it.

Law: kube-proxy's have its names, types, labels and buckets, so that its dashboards and alerts go on working; ours begin
with ``kubeproxy_ipvs_``.  A metric that is not here can't be counted.  Bounds are written as Go prints them, since
people match the label ``le`` as text.

Source: kubernetes pkg/proxy/metrics and component-base/metrics, 1.36.
"""

from typing import Literal

from msgspec import Struct

Type = Literal["counter", "gauge", "histogram"]


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


SYNC_BOUNDS = tuple(f"{0.001 * 2**k:.6g}" for k in range(15))
PROGRAMMING_BOUNDS = tuple(map(str, (0.25, 0.5, *range(1, 60), *range(60, 120, 5), *range(120, 301, 30))))
PHASE_BOUNDS = _words("0.0001 0.0005 0.001 0.005 0.01 0.05 0.1 0.5 1 5 10")
REQUEST_BOUNDS = _words("0.005 0.025 0.1 0.25 0.5 1 2 4 8 15 30 60")
SIZE_BOUNDS = _words("64 256 512 1024 4096 16384 65536 262144 1.048576e+06 4.194304e+06 1.6777216e+07")
AGE_BOUNDS = _words("600 1800 3600 14400 86400 604800 2.592e+06 7.776e+06 1.5552e+07 3.1104e+07 1.24416e+08")


class Metric(Struct, frozen=True):
    """``bounds`` are the upper bounds of a histogram's buckets, without +Inf."""

    name: str
    type: Type
    help: str
    labels: tuple[str, ...] = ()
    bounds: tuple[str, ...] = ()


def _counter(name: str, text: str, *labels: str) -> Metric:
    return Metric(name, "counter", text, labels)


def _gauge(name: str, text: str, *labels: str) -> Metric:
    return Metric(name, "gauge", text, labels)


def _histogram(name: str, text: str, bounds: tuple[str, ...], *labels: str) -> Metric:
    return Metric(name, "histogram", text, labels, bounds)


_TRAFFIC = ("namespace", "service", "port", "protocol")

UPSTREAM: tuple[Metric, ...] = (
    _histogram("kubeproxy_sync_proxy_rules_duration_seconds", "Time that a sync took", SYNC_BOUNDS, "ip_family"),
    _gauge("kubeproxy_sync_proxy_rules_last_timestamp_seconds", "When the last sync was done", "ip_family"),
    _gauge("kubeproxy_sync_proxy_rules_last_queued_timestamp_seconds", "When a sync was last asked for", "ip_family"),
    _histogram(
        "kubeproxy_network_programming_duration_seconds",
        "Time from the change of a pod or Service (as its EndpointSlice says) until this node's kernel followed it",
        PROGRAMMING_BOUNDS,
        "ip_family",
    ),
    _gauge("kubeproxy_sync_proxy_rules_endpoint_changes_pending", "Changes of EndpointSlices that await a sync"),
    _counter("kubeproxy_sync_proxy_rules_endpoint_changes_total", "Changes of EndpointSlices heard of"),
    _gauge("kubeproxy_sync_proxy_rules_service_changes_pending", "Changes of Services that await a sync"),
    _counter("kubeproxy_sync_proxy_rules_service_changes_total", "Changes of Services heard of"),
    _gauge(
        "kubeproxy_sync_proxy_rules_no_local_endpoints_total",
        "Services with a Local traffic policy that have endpoints, but none on this node",
        "traffic_policy",
        "ip_family",
    ),
    _counter(
        "kubeproxy_sync_proxy_rules_iptables_restore_failures_total",
        "Syncs in which chains or jumps could not be written",
        "ip_family",
    ),
    _counter("kubeproxy_proxy_healthz_total", "Answers of /healthz by status", "code"),
    _counter("kubeproxy_proxy_livez_total", "Answers of /livez by status", "code"),
    _histogram(
        "kubeproxy_conntrack_reconciler_sync_duration_seconds",
        "Time that looking for stale UDP flows took",
        SYNC_BOUNDS,
        "ip_family",
    ),
    _counter("kubeproxy_conntrack_reconciler_deleted_entries_total", "Stale UDP flows that were deleted", "ip_family"),
    _gauge("kubernetes_feature_enabled", "Whether a feature gate is on", "name", "stage"),
    _gauge("kubernetes_healthcheck", "The result of a health check of the metrics server, 1 or 0", "name", "type"),
    _counter(
        "kubernetes_healthchecks_total", "Results of health checks of the metrics server", "name", "status", "type"
    ),
    _counter("process_cpu_seconds_total", "User and system CPU time"),
    _gauge("process_max_fds", "How many files may be open"),
    _counter("process_network_receive_bytes_total", "Bytes that this network namespace received over IP"),
    _counter("process_network_transmit_bytes_total", "Bytes that this network namespace sent over IP"),
    _gauge("process_open_fds", "Open files"),
    _gauge("process_resident_memory_bytes", "Resident memory"),
    _gauge("process_start_time_seconds", "When the process began, since 1970"),
    _gauge("process_virtual_memory_bytes", "Virtual memory"),
    _gauge("process_virtual_memory_max_bytes", "The limit of virtual memory"),
    _histogram(
        "rest_client_exec_plugin_certificate_rotation_age",
        "Age at which certificates of exec plugins were renewed; nothing is counted here",
        AGE_BOUNDS,
    ),
    _gauge("rest_client_exec_plugin_ttl_seconds", "How long an exec plugin's certificate is good; +Inf: there is none"),
    _histogram(
        "rest_client_rate_limiter_duration_seconds",
        "How long requests to the API server were held back by this side, after failures",
        REQUEST_BOUNDS,
        "verb",
        "host",
    ),
    _histogram(
        "rest_client_request_duration_seconds",
        "Time until the head of an answer of the API server",
        REQUEST_BOUNDS,
        "verb",
        "host",
    ),
    _histogram("rest_client_request_size_bytes", "Bodies sent to the API server", SIZE_BOUNDS, "verb", "host"),
    _counter(
        "rest_client_requests_total",
        "Requests to the API server; the code is <error> where there was no answer",
        "code",
        "method",
        "host",
    ),
    _histogram(
        "rest_client_response_size_bytes",
        "Bodies received from the API server, but for those of watches",
        SIZE_BOUNDS,
        "verb",
        "host",
    ),
    _gauge("rest_client_transport_cache_entries", "Connection pools to the API server"),
    _counter("rest_client_transport_cert_rotation_gc_calls_total", "Always 0: there is nothing to collect here"),
    _counter("rest_client_transport_create_calls_total", "Connection pools made, credentials read anew", "result"),
)

OURS: tuple[Metric, ...] = (
    _gauge("kubeproxy_ipvs_build_info", "1; which build this is", "version", "python_version", "platform"),
    _gauge(
        "kubeproxy_ipvs_rows",
        "Kernel objects by kind: desired; pending, that are not so yet; failed, those of them that the kernel refused",
        "kind",
        "state",
    ),
    _counter("kubeproxy_ipvs_drift_found_total", "Kernel objects that somebody else changed or removed", "kind"),
    _counter("kubeproxy_ipvs_drift_repaired_total", "Those of them that are as desired again", "kind"),
    _counter("kubeproxy_ipvs_full_compares_total", "Times that the whole kernel state was read and compared"),
    _gauge("kubeproxy_ipvs_draining_real_servers", "Real servers of weight 0 that wait for their connections to end"),
    _histogram(
        "kubeproxy_ipvs_sync_phase_duration_seconds",
        "Time by phase: decode (an object, or a page of them), compile, plan, apply (of a sync)",
        PHASE_BOUNDS,
        "phase",
    ),
    _histogram(
        "kubeproxy_ipvs_event_to_kernel_duration_seconds",
        "Time from hearing of the oldest change that a sync answers until the kernel has it",
        PHASE_BOUNDS,
    ),
    _counter("kubeproxy_ipvs_failed_steps_total", "Changes that the kernel refused", "kind"),
    _gauge(
        "kubeproxy_ipvs_watch_silence_seconds",
        "Since the API server last said anything on a watch, a bookmark (one a minute) included",
        "resource",
    ),
    _counter("kubeproxy_ipvs_watch_restarts_total", "Watches that were begun after the first", "resource"),
    _counter("kubeproxy_ipvs_lists_total", "Lists that were begun, the first included", "resource"),
    _counter("kubeproxy_ipvs_service_connections_total", "Connections that IPVS has scheduled", *_TRAFFIC),
    _counter("kubeproxy_ipvs_service_received_packets_total", "Packets from clients", *_TRAFFIC),
    _counter("kubeproxy_ipvs_service_sent_packets_total", "Packets to clients", *_TRAFFIC),
    _counter("kubeproxy_ipvs_service_received_bytes_total", "Bytes from clients", *_TRAFFIC),
    _counter("kubeproxy_ipvs_service_sent_bytes_total", "Bytes to clients", *_TRAFFIC),
    _gauge("kubeproxy_ipvs_service_active_connections", "Connections that are established", *_TRAFFIC),
    _gauge("kubeproxy_ipvs_service_inactive_connections", "Connections in any other state", *_TRAFFIC),
    _gauge("kubeproxy_ipvs_service_series", "Service ports with series of their own"),
    _gauge(
        "kubeproxy_ipvs_scrape_duration_seconds", "Time that gathering these numbers took, before they were printed"
    ),
)

METRICS: dict[str, Metric] = {metric.name: metric for metric in (*UPSTREAM, *OURS)}
