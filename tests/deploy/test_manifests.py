"""The files of deploy/ are valid Kubernetes objects, with the settings that docs/security.md describes."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from kubeproxy_py.commands.agent_client import DEFAULT_SOCKET
from kubeproxy_py.config.flags import AGENT_FLAGS
from kubeproxy_py.config.load import load
from tests.deploy.api_server_rules import problems
from tests.deploy.manifests import BASE, DEPLOY, Object, find, objects_of, pod_of
from tests.deploy.rendering import kustomize_objects
from tests.kubernetes_schemas import validate

BASE_FOLDER = BASE.parent
OVERLAYS = sorted((DEPLOY / "daemonset/overlays").iterdir())
COMPONENTS = sorted((DEPLOY / "daemonset/components").iterdir())
# Kinds without a schema in the Kubernetes API: files of kustomize, kind and k3d, and the Prometheus operator's.
_OTHERS = (
    "kustomize.config.k8s.io/",
    "kind.x-k8s.io/",
    "k3d.io/",
    "monitoring.coreos.com/",
    "kubeproxy.config.k8s.io/",
)
VERSIONS = tuple(f"1.{minor}" for minor in range(27, 37))


def patches() -> set[Path]:
    """Return the files that kustomizations name as patches: incomplete objects, validated after rendering."""
    return {
        folder / patch["path"]
        for folder in (*OVERLAYS, *COMPONENTS)
        for patch in objects_of(folder / "kustomization.yaml")[0].get("patches", ())
        if "path" in patch
    }


def kubernetes_objects() -> Iterator[Any]:
    templates = DEPLOY / "helm"  # Helm's language, and not YAML
    for path in sorted({*DEPLOY.rglob("*.yaml")} - {*templates.rglob("*.yaml")} - patches()):
        for number, document in enumerate(objects_of(path)):
            version = str(document.get("apiVersion", ""))
            if version and not version.startswith(_OTHERS):
                yield pytest.param(document, id=f"{path.relative_to(DEPLOY)}-{number}-{document['kind']}")


def check(document: Object) -> None:
    """Fail unless *document* is valid in each version, and has no value that an API server refuses all the same."""
    assert not problems(document), document["kind"]
    for version in VERSIONS if not document["apiVersion"].startswith(_OTHERS) else ():
        validate(document, version)


def test_unknown_field_is_rejected() -> None:
    daemon_set = find(objects_of(BASE), "DaemonSet")
    pod_of(daemon_set)["hostNetworking"] = True
    with pytest.raises(kubernetes_validate.ValidationError, match="hostNetworking"):
        validate(daemon_set, VERSIONS[-1])


@pytest.mark.parametrize("document", list(kubernetes_objects()))
def test_every_object_of_the_folder_is_valid_in_each_kubernetes_version(document: Object) -> None:
    check(document)


def test_single_file_manifest_equals_the_base() -> None:
    assert (DEPLOY / "daemonset.yaml").read_text() == BASE.read_text()


@pytest.mark.parametrize("folder", [BASE_FOLDER, *OVERLAYS, *COMPONENTS], ids=lambda folder: folder.name)
def test_files_named_by_a_kustomization_exist(folder: Path) -> None:
    [kustomization] = objects_of(folder / "kustomization.yaml")
    named = [*kustomization.get("resources", []), *(patch["path"] for patch in kustomization.get("patches", [])
                                                    if "path" in patch)]  # fmt: skip
    assert [name for name in named if not (folder / name).exists()] == []
    assert not [name for name in named if (folder / name).resolve() in folder.resolve().parents]  # kustomize: a cycle


@pytest.mark.parametrize("folder", [BASE_FOLDER, *OVERLAYS], ids=lambda folder: folder.name)
def test_objects_rendered_by_kustomize_are_valid_in_each_kubernetes_version(folder: Path) -> None:
    for document in kustomize_objects(folder):
        check(document)


@pytest.mark.parametrize("component", COMPONENTS, ids=lambda folder: folder.name)
@pytest.mark.parametrize("folder", [BASE_FOLDER, *OVERLAYS], ids=lambda folder: folder.name)
def test_each_overlay_with_each_component_is_valid_in_each_kubernetes_version(
    folder: Path, component: Path, tmp_path: Path
) -> None:
    inside = tmp_path / "inside"  # kustomize requires relative paths
    inside.symlink_to(DEPLOY)
    names = ["inside/" + str(path.relative_to(DEPLOY)) for path in (folder, component)]
    (tmp_path / "kustomization.yaml").write_text(yaml.safe_dump({"resources": names[:1], "components": names[1:]}))
    objects = kustomize_objects(tmp_path)
    assert find(objects, "DaemonSet")
    for document in objects:
        check(document)


def test_component_no_init_removes_the_init_container(tmp_path: Path) -> None:
    inside = tmp_path / "inside"  # kustomize requires relative paths
    inside.symlink_to(DEPLOY / "daemonset")
    words = {
        "resources": ["inside/base"],
        "components": ["inside/components/no-init"],
    }
    (tmp_path / "kustomization.yaml").write_text(yaml.safe_dump(words))
    pod = pod_of(find(kustomize_objects(tmp_path), "DaemonSet"))
    assert "initContainers" not in pod


def test_component_flags_adds_a_flag_of_the_agent(tmp_path: Path) -> None:
    (tmp_path / "kubeproxy-py").mkdir()
    (tmp_path / "kubeproxy-py/deploy").symlink_to(DEPLOY)  # kustomize requires relative paths
    page = (DEPLOY.parent / "docs/install-kubeadm.md").read_text()
    [example] = re.findall(r"^```yaml\n(resources: .*?)^```", page, re.MULTILINE | re.DOTALL)
    (tmp_path / "kustomization.yaml").write_text(example)
    objects = kustomize_objects(tmp_path)
    [plain] = pod_of(find(objects_of(BASE), "DaemonSet"))["containers"]
    [container] = pod_of(find(objects, "DaemonSet"))["containers"]
    *same, added = container["args"]
    assert same == plain["args"]
    name, _, value = added.removeprefix("--").partition("=")
    assert name in {flag.name for flag in AGENT_FLAGS}
    assert load({name: value}).warnings == ()
    assert find(objects, "PodMonitor")


def configurations() -> Iterator[Any]:
    for path in (BASE, *(folder / "configuration.yaml" for folder in OVERLAYS)):
        if path.exists():
            yield pytest.param(find(objects_of(path), "ConfigMap")["data"], id=path.parent.name)
    yield pytest.param({"config.conf": (DEPLOY / "systemd/config.yaml").read_text()}, id="systemd")


@pytest.mark.parametrize("data", list(configurations()))
def test_configuration_is_valid_without_warnings(data: dict[str, str]) -> None:
    assert load({}, data["config.conf"].encode()).warnings == ()


@pytest.mark.parametrize("data", [parameter for parameter in configurations() if parameter.id != "systemd"])
def test_kubeconfig_names_the_pods_own_credentials(data: dict[str, str]) -> None:
    kubeconfig = yaml.safe_load(data["kubeconfig.conf"])
    account = "/var/run/secrets/kubernetes.io/serviceaccount/"
    assert kubeconfig["clusters"][0]["cluster"]["certificate-authority"] == f"{account}ca.crt"
    assert kubeconfig["users"][0]["user"] == {"tokenFile": f"{account}token"}


# The DaemonSet, as docs/security.md describes it


@pytest.fixture
def pod() -> Object:
    return pod_of(find(objects_of(BASE), "DaemonSet"))


def test_agent_container_has_two_capabilities_and_cannot_gain_more(pod: Object) -> None:
    [container] = pod["containers"]
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "privileged": False,
        "readOnlyRootFilesystem": True,
        "runAsUser": 0,
        "runAsGroup": 0,
        "capabilities": {"drop": ["ALL"], "add": ["NET_ADMIN", "NET_RAW"]},
        "seccompProfile": {"type": "RuntimeDefault"},
    }


def test_only_the_init_container_is_privileged(pod: Object) -> None:
    [container] = pod["initContainers"]
    assert container["securityContext"]["privileged"]
    assert "--init-only" in container["args"]


def test_agent_runs_on_every_linux_node(pod: Object) -> None:
    assert pod["tolerations"] == [{"operator": "Exists"}]
    assert pod["nodeSelector"] == {"kubernetes.io/os": "linux"}
    assert (pod["priorityClassName"], pod["hostNetwork"]) == ("system-node-critical", True)


def test_rolling_update_replaces_one_pod_at_a_time() -> None:
    strategy = find(objects_of(BASE), "DaemonSet")["spec"]["updateStrategy"]
    assert strategy == {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 1}}


def test_only_modules_the_xtables_lock_and_own_directories_of_the_host_are_mounted(pod: Object) -> None:
    paths = {volume["hostPath"]["path"] for volume in pod["volumes"] if "hostPath" in volume}
    assert paths == {"/run/xtables.lock", "/lib/modules", "/var/lib/kubeproxy-py", "/run/kubeproxy-py"}
    [agent], [preparation] = pod["containers"], pod["initContainers"]
    assert writable_paths(preparation) == ["/run/xtables.lock"]
    assert writable_paths(agent) == ["/run/xtables.lock", "/var/lib/kubeproxy-py", "/run/kubeproxy-py"]
    assert "--state-dir=/var/lib/kubeproxy-py" in agent["args"]


def test_agent_serves_its_state_where_commands_ask_for_it(pod: Object) -> None:
    [agent] = pod["containers"]
    assert f"--debug-socket={DEFAULT_SOCKET}" in agent["args"]
    for file in ("kubeproxy-py.service", "environment"):
        assert f"--debug-socket={DEFAULT_SOCKET}" in (DEPLOY / "systemd" / file).read_text()


def writable_paths(container: Object) -> list[str]:
    return [mount["mountPath"] for mount in container["volumeMounts"] if not mount.get("readOnly")]


def test_probes_use_the_port_of_the_health_server(pod: Object) -> None:
    [container] = pod["containers"]
    port = next(port for port in container["ports"] if port["name"] == "healthz")["containerPort"]
    config = load({}, find(objects_of(BASE), "ConfigMap")["data"]["config.conf"].encode()).config
    assert config.healthz_bind_address
    assert port == config.healthz_bind_address.port
    for probe, path in (("livenessProbe", "/livez"), ("readinessProbe", "/readyz"), ("startupProbe", "/livez")):
        assert container[probe]["httpGet"] == {"path": path, "port": "healthz"}


def test_image_name_is_the_same_everywhere() -> None:
    pod = pod_of(find(objects_of(BASE), "DaemonSet"))
    images = {container["image"] for container in (*pod["containers"], *pod["initContainers"])}
    [values] = objects_of(DEPLOY / "helm/kubeproxy-py/values.yaml")
    [chart] = objects_of(DEPLOY / "helm/kubeproxy-py/Chart.yaml")
    assert images == {f"{values['image']['repository']}:{chart['appVersion']}"}


def test_kind_and_k3d_run_no_kube_proxy() -> None:
    [kind] = objects_of(DEPLOY / "kind/cluster.yaml")
    [k3d] = objects_of(DEPLOY / "k3d/cluster.yaml")
    assert kind["networking"]["kubeProxyMode"] == "none"
    assert "--disable-kube-proxy" in [argument["arg"] for argument in k3d["options"]["k3s"]["extraArgs"]]


@pytest.mark.parametrize(("name", "node"), [("kind", "{}-control-plane"), ("k3d", "k3d-{}-server-0")])
def test_overlay_names_the_control_plane_of_its_cluster(name: str, node: str) -> None:
    [cluster] = objects_of(DEPLOY / name / "cluster.yaml")
    cluster_name = cluster.get("name") or cluster["metadata"]["name"]
    text = (DEPLOY / f"daemonset/overlays/{name}/configuration.yaml").read_text()
    assert re.findall(r"server: (\S+)", text) == [f"https://{node.format(cluster_name)}:6443"]
