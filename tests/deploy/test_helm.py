"""The Helm chart gives what deploy/daemonset.yaml does.

Where helm is not installed (apt and PyPI have none) nothing is rendered, and those tests say so by a skip.  What is
always held: the chart's own files fit together, and the words that matter stand in the templates as in the manifest.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml

from tests.deploy.manifests import BASE, DEPLOY, Object, objects_of

CHART = DEPLOY / "helm/kubeproxy-py"
TEMPLATES = {path.name: path.read_text() for path in sorted((CHART / "templates").iterdir())}
[VALUES] = objects_of(CHART / "values.yaml")
SCHEMA = json.loads((CHART / "values.schema.json").read_text())
SERVER = "https://control-plane.example:6443"


def rendered(*settings: str) -> list[Object]:
    """What helm makes of the chart; a skip where there is no helm."""
    if not shutil.which("helm"):
        pytest.skip("helm is not installed: the chart is not rendered")
    words = ["helm", "template", "kubeproxy-py", str(CHART), "--namespace=kube-system", f"--set=apiServer={SERVER}"]
    done = subprocess.run([*words, *settings], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return [each for each in yaml.safe_load_all(done.stdout) if each]


def canonical(each: Object) -> Object:
    """*each*, with the files of a ConfigMap read, and without what says nothing."""
    if each["kind"] == "ConfigMap":
        return {**each, "data": {name: yaml.safe_load(text) for name, text in each["data"].items()}}
    if each["kind"] == "DaemonSet":
        spec = each["spec"]["template"]["spec"]
        for container in (*spec["containers"], *spec["initContainers"]):
            container.pop("imagePullPolicy", None)
    return each


def by_name(objects: list[Object]) -> dict[tuple[str, str], Object]:
    return {(each["kind"], each["metadata"]["name"]): canonical(each) for each in objects}


def test_helm_renders_the_manifest() -> None:
    assert by_name(rendered()) == by_name(objects_of(BASE))


@pytest.mark.parametrize("settings", [[], ["--set=init.enabled=false"], ["--set=existingConfigMap=kube-proxy"]])
def test_helm_renders_objects_that_the_api_server_takes(settings: list[str]) -> None:
    for each in rendered(*settings):
        kubernetes_validate.validate(each, "1.36", strict=True)


def values_named() -> set[tuple[str, ...]]:
    return {tuple(path.split(".")) for text in TEMPLATES.values() for path in re.findall(r"\.Values\.([\w.]+)", text)}


def test_every_value_that_a_template_names_has_a_default() -> None:
    for path in values_named():
        found: Any = VALUES
        for word in path:
            assert word in found, ".".join(path)
            found = found[word]


def test_every_value_is_used_by_a_template() -> None:
    assert {path[0] for path in values_named()} == set(VALUES)


def test_the_schema_takes_the_defaults_and_refuses_a_misspelt_value() -> None:
    jsonschema.validate(VALUES, SCHEMA)
    with pytest.raises(jsonschema.ValidationError, match="inti"):
        jsonschema.validate({**VALUES, "inti": {"enabled": False}}, SCHEMA)


@pytest.mark.parametrize("name", TEMPLATES)
def test_actions_and_blocks_are_closed(name: str) -> None:
    text = TEMPLATES[name]
    assert "{{" not in re.sub(r"{{.*?}}", "", text)
    opened = re.findall(r"{{-? *(?:if|with|range|define)\b", text)
    assert len(opened) == len(re.findall(r"{{-? *end\b", text))


@pytest.mark.parametrize("name", [name for name in TEMPLATES if name.endswith(".yaml")])
def test_what_is_between_the_actions_is_yaml(name: str) -> None:
    lines = (line for line in TEMPLATES[name].splitlines() if not re.fullmatch(r" *{{.*}}", line))
    found = list(yaml.safe_load_all(re.sub(r"{{.*?}}", "", "\n".join(lines))))
    assert all(each["kind"] and each["metadata"]["name"] == "kubeproxy-py" for each in found)


def test_the_role_of_the_chart_is_that_of_the_manifest() -> None:
    text = re.sub(r"{{.*?}}", "kube-system", TEMPLATES["access.yaml"])  # nothing but the namespace is a template there
    kinds = {"ServiceAccount", "ClusterRole", "ClusterRoleBinding"}
    shipped = [each for each in objects_of(BASE) if each["kind"] in kinds]
    assert by_name(list(yaml.safe_load_all(text))) == by_name(shipped)


def test_the_agents_container_has_the_rights_of_the_manifest() -> None:
    text = TEMPLATES["daemonset.yaml"]
    found = re.findall(r"^          securityContext:\n((?:            .*\n)+)", text, re.MULTILINE)
    daemon_set = next(each for each in objects_of(BASE) if each["kind"] == "DaemonSet")
    spec = daemon_set["spec"]["template"]["spec"]
    wanted = [container["securityContext"] for container in (*spec["initContainers"], *spec["containers"])]
    assert [yaml.safe_load(each) for each in found] == wanted
