"""A Prometheus scrapes the agent and goes by the rules of deploy/monitoring: what goes wrong is what it tells of.

Each `for` of the rules is shortened to seconds, and nothing else about them is changed.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml

from lab import prometheus
from lab.ask import AskError
from lab.network import Cluster
from tests.deploy.manifests import DEPLOY, objects_of
from tests.e2e.agent_process import AgentProcess, wait_until
from tests.e2e.kernel_state import run, shell
from tests.e2e.manifests import Folder, backed
from tests.e2e.probing import get

pytestmark = pytest.mark.kernel

WEB = "10.96.90.1"
PORT = 9090
FOR = "6s"
CALM_S = 12  # without an alert before anything is done
CONFIG = {
    "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
    "rule_files": ["rules.yaml"],
    "scrape_configs": [{"job_name": "kube-proxy", "static_configs": [{"targets": ["127.0.0.1:10249"]}]}],
}


@pytest.fixture
def agent(cluster: Cluster, tmp_path: Path) -> Iterator[AgentProcess]:
    folder = tmp_path / "manifests"
    folder.mkdir()
    Folder(folder).put("web", backed("web", WEB, ["pod-a1"]))
    with AgentProcess(cluster.node_a, folder, "--ipvs-sync-period=1s") as running:
        running.wait_synced()
        yield running


def hurried_rules() -> str:
    [document] = objects_of(DEPLOY / "monitoring/rules.yaml")
    for group in document["groups"]:
        for rule in group["rules"]:
            if "for" in rule:
                rule["for"] = FOR
    return yaml.safe_dump(document)


@contextmanager
def watching(cluster: Cluster, folder: Path) -> Iterator[None]:
    """A Prometheus on node A within the `with`."""
    (folder / "rules.yaml").write_text(hurried_rules())
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
    """The alerts that fire, and the kind of row that they name."""
    alerts = get(cluster.node_a, "127.0.0.1", PORT, "/api/v1/alerts").json["data"]["alerts"]
    return {
        (each["labels"]["alertname"], each["labels"].get("kind", "")) for each in alerts if each["state"] == "firing"
    }


def is_scraped(cluster: Cluster) -> bool:
    try:
        found = get(cluster.node_a, "127.0.0.1", PORT, "/api/v1/query?query=kubeproxy_ipvs_full_compares_total")
    except AskError:
        return False
    return found.status == 200 and bool(found.json["data"]["result"])


def test_addresses_that_somebody_keeps_taking_away_are_told_of_and_nothing_else(
    cluster: Cluster, agent: AgentProcess, tmp_path: Path
) -> None:
    with watching(cluster, tmp_path):
        wait_until(lambda: is_scraped(cluster), within_s=60, look_s=0.5)
        time.sleep(CALM_S)
        assert firing(cluster) == set()
        for _ in range(8):
            run(cluster.node_a, "ip", "address", "delete", f"{WEB}/32", "dev", "kube-ipvs0")
            wait_until(lambda: WEB in shell(cluster.node_a, "ip -o address show dev kube-ipvs0"))
        wait_until(lambda: bool(firing(cluster)), within_s=60, look_s=0.5)
        assert firing(cluster) == {("KubeproxyPyDriftRepeated", "Address")}


def test_an_agent_that_hangs_is_told_of(cluster: Cluster, agent: AgentProcess, tmp_path: Path) -> None:
    with watching(cluster, tmp_path):
        wait_until(lambda: is_scraped(cluster), within_s=60, look_s=0.5)
        os.kill(agent.pid, signal.SIGSTOP)
        wait_until(lambda: ("KubeproxyPyDown", "") in firing(cluster), within_s=60, look_s=0.5)
        assert firing(cluster) == {("KubeproxyPyDown", "")}
