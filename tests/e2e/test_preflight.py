"""The preflight's command on the kernel: with kubeadm's files for kube-proxy, beside a proxy, and without a change."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab.network import Cluster
from tests.apiserver.certificates import Authority
from tests.deploy.manifests import DEPLOY
from tests.deploy.rendering import kustomize_objects
from tests.e2e.control_plane import Agent, ControlPlane, running_control_plane
from tests.e2e.kernel_state import differences, kernel_state
from tests.e2e.manifests import Port, service_with_slice
from tests.e2e.serving import cluster_fixture

pytestmark = pytest.mark.kernel

cluster = cluster_fixture

# As kubeadm writes it, with the networks of the lab.
CONFIG = """\
apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
bindAddress: 0.0.0.0
clientConnection: {{acceptContentTypes: "", burst: 0, contentType: "", kubeconfig: {kubeconfig}, qps: 0}}
clusterCIDR: 10.244.0.0/16,fd00:10:244::/56
configSyncPeriod: 0s
conntrack: {{maxPerCore: 0, min: null}}
enableProfiling: false
healthzBindAddress: ""
hostnameOverride: ""
metricsBindAddress: ""
mode: {mode}
"""


@pytest.fixture
def control_plane(cluster: Cluster, authority: Authority, tmp_path: Path) -> Iterator[ControlPlane]:
    with running_control_plane(cluster, authority, tmp_path) as created:
        created.apply(*service_with_slice("web", "10.96.80.1", ["pod-a1", "pod-b1"], [Port(80, "TCP", 8080)]))
        yield created


def summary(cluster: Cluster, config: Path) -> str:
    """Return the last line of the preflight's container on node A, after ending it as a kubelet does."""
    [daemon_set] = kustomize_objects(DEPLOY / "preflight")
    [container] = daemon_set["spec"]["template"]["spec"]["containers"]
    words = [
        word.replace("/var/lib/kube-proxy/config.conf", str(config)).replace("$(NODE_NAME)", "node-a")
        for word in container["args"]
    ]
    argv = cluster.node_a.wrap([sys.executable, "-m", "kubeproxy_py", *words])
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        assert process.stdout
        lines = []
        for line in process.stdout:
            lines.append(line)
            if line.startswith("node-a: "):
                break
        process.send_signal(signal.SIGTERM)
        assert process.stdout.read() == ""
    return lines[-1].rstrip()


def written(folder: Path, control_plane: ControlPlane, mode: str = "ipvs") -> Path:
    path = folder / "config.conf"
    path.write_text(CONFIG.format(kubeconfig=control_plane.kubeconfig, mode=mode))
    return path


def test_preflight_sums_up_before_and_beside_a_proxy_and_changes_nothing(
    cluster: Cluster, control_plane: ControlPlane, tmp_path: Path
) -> None:
    config = written(tmp_path, control_plane)
    before = kernel_state(cluster.node_a)
    assert " to add, " in summary(cluster, config)
    assert differences(before, kernel_state(cluster.node_a)) == []
    with Agent(cluster, control_plane) as agent:
        agent.wait_synced()
        served = kernel_state(cluster.node_a)
        assert summary(cluster, config) == "node-a: nothing to change"
        assert differences(served, kernel_state(cluster.node_a)) == []


def test_preflight_of_a_cluster_in_another_mode_says_so(
    cluster: Cluster, control_plane: ControlPlane, tmp_path: Path
) -> None:
    config = written(tmp_path, control_plane, "iptables")
    assert summary(cluster, config).startswith("node-a: error: mode: ")


def test_preflight_names_an_api_server_that_does_not_answer(
    cluster: Cluster, control_plane: ControlPlane, tmp_path: Path
) -> None:
    config = written(tmp_path, control_plane)
    control_plane.server.stop()
    assert summary(cluster, config).startswith("node-a: error: ")
