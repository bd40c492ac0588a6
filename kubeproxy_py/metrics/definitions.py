"""Definitions of every metric that is served: name, type, help, labels and buckets.

docs/metrics.md is generated from this module (`make metrics-page`).

Invariants:
  - kube-proxy's metrics have kube-proxy's names, types, labels, buckets and help texts, so that its dashboards and
    alerts keep working.  The help omits the stability prefix (``[ALPHA]``): it is a promise of Kubernetes' releases.
  - The project's own metrics begin with ``kubeproxy_ipvs_``.
  - A metric without a definition cannot be recorded.

Source: kubernetes pkg/proxy/metrics and component-base/metrics, 1.36; prometheus/client_golang, process_collector.go.
"""

from typing import Literal

from msgspec import Struct

Type = Literal["counter", "gauge", "histogram"]


# Bucket bounds are text exactly as Go prints them: people match the label ``le`` as text.
SYNC_BOUNDS = tuple(f"{0.001 * 2**k:.6g}" for k in range(15))
PROGRAMMING_BOUNDS = tuple(map(str, (0.25, 0.5, *range(1, 60), *range(60, 120, 5), *range(120, 301, 30))))
PHASE_BOUNDS = ("0.0001", "0.0005", "0.001", "0.005", "0.01", "0.05", "0.1", "0.5", "1", "5", "10")
REQUEST_BOUNDS = ("0.005", "0.025", "0.1", "0.25", "0.5", "1", "2", "4", "8", "15", "30", "60")
SIZE_BOUNDS = (
    "64",
    "256",
    "512",
    "1024",
    "4096",
    "16384",
    "65536",
    "262144",
    "1.048576e+06",
    "4.194304e+06",
    "1.6777216e+07",
)
AGE_BOUNDS = (
    "600",
    "1800",
    "3600",
    "14400",
    "86400",
    "604800",
    "2.592e+06",
    "7.776e+06",
    "1.5552e+07",
    "3.1104e+07",
    "1.24416e+08",
)


class Metric(Struct, frozen=True):
    """The definition of one metric."""

    name: str
    type: Type
    help: str
    labels: tuple[str, ...] = ()
    bounds: tuple[str, ...] = ()  # upper bounds of a histogram's buckets, without +Inf


def _counter(name: str, text: str, *labels: str) -> Metric:
    return Metric(name, "counter", text, labels)


def _gauge(name: str, text: str, *labels: str) -> Metric:
    return Metric(name, "gauge", text, labels)


def _histogram(name: str, text: str, bounds: tuple[str, ...], *labels: str) -> Metric:
    return Metric(name, "histogram", text, labels, bounds)


_TRAFFIC = ("namespace", "service", "port", "protocol")

UPSTREAM: tuple[Metric, ...] = (
    _histogram(
        "kubeproxy_sync_proxy_rules_duration_seconds", "SyncProxyRules latency in seconds", SYNC_BOUNDS, "ip_family"
    ),
    _gauge(
        "kubeproxy_sync_proxy_rules_last_timestamp_seconds",
        "The last time proxy rules were successfully synced",
        "ip_family",
    ),
    _gauge(
        "kubeproxy_sync_proxy_rules_last_queued_timestamp_seconds",
        "The last time a sync of proxy rules was queued",
        "ip_family",
    ),
    _histogram(
        "kubeproxy_network_programming_duration_seconds",
        "In Cluster Network Programming Latency in seconds",
        PROGRAMMING_BOUNDS,
        "ip_family",
    ),
    _gauge("kubeproxy_sync_proxy_rules_endpoint_changes_pending", "Pending proxy rules Endpoint changes"),
    _counter("kubeproxy_sync_proxy_rules_endpoint_changes_total", "Cumulative proxy rules Endpoint changes"),
    _gauge("kubeproxy_sync_proxy_rules_service_changes_pending", "Pending proxy rules Service changes"),
    _counter("kubeproxy_sync_proxy_rules_service_changes_total", "Cumulative proxy rules Service changes"),
    _gauge(
        "kubeproxy_sync_proxy_rules_no_local_endpoints_total",
        "Number of services with a Local traffic policy and no endpoints",
        "traffic_policy",
        "ip_family",
    ),
    _counter(
        "kubeproxy_sync_proxy_rules_iptables_restore_failures_total",
        "Cumulative proxy iptables restore failures",
        "ip_family",
    ),
    _counter("kubeproxy_proxy_healthz_total", "Cumulative proxy healthz HTTP status", "code"),
    _counter("kubeproxy_proxy_livez_total", "Cumulative proxy livez HTTP status", "code"),
    _histogram(
        "kubeproxy_conntrack_reconciler_sync_duration_seconds",
        "ReconcileConntrackFlowsLatency latency in seconds",
        SYNC_BOUNDS,
        "ip_family",
    ),
    _counter(
        "kubeproxy_conntrack_reconciler_deleted_entries_total",
        "Cumulative conntrack flows deleted by conntrack reconciler",
        "ip_family",
    ),
    _gauge(
        "kubernetes_feature_enabled",
        "This metric records the data about the stage and enablement of a k8s feature.",
        "name",
        "stage",
    ),
    _gauge("kubernetes_healthcheck", "This metric records the result of a single healthcheck.", "name", "type"),
    _counter(
        "kubernetes_healthchecks_total",
        "This metric records the results of all healthcheck.",
        "name",
        "status",
        "type",
    ),
    _counter("process_cpu_seconds_total", "Total user and system CPU time spent in seconds."),
    _gauge("process_max_fds", "Maximum number of open file descriptors."),
    _counter("process_network_receive_bytes_total", "Number of bytes received by the process over the network."),
    _counter("process_network_transmit_bytes_total", "Number of bytes sent by the process over the network."),
    _gauge("process_open_fds", "Number of open file descriptors."),
    _gauge("process_resident_memory_bytes", "Resident memory size in bytes."),
    _gauge("process_start_time_seconds", "Start time of the process since unix epoch in seconds."),
    _gauge("process_virtual_memory_bytes", "Virtual memory size in bytes."),
    _gauge("process_virtual_memory_max_bytes", "Maximum amount of virtual memory available in bytes."),
    _histogram(
        "rest_client_exec_plugin_certificate_rotation_age",
        "Histogram of the number of seconds the last auth exec plugin client certificate lived before being rotated. "
        "If auth exec plugin client certificates are unused, histogram will contain no data.",
        AGE_BOUNDS,
    ),
    _gauge(
        "rest_client_exec_plugin_ttl_seconds",
        "Gauge of the shortest TTL (time-to-live) of the client certificate(s) managed by the auth exec plugin. The "
        "value is in seconds until certificate expiry (negative if already expired). If auth exec plugins are unused "
        "or manage no TLS certificates, the value will be +INF.",
    ),
    _histogram(
        "rest_client_rate_limiter_duration_seconds",
        "Client side rate limiter latency in seconds. Broken down by verb, and host.",
        REQUEST_BOUNDS,
        "verb",
        "host",
    ),
    _histogram(
        "rest_client_request_duration_seconds",
        "Request latency in seconds. Broken down by verb, and host.",
        REQUEST_BOUNDS,
        "verb",
        "host",
    ),
    _histogram(
        "rest_client_request_size_bytes",
        "Request size in bytes. Broken down by verb and host.",
        SIZE_BOUNDS,
        "verb",
        "host",
    ),
    _counter(
        "rest_client_requests_total",
        "Number of HTTP requests, partitioned by status code, method, and host.",
        "code",
        "method",
        "host",
    ),
    _histogram(
        "rest_client_response_size_bytes",
        "Response size in bytes. Broken down by verb and host.",
        SIZE_BOUNDS,
        "verb",
        "host",
    ),
    _gauge("rest_client_transport_cache_entries", "Number of transport entries in the internal cache."),
    _counter(
        "rest_client_transport_cert_rotation_gc_calls_total",
        "Number of cleanups of stopped client certificate rotations. Always 0: credentials are read again instead.",
    ),
    _counter(
        "rest_client_transport_create_calls_total",
        "Number of calls to get a new transport, partitioned by the result of the operation hit: obtained from the "
        "cache, miss: created and added to the cache, uncacheable: created and not cached",
        "result",
    ),
)

OURS: tuple[Metric, ...] = (
    _gauge(
        "kubeproxy_ipvs_build_info",
        "Version of this agent, of Python and of the platform, as labels. The value is always 1.",
        "version",
        "python_version",
        "platform",
    ),
    _gauge(
        "kubeproxy_ipvs_rows",
        "Number of kernel objects by kind and state. desired: should exist. pending: not yet as desired. "
        "failed: pending because the kernel rejected the change.",
        "kind",
        "state",
    ),
    _counter(
        "kubeproxy_ipvs_drift_found_total",
        "Number of kernel objects found changed or deleted by something other than this agent.",
        "kind",
    ),
    _counter("kubeproxy_ipvs_drift_repaired_total", "Number of drifted kernel objects that were restored.", "kind"),
    _counter(
        "kubeproxy_ipvs_full_compares_total",
        "Number of times the complete kernel state was read and compared with the desired state.",
    ),
    _counter(
        "kubeproxy_ipvs_partial_compares_total",
        "Number of times parts of kernel state were read and compared between two full compares, because their size or "
        "another mark had changed.",
    ),
    _gauge(
        "kubeproxy_ipvs_unread_scopes",
        "Number of parts of kernel state (a set, an iptables table, all virtual servers) that cannot be read now.",
    ),
    _gauge(
        "kubeproxy_ipvs_draining_real_servers",
        "Number of real servers with weight 0 that are waiting for their connections to end.",
    ),
    _gauge(
        "kubeproxy_ipvs_endpoints_set_aside",
        "Number of endpoints of Services that get no new connections from this node now, because they fail its checks.",
    ),
    _counter(
        "kubeproxy_ipvs_endpoints_set_aside_total",
        "Number of times that an endpoint of a Service was set aside, because it failed the checks of this node.",
    ),
    _counter(
        "kubeproxy_ipvs_endpoint_checks_total",
        "Number of TCP connects by which endpoints were checked, by result. untried: this node could not connect.",
        "result",
    ),
    _gauge(
        "kubeproxy_ipvs_refusals",
        "Number of addresses, of addresses with port, and of settings, that Services ask for and this agent refuses. "
        "AddressContested: another Service has the better claim. AddressInUse: a machine or pod has it. "
        "ForbiddenAddress: loopback, link-local, multicast, broadcast or unspecified. "
        "SettingIgnored: an annotation of this agent that is wrong or does not fit.",
        "reason",
    ),
    _histogram(
        "kubeproxy_ipvs_sync_phase_duration_seconds",
        "Duration of each phase in seconds. decode: one API object, or a part of a list. compile, plan, apply: one "
        "sync.",
        PHASE_BOUNDS,
        "phase",
    ),
    _histogram(
        "kubeproxy_ipvs_event_to_kernel_duration_seconds",
        "Time in seconds from receiving the oldest change of a sync until the kernel was updated.",
        PHASE_BOUNDS,
    ),
    _counter(
        "kubeproxy_ipvs_failed_steps_total", "Number of changes that the kernel rejected, by kind of object.", "kind"
    ),
    _gauge(
        "kubeproxy_ipvs_watch_silence_seconds",
        "Seconds since the API server last sent anything for a watch: an event, a bookmark, or, asked after 30 s of "
        "silence, that there is nothing to send.",
        "resource",
    ),
    _counter(
        "kubeproxy_ipvs_watch_restarts_total",
        "Number of watches started, not counting the first of each resource.",
        "resource",
    ),
    _counter(
        "kubeproxy_ipvs_lists_total", "Number of lists started, including the first of each resource.", "resource"
    ),
    _counter(
        "kubeproxy_ipvs_doubted_lists_total",
        "Number of lists that would have removed most objects; each is used only if a second list confirms it.",
        "resource",
    ),
    _gauge(
        "kubeproxy_ipvs_serving_saved_objects",
        "1 while the node serves objects that were saved (--state-dir), because the API server has not answered since "
        "the start; else 0.",
    ),
    _gauge(
        "kubeproxy_ipvs_saved_objects_timestamp_seconds",
        "When objects were last saved for the next start, in seconds since 1970; at least once an hour while the "
        "API server answers.",
    ),
    _counter(
        "kubeproxy_ipvs_saved_objects_failures_total",
        "Number of times that objects could not be saved, or that saved ones could not be used.",
    ),
    _counter("kubeproxy_ipvs_service_connections_total", "Number of connections scheduled by IPVS.", *_TRAFFIC),
    _counter("kubeproxy_ipvs_service_received_packets_total", "Number of packets received from clients.", *_TRAFFIC),
    _counter("kubeproxy_ipvs_service_sent_packets_total", "Number of packets sent to clients.", *_TRAFFIC),
    _counter("kubeproxy_ipvs_service_received_bytes_total", "Number of bytes received from clients.", *_TRAFFIC),
    _counter("kubeproxy_ipvs_service_sent_bytes_total", "Number of bytes sent to clients.", *_TRAFFIC),
    _gauge("kubeproxy_ipvs_service_active_connections", "Number of established connections.", *_TRAFFIC),
    _gauge(
        "kubeproxy_ipvs_service_inactive_connections",
        "Number of connections in any state other than established.",
        *_TRAFFIC,
    ),
    _gauge("kubeproxy_ipvs_service_series", "Number of Service ports that have traffic series of their own."),
    _gauge(
        "kubeproxy_ipvs_findings",
        "Number of findings about this host that hurt Service traffic, such as a full conntrack table or a firewall, "
        "by reason. The log and a Kubernetes Event on the Node name each one with its remedy.",
        "reason",
    ),
    _gauge(
        "kubeproxy_ipvs_unserved_service_ports",
        "Number of Service ports, in each IP family, that no endpoint serves on this node, by reason. NoEndpointSlice, "
        "NoEndpoints, NoEndpointOfFamily: there are none. NoSuchPort, WrongProtocol: their ports do not match. "
        "NotReady: none is ready. NoLocalEndpoint: internalTrafficPolicy is Local and none is on this node.",
        "reason",
    ),
    _counter(
        "kubeproxy_ipvs_foreign_servers_deleted_total",
        "Number of virtual servers of other programs that this agent deleted, as kube-proxy does; see "
        "ipvs.excludeCIDRs and --keep-foreign-virtual-servers.",
    ),
    _gauge(
        "kubeproxy_ipvs_conntrack_entries",
        "Number of connections that the kernel tracks now. When it reaches the limit, new connections are dropped.",
    ),
    _gauge("kubeproxy_ipvs_conntrack_limit", "Number of connections that the kernel tracks at most; 0: no limit."),
    _gauge(
        "kubeproxy_ipvs_scrape_duration_seconds",
        "Time in seconds spent collecting the metrics of this scrape, without writing them as text.",
    ),
    _gauge(
        "kubeproxy_ipvs_uncompiled_objects",
        "Number of Services (and the Node) whose last change could not be applied because of an internal error.",
    ),
    _counter(
        "kubeproxy_ipvs_thread_restarts_total",
        "Number of times a thread of the agent was started again after an internal error.",
        "thread",
    ),
    _counter(
        "kubeproxy_ipvs_dropped_log_lines_total", "Number of log lines that were dropped, because nobody read the log."
    ),
    _gauge(
        "kubeproxy_ipvs_other_service_proxies",
        "Number of other service proxies that were found on this node when it was looked for them last.",
    ),
    _counter(
        "kubeproxy_ipvs_disputed_rows_total",
        "Number of times a kernel object had drifted three times in a row, each time after it was repaired.",
    ),
    _counter(
        "kubeproxy_ipvs_fights_total",
        "Number of times another program changed a kernel object for the third time within a minute, each time after "
        "it was repaired.",
        "kind",
    ),
)

METRICS: dict[str, Metric] = {metric.name: metric for metric in (*UPSTREAM, *OURS)}
"""Every metric by name."""
