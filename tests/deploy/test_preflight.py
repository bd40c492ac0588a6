"""The preflight and the cleanup of a node, as kubectl renders them; one place sets the image of all."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from kubeproxy_py.commands.help import parser_of
from tests.deploy.manifests import BASE, DEPLOY, Object, find, objects_of, pod_of
from tests.deploy.rendering import kustomize_objects
from tests.kubernetes_schemas import validate

FOLDERS = (
    "daemonset/base",
    *(f"daemonset/overlays/{path.name}" for path in sorted((DEPLOY / "daemonset/overlays").iterdir())),
    "preflight",
    "cleanup",
    "cleanup-extras",
)
DIGEST = f"sha256:{'0123456789abcdef' * 4}"


def pods(objects: list[Object]) -> list[Object]:
    return [pod_of(item) if item["kind"] == "DaemonSet" else item["spec"] for item in objects
            if item["kind"] in ("DaemonSet", "Pod")]  # fmt: skip


def images(objects: list[Object]) -> set[str]:
    containers: list[Any] = [
        container for pod in pods(objects) for container in (*pod["containers"], *pod.get("initContainers", ()))
    ]
    return {container["image"] for container in containers}


@pytest.fixture
def preflight() -> Object:
    [daemon_set] = kustomize_objects(DEPLOY / "preflight")
    return daemon_set


@pytest.mark.parametrize("version", [f"1.{minor}" for minor in range(27, 37)])
@pytest.mark.parametrize("folder", ["preflight", "cleanup", "cleanup-extras"])
def test_rendered_object_is_valid_in_each_kubernetes_version(folder: str, version: str) -> None:
    [rendered] = kustomize_objects(DEPLOY / folder)
    validate(rendered, version)


def test_preflight_runs_next_to_kube_proxy_with_what_kubeadm_made_for_it(preflight: Object) -> None:
    pod = pod_of(preflight)
    assert pod["serviceAccountName"] == "kube-proxy"
    assert {"name": "config", "configMap": {"name": "kube-proxy"}} in pod["volumes"]
    assert (pod["hostNetwork"], pod["tolerations"]) == (True, [{"operator": "Exists"}])
    assert "ports" not in pod["containers"][0], "kube-proxy has them"


def test_cleanup_runs_on_a_node_with_any_taint() -> None:
    [pod] = kustomize_objects(DEPLOY / "cleanup")
    assert pod["spec"]["tolerations"] == [{"operator": "Exists"}]


@pytest.mark.parametrize(("folder", "extras"), [("cleanup", False), ("cleanup-extras", True)])
def test_cleanup_has_a_command_line_that_the_program_accepts(folder: str, *, extras: bool) -> None:
    [pod] = kustomize_objects(DEPLOY / folder)
    [container] = pod["spec"]["containers"]
    words: list[str] = [*container["command"][1:], *container.get("args", ())]
    command, arguments = words[0], words[1:]
    parsed, unknown = parser_of(command).parse_known_args(arguments)
    assert (command, parsed.extras, unknown) == ("cleanup", extras, [])


def test_preflight_is_given_no_more_rights_than_the_agent(preflight: Object) -> None:
    agent, plan = (pod_of(item)["containers"][0] for item in (find(objects_of(BASE), "DaemonSet"), preflight))
    assert plan["securityContext"] == agent["securityContext"]
    assert "initContainers" not in pod_of(preflight)
    mounts = {mount["mountPath"] for mount in plan["volumeMounts"]}
    assert mounts < {mount["mountPath"] for mount in agent["volumeMounts"]}


def test_preflight_plans_and_holds_with_a_command_line_that_the_agent_accepts(preflight: Object) -> None:
    command, *arguments = pod_of(preflight)["containers"][0]["args"]
    assert command == "plan"
    parsed, unknown = parser_of(command).parse_known_args(arguments)
    assert (parsed.hold, unknown) == (True, [])


@pytest.mark.parametrize("folder", FOLDERS)
def test_one_value_sets_the_image_of_all_by_its_digest(folder: str, tmp_path: Path) -> None:
    deploy = tmp_path / "deploy"
    shutil.copytree(DEPLOY, deploy, ignore=shutil.ignore_patterns("helm", "debian"))
    path = deploy / "image/kustomization.yaml"
    component = yaml.safe_load(path.read_text())
    [image] = component["images"]
    del image["newTag"]
    image.update(newName="registry.example/kubeproxy-py", digest=DIGEST)
    path.write_text(yaml.safe_dump(component))
    assert images(kustomize_objects(deploy / folder)) == {f"registry.example/kubeproxy-py@{DIGEST}"}


def test_image_that_is_shipped_is_the_one_of_the_plain_manifests() -> None:
    [component] = objects_of(DEPLOY / "image/kustomization.yaml")
    [image] = component["images"]
    named = {f"{image['name']}:{image['newTag']}"}
    assert image["name"] == image["newName"]
    for path in (BASE, DEPLOY / "preflight/daemonset.yaml", DEPLOY / "cleanup/pod.yaml"):
        assert images(objects_of(path)) == named


def test_summary_of_a_node_in_another_mode_is_the_one_that_the_page_shows(tmp_path: Path) -> None:
    [shown] = re.findall(r"\] (node-c: .*)", (DEPLOY.parent / "docs/migrate.md").read_text())
    config = tmp_path / "config.conf"
    config.write_text("apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\nmode: iptables\n")
    words = [sys.executable, "-m", "kubeproxy_py", "plan", "--hold", f"--config={config}", "--hostname-override=node-c"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        assert process.stdout
        printed = next((line for line in process.stdout if line.startswith("node-c: ")), "")
        process.terminate()
    assert printed.rstrip() == shown
