"""`python -m tests.dashboard.record FILE`, inside the lab kernel: run agents under traffic, write Prometheus' answers.

An agent runs on each of the two nodes of the lab's cluster, each with an API server (the stand-in).  While a Prometheus
scrapes them, clients ask Services, load balancers ask for the health, pods are replaced, and another program deletes
what was programmed.
"""

from __future__ import annotations

import json
import os
import random
import re
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

from lab import prometheus
from lab.client import QueryError, query
from lab.namespace import Namespace
from lab.network import BY_NAME, Cluster
from tests.apiserver import ApiServer
from tests.apiserver.certificates import Authority
from tests.deploy.manifests import DEPLOY
from tests.e2e.agent_process import FLAGS, AgentProcess, wait_until
from tests.e2e.control_plane import ControlPlane
from tests.e2e.kernel_state import shell
from tests.e2e.manifests import Port, endpoint_slice, service, service_with_slice
from tests.e2e.probing import get
from tests.e2e.serving import serving_cluster

DASHBOARD = DEPLOY / "monitoring/dashboard.json"
NODES = ("node-a", "node-b")
SECONDS = 60
STEP_S = 2
VARIABLES = {"$cluster": ".*", "$job": "kube-proxy", "$instance": ".+", "$__rate_interval": "20s"}
_PORT = 9090
_SERVICES = {"web": "10.96.0.10", "api": "10.96.0.11", "search": "10.96.0.12", "mail": "10.96.0.13"}
_PODS = ["pod-a1", "pod-a2", "pod-b1", "pod-b2", "pod-b3"]
_TCP = [Port(80, "TCP", 8080)]

Series = dict[str, Any]


def expressions(dashboard: dict[str, Any]) -> Iterator[str]:
    """Yield the query of each target of *dashboard*."""
    for panel in dashboard["panels"]:
        yield from (target["expr"] for target in panel.get("targets", ()))


def substituted(expression: str) -> str:
    """Return *expression* with values for the variables of the dashboard."""
    return re.sub(r"\$\w+", lambda match: VARIABLES[match[0]], expression)


def main() -> None:
    """Run everything, and write the answers."""
    target = Path(sys.argv[1])
    dashboard = json.loads(DASHBOARD.read_text())
    with tempfile.TemporaryDirectory() as name, serving_cluster() as cluster, ExitStack() as stack:
        authority = Authority(Path(name))
        planes = [stack.enter_context(control_plane(cluster[node], node, authority, Path(name))) for node in NODES]
        write_services(planes, _PODS)
        for node, plane in zip(NODES, planes, strict=True):
            stack.enter_context(AgentOfNode(cluster[node], node, plane)).wait_synced()
        stack.enter_context(running_prometheus(cluster, Path(name)))
        live(cluster, planes)
        answers = {expression: ask(cluster.node_a, expression) for expression in expressions(dashboard)}
    target.parent.mkdir(parents=True, exist_ok=True)
    kernel = os.uname().release
    target.write_text(json.dumps({"kernel": kernel, "seconds": SECONDS, "answers": answers}, indent=1))
    print(f"{target}: {sum(map(bool, answers.values()))} of {len(answers)} queries have an answer")


class AgentOfNode(AgentProcess):
    """An agent on a node, with the API server *plane*."""

    def __init__(self, namespace: Namespace, node: str, plane: ControlPlane) -> None:
        super().__init__(namespace, Path("/nowhere"))
        flags = ["--hostname-override", node, "--metrics-bind-address=0.0.0.0:10249", "--ipvs-sync-period=5s"]
        source = ["--kubeconfig", str(plane.kubeconfig)]
        self._argv = [sys.executable, "-m", "kubeproxy_py", "run", *source, *FLAGS, *flags]


@contextmanager
def control_plane(namespace: Namespace, node: str, authority: Authority, folder: Path) -> Iterator[ControlPlane]:
    """Run an API server of *node* within the `with`."""
    own = folder / node
    own.mkdir()
    with namespace.inside():
        server = ApiServer(tls=authority.server_context())
    server.start()
    created = ControlPlane(server, authority, own)
    created.apply({"apiVersion": "v1", "kind": "Node", "metadata": {"name": node}})
    yield created
    server.stop()


def write_services(planes: list[ControlPlane], pods: list[str]) -> None:
    """Write all Services, with *pods* behind each."""
    objects = [item for name, address in _SERVICES.items() for item in service_with_slice(name, address, pods, _TCP)]
    objects.append(service("empty", "10.96.0.20", _TCP))
    objects.append(service("local", "10.96.0.21", _TCP, internalTrafficPolicy="Local"))
    objects.append(endpoint_slice("local", ["pod-a1"], _TCP))
    now = datetime.now(UTC).isoformat().replace("+00:00", "Z")
    for item in objects:
        item["metadata"]["annotations"] = {"endpoints.kubernetes.io/last-change-trigger-time": now}
    for plane in planes:
        plane.apply(*objects)


@contextmanager
def running_prometheus(cluster: Cluster, folder: Path) -> Iterator[None]:
    """Run a Prometheus on node A within the `with`, without the recording rules."""
    scrapes = [
        {"targets": [f"{BY_NAME[node].ipv4}:10249"], "labels": {"instance": node, "cluster": "lab"}} for node in NODES
    ]
    configuration = {
        "global": {"scrape_interval": "2s"},
        "scrape_configs": [{"job_name": "kube-proxy", "static_configs": scrapes}],
    }
    (folder / "prometheus.yaml").write_text(yaml.safe_dump(configuration))
    words = [str(prometheus.program("prometheus")), f"--config.file={folder}/prometheus.yaml"]
    words += [f"--storage.tsdb.path={folder}/data", f"--web.listen-address=127.0.0.1:{_PORT}", "--log.level=error"]
    with cluster.node_a.inside():
        process = subprocess.Popen(words)
    try:
        wait_until(lambda: bool(_is_ready(cluster.node_a)), poll_s=0.5)
        yield
    finally:
        process.kill()
        process.wait()


def live(cluster: Cluster, planes: list[ControlPlane]) -> None:
    """Let clients ask and objects change for SECONDS."""
    chosen = random.Random(1)
    end = time.monotonic() + SECONDS
    turn = 0
    while time.monotonic() < end:
        turn += 1
        for _ in range(8):
            name = chosen.choices(list(_SERVICES), weights=(8, 4, 2, 1))[0]
            try:
                query(cluster["pod-a1"], "tcp", _SERVICES[name], 80, 2.0)
            except QueryError as error:
                print(f"{name}: {error!r}")
        if turn % 10 == 0:
            write_services(planes, chosen.sample(_PODS, 4))
        if turn % 5 == 0:
            get(cluster.node_a, "127.0.0.1", 10256, "/healthz")
        if turn % 25 == 0:
            shell(cluster.node_a, "ip address del 10.96.0.13/32 dev kube-ipvs0")
        time.sleep(0.1)


def ask(node: Namespace, expression: str) -> list[Series]:
    """Return the series that Prometheus has for *expression* over the last SECONDS."""
    now = time.time()
    words = {"query": substituted(expression), "start": now - SECONDS + 10, "end": now, "step": STEP_S}
    url = f"http://127.0.0.1:{_PORT}/api/v1/query_range?{urllib.parse.urlencode(words)}"
    with node.inside(), urllib.request.urlopen(url, timeout=30) as response:
        result: list[Series] = json.load(response)["data"]["result"]
    return result


def _is_ready(node: Namespace) -> bool:
    try:
        with node.inside(), urllib.request.urlopen(f"http://127.0.0.1:{_PORT}/-/ready", timeout=5) as response:
            return bool(response.status == 200)
    except (urllib.error.URLError, OSError):
        return False


if __name__ == "__main__":
    main()
