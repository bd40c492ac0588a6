"""The commands of the installation pages, run by bash, kubectl and helm with a real kube-apiserver, where there is one.

The nodes are objects only (simulated_nodes.py), so `kubectl logs` and `kubectl run` are not run; programs that this
machine does not have, such as docker, succeed and do nothing.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kubeproxy_py import cli
from lab.job import REPOSITORY
from tests.apiserver.objects import kubeconfig
from tests.apiserver.real import agent_client, binaries, real_server
from tests.deploy.rendering import program
from tests.deploy.simulated_nodes import NODES, SimulatedNodes
from tests.e2e.agent_process import wait_until

pytestmark = pytest.mark.timeout(600)

DOCS = REPOSITORY / "docs"
ABSENT = ("docker", "kind", "k3d", "kubeadm", "make", "skopeo", "buildah", "ctr", "ansible-playbook", "systemctl")
_BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
# The first line of what bash runs; a function wins over the program.
_PRELUDE = """set -euo pipefail
kubectl() { case " $* " in *" logs "*|*" run "*) echo Synced ;; *) command kubectl "$@" ;; esac; }
"""
_EXAMPLES = (
    (r"\bREGISTRY\b", "registry.example"),
    (r"\b(CONTROL-PLANE|CLUSTER-API-SERVER)\b", "192.0.2.1"),
    (r"\bpod/POD\b", "pod/any"),
    (r"\b(label node) NODE\b", rf"\1 {NODES[0]}"),
    (r"sha256:\.\.\.", f"sha256:{'0' * 64}"),
)
_KUBE_PROXY: Any = {
    "apiVersion": "apps/v1",
    "kind": "DaemonSet",
    "metadata": {"name": "kube-proxy", "namespace": "kube-system", "labels": {"k8s-app": "kube-proxy"}},
    "spec": {
        "selector": {"matchLabels": {"k8s-app": "kube-proxy"}},
        "template": {
            "metadata": {"labels": {"k8s-app": "kube-proxy"}},
            "spec": {
                "hostNetwork": True,
                "nodeSelector": {"kubernetes.io/os": "linux"},
                "tolerations": [{"operator": "Exists"}],
                "serviceAccountName": "kube-proxy",
                "containers": [{"name": "kube-proxy", "image": "registry.k8s.io/kube-proxy:v1.36.2"}],
            },
        },
    },
}
_CONFIG_MAP: Any = {
    "apiVersion": "v1",
    "kind": "ConfigMap",
    "metadata": {"name": "kube-proxy", "namespace": "kube-system"},
    "data": {"config.conf": "mode: ipvs\n", "kubeconfig.conf": "{}\n"},
}


def blocks(page: str, heading: str) -> list[str]:
    """Return the blocks of commands below *heading*."""
    text = (DOCS / page).read_text().partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    found = [block for language, block in _BLOCK.findall(text) if not language and not block.startswith("$ ")]
    assert found, heading
    return found


class Cluster:
    """A cluster, and a folder with the files of a checkout that the commands name."""

    def __init__(self, nodes: SimulatedNodes, folder: Path, path_to_kubeconfig: str, url: str) -> None:
        self.nodes = nodes
        self.folder = folder
        self.url = url
        stubs = folder / "stubs"
        stubs.mkdir()
        for name in ABSENT:
            (stubs / name).write_text("#!/bin/sh\n")
            (stubs / name).chmod(0o755)
        for name in ("kubectl", "helm"):
            (stubs / name).symlink_to(program(name))
        (folder / "deploy").symlink_to(REPOSITORY / "deploy")
        without_proxy = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
        self._environment = {**without_proxy, "KUBECONFIG": path_to_kubeconfig, "PATH": f"{stubs}:{os.environ['PATH']}"}

    def run(self, text: str) -> None:
        """Run *text*, commands of a page, in bash; fail with the first of them that fails."""
        for pattern, example in _EXAMPLES:
            text = re.sub(pattern, example, text)
        done = subprocess.run(
            ["bash", "-c", _PRELUDE + text],
            cwd=self.folder, env=self._environment, capture_output=True, text=True, check=False, timeout=120,
        )  # fmt: skip
        assert done.returncode == 0, f"{text}\n{done.stderr}"

    def section(self, page: str, heading: str) -> None:
        """Run the blocks below *heading*."""
        for block in blocks(page, heading):
            self.run(block)

    def wait_for(self, **proxies: str) -> None:
        """Wait until these are the service proxies, by node."""
        expected = [{proxies[name]} - {""} for name in ("first", "second")]
        wait_until(lambda: [*self.nodes.proxies().values()] == expected, lambda: str(self.nodes.proxies()))


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    folder = binaries()
    if folder is None:
        pytest.skip("KUBEBUILDER_ASSETS names no folder with kube-apiserver and etcd: no command is run")
    checkout = tmp_path / "checkout"
    checkout.mkdir()
    with real_server(folder, tmp_path, "RBAC") as admin, SimulatedNodes(admin, agent_client(admin).token) as nodes:
        yield Cluster(nodes, checkout, kubeconfig(tmp_path, admin), admin.url)
    assert nodes.errors == []


@pytest.fixture
def with_kube_proxy(cluster: Cluster) -> Cluster:
    """Add what kubeadm makes for kube-proxy."""
    for name, body in (("set.json", _KUBE_PROXY), ("map.json", _CONFIG_MAP)):
        (cluster.folder / name).write_text(json.dumps(body))
        cluster.run(
            f"kubectl apply -f {name}; kubectl -n kube-system rollout status daemonset/kube-proxy --timeout=30s"
        )
    cluster.wait_for(first="kube-proxy", second="kube-proxy")
    return cluster


def test_preflight_runs_and_is_deleted(with_kube_proxy: Cluster) -> None:
    with_kube_proxy.section("migrate.md", "Preflight")
    with_kube_proxy.wait_for(first="kube-proxy", second="kube-proxy")


def test_node_moves_from_kube_proxy_and_back_and_never_has_both(with_kube_proxy: Cluster) -> None:
    cluster = with_kube_proxy
    [patch, move, removal] = blocks("migrate.md", "Node by node (kubeadm)")
    [back, extras] = blocks("migrate.md", "Back")
    cluster.run(patch)
    cluster.wait_for(first="kube-proxy", second="kube-proxy")
    cluster.run(move)
    cluster.wait_for(first="kubeproxy-py", second="kube-proxy")
    cluster.run(move.replace(*NODES))
    cluster.wait_for(first="kubeproxy-py", second="kubeproxy-py")
    cluster.run(removal)
    cluster.run("kubectl apply -f kube-proxy.yaml")
    cluster.run(back)
    cluster.wait_for(first="kube-proxy", second="kubeproxy-py")
    cluster.run(extras)
    assert cluster.nodes.beside == set()


def test_node_moves_from_another_mode_and_back_and_never_has_both(with_kube_proxy: Cluster) -> None:
    cluster = with_kube_proxy
    cluster.run(blocks("migrate.md", "Node by node (kubeadm)")[0].partition("kubectl apply")[0])
    cluster.section("migrate.md", "From another mode")
    cluster.wait_for(first="kubeproxy-py", second="kube-proxy")
    cluster.section("migrate.md", "Back to another mode")
    cluster.wait_for(first="kube-proxy", second="kube-proxy")
    assert cluster.nodes.beside == set()


def test_nodes_notice_two_proxies(with_kube_proxy: Cluster) -> None:
    """The tests above would see a page that sets the label before kube-proxy has left."""
    cluster = with_kube_proxy
    cluster.run(blocks("migrate.md", "Node by node (kubeadm)")[0])
    cluster.run(f"kubectl label node {NODES[0]} kubeproxy-py/proxy=true")
    cluster.wait_for(first="kubeproxy-py", second="kube-proxy")
    assert cluster.nodes.beside == {NODES[0]}


# What one cluster takes one after another, by the headings of the page; what installs, and what removes.
_UNINSTALL = "helm uninstall kubeproxy-py --namespace kube-system"
_LABEL = f"kubectl label node {' '.join(NODES)} kubeproxy-py/proxy=true --overwrite"
PAGES = {
    "kubeadm, by helm": ("install-kubeadm.md", ("A new cluster", "Updates and version skew"), "-k deploy", _UNINSTALL),
    "kubeadm, by kustomize": (
        "install-kubeadm.md", ("A new cluster",), "helm install", "kubectl delete -k deploy/daemonset/base",
    ),
    "kubespray": ("install-kubespray.md", ("A new cluster",), "", _UNINSTALL),
    "k3s": ("install-k3s.md", ("A new cluster", "A cluster that has kube-proxy"), "", _UNINSTALL),
    "k0s": ("install-k0s.md", ("A new cluster",), "", _UNINSTALL),
    "kind": ("install-kind.md", ("Check that it works", "Upgrade, rollback, removal"), "", ""),
    "k3d": ("install-k3d.md", ("Upgrade, rollback, removal",), "", ""),
}  # fmt: skip


@pytest.mark.parametrize(("page", "headings", "other_way", "removal"), PAGES.values(), ids=PAGES)
def test_page_installs_updates_and_removes_the_agent(
    cluster: Cluster, page: str, headings: tuple[str, ...], other_way: str, removal: str
) -> None:
    for block in [*intro(page), *(block for heading in headings for block in blocks(page, heading))]:
        if not other_way or other_way not in block:
            cluster.run(block)
    cluster.wait_for(first="kubeproxy-py", second="kubeproxy-py")
    if removal:
        assert removal.partition(" -k ")[0] in " ".join((DOCS / page).read_text().split())
        cluster.run(removal)
        cluster.wait_for(first="", second="")


def intro(page: str) -> list[str]:
    """Return the blocks of commands above the first heading."""
    return [
        block for language, block in _BLOCK.findall((DOCS / page).read_text().partition("\n## ")[0]) if not language
    ]


def test_rendered_chart_replaces_the_addon_of_a_platform(cluster: Cluster) -> None:
    (cluster.folder / "kube-proxy").mkdir()
    cluster.section("install-kubermatic.md", "Replace the addon's manifests")
    cluster.run("kubectl apply -f kube-proxy/kubeproxy-py.yaml")
    cluster.wait_for(first="kubeproxy-py", second="kubeproxy-py")


def test_kubeconfig_of_the_page_reads_what_the_agent_needs(
    cluster: Cluster, capsys: pytest.CaptureFixture[str]
) -> None:
    page = (DOCS / "install-vm.md").read_text().partition("### The kubeconfig")[2].partition("\n### ")[0]
    [(_, block), *_] = _BLOCK.findall(page)
    cluster.run(block.replace("https://CONTROL-PLANE:6443", cluster.url))
    words = ["plan", "--assume-empty", f"--kubeconfig={cluster.folder}/kubeconfig", f"--hostname-override={NODES[0]}"]
    assert cli.main([*words, "--color=never"]) == 2
    assert "Service default/kubernetes" in capsys.readouterr().out.splitlines()
