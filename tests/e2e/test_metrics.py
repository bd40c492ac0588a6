"""Metrics on a real node: a scrape has all metrics of kube-proxy, and their values follow what happens.

The agent uses the stand-in API server, so that all metrics have a source.
"""

from __future__ import annotations

import re
import resource
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import UTC, datetime

import pytest

from kubeproxy_py.kernel.ipvs.adapter import IpvsAdapter
from kubeproxy_py.metrics.exposition import encode
from kubeproxy_py.metrics.traffic import TrafficLimits, TrafficMetrics
from kubeproxy_py.model.health import ServiceState
from kubeproxy_py.model.rows import SERVING, RealServer, VirtualServer, VirtualServerSpec
from kubeproxy_py.model.services import Service, ServiceName, ServicePort
from kubeproxy_py.model.steps import Step
from lab.client import query
from lab.namespace import new_namespace
from lab.network import Cluster
from tests.apiserver import ApiServer
from tests.apiserver.certificates import Authority
from tests.e2e.agent_process import wait_until
from tests.e2e.control_plane import NODE, Agent, ControlPlane
from tests.e2e.iptables_lock import rules_locked
from tests.e2e.kernel_state import run
from tests.e2e.manifests import Object, Port, endpoint_slice, service, service_with_slice
from tests.e2e.probing import HEALTHZ, METRICS, get, scrape
from tests.metrics.recorded import exposed, recorded, samples

pytestmark = pytest.mark.kernel

WEB = "10.96.60.1"
SCRAPED_S = 20.0  # 1 s on an idle machine; a busy one may give this process a tenth of its time


@pytest.fixture(scope="module")
def control(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    authority = Authority(tmp_path_factory.mktemp("pki"))
    with cluster.node_a.inside():
        server = ApiServer(tls=authority.server_context())
    server.start()
    control = ControlPlane(server, authority, tmp_path_factory.mktemp("kubeconfig"))
    control.apply(NODE, *service_with_slice("web", WEB, ["pod-a1"]), *mixed_load())
    yield control
    server.stop()


def mixed_load() -> list[Object]:
    """Return Services of the kinds that kube-proxy had when its metrics were recorded."""
    local: Object = {"type": "LoadBalancer", "externalTrafficPolicy": "Local", "healthCheckNodePort": 30120}
    return [
        service("dns", "10.96.60.2", [Port(53, "UDP", 5353)]),
        endpoint_slice("dns", ["pod-a1"], [Port(53, "UDP", 5353)]),
        service("inner", "10.96.60.3", internalTrafficPolicy="Local"),
        endpoint_slice("inner", ["pod-b1"]),
        service("outer", "10.96.60.4", [Port(node_port=30121)], **local),
        endpoint_slice("outer", ["pod-b1"], [Port(node_port=30121)]),
    ]


@pytest.fixture(scope="module")
def agent(cluster: Cluster, control: ControlPlane) -> Iterator[Agent]:
    with Agent(cluster, control, "--ipvs-sync-period=1s") as running:
        running.wait_synced()
        yield running


def values(cluster: Cluster, name: str, **labels: str) -> float:
    """Return the sum of a metric's values that have *labels*."""
    selected = set(labels.items())
    return sum(value for pairs, value in samples(scrape(cluster.node_a), name).items() if selected <= set(pairs))


def test_scrape_has_all_metrics_of_kube_proxy_by_name_type_labels_and_buckets(cluster: Cluster, agent: Agent) -> None:
    get(cluster.node_a, "127.0.0.1", HEALTHZ, "/healthz")
    metrics = exposed(scrape(cluster.node_a))
    assert {name: metrics.get(name) for name in recorded()} == recorded()


def test_rows_are_counted_by_kind_and_none_is_pending_or_failed(cluster: Cluster, agent: Agent) -> None:
    listed = run(cluster.node_a, "ipvsadm", "-Sn").splitlines()
    servers = len([line for line in listed if line.startswith("-A")])
    assert values(cluster, "kubeproxy_ipvs_rows", kind="VirtualServer", state="desired") == servers
    assert values(cluster, "kubeproxy_ipvs_rows", kind="RealServer", state="desired") == len(listed) - servers
    assert values(cluster, "kubeproxy_ipvs_rows", state="pending") == 0
    assert values(cluster, "kubeproxy_ipvs_rows", state="failed") == 0


def test_rules_that_cannot_be_written_are_counted_as_failed_until_they_are_written(
    cluster: Cluster, agent: Agent, control: ControlPlane
) -> None:
    guarded = service("guarded", "10.96.60.5", type="LoadBalancer", loadBalancerSourceRanges=["192.0.2.0/24"])
    guarded["status"] = {"loadBalancer": {"ingress": [{"ip": "203.0.113.60"}]}}

    def failed() -> float:
        return values(cluster, "kubeproxy_ipvs_rows", kind="Chain", state="failed")

    with rules_locked():
        control.apply(guarded)
        wait_until(lambda: failed() > 0)
    wait_until(lambda: failed() == 0)
    assert values(cluster, "kubeproxy_sync_proxy_rules_iptables_restore_failures_total", ip_family="IPv4") > 0
    assert values(cluster, "kubeproxy_ipvs_failed_steps_total", kind="Chain") > 0


def test_drift_is_counted_when_it_is_found_and_when_it_is_repaired(cluster: Cluster, agent: Agent) -> None:
    names = [f"kubeproxy_ipvs_drift_{event}_total" for event in ("found", "repaired")]
    before = [values(cluster, name, kind="RealServer") for name in names]
    run(cluster.node_a, "ipvsadm", "-d", "-t", f"{WEB}:80", "-r", "10.244.1.5:8080")
    wait_until(lambda: [values(cluster, name, kind="RealServer") for name in names] == [n + 1 for n in before])
    assert "10.244.1.5:8080" in run(cluster.node_a, "ipvsadm", "-Ln")


def test_traffic_is_counted_by_service_port(cluster: Cluster, agent: Agent) -> None:
    def value(name: str) -> float:
        return values(cluster, f"kubeproxy_ipvs_service_{name}", namespace="shop", service="web", port="tcp-80")

    names = ("connections_total", "received_packets_total", "sent_bytes_total")
    before = [value(name) for name in names]
    for _ in range(5):
        query(cluster["pod-a2"], "tcp", WEB, 80)
    # The kernel updates its sums every 2 s, maybe between two packets of one connection: SYN, ACK, FIN of each.
    wait_until(lambda: value(names[1]) - before[1] >= 15 and value(names[2]) - before[2] >= 500)
    wait_until(lambda: value(names[0]) - before[0] == 5)
    assert value("active_connections") + value("inactive_connections") >= 1


def test_services_without_local_endpoints_are_counted_by_policy(cluster: Cluster, agent: Agent) -> None:
    name = "kubeproxy_sync_proxy_rules_no_local_endpoints_total"
    counted = [values(cluster, name, traffic_policy=policy, ip_family="IPv4") for policy in ("internal", "external")]
    assert counted == [1, 1]


def test_network_programming_duration_counts_from_the_trigger_time_annotation(
    cluster: Cluster, agent: Agent, control: ControlPlane
) -> None:
    name = "kubeproxy_network_programming_duration_seconds"
    before = values(cluster, f"{name}_count", ip_family="IPv4"), values(cluster, f"{name}_sum", ip_family="IPv4")
    part = endpoint_slice("web", ["pod-a1", "pod-a2"])
    written = datetime.fromtimestamp(time.time() - 3, UTC).strftime("%Y-%m-%dT%H:%M:%S.%f000Z")
    part["metadata"]["annotations"] = {"endpoints.kubernetes.io/last-change-trigger-time": written}
    with agent.syncing():
        control.apply(part)
    wait_until(lambda: values(cluster, f"{name}_count", ip_family="IPv4") == before[0] + 1)
    assert 3 <= values(cluster, f"{name}_sum", ip_family="IPv4") - before[1] < 30


def test_api_requests_and_watch_restarts_are_counted(cluster: Cluster, agent: Agent, control: ControlPlane) -> None:
    def restarts() -> float:
        return values(cluster, "kubeproxy_ipvs_watch_restarts_total", resource="services")

    before = restarts()
    assert values(cluster, "rest_client_requests_total", code="200", method="GET") >= 6
    control.server.close_connections()
    wait_until(lambda: restarts() > before)
    assert values(cluster, "kubeproxy_ipvs_watch_silence_seconds", resource="services") < 60
    assert values(cluster, "kubeproxy_ipvs_lists_total", resource="services") == 1


def test_other_pages_of_the_metrics_server_are_those_of_kube_proxy(cluster: Cluster, agent: Agent) -> None:
    def page(path: str) -> tuple[int, bytes]:
        answer = get(cluster.node_a, "127.0.0.1", METRICS, path)
        return answer.status, answer.body

    assert page("/proxyMode") == (200, b"ipvs")
    assert page("/healthz") == (200, b"ok")
    assert page("/healthz?verbose") == (200, b"[+]ping ok\nhealthz check passed\n")
    assert page("/nowhere") == (404, b"404 page not found\n")
    assert b'kubernetes_healthcheck{name="ping",type="healthz"} 1.0\n' in page("/metrics/slis")[1]
    config = get(cluster.node_a, "127.0.0.1", METRICS, "/configz").json["kubeproxy.config.k8s.io"]
    assert (config["kind"], config["ipvs"]["syncPeriod"]) == ("KubeProxyConfiguration", "1s")


def test_scrape_of_ten_thousand_services_takes_seconds() -> None:
    services = [many(number) for number in range(10_000)]
    with new_namespace("many") as namespace, namespace.inside():
        adapter = IpvsAdapter()
        steps = [step for each in services for step in _steps(each)]
        assert not adapter.apply(steps)
        metrics = TrafficMetrics(IpvsAdapter, TrafficLimits())
        metrics.update_services([ServiceState(service.name, service) for service in services])
        took_s = []
        for _ in range(3):
            began_s = time.perf_counter()
            body, _ = encode(metrics.collect, "")
            took_s.append(time.perf_counter() - began_s)
        adapter.close()
    assert body.count(b"kubeproxy_ipvs_service_connections_total{") == 1001, "1,000 and one for all others"
    print(f"a scrape of 10,000 Services: {min(took_s):.2f} s")
    assert min(took_s) < SCRAPED_S


def many(number: int) -> Service:
    address = f"10.{100 + number // 65536}.{number // 256 % 256}.{number % 256}"
    return Service(ServiceName("many", f"s{number}"), cluster_ips=(address,), ports=(ServicePort("http", "TCP", 80),))


def _steps(each: Service) -> Iterator[Step]:
    server = VirtualServer(each.cluster_ips[0], 80, "TCP")
    yield Step("add", server, VirtualServerSpec())
    yield Step("add", RealServer(server, "10.244.1.5", 8080), SERVING)


def test_a_thousand_idle_connections_to_each_server_do_not_slow_down_the_sync(
    cluster: Cluster, agent: Agent, control: ControlPlane
) -> None:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    before_ms = latencies_ms(agent, control)
    with ExitStack() as stack:
        for _ in range(1000):
            for port in (HEALTHZ, METRICS):
                with cluster.node_a.inside():
                    stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=20))
        during_ms = latencies_ms(agent, control)
        assert get(cluster.node_a, "127.0.0.1", HEALTHZ, "/livez").status == 200
        assert scrape(cluster.node_a)
    print(f"ms since the event: {before_ms:.1f} without, {during_ms:.1f} with 2,000 idle connections")
    assert during_ms < 3 * before_ms + 20


def latencies_ms(agent: Agent, control: ControlPlane) -> float:
    """Return the shortest time of 11 changes of endpoints: whatever slows all of them down also slows down this one."""
    took_ms = []
    for number in range(11):
        since = len(agent.lines())
        with agent.syncing(r"ms since the event"):
            control.apply(endpoint_slice("web", ["pod-b1", "pod-b2", "pod-b3"][number % 3 :]))
        line = agent.wait_for(r"ms since the event", since)
        took_ms.append(float(re.search(r"([0-9.]+) ms since the event", line)[1]))  # type: ignore[index]
    return min(took_ms)
