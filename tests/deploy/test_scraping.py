"""The real Prometheus scrapes our pods by the PodMonitor, with what the Prometheus operator makes of it.

The operator turns a PodMonitor into a scrape configuration whose relabeling keeps only targets of the selected pods
whose *declared* container port has the name (or number) that the monitor gives.  Prometheus' discovery of pods makes a
target of each declared port.  Both are done here for the pod that is shipped; Prometheus decides what it scrapes.
Sources: prometheus-operator, pkg/prometheus/promcfg.go; Prometheus, discovery/kubernetes/pod.go.
"""

from __future__ import annotations

import json
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.request import urlopen

import pytest
import yaml

from lab import prometheus
from tests.deploy.manifests import BASE, DEPLOY, Object, find, objects_of, pod_of
from tests.deploy.rendering import chart_objects
from tests.free_ports import port_of, reserve_port

pytestmark = [pytest.mark.lab, pytest.mark.timeout(240)]

DEADLINE_S = 60
MONITOR = DEPLOY / "daemonset/components/monitoring/monitor.yaml"
_SANITIZED = str.maketrans("./-", "___")


def targets_of(daemon_set: Object) -> list[Object]:
    """Return what Prometheus discovers of a pod of *daemon_set* on 127.0.0.1: a target for each declared port."""
    template = daemon_set["spec"]["template"]
    pod_labels = {
        f"__meta_kubernetes_pod_label_{name.translate(_SANITIZED)}": value
        for name, value in template["metadata"]["labels"].items()
    }
    present = {name.replace("_label_", "_labelpresent_", 1): "true" for name in pod_labels}
    common = {
        **pod_labels,
        **present,
        "__meta_kubernetes_pod_node_name": "node-a",
        "__meta_kubernetes_pod_phase": "Running",
    }
    return [
        {
            "targets": [f"127.0.0.1:{port['containerPort']}"],
            "labels": {
                **common,
                "__meta_kubernetes_pod_container_name": container["name"],
                "__meta_kubernetes_pod_container_port_name": port["name"],
                "__meta_kubernetes_pod_container_port_number": str(port["containerPort"]),
            },
        }
        for container in pod_of(daemon_set)["containers"]
        for port in container.get("ports", ())
    ]


def targets_of_service(service: Object, daemon_set: Object) -> list[Object]:
    """Return what Prometheus discovers of the EndpointSlices of *service*: a target for each of its ports."""
    labels = {
        f"__meta_kubernetes_service_label{kind}_{name.translate(_SANITIZED)}": text
        for name, value in service["metadata"]["labels"].items()
        for kind, text in (("", value), ("present", "true"))
    }
    selected = service["spec"]["selector"].items() <= daemon_set["spec"]["template"]["metadata"]["labels"].items()
    by_name = {
        target["labels"]["__meta_kubernetes_pod_container_port_name"]: target for target in targets_of(daemon_set)
    }
    pods = [(by_name[port["targetPort"]], port["name"]) for port in service["spec"]["ports"]] if selected else []
    name = {"__meta_kubernetes_endpointslice_port_name"}
    return [{**target, "labels": {**target["labels"], **labels, **dict.fromkeys(name, port)}} for target, port in pods]


def scrape_configuration(monitor: Object, discovered: Path) -> Object:
    """Return the scrape configuration that the operator generates for *monitor*, with a file for discovery."""
    of_pods = monitor["kind"] == "PodMonitor"
    [endpoint] = monitor["spec"]["podMetricsEndpoints" if of_pods else "endpoints"]
    kind = "pod" if of_pods else "service"
    keep = [
        {"source_labels": ["__meta_kubernetes_pod_phase"], "regex": "(Failed|Succeeded)", "action": "drop"},
        *(
            {
                "source_labels": [
                    f"__meta_kubernetes_{kind}_label_{name.translate(_SANITIZED)}",
                    f"__meta_kubernetes_{kind}_labelpresent_{name.translate(_SANITIZED)}",
                ],
                "regex": f"({value});true",
                "action": "keep",
            }
            for name, value in monitor["spec"]["selector"]["matchLabels"].items()
        ),
    ]
    if not of_pods:
        source = ["__meta_kubernetes_endpointslice_port_name"]
        keep.append({"source_labels": source, "regex": endpoint["port"], "action": "keep"})
    elif "port" in endpoint:
        keep.append(_keep_port("name", endpoint["port"]))
    else:
        keep.append(_keep_port("number", endpoint["targetPort"]))
    own = [
        {_snake(name): value for name, value in relabeling.items()} for relabeling in endpoint.get("relabelings", ())
    ]
    return {
        "job_name": f"{monitor['kind']}/{monitor['metadata']['namespace']}/{monitor['metadata']['name']}/0",
        "metrics_path": endpoint["path"],
        "file_sd_configs": [{"files": [str(discovered)]}],
        "relabel_configs": [*keep, *own],
    }


def _keep_port(kind: str, value: object) -> Object:
    return {
        "source_labels": [f"__meta_kubernetes_pod_container_port_{kind}"],
        "regex": str(value),
        "action": "keep",
    }


def _snake(name: str) -> str:
    return {"sourceLabels": "source_labels", "targetLabel": "target_label"}.get(name, name)


@contextmanager
def metrics_server() -> Iterator[int]:
    """Answer on a port of 127.0.0.1, which is yielded, as an agent's metrics server does."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = b"kubeproxy_ipvs_build_info 1\n"
            self.send_response(200)
            self.send_header("Content-Type", "text/plain; version=0.0.4")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Print nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def answer(port: int, path: str) -> Any:
    try:
        with urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as response:
            return json.load(response)["data"]
    except (URLError, OSError):
        return None


@contextmanager
def prometheus_with(scrape: Object, folder: Path) -> Iterator[int]:
    """Run the real Prometheus with the scrape configuration *scrape*; yield the port of its API."""
    configuration = {"global": {"scrape_interval": "1s", "scrape_timeout": "1s"}, "scrape_configs": [scrape]}
    (folder / "prometheus.yaml").write_text(yaml.safe_dump(configuration))
    words = [str(prometheus.program("prometheus")), f"--config.file={folder}/prometheus.yaml"]
    with reserve_port() as reserved:
        port = port_of(reserved)
        words += [f"--storage.tsdb.path={folder}/data", f"--web.listen-address=127.0.0.1:{port}", "--log.level=error"]
        process = subprocess.Popen(words)
        try:
            yield port
        finally:
            process.kill()
            process.wait()


def wait_for(port: int, path: str, is_wanted: Callable[[Any], bool]) -> Any:
    """Return Prometheus' answer once it is as wanted: on a busy machine a scrape may take longer than it may."""
    deadline = time.monotonic() + DEADLINE_S
    while not ((found := answer(port, path)) and is_wanted(found)):
        assert time.monotonic() < deadline, found
        time.sleep(0.2)
    return found


def wait_for_targets(port: int) -> Any:
    """Return Prometheus' targets, active and dropped, once it has discovered them and scraped the active ones."""
    return wait_for(port, "/api/v1/targets", _is_settled)


def _is_settled(targets: Any) -> bool:
    active = targets["activeTargets"]
    return bool(active or targets["droppedTargets"]) and all(target["health"] == "up" for target in active)


def daemon_set_at(daemon_set: Object, number: int) -> Object:
    """Return *daemon_set* with *number* instead of 10249, which may be in use on this host."""
    document: Object = yaml.safe_load(yaml.safe_dump(daemon_set).replace("10249", str(number)))
    return document


def shipped() -> tuple[Object, Object]:
    return find(objects_of(BASE), "DaemonSet"), objects_of(MONITOR)[0]


def from_chart() -> tuple[Object, Object]:
    objects = chart_objects("--set=podMonitor.enabled=true,config.metricsBindAddress=0.0.0.0:10249")
    return find(objects, "DaemonSet"), find(objects, "PodMonitor")


@pytest.mark.parametrize("source", [shipped, from_chart], ids=["kustomize", "helm"])
def test_pod_monitor_has_the_metrics_port_scraped_and_nothing_else(source: Any, tmp_path: Path) -> None:
    daemon_set, monitor = source()
    discovered = tmp_path / "targets.json"
    with ExitStack() as running:
        number = running.enter_context(metrics_server())
        discovered.write_text(json.dumps(targets_of(daemon_set_at(daemon_set, number))))
        port = running.enter_context(prometheus_with(scrape_configuration(monitor, discovered), tmp_path))
        targets = wait_for_targets(port)
        [target] = targets["activeTargets"]
        assert (target["health"], target["scrapeUrl"]) == ("up", f"http://127.0.0.1:{number}/metrics")
        assert target["labels"] == {"job": "kube-proxy", "instance": "node-a", "node": "node-a"}
        assert len(targets["droppedTargets"]) == 1  # the health port
        query = "/api/v1/query?query=kubeproxy_ipvs_build_info"
        [sample] = wait_for(port, query, lambda found: bool(found["result"]))["result"]
        assert sample["metric"]["job"] == "kube-proxy"


def test_service_monitor_has_the_metrics_port_scraped(tmp_path: Path) -> None:
    objects = chart_objects("--set=serviceMonitor.enabled=true,config.metricsBindAddress=0.0.0.0:10249")
    discovered = tmp_path / "targets.json"
    with ExitStack() as running:
        number = running.enter_context(metrics_server())
        daemon_set = daemon_set_at(find(objects, "DaemonSet"), number)
        discovered.write_text(json.dumps(targets_of_service(find(objects, "Service"), daemon_set)))
        configuration = scrape_configuration(find(objects, "ServiceMonitor"), discovered)
        port = running.enter_context(prometheus_with(configuration, tmp_path))
        [target] = wait_for_targets(port)["activeTargets"]
        assert (target["health"], target["scrapeUrl"]) == ("up", f"http://127.0.0.1:{number}/metrics")
        assert target["labels"] == {"job": "kube-proxy", "instance": "node-a", "node": "node-a"}


def test_pod_that_does_not_declare_the_port_is_not_scraped(tmp_path: Path) -> None:
    """This test's own picture of the operator is right: this is what made the former manifests collect nothing."""
    daemon_set, monitor = shipped()
    [container] = pod_of(daemon_set)["containers"]
    container["ports"] = [port for port in container["ports"] if port["name"] != "metrics"]
    discovered = tmp_path / "targets.json"
    discovered.write_text(json.dumps(targets_of(daemon_set)))
    with prometheus_with(scrape_configuration(monitor, discovered), tmp_path) as port:
        targets = wait_for_targets(port)
        assert (targets["activeTargets"], len(targets["droppedTargets"])) == ([], 1)
