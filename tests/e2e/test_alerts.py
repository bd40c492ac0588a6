"""Prometheus scrapes the agent with the rules of deploy/monitoring: the alert of the fault fires, and no other.

Each `for` of the rules is shortened to seconds; nothing else of them is changed.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

import pytest
import yaml

from lab import prometheus
from lab.client import QueryError
from lab.network import Cluster
from tests.deploy.manifests import DEPLOY, objects_of
from tests.e2e.agent_process import AgentProcess, wait_until
from tests.e2e.kernel_state import run, shell
from tests.e2e.manifests import Folder, service_with_slice
from tests.e2e.probing import get

pytestmark = pytest.mark.kernel

WEB = "10.96.90.1"
PORT = 9090
FOR = "6s"
QUIET_S = 12  # seconds without an alert before the fault: longer than FOR
CONFIG = {
    "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
    "rule_files": ["rules.yaml"],
    "scrape_configs": [{"job_name": "kube-proxy", "static_configs": [{"targets": ["127.0.0.1:10249"]}]}],
}


@pytest.fixture
def agent(cluster: Cluster, tmp_path: Path) -> Iterator[AgentProcess]:
    folder = tmp_path / "manifests"
    folder.mkdir()
    Folder(folder).write("web", service_with_slice("web", WEB, ["pod-a1"]))
    with AgentProcess(cluster.node_a, folder, "--ipvs-sync-period=1s") as running:
        running.wait_synced()
        yield running


def rules_with_short_for() -> str:
    [document] = objects_of(DEPLOY / "monitoring/rules.yaml")
    for group in document["groups"]:
        for rule in group["rules"]:
            if "for" in rule:
                rule["for"] = FOR
    return yaml.safe_dump(document)


@contextmanager
def prometheus_running(cluster: Cluster, folder: Path) -> Iterator[None]:
    """Run a Prometheus on node A within the `with`."""
    (folder / "rules.yaml").write_text(rules_with_short_for())
    (folder / "prometheus.yaml").write_text(yaml.safe_dump(CONFIG))
    words = [str(prometheus.program("prometheus")), f"--config.file={folder}/prometheus.yaml"]
    words += [f"--storage.tsdb.path={folder}/data", f"--web.listen-address=127.0.0.1:{PORT}", "--log.level=error"]
    with cluster.node_a.inside():
        process = subprocess.Popen(words)
    try:
        yield
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()


def firing(cluster: Cluster) -> set[tuple[str, str]]:
    """Return name and label `kind` of the alerts that are firing."""
    alerts = get(cluster.node_a, "127.0.0.1", PORT, "/api/v1/alerts").json["data"]["alerts"]
    return {
        (alert["labels"]["alertname"], alert["labels"].get("kind", ""))
        for alert in alerts
        if alert["state"] == "firing"
    }


def is_syncing(cluster: Cluster) -> bool:
    """Return whether Prometheus saw a full compare end, so that KubeproxyPyNotSyncing no longer holds.

    On a busy machine that may take half a minute: a compare that took long delays the next one (MAX_CPU_SHARE).
    """
    query = "increase(kubeproxy_ipvs_full_compares_total[10m])>0"
    try:
        answer = get(cluster.node_a, "127.0.0.1", PORT, f"/api/v1/query?query={quote(query)}")
    except QueryError:
        return False
    return answer.status == 200 and bool(answer.json["data"]["result"])


def test_address_deleted_repeatedly_by_another_program_fires_only_drift_repeated(
    cluster: Cluster, agent: AgentProcess, tmp_path: Path
) -> None:
    with prometheus_running(cluster, tmp_path):
        wait_until(lambda: is_syncing(cluster), timeout_s=90, poll_s=0.5)
        time.sleep(QUIET_S)
        assert firing(cluster) == set()
        for _ in range(8):
            run(cluster.node_a, "ip", "address", "delete", f"{WEB}/32", "dev", "kube-ipvs0")
            wait_until(lambda: WEB in shell(cluster.node_a, "ip -o address show dev kube-ipvs0"))
        wait_until(lambda: bool(firing(cluster)), timeout_s=60, poll_s=0.5)
        assert firing(cluster) == {("KubeproxyPyDriftRepeated", "Address")}


def test_hanging_agent_fires_only_down(cluster: Cluster, agent: AgentProcess, tmp_path: Path) -> None:
    with prometheus_running(cluster, tmp_path):
        wait_until(lambda: is_syncing(cluster), timeout_s=90, poll_s=0.5)
        os.kill(agent.pid, signal.SIGSTOP)
        wait_until(lambda: ("KubeproxyPyDown", "") in firing(cluster), timeout_s=60, poll_s=0.5)
        assert firing(cluster) == {("KubeproxyPyDown", "")}
